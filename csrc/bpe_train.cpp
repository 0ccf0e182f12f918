#include "bpe_train.hpp"

#include <algorithm>
#include <limits>
#include <numeric>
#include <queue>
#include <stdexcept>
#include <string>

#include "parallel.hpp"

namespace fast_tokenizer {
namespace {

/// Places in the index are 32 bits wide.
constexpr size_t kMaxShardSlots = std::numeric_limits<uint32_t>::max();
/// A merge with at least this share of the live tokens pays for a pass that compacts the stream.
constexpr int64_t kPassShare = 24;
/// Below this many places a merge is not worth starting threads for.
constexpr int64_t kThreadedPlaces = 50'000;

struct Candidate {
  int64_t count;
  PairKey pair;
  /// Highest count first, then the smallest pair: the tie-break of the contract.
  bool operator<(const Candidate& other) const {
    return count != other.count ? count < other.count : pair > other.pair;
  }
};

/// Sums the shards' counts, keeps the heap of candidates, and picks the merges.
class Driver {
 public:
  Driver(std::vector<CorpusShard>& shards, int alphabet_size, const TrainOptions& options)
      : shards_(shards),
        options_(options),
        alphabet_size_(alphabet_size),
        threads_(thread_count(options.num_threads, shards.size())),
        effects_(shards.size()),
        lengths_(static_cast<size_t>(alphabet_size), 1),
        table_symbols_(alphabet_size) {}

  std::vector<Merge> run() {
    count_pairs();
    const int wanted = options_.vocab_size - alphabet_size_;
    std::vector<Merge> merges;
    while (static_cast<int>(merges.size()) < wanted) {
      const Candidate best = pop_best();
      if (best.count == 0) break;
      const Merge merge = {static_cast<TokenId>(left_of(best.pair)), static_cast<TokenId>(right_of(best.pair))};
      const auto merged = static_cast<TokenId>(static_cast<size_t>(alphabet_size_) + merges.size());
      lengths_.push_back(lengths_[merge.left] + lengths_[merge.right]);
      table_symbols_ += lengths_.back();
      merges.push_back(merge);
      index_when_sparse(best.count);
      apply(merge, merged, best.count);
      if (options_.progress) options_.progress(static_cast<int>(merges.size()), wanted);
    }
    return merges;
  }

 private:
  void count_pairs() {
    std::vector<PairMap<int64_t>> counted(shards_.size());
    for_each_shard([&](size_t i) { counted[i] = shards_[i].count_pairs(); });
    for (const auto& shard : counted) shard.for_each([&](PairKey pair, int64_t n) { counts_[pair] += n; });
    counts_.for_each([&](PairKey pair, int64_t n) { offer(pair, n); });
  }

  void offer(PairKey pair, int64_t count) {
    if (count < std::max<int64_t>(1, options_.min_frequency)) return;
    const int length = lengths_[left_of(pair)] + lengths_[right_of(pair)];
    if (length > options_.max_token_symbols || table_symbols_ + length > kMaxTableSymbols) return;
    heap_.push({count, pair});
  }

  /// Counts only fall once a pair exists, so an entry that is out of date is put back with its new count.
  Candidate pop_best() {
    while (!heap_.empty()) {
      const Candidate top = heap_.top();
      heap_.pop();
      const int64_t now = *counts_.find(top.pair);
      const int length = lengths_[left_of(top.pair)] + lengths_[right_of(top.pair)];
      if (now == top.count && table_symbols_ + length <= kMaxTableSymbols) return top;
      offer(top.pair, now);
    }
    return {0, 0};
  }

  void index_when_sparse(int64_t places) {
    if (indexed_) return;
    const size_t live = std::accumulate(shards_.begin(), shards_.end(), size_t{0},
                                        [](size_t sum, const CorpusShard& s) { return sum + s.size(); });
    if (static_cast<size_t>(places * kPassShare) >= live) return;
    for_each_shard([&](size_t i) { shards_[i].index(vocab_slots()); });
    indexed_ = true;
  }

  void apply(Merge merge, TokenId merged, int64_t places) {
    auto on_shard = [&](size_t i) { shards_[i].apply(merge, merged, vocab_slots(), effects_[i]); };
    if (!indexed_ || places >= kThreadedPlaces)
      for_each_shard(on_shard);
    else
      for (size_t i = 0; i < shards_.size(); ++i) on_shard(i);

    total_.reset(vocab_slots());
    for (const MergeEffect& e : effects_) total_.add(e);
    // New pairs first: where merged tokens touch, (t, a) appears on the right before it goes on the left.
    total_.for_each_right([&](TokenId q, int64_t n) {
      counts_[pair_key(merge.right, q)] -= n;
      counts_[pair_key(merged, q)] += n;
    });
    total_.for_each_left([&](TokenId p, int64_t n) {
      counts_[pair_key(p, merge.left)] -= n;
      counts_[pair_key(p, merged)] += n;
    });
    counts_[pair_key(merge.left, merge.right)] = 0;
    total_.for_each_right([&](TokenId q, int64_t) { offer(pair_key(merged, q), counts_[pair_key(merged, q)]); });
    total_.for_each_left([&](TokenId p, int64_t) { offer(pair_key(p, merged), counts_[pair_key(p, merged)]); });
  }

  template <typename Body>
  void for_each_shard(Body body) {
    parallel_for(shards_.size(), threads_, [&](size_t begin, size_t end, int) {
      for (size_t i = begin; i < end; ++i) body(i);
    });
  }

  size_t vocab_slots() const { return static_cast<size_t>(options_.vocab_size); }

  std::vector<CorpusShard>& shards_;
  const TrainOptions& options_;
  int alphabet_size_, threads_;
  bool indexed_ = false;
  std::vector<MergeEffect> effects_;
  MergeEffect total_;
  std::vector<int> lengths_;  ///< symbols each token expands to
  int64_t table_symbols_;     ///< their sum
  PairMap<int64_t> counts_;
  std::priority_queue<Candidate> heap_;
};

}  // namespace

void MergeEffect::reset(size_t vocab_size) {
  for (TokenId p : touched_left_) left_[p] = 0;
  for (TokenId q : touched_right_) right_[q] = 0;
  touched_left_.clear();
  touched_right_.clear();
  left_.resize(vocab_size);
  right_.resize(vocab_size);
}

void MergeEffect::add(const MergeEffect& other) {
  other.for_each_left([this](TokenId p, int64_t n) { add_left(p, n); });
  other.for_each_right([this](TokenId q, int64_t n) { add_right(q, n); });
}

void CorpusShard::append(std::span<const Symbol> sequence, int alphabet_size) {
  if (stream_.size() + sequence.size() + 1 > kMaxShardSlots)
    throw std::invalid_argument("a corpus shard holds at most " + std::to_string(kMaxShardSlots) + " symbols");
  for (const Symbol s : sequence)
    if (s >= alphabet_size)
      throw std::invalid_argument("symbol " + std::to_string(s) + " lies outside the alphabet 0.." +
                                  std::to_string(alphabet_size - 1));
  stream_.insert(stream_.end(), sequence.begin(), sequence.end());
  stream_.push_back(kEnd);
}

PairMap<int64_t> CorpusShard::count_pairs() const {
  PairMap<int64_t> counts;
  // Most neighbours repeat the pair before them (zeros), so repeats are gathered before they are looked up.
  PairKey last = 0;
  int64_t repeats = 0;
  for (size_t i = 0; i + 1 < stream_.size(); ++i) {
    if (stream_[i] == kEnd || stream_[i + 1] == kEnd) continue;
    const PairKey pair = pair_key(stream_[i], stream_[i + 1]);
    if (pair != last) {
      if (repeats > 0) counts[last] += repeats;
      last = pair;
      repeats = 0;
    }
    ++repeats;
  }
  if (repeats > 0) counts[last] += repeats;
  return counts;
}

void CorpusShard::apply(Merge merge, TokenId merged, size_t vocab_size, MergeEffect& effect) {
  effect.reset(vocab_size);
  if (indexed())
    apply_by_index(merge, merged, effect);
  else
    apply_by_pass(merge, merged, effect);
}

void CorpusShard::apply_by_pass(Merge merge, TokenId merged, MergeEffect& effect) {
  TokenId* const s = stream_.data();
  const size_t n = stream_.size();
  size_t out = 0;
  for (size_t i = 0; i < n;) {
    if (s[i] != merge.left || s[i + 1] != merge.right) {  // the last slot is kEnd, so i + 1 < n
      s[out++] = s[i++];
      continue;
    }
    if (out > 0 && s[out - 1] != kEnd) effect.add_left(s[out - 1]);
    if (s[i + 2] != kEnd) effect.add_right(s[i + 2]);
    s[out++] = merged;
    i += 2;
  }
  stream_.resize(out);
}

void CorpusShard::index(size_t vocab_size) {
  span_.assign(vocab_size, 1);
  PairMap<uint32_t> counts;
  auto for_each_pair = [this](auto visit) {
    for (size_t i = 0; i + 1 < stream_.size(); ++i)
      if (stream_[i] != kEnd && stream_[i + 1] != kEnd) visit(pair_key(stream_[i], stream_[i + 1]), i);
  };
  for_each_pair([&](PairKey pair, size_t) { ++counts[pair]; });
  places_ = PairMap<std::vector<Position>>(counts.size());
  counts.for_each([&](PairKey pair, uint32_t count) { places_[pair].reserve(count); });
  for_each_pair([&](PairKey pair, size_t i) { places_[pair].push_back(static_cast<Position>(i)); });
}

void CorpusShard::apply_by_index(Merge merge, TokenId merged, MergeEffect& effect) {
  std::vector<Position>* found = places_.find(pair_key(merge.left, merge.right));
  const uint32_t left_span = span_[merge.left], right_span = span_[merge.right];
  span_[merged] = left_span + right_span;
  if (found == nullptr) return;
  const std::vector<Position> places = std::move(*found);
  found->clear();

  left_events_.clear();
  right_events_.clear();
  TokenId* const s = stream_.data();
  for (const Position place : places) {
    // Outdated unless both tokens still stand here. A first slot keeps its id until it is merged away, and no
    // later token has the same id, so comparing ids is enough.
    const size_t second = size_t{place} + left_span;
    if (s[place] != merge.left || s[second] != merge.right) continue;
    const size_t last = second + right_span - 1;
    if (place > 0 && s[place - 1] != kEnd) {
      const TokenId before = s[place - 1];
      effect.add_left(before);
      left_events_.push_back({before, static_cast<Position>(place - span_[before])});
    }
    if (s[last + 1] != kEnd) {
      effect.add_right(s[last + 1]);
      right_events_.push_back({s[last + 1], place});
    }
    s[second - 1] = s[second] = kInside;
    s[place] = s[last] = merged;
  }
  effect.for_each_left([&](TokenId p, int64_t n) { places_[pair_key(p, merged)].reserve(static_cast<size_t>(n)); });
  effect.for_each_right([&](TokenId q, int64_t n) { places_[pair_key(merged, q)].reserve(static_cast<size_t>(n)); });
  for (const Event& e : left_events_) places_[pair_key(e.partner, merged)].push_back(e.place);
  for (const Event& e : right_events_) places_[pair_key(merged, e.partner)].push_back(e.place);
}

std::vector<Merge> train_bpe(std::vector<CorpusShard>& shards, int alphabet_size, const TrainOptions& options) {
  if (options.vocab_size > kMaxVocabSize)
    throw std::invalid_argument("vocab_size must be at most " + std::to_string(kMaxVocabSize) + ", got " +
                                std::to_string(options.vocab_size));
  if (options.vocab_size < alphabet_size)
    throw std::invalid_argument("vocab_size " + std::to_string(options.vocab_size) +
                                " is smaller than the alphabet of " + std::to_string(alphabet_size) + " symbols");
  if (options.max_token_symbols < 1 || options.max_token_symbols > kMaxTokenSymbols)
    throw std::invalid_argument("max_token_symbols must lie in 1.." + std::to_string(kMaxTokenSymbols) + ", got " +
                                std::to_string(options.max_token_symbols));
  return Driver(shards, alphabet_size, options).run();
}

std::vector<Merge> train_bpe(RaggedView<Symbol> corpus, int alphabet_size, const TrainOptions& options, int n_shards) {
  if (n_shards <= 0) n_shards = thread_count(options.num_threads, corpus.size());
  std::vector<CorpusShard> shards(static_cast<size_t>(n_shards));
  for (size_t i = 0; i < shards.size(); ++i) {
    const size_t first = corpus.size() * i / shards.size(), last = corpus.size() * (i + 1) / shards.size();
    for (size_t c = first; c < last; ++c) shards[i].append(corpus[c], alphabet_size);
  }
  return train_bpe(shards, alphabet_size, options);
}

}  // namespace fast_tokenizer
