#include "bit_matrix.hpp"

#include <algorithm>
#include <unordered_map>

namespace fast_tokenizer {
namespace {

/// Bit c of block[r] and bit r of block[c] change places: halves first, then quarters, ...
void transpose_block(uint64_t (&block)[64]) {
  uint64_t mask = 0x00000000FFFFFFFFULL;
  for (unsigned width = 32; width != 0; width /= 2, mask ^= mask << width) {
    for (unsigned r = 0; r < 64; r = (r + width + 1) & ~width) {
      const uint64_t swapped = (block[r] >> width ^ block[r + width]) & mask;
      block[r] ^= swapped << width;
      block[r + width] ^= swapped;
    }
  }
}

}  // namespace

BitMatrix BitMatrix::transposed() const {
  BitMatrix out(columns_, rows_);
  for (size_t r = 0; r < rows_; r += 64) {
    for (size_t word = 0; word < words_; ++word) {
      uint64_t block[64] = {};
      for (size_t i = 0; i < std::min<size_t>(64, rows_ - r); ++i) block[i] = row(r + i)[word];
      transpose_block(block);
      for (size_t i = 0; i < std::min<size_t>(64, columns_ - word * 64); ++i) out.row(word * 64 + i)[r / 64] = block[i];
    }
  }
  return out;
}

std::vector<uint16_t> BitMatrix::keep_distinct_rows() {
  std::vector<uint16_t> kinds;
  std::unordered_multimap<uint64_t, size_t> by_hash;
  size_t kept = 0;
  for (size_t r = 0; r < rows_; ++r) {
    uint64_t hash = 0;
    for (size_t w = 0; w < words_; ++w) hash = (hash ^ row(r)[w]) * 0x9E3779B97F4A7C15ULL + (hash >> 29);
    const auto [first, last] = by_hash.equal_range(hash);
    const auto same =
        std::find_if(first, last, [&](const auto& e) { return std::equal(row(r), row(r) + words_, row(e.second)); });
    kinds.push_back(static_cast<uint16_t>(same != last ? same->second : kept));
    if (same != last) continue;
    std::copy_n(row(r), words_, row(kept));
    by_hash.emplace(hash, kept++);
  }
  rows_ = kept;
  bits_.resize(rows_ * words_);
  bits_.shrink_to_fit();
  return kinds;
}

}  // namespace fast_tokenizer
