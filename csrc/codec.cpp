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

/// Stands for the saturated coefficients of a chunk that cannot be encoded.
constexpr int32_t kNotFinite = -1;

std::variant<BpeEncoder, OptimalParser> make_parser(Parsing parsing, const MergeTable& table, Symbol zero) {
  if (parsing == Parsing::kOptimal) return OptimalParser(table, zero);
  return BpeEncoder(table, zero);
}

/// The same with another range.
QuantizerSpec with_range(QuantizerSpec spec, int lowest, int highest) {
  spec.lowest = lowest;
  spec.highest = highest;
  return validated(std::move(spec));
}

Levels validated(Levels levels) {
  if (levels.beyond < 0 || levels.beyond > kMaxVocabSize)
    throw std::invalid_argument("levels beyond the range must lie in 0.." + std::to_string(kMaxVocabSize) + ", got " +
                                std::to_string(levels.beyond));
  return levels;
}

}  // namespace

/// What one thread needs to encode.
struct Codec::Worker {
  Quantizer quantizer, wide;
  TokenScratch scratch;
  Uninitialized<Symbol> symbols, sequence;
  Uninitialized<TokenId> tokens;
};

Codec::Codec(QuantizerSpec spec, std::span<const RawMerge> merges, const Kernels& kernels, Coding coding)
    : spec_(validated(std::move(spec))),
      levels_(validated(Levels{spec_.lowest, spec_.highest, coding.levels_beyond})),
      wide_spec_(with_range(spec_, levels_.farthest_down(), levels_.farthest_up())),
      layout_(validated(coding.layout)),
      table_(int64_t{levels_.symbols()} + (layout_.has_end() ? 1 : 0), merges),
      parser_(make_parser(coding.parsing, table_, layout_symbols().zero)),
      kernels_(kernels) {}

size_t Codec::to_tokens(std::span<const Symbol> symbols, TokenId* tokens, TokenScratch& scratch) const {
  if (const auto* bpe = std::get_if<BpeEncoder>(&parser_)) return bpe->encode(symbols, tokens, scratch.encode);
  return std::get<OptimalParser>(parser_).parse(symbols, tokens, scratch.parse);
}

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
    if (!worker)
      worker.emplace(
          Worker{{spec_, batch.action_dim, kernels_}, {wide_spec_, batch.action_dim, kernels_}, {}, {}, {}, {}});
    auto start = [&](size_t i) { return static_cast<size_t>(batch.first_row(i) - batch.first_row(begin)) * dims; };
    Symbol* const symbols = worker->symbols.reserve(start(end) + kMaxLanes);
    for (size_t i = begin; i < end; ++i) {
      const ChunkCounts counts = worker->quantizer.quantize(batch, i, plans[batch.rows(i)], symbols + start(i));
      if (!counts.finite) all_finite = false;
      if (counts.saturated > 0 && levels_.beyond > 0) {
        worker->wide.quantize(batch, i, plans[batch.rows(i)], symbols + start(i));
        std::transform(symbols + start(i), symbols + start(i + 1), symbols + start(i),
                       [this](Symbol s) { return levels_.symbol_of(wide_spec_.lowest + s); });
      }
      out.saturated[i] = counts.finite ? static_cast<int32_t>(counts.saturated) : kNotFinite;
      out.clipped[i] = static_cast<int32_t>(counts.clipped);
    }
    if (!all_finite) return;
    TokenId* const tokens = worker->tokens.reserve(start(end));
    size_t count = 0;
    for (size_t i = begin; i < end; ++i) {
      std::span<const Symbol> sequence = {symbols + start(i), start(i + 1) - start(i)};
      if (!layout_.is_plain()) {
        Symbol* const arranged = worker->sequence.reserve(sequence.size());
        const auto steps = static_cast<size_t>(batch.rows(i));
        sequence = {arranged, arrange(layout_, layout_symbols(), sequence.data(), steps, dims, arranged)};
      }
      const size_t of_chunk = to_tokens(sequence, tokens + count, worker->scratch);
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
    Quantizer exact(spec_, action_dim, kernels_), wide(wide_spec_, action_dim, kernels_);
    const auto dims = static_cast<size_t>(action_dim);
    std::vector<Symbol> symbols, scratch;
    for (size_t i = begin; i < end; ++i) {
      const auto steps = static_cast<size_t>(shape.rows(i)), expected = steps * dims;
      if (symbols.size() < expected + kMaxLanes) {
        symbols.resize(expected + kMaxLanes);
        scratch.resize(expected);
      }
      DecodeCounts c;
      c.expected = static_cast<int64_t>(expected);
      Arranger arranger(layout_, layout_symbols(), steps, dims, symbols.data(), scratch.data());
      for (const int32_t id : ids[i]) {
        if (id < 0 || id >= table_.vocab_size())
          ++c.unknown;
        else
          arranger.take(table_.expansion(static_cast<TokenId>(id)));
      }
      c.missing = static_cast<int64_t>(arranger.finish());
      c.extra = static_cast<int64_t>(arranger.extra());
      Symbol largest = 0;
      for (size_t v = 0; v < expected; ++v) largest = std::max(largest, symbols[v]);  // vectorised
      const bool beyond = largest >= levels_.in_range();
      if (beyond)
        for (size_t v = 0; v < expected; ++v)
          symbols[v] = static_cast<Symbol>(levels_.coefficient_of(symbols[v]) - wide_spec_.lowest);
      Quantizer& quantizer = beyond ? wide : exact;
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
  TokenScratch scratch;
  std::vector<TokenId> tokens(symbols.size());
  const size_t count = to_tokens(symbols, tokens.data(), scratch);
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
