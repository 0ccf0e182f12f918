// Some of the sequences that BPE is trained on. A shard counts its pairs, and applies each merge to itself.
//
// Training is a sum over shards: the MergeDriver adds up what they count and how merges change it, and picks the
// merges. So shards may live on threads or in other processes, and any split of the corpus gives the same merges.
// What travels is one count of pairs from each process, then for every merge two ids out and one MergeEffect back: as
// many entries as the merged pair has different neighbours, some hundreds, and not the places.
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

  int64_t left(TokenId p) const { return left_[p]; }
  size_t left_entries() const { return touched_left_.size(); }
  size_t right_entries() const { return touched_right_.size(); }
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

/// A MergeEffect as it travels.
struct EffectEntries {
  std::vector<std::pair<TokenId, int64_t>> left, right;
};

struct PairCount {
  PairKey pair;
  int64_t count;
};

/// Where each pair stands: the first slots, ascending; some may be outdated.
///
/// There are up to millions of pairs, most with one place or two, and only some thousand are ever looked up. So the
/// pairs of a token stand in a list that is searched (a hash table of all pairs took longer to fill, and 250 MB more,
/// for 14,000 merges of 21M symbols). Longer lists of places get shorter from merge to merge: one that is done with
/// serves again, whole or cut up. (The heap took half the time: pages given back to the system and cleared again, free
/// blocks searched and joined.)
class PairPlaces {
 public:
  using Position = uint32_t;

  class List {
   public:
    uint32_t size() const { return size_; }
    const Position* data() const { return const_cast<List*>(this)->room(); }

   private:
    friend class PairPlaces;
    static constexpr uint32_t kFew = 2;
    Position* room();
    uint32_t size_ = 0;
    Position few_[kFew] = {};  ///< the places, or the address of more
  };

  explicit PairPlaces(std::shared_ptr<BudgetedMemory> memory) : memory_(std::move(memory)) {}

  /// Pairs of ids below `ids`, ascending. For each, fill(i, room) is told where to put its places.
  template <typename Fill>
  void start(TokenId ids, std::span<const PairCount> pairs, Fill fill) {
    ids_ = ids;
    pairs_.reserve(pairs.size());
    for (const auto& [pair, count] : pairs) pairs_.push_back({pair, make(static_cast<size_t>(count))});
    for (size_t i = 0; i < pairs.size(); ++i) fill(pairs[i].pair, pairs_[i].places.room());
  }
  /// Pairs with the next token, of which there will be so many.
  void start_token(size_t left_entries, size_t right_entries);
  /// Room for the places of (p, next token), or (next token, q).
  Position* add_left(TokenId p, size_t places) { return add(left_.back(), p, places); }
  Position* add_right(TokenId q, size_t places) { return add(right_.back(), q, places); }
  /// The places of a pair, which then has none. The caller gives them back to release().
  List take(TokenId left, TokenId right);
  void release(List& list) {
    if (list.size_ > List::kFew) put_back(list.room(), size_class(list.size_));
  }

 private:
  struct PairList {
    PairKey pair;
    List places;
  };
  struct PartnerList {
    TokenId partner;
    List places;
  };

  static constexpr size_t kSlabPlaces = 1 << 18;
  static constexpr size_t kWorthCutting = 1 << 12;

  List make(size_t places);
  Position* add(std::vector<PartnerList>& lists, TokenId partner, size_t places);
  static size_t size_class(size_t places);
  static size_t class_size(size_t size_class);
  void put_back(Position* block, size_t size_class);
  Position* get(size_t size_class);
  void refill(size_t places);

  std::shared_ptr<BudgetedMemory> memory_;
  TokenId ids_ = 0;
  std::vector<PairList> pairs_;                         ///< of ids below ids_
  std::vector<std::vector<PartnerList>> left_, right_;  ///< by the later id, less ids_
  std::vector<Buffer<Position>> slabs_;
  std::vector<Position*> free_;  ///< by class; a free block starts with the address of the next
  Position* room_ = nullptr;     ///< not handed out yet
  size_t room_places_ = 0;
};

/// At first a merge is a pass over the words, run by run: the few first merges remove most of the symbols. When a
/// pass changed little, the shard goes over to an index, with which a merge visits only the places where its pair
/// stands. The tokens then lie in a flat stream that no longer shrinks: a token spans as many slots as it had tokens
/// when indexed, with its id in the first and the last, so both neighbours are found without links. Outdated places
/// stay in the index. (To make it anew whenever an eighth was outdated took 50 MiB off the 600 that 700M symbols need,
/// but half a second, and on dense corpora longer than the merges.)
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
  /// What the next merge passes over, unless indexed.
  size_t words() const;

 private:
  using Position = PairPlaces::Position;
  static constexpr TokenId kEnd = kEndWord;   ///< stands after each sequence
  static constexpr TokenId kInside = 0xFFFE;  ///< a slot within a token

  void apply_by_pass(Merge merge, TokenId merged);
  void apply_by_index(Merge merge, TokenId merged);
  /// Switches to the indexed form.
  void index();
  void fill_places(const std::vector<PairCount>& counts);
  void file_events();

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

/// What several shards count together; ascending by pair.
std::vector<PairCount> count_pairs(const std::vector<CorpusShard>& shards, int num_threads);
/// Applies merges, of which the first makes the id `first`, one after the other to every shard; the effect of each on
/// all of them.
std::vector<EffectEntries> apply_merges(std::vector<CorpusShard>& shards, std::span<const Merge> merges, TokenId first,
                                        int num_threads);

}  // namespace fast_tokenizer
