// Sequences of differing length in one flat buffer: the only variable-length container.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace fast_tokenizer {

template <typename T>
struct Ragged {
  std::vector<T> values;
  std::vector<int64_t> offsets = {0};  ///< sequence i is values[offsets[i], offsets[i + 1])

  size_t size() const { return offsets.size() - 1; }
};

/// A view of the same layout in somebody else's memory. `offsets` has one entry more than there are sequences.
template <typename T>
struct RaggedView {
  std::span<const T> values;
  std::span<const int64_t> offsets;

  size_t size() const { return offsets.size() - 1; }
  std::span<const T> operator[](size_t i) const {
    return values.subspan(static_cast<size_t>(offsets[i]), static_cast<size_t>(offsets[i + 1] - offsets[i]));
  }
};

}  // namespace fast_tokenizer
