// The path of the published FAST tokenizers over a batch: chunks -> texts -> published ids, and back.
//
// Which integer a coefficient on a tie rounds to is decided by the order in which scipy adds, in the input's type. So
// the way there has two steps: `quantize` marks the chunks on which it may disagree with scipy, the caller replaces
// their texts, and `encode` takes all texts.
#pragma once

#include "codec.hpp"
#include "text_bpe.hpp"

namespace fast_tokenizer {

struct QuantizedTexts {
  std::vector<int32_t> text;       ///< code points of all chunks, frequency-first
  std::vector<int64_t> offsets;    ///< chunk i has text[offsets[i], offsets[i + 1])
  std::vector<int32_t> saturated;  ///< coefficients of each chunk that were below the lowest
  std::vector<uint8_t> uncertain;  ///< the chunk's text has to come from scipy
};

struct EncodedTexts {
  std::vector<int32_t> ids;
  std::vector<int64_t> offsets;
  std::vector<int32_t> dropped;  ///< coefficients of each text that lost a byte
};

/// Immutable, and usable from several threads at once.
class TextCodec {
 public:
  /// Character c stands for coefficient `min_token` + c. Repaired chunks have coefficients in repair_range.
  TextCodec(double scale, int min_token, TextVocabulary vocabulary, std::pair<int, int> repair_range,
            const Kernels& kernels = default_kernels());

  const TextBpe& bpe() const { return bpe_; }

  /// Throws std::invalid_argument for a value that is not finite.
  QuantizedTexts quantize(const ChunkBatch& batch, int num_threads) const;
  /// All code points must be characters.
  EncodedTexts encode(RaggedView<int32_t> texts, int num_threads) const;
  /// As Codec::decode, and: what is no whole character becomes coefficient 0; the coefficients of a chunk whose ids are
  /// not well-formed are clamped to the repair range.
  void decode(RaggedView<int32_t> ids, std::span<const int64_t> horizons, int action_dim, double* out,
              DecodeCounts* counts, int num_threads) const;
  /// Code points of one sequence of published ids; -1 for what is no whole character.
  std::vector<int32_t> expand(std::span<const int32_t> ids) const;

 private:
  /// Appends the coefficients of one chunk, divided by the scale. `bytes` is scratch.
  DecodeCounts append_coefficients(std::span<const int32_t> ids, int64_t expected, std::vector<double>& coefficients,
                                   std::vector<uint8_t>& bytes) const;

  double scale_;
  int min_token_;
  std::pair<int, int> repair_range_;
  std::optional<QuantizerSpec> quantizer_;  ///< none: coefficients of this tokenizer lie where no quantizer goes
  TextBpe bpe_;
  const Kernels& kernels_;
};

}  // namespace fast_tokenizer
