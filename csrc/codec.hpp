// The whole path over a batch: chunks -> symbols -> token ids, and back.
#pragma once

#include <variant>

#include "bpe_encode.hpp"
#include "bpe_parse.hpp"
#include "layout.hpp"
#include "levels.hpp"
#include "quantize.hpp"
#include "ragged.hpp"

namespace fast_tokenizer {

struct EncodedBatch {
  std::vector<int32_t> ids;
  std::vector<int64_t> offsets;
  std::vector<int32_t> saturated;  ///< coefficients of each chunk outside the fitted range
  std::vector<int32_t> clipped;    ///< values of each chunk cut by the normalizer
};

/// What decoding did to one chunk. All zero but `expected`: the ids were well-formed.
struct DecodeCounts {
  int64_t unknown = 0;   ///< ids outside the vocabulary, dropped
  int64_t missing = 0;   ///< symbols that were filled with zero coefficients
  int64_t extra = 0;     ///< symbols that were cut off
  int64_t expected = 0;  ///< symbols that the chunk has
  int64_t broken = 0;   ///< of a published tokenizer: symbols that the ids hold in part only, replaced by coefficient 0
  int64_t clamped = 0;  ///< of a published tokenizer: coefficients cut to the range of the vocabulary, in repair

  bool well_formed() const { return unknown == 0 && missing == 0 && extra == 0 && broken == 0; }
};

/// How symbols become tokens.
enum class Parsing {
  kBpe,      ///< merge by merge, as in training
  kOptimal,  ///< as few tokens as possible
};

/// How quantized coefficients become tokens.
struct Coding {
  Layout layout = {};
  Parsing parsing = Parsing::kBpe;
  int levels_beyond = 0;  ///< see Levels
};

/// Immutable, and usable from several threads at once.
class Codec {
 public:
  Codec(QuantizerSpec spec, std::span<const RawMerge> merges, const Kernels& kernels = default_kernels(),
        Coding coding = {});

  const MergeTable& table() const { return table_; }
  const QuantizerSpec& spec() const { return spec_; }

  /// Throws std::invalid_argument for a value that is not finite or a number of dimensions that does not fit.
  EncodedBatch encode(const ChunkBatch& batch, int num_threads) const;

  /// Total: any ids give finite chunks. Chunk i has horizons[i] time steps (all horizons[0] if there is one), and
  /// its values follow those of chunk i - 1 in `out`. Unknown ids are dropped, missing symbols are filled with
  /// coefficient 0, symbols too many are cut off; `counts` says what happened.
  void decode(RaggedView<int32_t> ids, std::span<const int64_t> horizons, int action_dim, double* out,
              DecodeCounts* counts, int num_threads) const;

  /// Ids of one sequence of symbols (coefficients and ends of blocks), and back.
  std::vector<int32_t> encode_symbols(std::span<const Symbol> symbols) const;
  std::vector<Symbol> expand(std::span<const int32_t> ids) const;

 private:
  /// Scratch of one thread.
  struct TokenScratch {
    EncodeScratch encode;
    ParseScratch parse;
  };
  struct Worker;

  size_t to_tokens(std::span<const Symbol> symbols, TokenId* tokens, TokenScratch& scratch) const;
  LayoutSymbols layout_symbols() const {
    return {static_cast<Symbol>(-spec_.lowest), static_cast<Symbol>(levels_.symbols())};
  }

  QuantizerSpec spec_;
  Levels levels_;
  QuantizerSpec wide_spec_;  ///< of all that levels reach
  Layout layout_;
  MergeTable table_;
  std::variant<BpeEncoder, OptimalParser> parser_;
  const Kernels& kernels_;
};

}  // namespace fast_tokenizer
