#include "layout.hpp"

#include <algorithm>
#include <stdexcept>

namespace fast_tokenizer {
namespace {

/// (rows, columns) to (columns, rows).
void transpose(const Symbol* from, size_t rows, size_t columns, Symbol* to) {
  for (size_t c = 0; c < columns; ++c)
    for (size_t r = 0; r < rows; ++r) *to++ = from[r * columns + c];
}

/// Coefficients of a block.
size_t block_length(const Layout& layout, size_t T, size_t D) {
  return layout.end_of_block == EndOfBlock::kDimension ? T : T * D;
}

}  // namespace

Layout validated(Layout layout) {
  if (layout.end_of_block == EndOfBlock::kDimension && layout.order != Order::kDimensionFirst)
    throw std::invalid_argument("an end of block per dimension goes with dimension-first order");
  return layout;
}

size_t arrange(const Layout& layout, LayoutSymbols symbols, const Symbol* coefficients, size_t T, size_t D,
               Symbol* sequence) {
  const size_t size = T * D;
  if (layout.order == Order::kDimensionFirst)
    transpose(coefficients, T, D, sequence);
  else
    std::copy_n(coefficients, size, sequence);
  if (!layout.has_end()) return size;
  const size_t block = block_length(layout, T, D);
  Symbol* out = sequence;
  for (const Symbol* begin = sequence; begin != sequence + size; begin += block) {
    const Symbol* end = begin + block;
    while (end != begin && end[-1] == symbols.zero) --end;
    out = std::copy(begin, end, out);  // never ahead of what is read
    if (end != begin + block) *out++ = symbols.end;
  }
  return static_cast<size_t>(out - sequence);
}

Arranger::Arranger(const Layout& layout, LayoutSymbols symbols, size_t T, size_t D, Symbol* coefficients,
                   Symbol* scratch)
    : layout_(layout),
      symbols_(symbols),
      T_(T),
      D_(D),
      block_(block_length(layout, T, D)),
      coefficients_(coefficients),
      sequence_(layout.order == Order::kDimensionFirst ? scratch : coefficients) {
  std::fill_n(sequence_, T * D, symbols.zero);
}

void Arranger::take(std::span<const Symbol> piece) {
  const size_t size = T_ * D_;
  while (!piece.empty() && filled_ < size) {
    const bool ends = layout_.has_end() && piece.front() == symbols_.end;
    if (ends) {
      filled_ = (filled_ / block_ + 1) * block_;
      piece = piece.subspan(1);
      continue;
    }
    const auto end = layout_.has_end() ? std::find(piece.begin(), piece.end(), symbols_.end) : piece.end();
    const size_t count = std::min(static_cast<size_t>(end - piece.begin()), size - filled_);
    std::copy_n(piece.begin(), count, sequence_ + filled_);
    filled_ += count;
    piece = piece.subspan(count);
  }
  extra_ += piece.size();
}

size_t Arranger::finish() {
  if (sequence_ != coefficients_) transpose(sequence_, D_, T_, coefficients_);
  return T_ * D_ - filled_;
}

}  // namespace fast_tokenizer
