#include "codec.hpp"

#include <algorithm>
#include <atomic>
#include <optional>
#include <stdexcept>
#include <string>

#include "block_ids.hpp"
#include "parallel.hpp"

namespace fast_tokenizer {
namespace {

/// Symbols of the chunks that go through one stage together, and then through the other: each has tables that fill the
/// nearest cache.
constexpr size_t kSymbolsTogether = 1 << 12;

/// What one thread needs to encode.
struct Worker {
  Quantizer quantizer;
  EncodeScratch scratch;
  Uninitialized<Symbol> symbols;
  Uninitialized<TokenId> tokens;
};

/// Stands for the saturated coefficients of a chunk that cannot be encoded.
constexpr int32_t kNotFinite = -1;

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
  const auto dims = static_cast<size_t>(batch.action_dim), values = static_cast<size_t>(batch.total_rows()) * dims;
  const size_t together = std::max<size_t>(1, kSymbolsTogether * batch.count / values);
  std::vector<std::optional<Worker>> workers(static_cast<size_t>(threads));
  BlockIds<TokenId> encoded((batch.count + together - 1) / together, threads);
  std::atomic<bool> all_finite = true;
  parallel_blocks(batch.count, together, threads, [&](size_t begin, size_t end, size_t block, int thread) {
    auto& worker = workers[static_cast<size_t>(thread)];
    if (!worker) worker.emplace(Quantizer(spec_, batch.action_dim, kernels_));
    auto start = [&](size_t i) { return static_cast<size_t>(batch.first_row(i) - batch.first_row(begin)) * dims; };
    Symbol* const symbols = worker->symbols.reserve(start(end) + kMaxLanes);
    for (size_t i = begin; i < end; ++i) {
      const ChunkCounts counts = worker->quantizer.quantize(batch, i, plans[batch.rows(i)], symbols + start(i));
      if (!counts.finite) all_finite = false;
      out.saturated[i] = counts.finite ? static_cast<int32_t>(counts.saturated) : kNotFinite;
      out.clipped[i] = static_cast<int32_t>(counts.clipped);
    }
    if (!all_finite) return;
    TokenId* const tokens = worker->tokens.reserve(start(end));
    size_t count = 0;
    for (size_t i = begin; i < end; ++i) {
      const size_t of_chunk =
          encoder_.encode({symbols + start(i), start(i + 1) - start(i)}, tokens + count, worker->scratch);
      out.offsets[i + 1] = static_cast<int64_t>(of_chunk);
      count += of_chunk;
    }
    encoded.add(block, thread, tokens, count);
  });
  if (!all_finite)
    throw_not_finite(batch, static_cast<size_t>(std::find(out.saturated.begin(), out.saturated.end(), kNotFinite) -
                                                out.saturated.begin()));
  out.ids = encoded.joined(out.offsets);
  return out;
}

void Codec::decode(RaggedView<int32_t> ids, std::span<const int64_t> horizons, int action_dim, double* out,
                   DecodeCounts* counts, int num_threads) const {
  if (ids.size() == 0) return;
  const DecodedBatch batch(ids.size(), horizons, action_dim);
  const ChunkBatch& shape = batch.shape;
  parallel_for(shape.count, batch_threads(shape, num_threads), [&](size_t begin, size_t end, int) {
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
      quantizer.dequantize(symbols.data(), batch.plans[shape.rows(i)], out + shape.first_row(i) * action_dim);
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
  std::vector<TokenId> tokens(symbols.size());
  const size_t count = encoder_.encode(symbols, tokens.data(), scratch);
  return {tokens.begin(), tokens.begin() + static_cast<ptrdiff_t>(count)};
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
