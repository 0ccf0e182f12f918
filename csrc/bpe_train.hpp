// Exact greedy BPE training on integer sequences.
//
// The contract, which `tokenizers` shares: the pair with the highest count is merged first, ties go to the
// smallest pair of ids (left, then right). Counts are of neighbouring positions, so a run (a a a) counts (a, a)
// twice; merging goes left to right, so that run becomes (aa, a). No merge crosses the end of a sequence.
//
// Training is a sum over shards. A shard holds some of the sequences, counts its pairs, and applies a merge to
// itself, returning how its counts changed; the driver adds these up and picks the next merge. Any split of the
// corpus therefore gives the same merges.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "bpe.hpp"
#include "ragged.hpp"

namespace fast_tokenizer {

/// How the counts change when (a, b) becomes t: for each `left` entry (p, n), n pairs (p, a) become (p, t); for
/// each `right` entry (q, n), n pairs (b, q) become (t, q).
class MergeEffect {
 public:
  void reset(size_t vocab_size);
  void add_left(TokenId p, int64_t n = 1) { add(left_, touched_left_, p, n); }
  void add_right(TokenId q, int64_t n = 1) { add(right_, touched_right_, q, n); }
  void add(const MergeEffect& other);

  template <typename Visit>
  void for_each_left(Visit visit) const {
    for (TokenId p : touched_left_) visit(p, left_[p]);
  }
  template <typename Visit>
  void for_each_right(Visit visit) const {
    for (TokenId q : touched_right_) visit(q, right_[q]);
  }

 private:
  static void add(std::vector<int64_t>& counts, std::vector<TokenId>& touched, TokenId id, int64_t n) {
    if (counts[id] == 0) touched.push_back(id);
    counts[id] += n;
  }
  std::vector<int64_t> left_, right_;
  std::vector<TokenId> touched_left_, touched_right_;
};

/// Some of the corpus, in place: each merge rewrites it.
///
/// At first a merge is a pass over the whole stream, which it compacts: the few first merges remove most of
/// the symbols (runs of zeros). After `index()`, a merge visits only the places where its pair stands. The stream
/// then no longer shrinks; a token spans as many slots as it did when indexed, with its id in the first and the
/// last, so both neighbours are found without links.
class CorpusShard {
 public:
  /// Appends one sequence. Throws std::invalid_argument when a symbol is not below `alphabet_size`.
  void append(std::span<const Symbol> sequence, int alphabet_size);
  void reserve(size_t symbols, size_t sequences) { stream_.reserve(symbols + sequences); }

  PairMap<int64_t> count_pairs() const;
  /// Replaces (left, right) by `merged` and says what changed in `effect`, which it resets.
  void apply(Merge merge, TokenId merged, size_t vocab_size, MergeEffect& effect);
  /// Switches to the indexed form.
  void index(size_t vocab_size);
  bool indexed() const { return !span_.empty(); }
  /// Tokens left, while not indexed.
  size_t size() const { return stream_.size(); }

 private:
  using Position = uint32_t;
  static constexpr TokenId kEnd = 0xFFFF;     ///< stands after each sequence
  static constexpr TokenId kInside = 0xFFFE;  ///< a slot within a token

  void apply_by_pass(Merge merge, TokenId merged, MergeEffect& effect);
  void apply_by_index(Merge merge, TokenId merged, MergeEffect& effect);

  std::vector<TokenId> stream_;
  std::vector<uint32_t> span_;             ///< slots of each token id, once indexed
  PairMap<std::vector<Position>> places_;  ///< first slots, ascending; may hold outdated ones
  struct Event {
    TokenId partner;
    Position place;
  };
  std::vector<Event> left_events_, right_events_;
};

struct TrainOptions {
  int vocab_size = 1024;                              ///< symbols and merges together; training may end with fewer
  int64_t min_frequency = 2;                          ///< pairs that occur less often are not merged
  int max_token_symbols = 1024;                       ///< pairs that would expand to more are not merged
  int num_threads = 0;                                ///< 0: all cores
  std::function<void(int done, int total)> progress;  ///< called after each merge; may throw to stop
};

/// Merges learned from the shards, which are used up.
std::vector<Merge> train_bpe(std::vector<CorpusShard>& shards, int alphabet_size, const TrainOptions& options);

/// The same on sequences in memory, split over `shards` shards (0: one a thread).
std::vector<Merge> train_bpe(RaggedView<Symbol> corpus, int alphabet_size, const TrainOptions& options, int shards = 0);

}  // namespace fast_tokenizer
