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
    size_t i = slot_of(key);
    if (keys_[i] == kEmpty) {
      if ((size_ + 1) * 3 > keys_.size() * 2) {
        grow();
        i = slot_of(key);
      }
      keys_[i] = key;
      ++size_;
    }
    return values_[i];
  }

  const Value* find(PairKey key) const {
    const size_t i = slot_of(key);
    return keys_[i] == kEmpty ? nullptr : &values_[i];
  }
  Value* find(PairKey key) {
    const size_t i = slot_of(key);
    return keys_[i] == kEmpty ? nullptr : &values_[i];
  }

  /// Calls visit(key, value) for every entry, in no particular order.
  template <typename Visit>
  void for_each(Visit visit) const {
    for (size_t i = 0; i < keys_.size(); ++i)
      if (keys_[i] != kEmpty) visit(keys_[i], values_[i]);
  }

 private:
  static constexpr PairKey kEmpty = 0xFFFFFFFF;

  size_t slot_of(PairKey key) const {
    const size_t mask = keys_.size() - 1;
    size_t i = static_cast<size_t>(key * 0x9E3779B97F4A7C15ULL >> shift_);
    while (keys_[i] != key && keys_[i] != kEmpty) i = (i + 1) & mask;
    return i;
  }

  void resize_empty(size_t capacity) {
    keys_.assign(capacity, kEmpty);
    values_.clear();
    values_.resize(capacity);
    size_ = 0;
    shift_ = 64;
    for (size_t c = capacity; c > 1; c /= 2) --shift_;
  }

  void grow() {
    std::vector<PairKey> keys = std::move(keys_);
    std::vector<Value> values = std::move(values_);
    resize_empty(keys.size() * 2);
    for (size_t i = 0; i < keys.size(); ++i)
      if (keys[i] != kEmpty) (*this)[keys[i]] = std::move(values[i]);
  }

  std::vector<PairKey> keys_;
  std::vector<Value> values_;
  size_t size_ = 0;
  int shift_ = 64;
};

}  // namespace fast_tokenizer
