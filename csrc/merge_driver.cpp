#include "merge_driver.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

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

void MergeDriver::require_id(TokenId id) const {
  if (id >= vocab_size())
    throw std::invalid_argument("id " + std::to_string(id) + " does not exist: there are " +
                                std::to_string(vocab_size()));
}

void MergeDriver::add_count(PairCount found) {
  require_id(static_cast<TokenId>(left_of(found.pair)));
  require_id(static_cast<TokenId>(right_of(found.pair)));
  counts_[found.pair] += found.count;
}

void MergeDriver::add_left(TokenId p, int64_t n) {
  require_id(p);
  effect_.add_left(p, n);
}

void MergeDriver::add_right(TokenId q, int64_t n) {
  require_id(q);
  effect_.add_right(q, n);
}

std::optional<Pick> MergeDriver::next() {
  if (merges_.empty())
    counts_.for_each([&](PairKey pair, int64_t n) { offer(pair, n); });
  else
    take_effect();
  if (static_cast<int>(merges_.size()) == most_merges_) return {};
  const Candidate best = pop_best();
  if (best.count == 0) return {};
  const Merge merge = {static_cast<TokenId>(left_of(best.pair)), static_cast<TokenId>(right_of(best.pair))};
  lengths_.push_back(expansion_length(best.pair));
  table_symbols_ += lengths_.back();
  merges_.push_back(merge);
  return Pick{merge, static_cast<TokenId>(vocab_size() - 1), best.count};
}

/// The changes that the last merge made to the counts.
void MergeDriver::take_effect() {
  const Merge merge = merges_.back();
  const auto merged = static_cast<TokenId>(vocab_size() - 1);
  auto fall = [this](PairKey pair, int64_t n) {
    if (int64_t* const count = counts_.find(pair); count != nullptr) *count -= n;
  };
  // A pair that is new has its highest count now. If that does not do, it never will: most pairs need not be kept.
  auto rise = [this](PairKey pair, int64_t n) {
    if (offer(pair, n)) counts_[pair] = n;
  };
  // The table is larger than the caches, and an effect has hundreds of entries: their misses overlap.
  effect_.for_each_left([&](TokenId p, int64_t) { counts_.prefetch(pair_key(p, merge.left)); });
  effect_.for_each_right([&](TokenId q, int64_t) { counts_.prefetch(pair_key(merge.right, q)); });
  const int64_t touching = effect_.left(merged);  // merged tokens that follow one: (t, a) came and went
  effect_.for_each_left([&](TokenId p, int64_t n) {
    if (p != merged) fall(pair_key(p, merge.left), n);
    rise(pair_key(p, merged), n);
  });
  effect_.for_each_right([&](TokenId q, int64_t n) {
    fall(pair_key(merge.right, q), n);
    rise(pair_key(merged, q), q == merge.left ? n - touching : n);
  });
  counts_[pair_key(merge.left, merge.right)] = 0;
  effect_.reset();
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
