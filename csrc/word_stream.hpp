// Sequences of symbols or token ids as 16-bit words in which runs are short.
//
// A word below 0x7FFF is a value, and 0x7FFF ends a sequence. A word 0x8000 + k repeats the value before it k more
// times; a longer run has several. Neighbouring values always differ. So a sequence never takes more than a word a
// symbol and its end, whatever is in it; 93 % of the symbols of 50 x 14 chunks are zeros, in runs, and nine symbols
// take one word. A word says by itself what it is: values can be searched for without reading runs.
#pragma once

#include <algorithm>
#include <bit>
#include <cstring>
#include <span>
#include <vector>

#include "bpe.hpp"
#include "memory.hpp"

namespace fast_tokenizer {

using Word = uint16_t;
inline constexpr Word kEndWord = 0x7FFF;
inline constexpr Word kRepeat = 0x8000;
inline constexpr size_t kMostRepeats = 0x7FFF;  ///< that one word counts
/// Searching reads (and copying writes) this many words past the end.
inline constexpr size_t kWordSlack = 4;

inline bool is_repeat(Word w) { return w >= kRepeat; }

/// Index of the first of four 16-bit lanes that is not 0. Some lane is not.
inline size_t first_lane(uint64_t lanes) {
  const int bit = std::endian::native == std::endian::little ? std::countr_zero(lanes) : std::countl_zero(lanes);
  return static_cast<size_t>(bit) / 16;
}

inline uint64_t load_lanes(const uint16_t* p) {
  uint64_t lanes;
  std::memcpy(&lanes, p, sizeof lanes);
  return lanes;
}

inline uint64_t in_each_lane(uint16_t v) { return v * 0x0001'0001'0001'0001ULL; }

/// First place in p..end where the value is not v.
inline const Symbol* end_of_run(const Symbol* p, const Symbol* end, Symbol v) {
  const uint64_t same = in_each_lane(v);
  for (; end - p >= 4; p += 4)
    if (const uint64_t other = load_lanes(p) ^ same; other != 0) return p + first_lane(other);
  while (p != end && *p == v) ++p;
  return p;
}

/// The run at p, which is moved past it.
inline size_t read_run(const Word*& p) {
  size_t n = 1;
  while (is_repeat(*++p)) n += *p & kMostRepeats;
  return n;
}

/// Calls visit(value, length) for each run, and visit(kEndWord, 1) after each sequence.
template <typename Visit>
void for_each_run(const Word* p, const Word* end, Visit visit) {
  while (p != end) {
    const Word v = *p;
    if (v == kEndWord) {
      visit(v, size_t{1});
      ++p;
    } else {
      const size_t n = read_run(p);
      visit(v, n);
    }
  }
}

/// Writes n times v behind `out`, whose last value must be another.
inline Word* write_run(Word* out, Word v, size_t n) {
  if (n == 0) return out;
  *out++ = v;
  for (--n; n > kMostRepeats; n -= kMostRepeats) *out++ = kRepeat | kMostRepeats;
  if (n > 0) *out++ = static_cast<Word>(kRepeat + n);
  return out;
}

/// Words in segments of bounded size, each a number of whole sequences.
struct Segment {
  Buffer<Word> words;
  size_t size = 0;

  const Word* begin() const { return words.data(); }
  const Word* end() const { return words.data() + size; }
};

/// Fills segments.
class WordWriter {
 public:
  /// 256 KiB: a segment and the copy that a merge makes of it stay in the second-level cache, and shards get equal
  /// shares of small corpora as well.
  static constexpr size_t kSegmentWords = 1 << 17;

  explicit WordWriter(std::shared_ptr<BudgetedMemory> memory, size_t segment_words = kSegmentWords)
      : memory_(std::move(memory)), segment_words_(segment_words) {}

  /// Calls on_run(value, length) for each run.
  template <typename OnRun>
  void append(std::span<const Symbol> sequence, OnRun on_run) {
    Word* out = reserve(sequence.size() + 1);
    const Symbol *p = sequence.data(), *const end = p + sequence.size();
    while (p != end) {
      const Symbol* const next = end_of_run(p + 1, end, *p);
      const auto n = static_cast<size_t>(next - p);
      on_run(*p, n);
      out = write_run(out, *p, n);
      p = next;
    }
    *out++ = kEndWord;
    segments_.back().size = static_cast<size_t>(out - segments_.back().words.data());
  }

  /// Appends a sequence that is coded already, with its end.
  void append_coded(std::span<const Word> sequence) {
    Word* const out = reserve(sequence.size());
    std::copy(sequence.begin(), sequence.end(), out);
    segments_.back().size += sequence.size();
  }

  struct Mark {
    size_t segments, size;
  };
  Mark mark() const { return {segments_.size(), segments_.empty() ? 0 : segments_.back().size}; }
  /// Drops what stands behind the mark, after a visit as of for_each_run.
  template <typename Visit>
  void rewind(Mark mark, Visit visit) {
    for (size_t s = mark.segments == 0 ? 0 : mark.segments - 1; s < segments_.size(); ++s)
      for_each_run(segments_[s].begin() + (s + 1 == mark.segments ? mark.size : 0), segments_[s].end(), visit);
    segments_.resize(mark.segments);
    if (!segments_.empty()) segments_.back().size = mark.size;
  }

  /// Hands over what was written.
  std::vector<Segment> take() { return std::exchange(segments_, {}); }
  const std::vector<Segment>& segments() const { return segments_; }

 private:
  Word* reserve(size_t words) {
    if (segments_.empty() || segments_.back().words.size() < segments_.back().size + words + kWordSlack)
      segments_.push_back({Buffer<Word>(memory_, std::max(segment_words_, words + kWordSlack)), 0});
    return segments_.back().words.data() + segments_.back().size;
  }

  std::shared_ptr<BudgetedMemory> memory_;
  size_t segment_words_;
  std::vector<Segment> segments_;
};

}  // namespace fast_tokenizer
