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

  size_t chunks() const { return chunks_; }
  int64_t symbols() const { return symbols_; }
  int64_t clipped() const { return clipped_; }
  /// Coefficients beyond +-kMaxCoefficient, which are kept at that bound.
  int64_t saturated() const { return saturated_; }
  /// How often each coefficient from -kMaxCoefficient on occurs.
  std::vector<int64_t> histogram() const;

  /// At most a share 1 - quantile of the coefficients lies below, and at most that share above. 1: none do. Of a layout
  /// with ends of blocks it has -1..1 at least: what saturates does not become 0 then, and no block ends earlier.
  CoefficientRange range(double quantile) const;
  /// Coefficients outside the range.
  int64_t outside(CoefficientRange range) const;

  /// Shards of the symbols of these levels, about equally large. The corpus is then empty.
  std::vector<CorpusShard> into_shards(const Levels& levels, int shards, int num_threads);
  /// Merges of the symbols of these levels. The corpus is then empty.
  std::vector<Merge> train(const Levels& levels, const TrainOptions& options);

 private:
  /// What one thread adds to. It stays from call to call, so that small batches are cheap to add.
  struct Part {
    std::vector<int64_t> histogram;
    WordWriter writer;
  };

  Layout layout_;
  std::shared_ptr<BudgetedMemory> memory_;
  size_t segment_words_;
  std::vector<Part> parts_;
  size_t chunks_ = 0;
  int64_t symbols_ = 0, clipped_ = 0, saturated_ = 0;
};

}  // namespace fast_tokenizer
