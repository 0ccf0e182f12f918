// Scratch memory.
#pragma once

#include <cstddef>
#include <memory>

namespace fast_tokenizer {

/// Memory that is not initialised: clearing it would cost more than encoding a small chunk.
template <typename T>
class Uninitialized {
 public:
  /// Room for `size` elements, whose values are lost where it was smaller before.
  T* reserve(size_t size) {
    if (size > size_) {
      data_ = std::make_unique_for_overwrite<T[]>(size);
      size_ = size;
    }
    return data_.get();
  }

 private:
  std::unique_ptr<T[]> data_;
  size_t size_ = 0;
};

}  // namespace fast_tokenizer
