#include "codec.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "parallel.hpp"

namespace fast_tokenizer {
namespace {

/// Symbols that are quantized before they are encoded.
constexpr size_t kSymbolsTogether = 1 << 12;

/// What one thread has encoded.
struct Part {
  std::vector<int32_t> ids;
  size_t not_finite;  ///< first chunk with a value that is not finite, or the batch's size
};

}  // namespace

Codec::Codec(QuantizerSpec spec, std::span<const RawMerge> merges, const Kernels& kernels)
    : spec_(validated(std::move(spec))),
      table_(int64_t{spec_.highest} - spec_.lowest + 1, merges),
      encoder_(table_, static_cast<Symbol>(-spec_.lowest)),
      kernels_(kernels) {}

EncodedBatch Codec::encode(const ChunkBatch& batch, int num_threads) const {
  EncodedBatch out;
  out.offsets.assign(batch.count + 1, 0);
  out.saturated.resize(batch.count);
  out.clipped.resize(batch.count);
  if (batch.count == 0) return out;
  const BatchPlans plans(batch);
  const int threads = batch_threads(batch, num_threads);
  std::vector<Part> parts(static_cast<size_t>(threads));
  parallel_for(batch.count, threads, [&](size_t begin, size_t end, int part_index) {
    Part& part = parts[static_cast<size_t>(part_index)];
    part.not_finite = batch.count;
    Quantizer quantizer(spec_, batch.action_dim, kernels_);
    EncodeScratch scratch;
    std::vector<Symbol> symbols;
    const auto dims = static_cast<size_t>(batch.action_dim);
    // Several chunks through one stage, then through the other: each has tables that fill the nearest cache.
    for (size_t first = begin, last; first < end; first = last) {
      auto start = [&](size_t i) { return static_cast<size_t>(batch.first_row(i) - batch.first_row(first)) * dims; };
      for (last = first + 1; last < end && start(last + 1) <= kSymbolsTogether; ++last) {
      }
      if (symbols.size() < start(last) + kMaxLanes) symbols.resize(start(last) + kMaxLanes);
      for (size_t i = first; i < last; ++i) {
        const ChunkCounts counts = quantizer.quantize(batch, i, plans[batch.rows(i)], symbols.data() + start(i));
        if (!counts.finite) {
          part.not_finite = i;
          return;
        }
        out.saturated[i] = static_cast<int32_t>(counts.saturated);
        out.clipped[i] = static_cast<int32_t>(counts.clipped);
      }
      for (size_t i = first; i < last; ++i) {
        const auto tokens = encoder_.encode({symbols.data() + start(i), start(i + 1) - start(i)}, scratch);
        part.ids.insert(part.ids.end(), tokens.begin(), tokens.end());
        out.offsets[i + 1] = static_cast<int64_t>(tokens.size());
      }
    }
  });
  for (const Part& part : parts)
    if (part.not_finite < batch.count) throw_not_finite(batch, part.not_finite);
  for (size_t i = 0; i < batch.count; ++i) out.offsets[i + 1] += out.offsets[i];
  if (threads == 1) {
    out.ids = std::move(parts[0].ids);
    return out;
  }
  out.ids.reserve(static_cast<size_t>(out.offsets.back()));
  for (const Part& part : parts) out.ids.insert(out.ids.end(), part.ids.begin(), part.ids.end());
  return out;
}

void Codec::decode(RaggedView<int32_t> ids, std::span<const int64_t> horizons, int action_dim, double* out,
                   DecodeCounts* counts, int num_threads) const {
  const size_t n = ids.size();
  if (n == 0) return;
  const bool uniform = horizons.size() == 1;
  std::vector<int64_t> first_rows(uniform ? 0 : n + 1);
  for (size_t i = 0; i < n && !uniform; ++i) first_rows[i + 1] = first_rows[i] + horizons[i];
  const ChunkBatch shape = {nullptr, false, action_dim, n, horizons[0], first_rows, 0};
  const BatchPlans plans(horizons);
  parallel_for(n, batch_threads(shape, num_threads), [&](size_t begin, size_t end, int) {
    Quantizer quantizer(spec_, action_dim, kernels_);
    const Symbol zero = quantizer.zero_symbol();
    std::vector<Symbol> symbols;
    for (size_t i = begin; i < end; ++i) {
      const auto expected = static_cast<size_t>(shape.rows(i)) * static_cast<size_t>(action_dim);
      if (symbols.size() < expected + kMaxLanes) symbols.resize(expected + kMaxLanes);
      DecodeCounts c;
      c.expected = static_cast<int64_t>(expected);
      size_t filled = 0;
      for (const int32_t id : ids[i]) {
        if (id < 0 || id >= table_.vocab_size()) {
          ++c.unknown;
          continue;
        }
        const auto expansion = table_.expansion(static_cast<TokenId>(id));
        const size_t fits = std::min(expansion.size(), expected - filled);
        std::copy_n(expansion.begin(), fits, symbols.begin() + static_cast<ptrdiff_t>(filled));
        filled += fits;
        c.extra += static_cast<int64_t>(expansion.size() - fits);
      }
      c.missing = static_cast<int64_t>(expected - filled);
      std::fill(symbols.begin() + static_cast<ptrdiff_t>(filled), symbols.end(), zero);
      quantizer.dequantize(symbols.data(), plans[shape.rows(i)], out + shape.first_row(i) * action_dim);
      counts[i] = c;
    }
  });
}

std::vector<int32_t> Codec::encode_symbols(std::span<const Symbol> symbols) const {
  for (const Symbol s : symbols)
    if (s >= table_.alphabet_size())
      throw std::invalid_argument("symbol " + std::to_string(s) + " lies outside the alphabet 0.." +
                                  std::to_string(table_.alphabet_size() - 1));
  EncodeScratch scratch;
  const std::span<const TokenId> tokens = encoder_.encode(symbols, scratch);
  return {tokens.begin(), tokens.end()};
}

std::vector<Symbol> Codec::expand(std::span<const int32_t> ids) const {
  std::vector<Symbol> symbols;
  for (const int32_t id : ids) {
    if (id < 0 || id >= table_.vocab_size())
      throw std::invalid_argument("token id " + std::to_string(id) + " lies outside the vocabulary 0.." +
                                  std::to_string(table_.vocab_size() - 1));
    const auto expansion = table_.expansion(static_cast<TokenId>(id));
    symbols.insert(symbols.end(), expansion.begin(), expansion.end());
  }
  return symbols;
}

}  // namespace fast_tokenizer
