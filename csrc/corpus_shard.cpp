#include "corpus_shard.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "parallel.hpp"

namespace fast_tokenizer {
namespace {

inline void prefetch(const void* p) {
#if defined(__GNUC__)
  __builtin_prefetch(p, 1);
#else
  static_cast<void>(p);
#endif
}

/// Copies words up to the first v, or `end`, four at a time; returns where it stopped.
const Word* copy_until(const Word* p, const Word* end, Word v, Word*& out) {
  const uint64_t wanted = in_each_lane(v), low_bits = in_each_lane(0x7FFF);
  for (; p < end; p += 4, out += 4) {
    const uint64_t lanes = load_lanes(p);
    std::memcpy(out, &lanes, sizeof lanes);
    const uint64_t other = lanes ^ wanted;
    if (const uint64_t found = ~(((other & low_bits) + low_bits) | other | low_bits); found != 0) {  // lanes of 0
      const size_t n = first_lane(found);
      if (p + n >= end) break;
      out += n;
      return p + n;
    }
  }
  out -= p - end;  // what was copied beyond the end
  return end;
}

/// Value of the run that ends at `out`.
Word last_value(const Word* out) {
  while (is_repeat(*--out)) {
  }
  return *out;
}

/// One more of the value whose run ends at `out`.
Word* repeat_last(Word* out) {
  if (is_repeat(out[-1]) && out[-1] != (kRepeat | kMostRepeats))
    ++out[-1];
  else
    *out++ = kRepeat | 1;
  return out;
}

/// A pass over one segment: rewrites p..end to `out`, before which a word kEndWord must stand.
class Pass {
 public:
  Pass(Merge merge, TokenId merged, MergeEffect& effect)
      : a_(merge.left), b_(merge.right), t_(merged), effect_(effect) {}

  Word* rewrite(const Word* p, const Word* end, Word* out) {
    for (;;) {
      p = copy_until(p, end, a_, out);
      if (p == end) return out;
      const Word* start = p;
      const size_t n = read_run(p);
      if (a_ == b_)
        out = merge_run(n, *p, out);
      else if (*p == b_)
        out = merge_ends(n, p, out);
      else
        do *out++ = *start++;
        while (start != p);
    }
  }

  size_t merges() const { return merges_; }

 private:
  /// The run a^n before `next`: pairs from the left, and the last of an odd run stays.
  Word* merge_run(size_t n, Word next, Word* out) {
    const size_t pairs = n / 2;
    if (pairs > 0) {
      add_left(last_value(out), 1);
      if (pairs > 1) add_left(t_, pairs - 1);
      add_right(a_, pairs - 1 + n % 2);
      if (n % 2 == 0) add_right(next, 1);
      merges_ += pairs;
      out = write_run(out, t_, pairs);
    }
    return write_run(out, a_, n % 2);
  }

  /// The run a^n before the run of b at p: they merge where they touch.
  Word* merge_ends(size_t n, const Word*& p, Word* out) {
    const size_t m = read_run(p);
    out = write_run(out, a_, n - 1);
    const Word left = last_value(out);
    add_left(left, 1);
    add_right(m > 1 ? b_ : *p, 1);
    ++merges_;
    if (left == t_)
      out = repeat_last(out);
    else
      *out++ = t_;
    return write_run(out, b_, m - 1);
  }

  void add_left(Word p, size_t n) {
    if (p != kEndWord && n > 0) effect_.add_left(p, static_cast<int64_t>(n));
  }
  void add_right(Word q, size_t n) {
    if (q != kEndWord && n > 0) effect_.add_right(q, static_cast<int64_t>(n));
  }

  const Word a_, b_, t_;
  MergeEffect& effect_;
  size_t merges_ = 0;
};

/// Whether what belongs to a pair is looked up in a table of all pairs: of at most 32 MiB, and not so large that a
/// small corpus pays for it. Instead of the 17 ns that a random pair of 150,000 takes in a PairMap, it takes 2.
bool is_dense(size_t ids, size_t words) { return ids <= 2047 && ids * ids <= 8 * words + 65'536; }

/// No branches: whether a word is a value, a repeat or an end cannot be foreseen.
std::vector<PairCount> count_densely(const std::vector<Segment>& segments, size_t ids) {
  const size_t stride = ids + 1;  // the last row and column are for ends
  std::vector<int64_t> counts(stride * stride);
  size_t left = ids;
  for (const Segment& segment : segments)
    for (const Word w : std::span(segment.begin(), segment.size)) {
      const size_t right = is_repeat(w) ? left : std::min<size_t>(w, ids);
      counts[left * stride + right] += is_repeat(w) ? w & kMostRepeats : 1;
      left = right;
    }
  std::vector<PairCount> found;
  for (size_t a = 0; a < ids; ++a)
    for (size_t b = 0; b < ids; ++b)
      if (const int64_t n = counts[a * stride + b]; n > 0)
        found.push_back({pair_key(static_cast<uint32_t>(a), static_cast<uint32_t>(b)), n});
  return found;
}

std::vector<PairCount> count_sparsely(const std::vector<Segment>& segments) {
  PairMap<int64_t> counts;
  Word left = kEndWord;
  for (const Segment& segment : segments)
    for (const Word w : std::span(segment.begin(), segment.size)) {
      if (is_repeat(w)) {
        counts[pair_key(left, left)] += w & kMostRepeats;
      } else {
        if (left != kEndWord && w != kEndWord) ++counts[pair_key(left, w)];
        left = w;
      }
    }
  std::vector<PairCount> found;
  counts.for_each([&](PairKey pair, int64_t n) { found.push_back({pair, n}); });
  std::sort(found.begin(), found.end(), [](const PairCount& a, const PairCount& b) { return a.pair < b.pair; });
  return found;
}

}  // namespace

void MergeEffect::reset() {
  for (TokenId p : touched_left_) left_[p] = 0;
  for (TokenId q : touched_right_) right_[q] = 0;
  touched_left_.clear();
  touched_right_.clear();
}

void MergeEffect::add(const MergeEffect& other) {
  other.for_each_left([this](TokenId p, int64_t n) { add_left(p, n); });
  other.for_each_right([this](TokenId q, int64_t n) { add_right(q, n); });
}

// ---- Places ---------------------------------------------------------------------------------------

/// Eight classes to a factor of two: 6 % is lost.
size_t PairPlaces::size_class(size_t places) {
  const size_t n = std::max<size_t>(places, List::kFew);
  if (n < 16) return n;
  const auto shift = static_cast<size_t>(std::bit_width(n - 1)) - 4;
  return shift * 8 + ((n - 1) >> shift) + 1;
}

size_t PairPlaces::class_size(size_t size_class) {
  if (size_class < 16) return size_class;
  const size_t shift = (size_class - 8) / 8;
  return (size_class - shift * 8) << shift;
}

void PairPlaces::put_back(Position* block, size_t size_class) {
  if (free_.size() <= size_class) free_.resize(size_class + 1);
  std::memcpy(block, &free_[size_class], sizeof(Position*));
  free_[size_class] = block;
}

PairPlaces::Position* PairPlaces::get(size_t size_class) {
  if (size_class < free_.size() && free_[size_class] != nullptr) {
    Position* const block = free_[size_class];
    std::memcpy(&free_[size_class], block, sizeof(Position*));
    return block;
  }
  const size_t places = class_size(size_class);
  if (room_places_ < places) refill(places);
  room_places_ -= places;
  return std::exchange(room_, room_ + places);
}

/// Room for `places`: a large free block, or a new slab.
void PairPlaces::refill(size_t places) {
  for (size_t rest = room_places_; rest >= List::kFew;) {  // what is left becomes free blocks
    size_t c = size_class(rest);
    if (class_size(c) > rest) --c;
    put_back(room_, c);
    room_ += class_size(c);
    rest -= class_size(c);
  }
  room_places_ = 0;
  size_t c = free_.size();
  while (c > 0 && free_[c - 1] == nullptr) --c;
  if (c > 0 && class_size(c - 1) >= std::max(places, kWorthCutting)) {
    room_ = get(c - 1);
    room_places_ = class_size(c - 1);
    return;
  }
  slabs_.emplace_back(memory_, std::max(places, kSlabPlaces));
  room_ = slabs_.back().data();
  room_places_ = slabs_.back().size();
}

PairPlaces::Position* PairPlaces::List::room() {
  static_assert(sizeof(Position*) <= sizeof few_);
  if (size_ <= kFew) return few_;
  Position* places;
  std::memcpy(&places, few_, sizeof places);
  return places;
}

PairPlaces::List PairPlaces::make(size_t places) {
  List list;
  list.size_ = static_cast<uint32_t>(places);
  if (places <= List::kFew) return list;
  Position* const room = get(size_class(places));
  std::memcpy(list.few_, &room, sizeof room);
  return list;
}

void PairPlaces::start_token(size_t left_entries, size_t right_entries) {
  left_.emplace_back().reserve(left_entries);
  right_.emplace_back().reserve(right_entries);
}

PairPlaces::Position* PairPlaces::add(std::vector<PartnerList>& lists, TokenId partner, size_t places) {
  lists.push_back({partner, make(places)});
  return lists.back().places.room();
}

PairPlaces::List PairPlaces::take(TokenId left, TokenId right) {
  const TokenId later = std::max(left, right);
  if (later < ids_) {
    const PairKey pair = pair_key(left, right);
    const auto found = std::lower_bound(pairs_.begin(), pairs_.end(), pair,
                                        [](const PairList& list, PairKey key) { return list.pair < key; });
    return found == pairs_.end() || found->pair != pair ? List() : std::exchange(found->places, {});
  }
  auto& lists = (right == later ? left_ : right_)[later - size_t{ids_}];
  const TokenId partner = right == later ? left : right;
  const auto found =
      std::find_if(lists.begin(), lists.end(), [&](const PartnerList& list) { return list.partner == partner; });
  return found == lists.end() ? List() : std::exchange(found->places, {});
}

// ---- Shard ----------------------------------------------------------------------------------------

CorpusShard::CorpusShard(int alphabet_size, std::vector<Segment> segments, std::shared_ptr<BudgetedMemory> memory,
                         size_t pass_share)
    : next_(static_cast<TokenId>(alphabet_size)),
      pass_share_(pass_share),
      memory_(std::move(memory)),
      segments_(std::move(segments)),
      places_(memory_) {}

size_t CorpusShard::words() const {
  size_t words = 0;
  for (const Segment& segment : segments_) words += segment.size;
  return words;
}

std::vector<PairCount> CorpusShard::count_pairs() const {
  if (indexed()) throw std::invalid_argument("pairs are counted before the first merge");
  return is_dense(next_, words()) ? count_densely(segments_, next_) : count_sparsely(segments_);
}

const MergeEffect& CorpusShard::apply(Merge merge, TokenId merged) {
  if (merged != next_ || merged >= kMaxVocabSize || merge.left >= merged || merge.right >= merged)
    throw std::invalid_argument("a shard takes merges of existing ids in order: expected one into " +
                                std::to_string(next_) + ", got (" + std::to_string(merge.left) + ", " +
                                std::to_string(merge.right) + ") into " + std::to_string(merged));
  effect_.reset();
  if (index_next_) index();
  if (indexed())
    apply_by_index(merge, merged);
  else
    apply_by_pass(merge, merged);
  ++next_;
  return effect_;
}

void CorpusShard::apply_by_pass(Merge merge, TokenId merged) {
  Pass pass(merge, merged, effect_);
  size_t words = 0;
  for (Segment& segment : segments_) {
    // At most every second word becomes two: (a a a a a) is two words, and (t t a) three.
    rewritten_.resize(std::max(rewritten_.size(), 1 + segment.size / 2 * 3 + 2 + kWordSlack));
    rewritten_[0] = kEndWord;
    const Word* const first = rewritten_.data() + 1;
    segment.size = static_cast<size_t>(pass.rewrite(segment.begin(), segment.end(), rewritten_.data() + 1) - first);
    if (segment.words.size() < segment.size + kWordSlack)
      segment.words = Buffer<Word>(memory_, segment.size + segment.size / 8 + kWordSlack);
    std::copy_n(first, segment.size, segment.words.data());
    words += segment.size;
  }
  index_next_ = (pass.merges() + 1) * pass_share_ < words;
}

void CorpusShard::index() {
  const std::vector<PairCount> counts = count_pairs();
  size_t tokens = 0;
  for (const Segment& segment : segments_)
    for_each_run(segment.begin(), segment.end(), [&](Word, size_t n) { tokens += n; });
  if (tokens > std::numeric_limits<Position>::max())
    throw std::length_error("a corpus shard indexes at most 4294967295 tokens, this one has " + std::to_string(tokens) +
                            "; use more shards");
  stream_ = Buffer<TokenId>(memory_, tokens);
  TokenId* out = stream_.data();
  for (Segment& segment : segments_) {
    for_each_run(segment.begin(), segment.end(), [&](Word v, size_t n) { out = std::fill_n(out, n, v); });
    segment = {};
  }
  segments_.clear();
  rewritten_ = {};

  fill_places(counts);
  span_.assign(next_, 1);
  index_next_ = false;
}

void CorpusShard::fill_places(const std::vector<PairCount>& counts) {
  const TokenId* const s = stream_.data();
  auto fill = [&](auto& cursors, auto key) {
    places_.start(next_, counts,
                  [&](PairKey pair, Position* room) { cursors[key(left_of(pair), right_of(pair))] = room; });
    for (size_t i = 0; i + 1 < stream_.size(); ++i)
      if (s[i] != kEnd && s[i + 1] != kEnd) *cursors[key(s[i], s[i + 1])]++ = static_cast<Position>(i);
  };
  if (is_dense(next_, stream_.size())) {
    const size_t stride = next_;
    std::vector<Position*> cursors(stride * stride);
    fill(cursors, [stride](size_t left, size_t right) { return left * stride + right; });
  } else {
    PairMap<Position*> cursors(counts.size());
    fill(cursors, pair_key);
  }
}

void CorpusShard::apply_by_index(Merge merge, TokenId merged) {
  constexpr uint32_t kAhead = 16;
  const uint32_t left_span = span_[merge.left], right_span = span_[merge.right];
  span_.push_back(left_span + right_span);
  TokenId* const s = stream_.data();
  PairPlaces::List found = places_.take(merge.left, merge.right);
  const Position* const places = found.data();
  for (uint32_t i = 0; i < found.size(); ++i) {
    prefetch(s + places[std::min(i + kAhead, found.size() - 1)]);
    const Position place = places[i];
    // Outdated unless both tokens still stand here. A first slot keeps its id until it is merged away, and no
    // later token has the same id, so comparing ids is enough.
    const size_t second = size_t{place} + left_span;
    if (s[place] != merge.left || s[second] != merge.right) continue;
    const size_t last = second + right_span - 1;
    if (place > 0 && s[place - 1] != kEnd) {
      const TokenId before = s[place - 1];
      effect_.add_left(before);
      left_events_.push_back({before, static_cast<Position>(place - span_[before])});
    }
    if (s[last + 1] != kEnd) {
      effect_.add_right(s[last + 1]);
      right_events_.push_back({s[last + 1], place});
    }
    s[second - 1] = s[second] = kInside;
    s[place] = s[last] = merged;
  }
  places_.release(found);
  file_events();
}

/// The places of the pairs that a merge made.
void CorpusShard::file_events() {
  cursors_.resize(kMaxVocabSize);
  places_.start_token(effect_.left_entries(), effect_.right_entries());
  effect_.for_each_left([&](TokenId p, int64_t n) { cursors_[p] = places_.add_left(p, static_cast<size_t>(n)); });
  for (const Event& e : left_events_) *cursors_[e.partner]++ = e.place;
  effect_.for_each_right([&](TokenId q, int64_t n) { cursors_[q] = places_.add_right(q, static_cast<size_t>(n)); });
  for (const Event& e : right_events_) *cursors_[e.partner]++ = e.place;
  left_events_.clear();
  right_events_.clear();
}

// ---- Several shards -------------------------------------------------------------------------------

namespace {

template <typename Body>
void for_each_shard(size_t shards, int num_threads, Body body) {
  parallel_for(shards, thread_count(num_threads, shards), [&](size_t begin, size_t end, int) {
    for (size_t i = begin; i < end; ++i) body(i);
  });
}

EffectEntries to_entries(const MergeEffect& effect) {
  EffectEntries entries;
  effect.for_each_left([&](TokenId p, int64_t n) { entries.left.emplace_back(p, n); });
  effect.for_each_right([&](TokenId q, int64_t n) { entries.right.emplace_back(q, n); });
  return entries;
}

}  // namespace

std::vector<PairCount> count_pairs(const std::vector<CorpusShard>& shards, int num_threads) {
  std::vector<std::vector<PairCount>> counts(shards.size());
  for_each_shard(shards.size(), num_threads, [&](size_t i) { counts[i] = shards[i].count_pairs(); });
  std::vector<PairCount> sum;
  for (const std::vector<PairCount>& more : counts) {
    std::vector<PairCount> both;
    both.reserve(sum.size() + more.size());
    auto a = sum.cbegin();
    for (const PairCount& found : more) {
      while (a != sum.cend() && a->pair < found.pair) both.push_back(*a++);
      both.push_back(found);
      if (a != sum.cend() && a->pair == found.pair) both.back().count += (a++)->count;
    }
    both.insert(both.end(), a, sum.cend());
    sum = std::move(both);
  }
  return sum;
}

std::vector<EffectEntries> apply_merges(std::vector<CorpusShard>& shards, std::span<const Merge> merges, TokenId first,
                                        int num_threads) {
  std::vector<std::vector<EffectEntries>> effects(shards.size());
  for_each_shard(shards.size(), num_threads, [&](size_t i) {
    for (size_t m = 0; m < merges.size(); ++m)
      effects[i].push_back(to_entries(shards[i].apply(merges[m], static_cast<TokenId>(first + m))));
  });
  std::vector<EffectEntries> sums;
  MergeEffect sum;
  for (size_t m = 0; m < merges.size(); ++m) {
    sum.reset();
    for (const std::vector<EffectEntries>& of_shard : effects) {
      for (const auto& [p, n] : of_shard[m].left) sum.add_left(p, n);
      for (const auto& [q, n] : of_shard[m].right) sum.add_right(q, n);
    }
    sums.push_back(to_entries(sum));
  }
  return sums;
}

}  // namespace fast_tokenizer
