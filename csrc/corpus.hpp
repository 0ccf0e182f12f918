// What fitting collects: quantized chunks and the histogram of their coefficients. The range is not known until
// all are in, so coefficients are kept as they are and become symbols when training starts.
#pragma once

#include <array>

#include "bpe_train.hpp"
#include "quantize.hpp"

namespace fast_tokenizer {

/// Lowest and highest coefficient that get a symbol, 0 between them.
struct CoefficientRange {
  int lowest, highest;
};

class Corpus {
 public:
  static constexpr int kValues = 2 * kMaxCoefficient + 1;

  /// Quantizes a batch and keeps it; the spec must leave the full range. Throws std::invalid_argument for a value that
  /// is not finite.
  void add(const QuantizerSpec& spec, const ChunkBatch& batch, int num_threads,
           const Kernels& kernels = default_kernels());

  size_t chunks() const;
  int64_t symbols() const;
  int64_t clipped() const { return clipped_; }
  /// Coefficients beyond +-kMaxCoefficient, which are kept at that bound.
  int64_t saturated() const { return saturated_; }

  /// At most a share 1 - quantile of the coefficients lies below, and at most that share above. 1: none do.
  CoefficientRange range(double quantile) const;
  /// Coefficients outside the range.
  int64_t outside(CoefficientRange range) const;

  /// Merges of the symbols that the range leaves; the corpus is used up.
  std::vector<Merge> train(CoefficientRange range, const TrainOptions& options);

 private:
  struct Block {
    std::vector<uint16_t> coefficients;  ///< coefficient + kMaxCoefficient
    std::vector<int64_t> offsets;
  };
  std::vector<Block> blocks_;
  std::vector<int64_t> histogram_ = std::vector<int64_t>(kValues, 0);
  int64_t clipped_ = 0, saturated_ = 0;
};

}  // namespace fast_tokenizer
