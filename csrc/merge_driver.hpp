// Picks the merges of BPE training from counts that shards of the corpus send.
//
// The contract, which `tokenizers` shares: the pair with the highest count is merged first, ties go to the
// smallest pair of ids (left, then right). Counts are of neighbouring positions, so a run (a a a) counts (a, a)
// twice; merging goes left to right, so that run becomes (aa, a). No merge crosses the end of a sequence.
#pragma once

#include <optional>
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

/// Knows no shard. First takes the counts of each; then, until next() has no merge, each shard applies the merge and
/// the driver takes the effect it returns, in any order.
class MergeDriver {
 public:
  /// Training may end with fewer than `vocab_size` ids. Pairs that occur less often than `min_frequency`, or would
  /// expand to more than `max_token_symbols`, are not merged. Throws std::invalid_argument for what cannot be.
  MergeDriver(int alphabet_size, int vocab_size, int64_t min_frequency, int max_token_symbols);

  /// Throws std::invalid_argument for ids that do not exist, as all that is added may come from another process.
  void add_count(PairCount found);
  /// The next merge; none when training is at its end.
  std::optional<Pick> next();
  void add_effect(const MergeEffect& effect) { effect_.add(effect); }
  void add_left(TokenId p, int64_t n);
  void add_right(TokenId q, int64_t n);

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

  void require_id(TokenId id) const;
  void take_effect();
  bool offer(PairKey pair, int64_t count);
  Candidate pop_best();
  int expansion_length(PairKey pair) const { return lengths_[left_of(pair)] + lengths_[right_of(pair)]; }

  int alphabet_size_, most_merges_;
  int64_t min_frequency_;
  int max_token_symbols_;
  std::vector<Merge> merges_;
  std::vector<int> lengths_;  ///< symbols each token expands to
  int64_t table_symbols_;     ///< their sum
  PairMap<int64_t> counts_;   ///< of pairs that may be merged, and some more
  MergeEffect effect_;        ///< of the last merge, as far as it is known
  std::priority_queue<Candidate> heap_;
};

}  // namespace fast_tokenizer
