#include "corpus.hpp"

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <string>

#include "parallel.hpp"

namespace fast_tokenizer {
namespace {

/// Stands for the end of a block.
constexpr Word kEndOfBlockWord = Corpus::kValues;
static_assert(kEndOfBlockWord < kEndWord, "every coefficient is a word of its own");

/// Coefficients become the symbols that the table says, and so does the end of a block.
void to_symbols(Segment& segment, const std::vector<Symbol>& symbol_of, Word low, Word high) {
  Word* const words = segment.words.data();
  unsigned outside = 0;
  for (size_t i = 0; i < segment.size; ++i) {
    const Word w = words[i];
    if (w > kEndOfBlockWord) continue;
    outside |= static_cast<unsigned>(w < low) | (static_cast<unsigned>(w > high) & (w < kEndOfBlockWord));
    words[i] = symbol_of[w];
  }
  if (outside == 0) return;
  // Neighbours may have become equal: their runs are joined, in place, since that never takes more words.
  Word *out = words, value = kEndWord;
  size_t length = 0;
  for_each_run(segment.begin(), segment.end(), [&](Word v, size_t n) {
    if (v != kEndWord && v == value) {
      length += n;
      return;
    }
    out = write_run(out, value, length);
    value = v;
    length = n;
  });
  out = write_run(out, value, length);
  segment.size = static_cast<size_t>(out - words);
}

}  // namespace

void Corpus::add(const QuantizerSpec& spec, const ChunkBatch& batch, int num_threads, const Kernels& kernels) {
  if (spec.lowest != -kMaxCoefficient || spec.highest != kMaxCoefficient)
    throw std::invalid_argument("a corpus keeps coefficients of the full range");
  if (batch.count == 0) return;
  const BatchPlans plans(batch);
  const auto threads = static_cast<size_t>(batch_threads(batch, num_threads));
  need_parts(threads);

  std::vector<WordWriter::Mark> before;
  for (const Part& part : parts_) before.push_back(part.writer.mark());
  std::vector<ChunkCounts> counts(threads);
  try {
    parallel_for(batch.count, static_cast<int>(threads), [&](size_t begin, size_t end, int index) {
      Part& part = parts_[static_cast<size_t>(index)];
      int64_t* const histogram = part.histogram.data();
      ChunkCounts sum = {};
      Quantizer quantizer(spec, batch.action_dim, kernels);
      Uninitialized<Symbol> coefficients, arranged;
      const auto dims = static_cast<size_t>(batch.action_dim);
      for (size_t i = begin; i < end; ++i) {
        const auto steps = static_cast<size_t>(batch.rows(i)), size = steps * dims;
        Symbol* const symbols = coefficients.reserve(size + kMaxLanes);  // the kernels write past a chunk's end
        const ChunkCounts chunk = quantizer.quantize(batch, i, plans[batch.rows(i)], symbols);
        if (!chunk.finite) throw_not_finite(batch, i);
        sum.clipped += chunk.clipped;
        sum.saturated += chunk.saturated;
        std::span<const Symbol> sequence = {symbols, size};
        if (!layout_.is_plain()) {
          Symbol* const out = arranged.reserve(size);
          sequence = {out, arrange(layout_, {kMaxCoefficient, kEndOfBlockWord}, symbols, steps, dims, out)};
        }
        part.writer.append(sequence, [&](Symbol s, size_t run) { histogram[s] += static_cast<int64_t>(run); });
      }
      counts[static_cast<size_t>(index)] = sum;
    });
  } catch (...) {
    for (size_t i = 0; i < parts_.size(); ++i)
      parts_[i].writer.rewind(before[i], [&](Word v, size_t run) {
        if (v != kEndWord) parts_[i].histogram[v] -= static_cast<int64_t>(run);
      });
    throw;
  }
  add({batch.count, batch.total_rows() * batch.action_dim});
  for (const ChunkCounts& c : counts) add({0, 0, c.clipped, c.saturated});
}

void Corpus::add(std::span<const Word> words, const CorpusCounts& counts) {
  const auto require = [](bool ok, const char* message) {
    if (!ok) throw std::invalid_argument(std::string("not the words of a corpus: ") + message);
  };
  std::vector<int64_t> found(kEndOfBlockWord + 1);
  std::vector<size_t> ends;
  Word value = kEndWord;  // of the run that is being read
  int64_t spelled = 0;
  for (size_t i = 0; i < words.size(); ++i) {
    const Word w = words[i];
    const bool is_end_of_block = layout_.has_end() && w == kEndOfBlockWord;
    require(value != kEndOfBlockWord || layout_.end_of_block != EndOfBlock::kChunk || w == kEndWord,
            "a value after the end of a chunk");
    int64_t repeats = 1;
    if (is_repeat(w)) {
      require(value != kEndWord && w != kRepeat, "a repeat of nothing");
      repeats = w & kMostRepeats;
    } else if (w == kEndWord) {
      require(i > (ends.empty() ? 0 : ends.back()), "a chunk without a value");
      ends.push_back(i + 1);
      value = w;
      continue;
    } else {
      require(w < kValues || is_end_of_block, "a value that no coefficient has");
      require(w != value, "a run in two pieces");
      value = w;
    }
    found[value] += repeats;
    if (value < kValues) spelled += repeats;
  }
  require(words.empty() || words.back() == kEndWord, "a chunk without an end");
  require(ends.size() == counts.chunks, "another number of chunks");
  const auto fits = [](int64_t more, int64_t so_far) { return more <= (int64_t{1} << 60) - so_far; };
  require(fits(counts.symbols, counts_.symbols) && fits(counts.clipped, counts_.clipped) &&
              fits(counts.saturated, counts_.saturated),
          "more than can be counted");
  require(counts.symbols >= spelled && (layout_.has_end() || counts.symbols == spelled), "another number of symbols");
  need_parts(1);
  size_t begin = 0;
  for (const size_t end : ends) parts_[0].writer.append_coded(words.subspan(begin, end - begin)), begin = end;
  for (size_t v = 0; v < found.size(); ++v) parts_[0].histogram[v] += found[v];
  add(counts);
}

void Corpus::add(const CorpusCounts& more) {
  counts_.chunks += more.chunks;
  counts_.symbols += more.symbols;
  counts_.clipped += more.clipped;
  counts_.saturated += more.saturated;
}

void Corpus::need_parts(size_t parts) {
  while (parts_.size() < parts)
    parts_.push_back({std::vector<int64_t>(kEndOfBlockWord + 1), WordWriter(memory_, segment_words_)});
}

std::vector<Word> Corpus::words() const {
  size_t size = 0;
  for (const Part& part : parts_)
    for (const Segment& s : part.writer.segments()) size += s.size;
  std::vector<Word> words;
  words.reserve(size);
  for (const Part& part : parts_)
    for (const Segment& s : part.writer.segments()) words.insert(words.end(), s.begin(), s.end());
  return words;
}

std::vector<int64_t> Corpus::histogram() const {
  std::vector<int64_t> sum(kValues);
  for (const Part& part : parts_)
    for (size_t v = 0; v < sum.size(); ++v) sum[v] += part.histogram[v];
  int64_t& zeros = sum[kMaxCoefficient];  // some may be implied by the end of a block
  zeros += counts_.symbols - std::accumulate(sum.begin(), sum.end(), int64_t{0});
  return sum;
}

CoefficientRange fitted_range(std::span<const int64_t> histogram, double quantile, bool has_end) {
  const int64_t total = std::accumulate(histogram.begin(), histogram.end(), int64_t{0});
  const auto may_drop = static_cast<int64_t>((1.0 - quantile) * static_cast<double>(total));
  auto end_of = [&](int from, int step) {
    int64_t dropped = 0;
    for (int v = from; v != kMaxCoefficient; v += step) {  // index kMaxCoefficient is coefficient 0
      dropped += histogram[static_cast<size_t>(v)];
      if (dropped > may_drop) return v - kMaxCoefficient;
    }
    return 0;
  };
  const CoefficientRange range = {end_of(0, 1), end_of(Corpus::kValues - 1, -1)};
  return has_end ? CoefficientRange{std::min(range.lowest, -1), std::max(range.highest, 1)} : range;
}

int64_t Corpus::outside(CoefficientRange range) const {
  const std::vector<int64_t> counts = histogram();
  int64_t n = 0;
  for (int v = 0; v < kValues; ++v)
    if (v - kMaxCoefficient < range.lowest || v - kMaxCoefficient > range.highest) n += counts[static_cast<size_t>(v)];
  return n;
}

std::vector<CorpusShard> Corpus::into_shards(const Levels& levels, int n_shards, int num_threads) {
  const int alphabet = levels.symbols() + (layout_.has_end() ? 1 : 0);
  if (levels.lowest < -kMaxCoefficient || levels.lowest > levels.highest || levels.highest > kMaxCoefficient ||
      levels.beyond < 0 || levels.beyond > kMaxVocabSize || alphabet > kMaxVocabSize)
    throw std::invalid_argument("no alphabet has the coefficients " + std::to_string(levels.lowest) + ".." +
                                std::to_string(levels.highest) + " and " + std::to_string(levels.beyond) +
                                " levels beyond each end");
  const auto low = static_cast<Word>(levels.lowest + kMaxCoefficient);
  const auto high = static_cast<Word>(levels.highest + kMaxCoefficient);
  std::vector<Symbol> symbol_of;
  for (int v = 0; v < kValues; ++v) symbol_of.push_back(levels.symbol_of(v - kMaxCoefficient));
  symbol_of.push_back(static_cast<Symbol>(levels.symbols()));
  std::vector<Segment> segments;
  size_t words = 0, dealt = 0;
  for (Part& part : parts_)
    for (Segment& s : part.writer.take()) {
      words += s.size;
      segments.push_back(std::move(s));
    }
  *this = Corpus(layout_, memory_, segment_words_);
  parallel_for(segments.size(), thread_count(num_threads, segments.size()), [&](size_t begin, size_t end, int) {
    for (size_t i = begin; i < end; ++i) to_symbols(segments[i], symbol_of, low, high);
  });
  std::vector<std::vector<Segment>> shares(static_cast<size_t>(n_shards));
  for (Segment& s : segments) {
    auto& share = shares[dealt * shares.size() / words];
    dealt += s.size;
    share.push_back(std::move(s));
  }
  std::vector<CorpusShard> shards;
  for (auto& share : shares) shards.emplace_back(alphabet, std::move(share), memory_);
  return shards;
}

std::vector<Merge> Corpus::train(const Levels& levels, const TrainOptions& options) {
  // More than one a thread when a shard could have more tokens than its index can number.
  constexpr int64_t kShardSymbols = int64_t{1} << 31;
  const auto least = static_cast<int>((counts_.symbols + static_cast<int64_t>(counts_.chunks)) / kShardSymbols + 1);
  const int threads = thread_count(options.num_threads, counts_.chunks);
  std::vector<CorpusShard> shards = into_shards(levels, std::max(threads, least), threads);
  return train_bpe(shards, levels.symbols() + (layout_.has_end() ? 1 : 0), options);
}

}  // namespace fast_tokenizer
