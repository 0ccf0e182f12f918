// Picks the merges of BPE training from counts that shards of the corpus send.
//
// The contract, which `tokenizers` shares: the pair with the highest count is merged first, ties go to the
// smallest pair of ids (left, then right). Counts are of neighbouring positions, so a run (a a a) counts (a, a)
// twice; merging goes left to right, so that run becomes (aa, a). No merge crosses the end of a sequence.
#pragma once

#include <memory>
#include <queue>
#include <vector>

#include "corpus_shard.hpp"

namespace fast_tokenizer {

/// A merge that is picked, the id it makes, and how often its pair stands in the corpus.
struct Pick {
  Merge merge;
  TokenId merged;
  int64_t count;
};

/// Knows no shard. First takes the counts of each; then, until next() has no merge, each shard applies the merges that
/// it picks and the driver takes the effects they return, in any order.
///
/// Where shards are far away, a trip to them takes longer than a merge. So next(most) picks as many merges as are
/// certain before the first of them is made, with the result of picking one by one: the best pairs in the order of the
/// contract, as long as none has the left token of an earlier one as its right or the other way round, and none but the
/// last joins a token with itself. For then
/// - no pick's count is changed by an earlier one: merging (a, b) takes away from pairs (x, a) and (b, y) alone;
/// - no pair that is new gets ahead: with t = (a, b), (x, t) is no more frequent than (x, a) was, which was not picked,
///   and where both are as frequent it comes after it, since t > a. Likewise (t, y) after (b, y), since t > b. Where
///   the old pair was not to be merged at all, for its length, the new one is longer.
class MergeDriver {
 public:
  /// Training may end with fewer than `vocab_size` ids. Pairs that occur less often than `min_frequency`, or would
  /// expand to more than `max_token_symbols`, are not merged. Throws std::invalid_argument for what cannot be.
  MergeDriver(int alphabet_size, int vocab_size, int64_t min_frequency, int max_token_symbols);

  /// Throws std::invalid_argument for ids that do not exist, as all that is added may come from another process.
  void add_count(PairCount found);
  /// The next merges, at most so many, in order; none when training is at its end. Valid until the next call.
  const std::vector<Pick>& next(size_t most = 1);
  /// What one of these did to a shard.
  void add_effect(size_t pick, const MergeEffect& effect) { effect_of(pick).add(effect); }
  void add_left(size_t pick, TokenId p, int64_t n);
  void add_right(size_t pick, TokenId q, int64_t n);

  /// Ids so far; the last merge made the last of them.
  int vocab_size() const { return alphabet_size_ + static_cast<int>(merges_.size()); }
  int most_merges() const { return most_merges_; }
  const std::vector<Merge>& merges() const { return merges_; }

 private:
  struct Candidate {
    int64_t count;
    PairKey pair;
    /// Highest count first, then the smallest pair: the tie-break of the contract.
    bool operator<(const Candidate& other) const {
      return count != other.count ? count < other.count : pair > other.pair;
    }
  };

  void require_id(TokenId id, int ids) const;
  MergeEffect& effect_of(size_t pick);
  void take_effect(const Pick& pick, MergeEffect& effect);
  void find_picks(size_t most);
  bool offer(PairKey pair, int64_t count);
  Candidate pop_best();
  int expansion_length(PairKey pair) const { return lengths_[left_of(pair)] + lengths_[right_of(pair)]; }

  bool started_ = false;  ///< all counts are known
  int alphabet_size_, most_merges_;
  int64_t min_frequency_;
  int max_token_symbols_;
  std::vector<Merge> merges_;
  std::vector<int> lengths_;                           ///< symbols each token expands to
  int64_t table_symbols_;                              ///< their sum
  PairMap<int64_t> counts_;                            ///< of pairs that may be merged, and some more
  std::vector<Pick> picks_;                            ///< whose effects are not known yet
  std::vector<std::unique_ptr<MergeEffect>> effects_;  ///< of the picks, as far as they are known; some more
  std::priority_queue<Candidate> heap_;
};

}  // namespace fast_tokenizer
