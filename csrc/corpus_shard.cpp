#include "corpus_shard.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace fast_tokenizer {
namespace {

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

PairPlaces::~PairPlaces() {
  lists_.for_each([this](PairKey, const List& list) { release(list); });
}

PairPlaces& PairPlaces::operator=(PairPlaces&& other) noexcept {
  std::swap(memory_, other.memory_);
  std::swap(lists_, other.lists_);
  return *this;
}

void PairPlaces::reserve(PairKey pair, size_t places) {
  auto* const room = static_cast<Position*>(memory_->allocate(places * sizeof(Position), alignof(Position)));
  lists_[pair] = {room, 0, static_cast<uint32_t>(places)};
}

void PairPlaces::release(const List& list) {
  if (list.places != nullptr) memory_->deallocate(list.places, list.capacity * sizeof(Position), alignof(Position));
}

// ---- Shard ----------------------------------------------------------------------------------------

CorpusShard::CorpusShard(int alphabet_size, std::vector<Segment> segments, std::shared_ptr<BudgetedMemory> memory,
                         size_t pass_share)
    : next_(static_cast<TokenId>(alphabet_size)),
      pass_share_(pass_share),
      memory_(std::move(memory)),
      segments_(std::move(segments)),
      places_(memory_) {}

PairMap<int64_t> CorpusShard::count_pairs() const {
  if (indexed()) throw std::invalid_argument("pairs are counted before the first merge");
  PairMap<int64_t> counts;
  for (const Segment& segment : segments_) {
    for (const Word* p = segment.begin(); p != segment.end();) {
      const Word v = *p;
      if (v == kEndWord) {
        ++p;
        continue;
      }
      const size_t n = read_run(p);
      if (n > 1) counts[pair_key(v, v)] += static_cast<int64_t>(n - 1);
      if (*p != kEndWord) ++counts[pair_key(v, *p)];
    }
  }
  return counts;
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
  const PairMap<int64_t> counts = count_pairs();
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

  places_ = PairPlaces(memory_, counts.size());
  counts.for_each([&](PairKey pair, int64_t n) { places_.reserve(pair, static_cast<size_t>(n)); });
  const TokenId* const s = stream_.data();
  for (size_t i = 0; i + 1 < tokens; ++i)
    if (s[i] != kEnd && s[i + 1] != kEnd) places_.push(pair_key(s[i], s[i + 1]), static_cast<Position>(i));
  span_.assign(next_, 1);
  index_next_ = false;
}

void CorpusShard::apply_by_index(Merge merge, TokenId merged) {
  const uint32_t left_span = span_[merge.left], right_span = span_[merge.right];
  span_.push_back(left_span + right_span);
  left_events_.clear();
  right_events_.clear();
  TokenId* const s = stream_.data();
  places_.consume(pair_key(merge.left, merge.right), [&](Position place) {
    // Outdated unless both tokens still stand here. A first slot keeps its id until it is merged away, and no
    // later token has the same id, so comparing ids is enough.
    const size_t second = size_t{place} + left_span;
    if (s[place] != merge.left || s[second] != merge.right) return;
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
  });
  effect_.for_each_left([&](TokenId p, int64_t n) { places_.reserve(pair_key(p, merged), static_cast<size_t>(n)); });
  effect_.for_each_right([&](TokenId q, int64_t n) { places_.reserve(pair_key(merged, q), static_cast<size_t>(n)); });
  for (const Event& e : left_events_) places_.push(pair_key(e.partner, merged), e.place);
  for (const Event& e : right_events_) places_.push(pair_key(merged, e.partner), e.place);
}

}  // namespace fast_tokenizer
