// A matrix of bits, and what is distinct in it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fast_tokenizer {

class BitMatrix {
 public:
  BitMatrix() = default;
  BitMatrix(size_t rows, size_t columns)
      : rows_(rows), columns_(columns), words_((columns + 63) / 64), bits_(rows * words_) {}

  size_t rows() const { return rows_; }
  size_t words() const { return words_; }  ///< of a row
  uint64_t* row(size_t r) { return bits_.data() + r * words_; }
  const uint64_t* row(size_t r) const { return bits_.data() + r * words_; }
  bool operator()(size_t r, size_t c) const { return (row(r)[c / 64] >> (c % 64) & 1) != 0; }

  BitMatrix transposed() const;
  /// Keeps one row of each kind, in order of appearance, and says which one each row was.
  std::vector<uint16_t> keep_distinct_rows();

 private:
  size_t rows_ = 0, columns_ = 0, words_ = 0;
  std::vector<uint64_t> bits_;
};

}  // namespace fast_tokenizer
