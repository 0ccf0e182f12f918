#include "merge_driver.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

namespace fast_tokenizer {

MergeDriver::MergeDriver(int alphabet_size, int vocab_size, int64_t min_frequency, int max_token_symbols)
    : alphabet_size_(alphabet_size),
      most_merges_(vocab_size - alphabet_size),
      min_frequency_(std::max<int64_t>(1, min_frequency)),
      max_token_symbols_(max_token_symbols),
      table_symbols_(alphabet_size) {
  auto require = [](bool ok, const std::string& message) {
    if (!ok) throw std::invalid_argument(message);
  };
  require(alphabet_size >= 1, "the alphabet must have at least one symbol, got " + std::to_string(alphabet_size));
  require(vocab_size <= kMaxVocabSize,
          "vocab_size must be at most " + std::to_string(kMaxVocabSize) + ", got " + std::to_string(vocab_size));
  require(vocab_size >= alphabet_size, "vocab_size " + std::to_string(vocab_size) +
                                           " is smaller than the alphabet of " + std::to_string(alphabet_size) +
                                           " symbols");
  require(1 <= max_token_symbols && max_token_symbols <= kMaxTokenSymbols,
          "max_token_symbols must lie in 1.." + std::to_string(kMaxTokenSymbols) + ", got " +
              std::to_string(max_token_symbols));
  lengths_.assign(static_cast<size_t>(alphabet_size), 1);
}

void MergeDriver::require_id(TokenId id, int ids) const {
  if (id >= ids)
    throw std::invalid_argument("id " + std::to_string(id) + " does not exist: there are " + std::to_string(ids));
}

void MergeDriver::add_count(PairCount found) {
  require_id(static_cast<TokenId>(left_of(found.pair)), vocab_size());
  require_id(static_cast<TokenId>(right_of(found.pair)), vocab_size());
  counts_[found.pair] += found.count;
}

/// A pick's neighbours may be what it makes itself, but nothing later.
void MergeDriver::add_left(size_t pick, TokenId p, int64_t n) {
  MergeEffect& effect = effect_of(pick);
  require_id(p, picks_[pick].merged + 1);
  effect.add_left(p, n);
}

void MergeDriver::add_right(size_t pick, TokenId q, int64_t n) {
  MergeEffect& effect = effect_of(pick);
  require_id(q, picks_[pick].merged + 1);
  effect.add_right(q, n);
}

MergeEffect& MergeDriver::effect_of(size_t pick) {
  if (pick >= picks_.size())
    throw std::invalid_argument("there is no pick " + std::to_string(pick) + ": there are " +
                                std::to_string(picks_.size()));
  while (effects_.size() <= pick) effects_.push_back(std::make_unique<MergeEffect>());
  return *effects_[pick];
}

const std::vector<Pick>& MergeDriver::next(size_t most) {
  if (!std::exchange(started_, true)) counts_.for_each([&](PairKey pair, int64_t n) { offer(pair, n); });
  for (size_t i = 0; i < picks_.size(); ++i) take_effect(picks_[i], effect_of(i));
  picks_.clear();
  find_picks(std::min<size_t>(most, static_cast<size_t>(most_merges_) - merges_.size()));
  return picks_;
}

void MergeDriver::find_picks(size_t most) {
  // Whether a pair still fits into the table is known only when all before it are in it.
  if (table_symbols_ + static_cast<int64_t>(most) * max_token_symbols_ > kMaxTableSymbols)
    most = std::min<size_t>(most, 1);
  std::vector<Candidate> found;
  while (found.size() < most) {
    const Candidate best = pop_best();
    if (best.count == 0) break;
    const auto leaves_open = [&](const Candidate& earlier) {
      return left_of(earlier.pair) == right_of(earlier.pair) || left_of(earlier.pair) == right_of(best.pair) ||
             right_of(earlier.pair) == left_of(best.pair);
    };
    if (std::any_of(found.begin(), found.end(), leaves_open)) {
      heap_.push(best);
      break;
    }
    found.push_back(best);
  }
  for (const Candidate& best : found) {
    lengths_.push_back(expansion_length(best.pair));
    table_symbols_ += lengths_.back();
    merges_.push_back({static_cast<TokenId>(left_of(best.pair)), static_cast<TokenId>(right_of(best.pair))});
    picks_.push_back({merges_.back(), static_cast<TokenId>(vocab_size() - 1), best.count});
  }
}

/// The changes that a merge made to the counts.
void MergeDriver::take_effect(const Pick& pick, MergeEffect& effect) {
  const Merge merge = pick.merge;
  const TokenId merged = pick.merged;
  auto fall = [this](PairKey pair, int64_t n) {
    if (int64_t* const count = counts_.find(pair); count != nullptr) *count -= n;
  };
  // A pair that is new has its highest count now. If that does not do, it never will: most pairs need not be kept.
  auto rise = [this](PairKey pair, int64_t n) {
    if (offer(pair, n)) counts_[pair] = n;
  };
  // The table is larger than the caches, and an effect has hundreds of entries: their misses overlap.
  effect.for_each_left([&](TokenId p, int64_t) { counts_.prefetch(pair_key(p, merge.left)); });
  effect.for_each_right([&](TokenId q, int64_t) { counts_.prefetch(pair_key(merge.right, q)); });
  const int64_t touching = effect.left(merged);  // merged tokens that follow one: (t, a) came and went
  effect.for_each_left([&](TokenId p, int64_t n) {
    if (p != merged) fall(pair_key(p, merge.left), n);
    rise(pair_key(p, merged), n);
  });
  effect.for_each_right([&](TokenId q, int64_t n) {
    fall(pair_key(merge.right, q), n);
    rise(pair_key(merged, q), q == merge.left ? n - touching : n);
  });
  counts_[pair_key(merge.left, merge.right)] = 0;
  effect.reset();
}

/// Whether the pair may be merged, some time.
bool MergeDriver::offer(PairKey pair, int64_t count) {
  const int length = expansion_length(pair);
  if (count < min_frequency_ || length > max_token_symbols_ || table_symbols_ + length > kMaxTableSymbols) return false;
  heap_.push({count, pair});
  return true;
}

/// Counts only fall once a pair exists, so an entry that is out of date is put back with its new count.
MergeDriver::Candidate MergeDriver::pop_best() {
  while (!heap_.empty()) {
    const Candidate top = heap_.top();
    heap_.pop();
    const int64_t now = *counts_.find(top.pair);
    if (now == top.count && table_symbols_ + expansion_length(top.pair) <= kMaxTableSymbols) return top;
    offer(top.pair, now);
  }
  return {0, 0};
}

}  // namespace fast_tokenizer
