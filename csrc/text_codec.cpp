#include "text_codec.hpp"

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <string>

#include "block_ids.hpp"
#include "parallel.hpp"

namespace fast_tokenizer {
namespace {

/// A transform in another order of additions is off by less than this many units in the last place of its column's
/// norm. The largest found between scipy's single-precision DCT and an exact one is 3.5 (horizons to 4,096, T = 197).
constexpr double kTieUlps = 16;

/// Chunks or texts that a thread takes at a time.
constexpr size_t kBlock = 16;

}  // namespace

TextCodec::TextCodec(double scale, int min_token, TextVocabulary vocabulary, std::pair<int, int> repair_range,
                     const Kernels& kernels)
    : scale_(scale),
      min_token_(min_token),
      repair_range_(repair_range),
      bpe_(std::move(vocabulary)),
      kernels_(kernels) {
  QuantizerSpec spec{{scale}, min_token, kMaxCoefficient, {}, 0.5, kTieUlps};
  if (-kMaxCoefficient <= min_token && min_token <= 0) quantizer_ = validated(std::move(spec));
}

QuantizedTexts TextCodec::quantize(const ChunkBatch& batch, int num_threads) const {
  const auto values = static_cast<size_t>(batch.total_rows()) * static_cast<size_t>(batch.action_dim);
  QuantizedTexts out;
  out.text.resize(values);
  out.offsets.resize(batch.count + 1);
  for (size_t i = 0; i <= batch.count; ++i) out.offsets[i] = batch.first_row(i) * batch.action_dim;
  out.saturated.resize(batch.count);
  out.uncertain.assign(batch.count, 1);
  if (!quantizer_ || batch.count == 0) return out;
  const BatchPlans plans(batch);
  const auto dims = static_cast<size_t>(batch.action_dim);
  const auto highest = static_cast<Symbol>(kMaxCoefficient - min_token_);
  std::atomic<size_t> not_finite = batch.count;
  parallel_for(batch.count, batch_threads(batch, num_threads), [&](size_t begin, size_t end, int) {
    Quantizer quantizer(*quantizer_, batch.action_dim, kernels_);
    Uninitialized<Symbol> scratch;
    for (size_t i = begin; i < end; ++i) {
      const auto size = static_cast<size_t>(batch.rows(i)) * dims;
      Symbol* const symbols = scratch.reserve(size + kMaxLanes);
      const ChunkCounts counts = quantizer.quantize(batch, i, plans[batch.rows(i)], symbols);
      if (!counts.finite) {
        for (size_t known = not_finite; i < known && !not_finite.compare_exchange_weak(known, i);) {
        }
        return;
      }
      std::copy_n(symbols, size, out.text.begin() + static_cast<ptrdiff_t>(batch.first_row(i)) * batch.action_dim);
      out.saturated[i] = static_cast<int32_t>(counts.saturated);
      const bool above = counts.saturated > 0 && std::find(symbols, symbols + size, highest) != symbols + size;
      out.uncertain[i] = counts.near_tie || above;
    }
  });
  if (not_finite < batch.count) throw_not_finite(batch, not_finite);
  return out;
}

EncodedTexts TextCodec::encode(RaggedView<int32_t> texts, int num_threads) const {
  TextBpe::check(texts.values);
  constexpr size_t kCharactersPerThread = 1 << 15;
  const int threads = thread_count(num_threads, texts.values.size() / kCharactersPerThread);
  EncodedTexts out;
  out.offsets.assign(texts.size() + 1, 0);
  out.dropped.assign(texts.size(), 0);
  BlockIds<int32_t> encoded((texts.size() + kBlock - 1) / kBlock, threads);
  struct Worker {
    TextScratch scratch;
    std::vector<int32_t> ids;
  };
  std::vector<Worker> workers(static_cast<size_t>(threads));
  parallel_blocks(texts.size(), kBlock, threads, [&](size_t begin, size_t end, size_t block, int thread) {
    auto& [scratch, ids] = workers[static_cast<size_t>(thread)];
    ids.clear();
    for (size_t i = begin; i < end; ++i) {
      const size_t before = ids.size();
      out.dropped[i] = static_cast<int32_t>(bpe_.encode(texts[i], ids, scratch));
      out.offsets[i + 1] = static_cast<int64_t>(ids.size() - before);
    }
    encoded.add(block, thread, ids.data(), ids.size());
  });
  out.ids = encoded.joined(out.offsets);
  return out;
}

void TextCodec::decode(RaggedView<int32_t> ids, std::span<const int64_t> horizons, int action_dim, double* out,
                       DecodeCounts* counts, int num_threads) const {
  if (ids.size() == 0) return;
  const DecodedBatch batch(ids.size(), horizons, action_dim);
  const ChunkBatch& shape = batch.shape;
  const size_t together = horizons.size() == 1 ? kBlock : 1;  // transformed by one call
  parallel_for(shape.count, batch_threads(shape, num_threads), [&](size_t begin, size_t end, int) {
    std::vector<uint8_t> bytes;
    std::vector<double> coefficients;
    for (size_t first = begin; first < end; first += together) {
      const size_t last = std::min(end, first + together);
      coefficients.clear();
      for (size_t i = first; i < last; ++i)
        counts[i] = append_coefficients(ids[i], shape.rows(i) * action_dim, coefficients, bytes);
      transform_chunks(batch.plans[shape.rows(first)], Direction::kInverse, kernels_, last - first, action_dim,
                       coefficients.data(), out + shape.first_row(first) * action_dim, 1);
    }
  });
}

DecodeCounts TextCodec::append_coefficients(std::span<const int32_t> ids, int64_t expected,
                                            std::vector<double>& coefficients, std::vector<uint8_t>& bytes) const {
  DecodeCounts counts;
  counts.expected = expected;
  bytes.clear();
  for (const int32_t id : ids) {
    if (id < 0 || id >= bpe_.vocab_size()) {
      ++counts.unknown;
      continue;
    }
    const std::string& spelling = bpe_.spelling(id);
    bytes.insert(bytes.end(), spelling.begin(), spelling.end());
  }
  const size_t first = coefficients.size(), end = first + static_cast<size_t>(expected);
  for_each_character(bytes, [&](int32_t code) {
    counts.broken += code < 0;
    if (coefficients.size() == end)
      ++counts.extra;
    else
      coefficients.push_back(code < 0 ? 0 : static_cast<double>(code) + min_token_);
  });
  counts.missing = static_cast<int64_t>(end - coefficients.size());
  coefficients.resize(end, 0.0);
  const bool repair = !counts.well_formed();
  const double lowest = repair_range_.first, highest = repair_range_.second;
  for (size_t i = first; i < end; ++i) {
    double& q = coefficients[i];
    if (repair && (q < lowest || q > highest)) {
      q = std::clamp(q, lowest, highest);
      ++counts.clamped;
    }
    q /= scale_;
  }
  return counts;
}

std::vector<int32_t> TextCodec::expand(std::span<const int32_t> ids) const {
  std::vector<uint8_t> bytes;
  for (const int32_t id : ids) {
    if (id < 0 || id >= bpe_.vocab_size())
      throw std::invalid_argument("token id " + std::to_string(id) + " lies outside the vocabulary 0.." +
                                  std::to_string(bpe_.vocab_size() - 1));
    const std::string& spelling = bpe_.spelling(id);
    bytes.insert(bytes.end(), spelling.begin(), spelling.end());
  }
  std::vector<int32_t> text;
  for_each_character(bytes, [&](int32_t code) { text.push_back(code); });
  return text;
}

}  // namespace fast_tokenizer
