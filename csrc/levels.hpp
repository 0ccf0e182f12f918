// The coefficients that symbols stand for: every one of the fitted range, and a few far apart beyond each of its ends.
//
// What recordings did not reach, a robot may reach all the same. A symbol for each such coefficient would cost ids that
// nothing uses; with none, a coefficient twice as large as any before comes back half as large. Levels as far apart as
// the end of the range divided by their number bring it back within half of that, up to twice the range.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "bpe.hpp"

namespace fast_tokenizer {

/// Symbols of coefficients: lowest..highest, then the levels above, then those below, both from the range outwards.
struct Levels {
  int lowest, highest;  ///< fitted range, 0 in it
  int beyond = 0;       ///< levels on each side of it

  int step_up() const { return step(highest); }
  int step_down() const { return step(-lowest); }
  int farthest_up() const { return highest + beyond * step_up(); }
  int farthest_down() const { return lowest - beyond * step_down(); }
  int in_range() const { return highest - lowest + 1; }
  int symbols() const { return in_range() + 2 * beyond; }

  /// The symbol of the nearest coefficient that has one; of two, the one farther out.
  Symbol symbol_of(int coefficient) const {
    if (coefficient > highest) return outer(coefficient - highest, step_up(), highest - lowest, in_range());
    if (coefficient < lowest) return outer(lowest - coefficient, step_down(), 0, in_range() + beyond);
    return static_cast<Symbol>(coefficient - lowest);
  }
  int coefficient_of(Symbol symbol) const {
    const int above = symbol - in_range(), below = above - beyond;
    if (above < 0) return lowest + symbol;
    return below < 0 ? highest + (above + 1) * step_up() : lowest - (below + 1) * step_down();
  }

 private:
  int step(int end) const { return beyond == 0 ? 1 : std::max(1, (end + beyond - 1) / beyond); }
  /// The range's end itself when it is nearest.
  Symbol outer(int distance, int step, int end, int first) const {
    const int level = std::min((distance + step / 2) / step, beyond);
    return static_cast<Symbol>(level == 0 ? end : first + level - 1);
  }
};

}  // namespace fast_tokenizer
