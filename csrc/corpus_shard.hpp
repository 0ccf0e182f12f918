// Some of the sequences that BPE is trained on. A shard counts its pairs, and applies each merge to itself.
//
// Training is a sum over shards: the MergeDriver adds up what they count and how merges change it, and picks the
// merges. So shards may live on threads or in other processes, and any split of the corpus gives the same merges.
// What travels is one call of count_pairs() for each shard, then for every merge three ids out and one MergeEffect
// back: as many entries as the merged pair has different neighbours, some hundreds, and not the places.
#pragma once

#include "word_stream.hpp"

namespace fast_tokenizer {

/// How the counts change when (a, b) becomes t: for each `left` entry (p, n), n pairs (p, a) become (p, t); for
/// each `right` entry (q, n), n pairs (b, q) become (t, q).
class MergeEffect {
 public:
  void reset();
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
  std::vector<int64_t> left_ = std::vector<int64_t>(kMaxVocabSize), right_ = left_;
  std::vector<TokenId> touched_left_, touched_right_;
};

struct PairCount {
  PairKey pair;
  int64_t count;
};

/// Where each pair stands: the first slots, ascending; some may be outdated.
///
/// There are up to millions of lists of all lengths, which get shorter from merge to merge. So a list that is done with
/// serves again, whole or cut up. (The heap took half the time of training with 14,000 merges of 21M symbols: pages
/// given back to the system and cleared again, free blocks searched and joined.)
class PairPlaces {
 public:
  using Position = uint32_t;
  struct List {
    Position* places = nullptr;
    uint32_t size = 0;
  };

  explicit PairPlaces(std::shared_ptr<BudgetedMemory> memory, size_t expected = 0)
      : memory_(std::move(memory)), lists_(expected) {}

  /// Room for the places of a pair that has none; the caller fills it.
  Position* add(PairKey pair, size_t places);
  /// The places of a pair, which then has none. The caller gives them back to release().
  List take(PairKey pair);
  void release(const List& list) {
    if (list.places != nullptr) put_back(list.places, size_class(list.size));
  }

 private:
  /// A free block starts with the address of the next of its class: 8 bytes.
  static constexpr size_t kLeastPlaces = 2;
  static constexpr size_t kSlabPlaces = 1 << 18;
  static constexpr size_t kWorthCutting = 1 << 12;

  static size_t size_class(size_t places);
  static size_t class_size(size_t size_class);
  void put_back(Position* block, size_t size_class);
  Position* get(size_t size_class);
  void refill(size_t places);

  std::shared_ptr<BudgetedMemory> memory_;
  PairMap<List> lists_;
  std::vector<Buffer<Position>> slabs_;
  std::vector<Position*> free_;  ///< by class
  Position* room_ = nullptr;     ///< not handed out yet
  size_t room_places_ = 0;
};

/// At first a merge is a pass over the words, run by run: the few first merges remove most of the symbols. When a
/// pass changed little, the shard goes over to an index, with which a merge visits only the places where its pair
/// stands. The tokens then lie in a flat stream that no longer shrinks: a token spans as many slots as it had tokens
/// when indexed, with its id in the first and the last, so both neighbours are found without links.
class CorpusShard {
 public:
  /// A pass that makes fewer merges than one for so many words is the last.
  static constexpr size_t kPassShare = 16;

  /// All symbols must be below `alphabet_size`.
  CorpusShard(int alphabet_size, std::vector<Segment> segments, std::shared_ptr<BudgetedMemory> memory,
              size_t pass_share = kPassShare);

  /// How often each pair stands here, before the first merge; ascending by pair.
  std::vector<PairCount> count_pairs() const;
  /// Replaces (left, right) by `merged`, which must be the next id, and says what that changes. The answer is valid
  /// until the next call.
  const MergeEffect& apply(Merge merge, TokenId merged);
  bool indexed() const { return !span_.empty(); }

 private:
  using Position = PairPlaces::Position;
  static constexpr TokenId kEnd = kEndWord;   ///< stands after each sequence
  static constexpr TokenId kInside = 0xFFFE;  ///< a slot within a token

  void apply_by_pass(Merge merge, TokenId merged);
  void apply_by_index(Merge merge, TokenId merged);
  /// Switches to the indexed form.
  void index();
  void fill_places(const std::vector<PairCount>& counts);
  void file_events(TokenId merged);

  TokenId next_;  ///< id of the next merge
  size_t pass_share_;
  std::shared_ptr<BudgetedMemory> memory_;
  MergeEffect effect_;
  std::vector<Segment> segments_;  ///< until indexed
  std::vector<Word> rewritten_;

  bool index_next_ = false;
  Buffer<TokenId> stream_;
  std::vector<uint32_t> span_;  ///< slots of each token id, once indexed
  PairPlaces places_;
  struct Event {
    TokenId partner;
    Position place;
  };
  std::vector<Event> left_events_, right_events_;
  std::vector<Position*> cursors_;  ///< by partner: where its next event goes
};

}  // namespace fast_tokenizer
