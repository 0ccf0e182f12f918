// Open-addressing map from a pair of token ids to a value.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace fast_tokenizer {

using PairKey = uint32_t;  ///< (left << 16) | right

inline constexpr PairKey pair_key(uint32_t left, uint32_t right) { return left << 16 | right; }
inline constexpr uint32_t left_of(PairKey key) { return key >> 16; }
inline constexpr uint32_t right_of(PairKey key) { return key & 0xFFFF; }

/// Keys are never removed. The pair (0xFFFF, 0xFFFF) cannot be stored.
template <typename Value>
class PairMap {
 public:
  explicit PairMap(size_t expected = 0) {
    size_t capacity = 16;
    while (capacity * 2 < expected * 3) capacity *= 2;
    resize_empty(capacity);
  }

  size_t size() const { return size_; }

  /// The value of `key`, value-initialised when new. Valid until the next call.
  Value& operator[](PairKey key) {
    Entry* entry = &entry_of(key);
    if (entry->key == kEmpty) {
      if ((size_ + 1) * 3 > entries_.size() * 2) {
        grow();
        entry = &entry_of(key);
      }
      entry->key = key;
      ++size_;
    }
    return entry->value;
  }

  const Value* find(PairKey key) const {
    const Entry& entry = entries_[slot_of(key)];
    return entry.key == kEmpty ? nullptr : &entry.value;
  }
  Value* find(PairKey key) {
    Entry& entry = entry_of(key);
    return entry.key == kEmpty ? nullptr : &entry.value;
  }

  /// Starts to fetch what looking up the key will read.
  void prefetch(PairKey key) const {
#if defined(__GNUC__)
    __builtin_prefetch(&entries_[first_slot(key)]);
#else
    static_cast<void>(key);
#endif
  }

  /// Calls visit(key, value) for every entry, in no particular order.
  template <typename Visit>
  void for_each(Visit visit) const {
    for (const Entry& entry : entries_)
      if (entry.key != kEmpty) visit(entry.key, entry.value);
  }

 private:
  static constexpr PairKey kEmpty = 0xFFFFFFFF;

  /// Side by side: a look-up in a large map misses the cache once.
  struct Entry {
    PairKey key = kEmpty;
    Value value{};
  };

  size_t first_slot(PairKey key) const { return static_cast<size_t>(key * 0x9E3779B97F4A7C15ULL >> shift_); }
  size_t slot_of(PairKey key) const {
    const size_t mask = entries_.size() - 1;
    size_t i = first_slot(key);
    while (entries_[i].key != key && entries_[i].key != kEmpty) i = (i + 1) & mask;
    return i;
  }
  Entry& entry_of(PairKey key) { return entries_[slot_of(key)]; }

  void resize_empty(size_t capacity) {
    entries_ = std::vector<Entry>(capacity);
    size_ = 0;
    shift_ = 64;
    for (size_t c = capacity; c > 1; c /= 2) --shift_;
  }

  void grow() {
    std::vector<Entry> entries = std::move(entries_);
    resize_empty(entries.size() * 2);
    for (Entry& entry : entries)
      if (entry.key != kEmpty) (*this)[entry.key] = std::move(entry.value);
  }

  std::vector<Entry> entries_;
  size_t size_ = 0;
  int shift_ = 64;
};

}  // namespace fast_tokenizer
