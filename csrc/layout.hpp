// From a chunk's quantized coefficients to the sequence of symbols that BPE sees, and back.
//
// Coefficients come frequency-first: all dimensions of frequency 0, then of frequency 1, ... The layout may put them
// dimension-first (all frequencies of dimension 0, then of dimension 1, ...), and leave out the zeros at the end of a
// block: an end-of-block symbol, one above those of the coefficients, stands for them. It is left out where there are
// none, as the number of symbols says then that the block is full. A sequence is never longer than the chunk.
#pragma once

#include <cstdint>
#include <span>

#include "bpe.hpp"

namespace fast_tokenizer {

enum class Order { kFrequencyFirst, kDimensionFirst };

/// What an end-of-block symbol ends. The block of a dimension goes with the order that keeps it together.
enum class EndOfBlock { kNone, kChunk, kDimension };

struct Layout {
  Order order = Order::kFrequencyFirst;
  EndOfBlock end_of_block = EndOfBlock::kNone;

  bool has_end() const { return end_of_block != EndOfBlock::kNone; }
  /// Symbols are the coefficients as they come.
  bool is_plain() const { return order == Order::kFrequencyFirst && !has_end(); }
};

/// The layout itself, when it has a meaning; otherwise std::invalid_argument.
Layout validated(Layout layout);

/// The two symbols that a layout knows.
struct LayoutSymbols {
  Symbol zero, end;
};

/// Writes the sequence of a chunk's T * D coefficients, and returns its length, which is at most T * D.
size_t arrange(const Layout& layout, LayoutSymbols symbols, const Symbol* coefficients, size_t T, size_t D,
               Symbol* sequence);

/// The reverse, for sequences that come piece by piece and may be no chunk: missing coefficients are zero, symbols too
/// many are counted.
class Arranger {
 public:
  /// `coefficients` and, unless the order is frequency-first, `scratch` must have room for T * D symbols.
  Arranger(const Layout& layout, LayoutSymbols symbols, size_t T, size_t D, Symbol* coefficients, Symbol* scratch);

  void take(std::span<const Symbol> piece);
  /// Completes the coefficients, and returns how many of them the sequence did not describe.
  size_t finish();
  /// Symbols behind the end of the chunk.
  size_t extra() const { return extra_; }

 private:
  Layout layout_;
  LayoutSymbols symbols_;
  size_t T_, D_, block_;
  Symbol *coefficients_, *sequence_;
  size_t filled_ = 0, extra_ = 0;
};

}  // namespace fast_tokenizer
