// What fitting collects: quantized chunks, as their layout arranges them, and the histogram of their coefficients. The
// range is not known until all are in, so coefficients are kept as they are and become symbols when training starts.
#pragma once

#include <vector>

#include "bpe_train.hpp"
#include "layout.hpp"
#include "levels.hpp"
#include "quantize.hpp"

namespace fast_tokenizer {

/// Lowest and highest coefficient that get a symbol, 0 between them.
struct CoefficientRange {
  int lowest, highest;
};

/// The range of a histogram of all coefficients from -kMaxCoefficient on. At most a share 1 - quantile of them lies
/// below, and at most that share above. 1: none do. Of a layout with ends of blocks it has -1..1 at least: what
/// saturates does not become 0 then, and no block ends earlier.
CoefficientRange fitted_range(std::span<const int64_t> histogram, double quantile, bool has_end);

/// How much a corpus holds.
struct CorpusCounts {
  size_t chunks = 0;
  int64_t symbols = 0;    ///< coefficients, with the zeros that ends of blocks stand for
  int64_t clipped = 0;    ///< values that the normaliser cut
  int64_t saturated = 0;  ///< coefficients beyond +-kMaxCoefficient, which are kept at that bound
};

class Corpus {
 public:
  static constexpr int kValues = 2 * kMaxCoefficient + 1;

  explicit Corpus(Layout layout = {}, std::shared_ptr<BudgetedMemory> memory = std::make_shared<BudgetedMemory>(),
                  size_t segment_words = WordWriter::kSegmentWords)
      : layout_(validated(layout)), memory_(std::move(memory)), segment_words_(segment_words) {}

  /// Quantizes a batch and keeps it; the spec must leave the full range. Throws std::invalid_argument for a value that
  /// is not finite; the corpus is then as it was.
  void add(const QuantizerSpec& spec, const ChunkBatch& batch, int num_threads,
           const Kernels& kernels = default_kernels());

  /// Takes in the words of another corpus of this layout. Throws std::invalid_argument for words that no corpus has, as
  /// they may come from another process; the corpus is then as it was.
  void add(std::span<const Word> words, const CorpusCounts& counts);

  const CorpusCounts& counts() const { return counts_; }
  size_t chunks() const { return counts_.chunks; }
  int64_t symbols() const { return counts_.symbols; }
  int64_t clipped() const { return counts_.clipped; }
  int64_t saturated() const { return counts_.saturated; }
  /// Everything that it holds besides counts().
  std::vector<Word> words() const;
  /// How often each coefficient from -kMaxCoefficient on occurs.
  std::vector<int64_t> histogram() const;
  CoefficientRange range(double quantile) const { return fitted_range(histogram(), quantile, layout_.has_end()); }
  /// Coefficients outside the range.
  int64_t outside(CoefficientRange range) const;

  /// Shards of the symbols of these levels, about equally large. The corpus is then empty.
  std::vector<CorpusShard> into_shards(const Levels& levels, int shards, int num_threads);
  /// Merges of the symbols of these levels. The corpus is then empty.
  std::vector<Merge> train(const Levels& levels, const TrainOptions& options);

 private:
  void add(const CorpusCounts& more);
  void need_parts(size_t parts);

  /// What one thread adds to. It stays from call to call, so that small batches are cheap to add.
  struct Part {
    std::vector<int64_t> histogram;
    WordWriter writer;
  };

  Layout layout_;
  std::shared_ptr<BudgetedMemory> memory_;
  size_t segment_words_;
  std::vector<Part> parts_;
  CorpusCounts counts_;
};

}  // namespace fast_tokenizer
