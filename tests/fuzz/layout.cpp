// From coefficients to the sequence that BPE sees, and back from any pieces of one.
#include "cases.hpp"

using namespace fast_tokenizer;
using namespace fast_tokenizer::fuzz;

namespace {

/// Coefficients, frequency-first, and how many symbols did not fit, by what a sequence means.
struct Read {
  Symbols coefficients;
  size_t given = 0, extra = 0;
};

Read read_naively(const Layout& layout, const Symbols& sequence, size_t T, size_t D, LayoutSymbols symbols) {
  Read read = {Symbols(T * D, symbols.zero)};
  for (const Symbol s : sequence) {
    if (read.given == T * D) {
      ++read.extra;
    } else if (layout.has_end() && s == symbols.end) {
      do ++read.given;
      while (read.given % naive_block(layout, T, D) != 0);
    } else {
      read.coefficients[naive_place(layout, read.given++, T, D)] = s;
    }
  }
  return read;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input in(data, size);
  const Layout layout = coding_from(in).layout;
  const auto T = in.between<size_t>(1, 12), D = in.between<size_t>(1, 6);
  const LayoutSymbols symbols = {in.between<Symbol>(0, 3), 4};

  Symbols coefficients(T * D), sequence(T * D);
  for (Symbol& c : coefficients) c = in.one_in(3) ? in.between<Symbol>(0, 3) : symbols.zero;
  sequence.resize(arrange(layout, symbols, coefficients.data(), T, D, sequence.data()));
  expect(sequence == arrange_naively(layout, coefficients, T, D, symbols.zero, symbols.end),
         "the layout is as defined");
  const Read whole = read_naively(layout, sequence, T, D, symbols);
  expect(whole.coefficients == coefficients && whole.extra == 0 && whole.given == T * D,
         "a sequence describes its chunk");

  for (size_t n = in.between<size_t>(0, 8); n > 0 && !sequence.empty(); --n)  // and now any sequence
    sequence[in.between<size_t>(0, sequence.size() - 1)] = in.between<Symbol>(0, layout.has_end() ? 4 : 3);
  for (size_t n = in.between<size_t>(0, 12); n > 0; --n)
    sequence.push_back(in.between<Symbol>(0, layout.has_end() ? 4 : 3));
  if (in.flag()) sequence.resize(in.between<size_t>(0, sequence.size()));
  Symbols got(T * D), scratch(T * D);
  Arranger arranger(layout, symbols, T, D, got.data(), scratch.data());
  for (size_t at = 0; at < sequence.size();) {
    const size_t length = std::min(sequence.size() - at, in.between<size_t>(1, 9));
    const Symbols piece(sequence.begin() + static_cast<ptrdiff_t>(at),
                        sequence.begin() + static_cast<ptrdiff_t>(at + length));
    arranger.take(piece);
    at += length;
  }
  const size_t missing = arranger.finish();
  const Read wanted = read_naively(layout, sequence, T, D, symbols);
  expect(got == wanted.coefficients, "coefficients are those that the pieces describe");
  expect(missing == T * D - wanted.given, "missing coefficients are counted");
  expect(arranger.extra() == wanted.extra, "symbols too many are counted");
  return 0;
}
