#include "corpus.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "parallel.hpp"

namespace fast_tokenizer {

void Corpus::add(const QuantizerSpec& spec, const ChunkBatch& batch, int num_threads, const Kernels& kernels) {
  if (spec.lowest != -kMaxCoefficient || spec.highest != kMaxCoefficient)
    throw std::invalid_argument("a corpus keeps coefficients of the full range");
  if (batch.count == 0) return;
  const BatchPlans plans(batch);
  const auto dims = static_cast<size_t>(batch.action_dim);
  auto start = [&](size_t i) { return static_cast<size_t>(batch.first_row(i)) * dims; };
  Block block;
  block.coefficients.resize(start(batch.count));
  for (size_t i = 0; i <= batch.count; ++i) block.offsets.push_back(static_cast<int64_t>(start(i)));

  struct Part {
    std::vector<int64_t> histogram = std::vector<int64_t>(kValues, 0);
    int64_t clipped = 0, saturated = 0;
    size_t not_finite = 0;
  };
  const int threads = batch_threads(batch, num_threads);
  std::vector<Part> parts(static_cast<size_t>(threads));
  parallel_for(batch.count, threads, [&](size_t begin, size_t end, int part_index) {
    Part& part = parts[static_cast<size_t>(part_index)];
    part.not_finite = batch.count;
    Quantizer quantizer(spec, batch.action_dim, kernels);
    std::vector<Symbol> symbols;  // the kernels write past a chunk's end
    for (size_t i = begin; i < end; ++i) {
      const size_t n = start(i + 1) - start(i);
      if (symbols.size() < n + kMaxLanes) symbols.resize(n + kMaxLanes);
      const ChunkCounts counts = quantizer.quantize(batch, i, plans[batch.rows(i)], symbols.data());
      if (!counts.finite) {
        part.not_finite = i;
        return;
      }
      part.clipped += counts.clipped;
      part.saturated += counts.saturated;
      for (size_t s = 0; s < n; ++s) ++part.histogram[symbols[s]];
      std::copy_n(symbols.begin(), n, block.coefficients.begin() + static_cast<ptrdiff_t>(start(i)));
    }
  });
  for (const Part& part : parts)
    if (part.not_finite < batch.count) throw_not_finite(batch, part.not_finite);
  for (const Part& part : parts) {
    for (size_t v = 0; v < histogram_.size(); ++v) histogram_[v] += part.histogram[v];
    clipped_ += part.clipped;
    saturated_ += part.saturated;
  }
  blocks_.push_back(std::move(block));
}

size_t Corpus::chunks() const {
  size_t n = 0;
  for (const Block& b : blocks_) n += b.offsets.size() - 1;
  return n;
}

int64_t Corpus::symbols() const {
  int64_t n = 0;
  for (const Block& b : blocks_) n += static_cast<int64_t>(b.coefficients.size());
  return n;
}

CoefficientRange Corpus::range(double quantile) const {
  const auto may_drop = static_cast<int64_t>((1.0 - quantile) * static_cast<double>(symbols()));
  auto end_of = [&](int from, int step) {
    int64_t dropped = 0;
    for (int v = from; v != kMaxCoefficient; v += step) {  // index kMaxCoefficient is coefficient 0
      dropped += histogram_[static_cast<size_t>(v)];
      if (dropped > may_drop) return v - kMaxCoefficient;
    }
    return 0;
  };
  return {end_of(0, 1), end_of(kValues - 1, -1)};
}

int64_t Corpus::outside(CoefficientRange range) const {
  int64_t n = 0;
  for (int v = 0; v < kValues; ++v)
    if (v - kMaxCoefficient < range.lowest || v - kMaxCoefficient > range.highest)
      n += histogram_[static_cast<size_t>(v)];
  return n;
}

std::vector<Merge> Corpus::train(CoefficientRange range, const TrainOptions& options) {
  const int low = range.lowest + kMaxCoefficient, high = range.highest + kMaxCoefficient;
  const int alphabet_size = high - low + 1;
  const size_t n_chunks = chunks();
  const int threads = thread_count(options.num_threads, n_chunks);
  std::vector<CorpusShard> shards(static_cast<size_t>(threads));
  // Shard s gets a consecutive share of every block, so that blocks can be let go one by one.
  for (Block& block : blocks_) {
    const size_t count = block.offsets.size() - 1;
    parallel_for(count, threads, [&](size_t begin, size_t end, int part) {
      for (size_t at = static_cast<size_t>(block.offsets[begin]); at < static_cast<size_t>(block.offsets[end]); ++at)
        block.coefficients[at] = static_cast<Symbol>(std::clamp<int>(block.coefficients[at], low, high) - low);
      const RaggedView<Symbol> view = {block.coefficients, block.offsets};
      for (size_t i = begin; i < end; ++i) shards[static_cast<size_t>(part)].append(view[i], alphabet_size);
    });
    block = {};
  }
  blocks_.clear();
  return train_bpe(shards, alphabet_size, options);
}

}  // namespace fast_tokenizer
