// Tables, codings and specs from a fuzzer's input.
#pragma once

#include <limits>
#include <vector>

#include "../cpp/naive.hpp"
#include "input.hpp"
#include "kernels.hpp"

namespace fast_tokenizer::fuzz {

inline std::vector<const Kernels*> all_kernels() {
  std::vector<const Kernels*> kernels;
  for (const char* const* name = available_kernels(); *name != nullptr; ++name)
    kernels.push_back(&kernels_by_name(*name));
  return kernels;
}

/// Symbols, often in runs.
inline Symbols symbols_from(Input& in, int alphabet_size, size_t most) {
  Symbols out;
  for (size_t length = in.between<size_t>(0, most); out.size() < length && !in.empty();) {
    const auto choice = in.bits(1);
    const auto symbol = static_cast<Symbol>((choice & 0x1F) % static_cast<uint64_t>(alphabet_size));
    out.insert(out.end(), 1 + (choice >> 5) * (choice >> 5), symbol);
  }
  return out;
}

/// Merges that a table accepts: more shapes than training makes.
inline std::vector<RawMerge> grown_merges(Input& in, int alphabet_size, int attempts) {
  std::vector<RawMerge> merges;
  for (int i = in.between(0, attempts); i > 0; --i) {
    const auto newest = int64_t{alphabet_size} + static_cast<int64_t>(merges.size()) - 1;
    merges.push_back({in.between<int64_t>(0, newest), in.between<int64_t>(0, newest)});
    if (refused([&] { MergeTable(alphabet_size, merges); })) merges.pop_back();
  }
  return merges;
}

inline Coding coding_from(Input& in) {
  const auto layout = in.one_of<Layout>({{},
                                         {Order::kFrequencyFirst, EndOfBlock::kChunk},
                                         {Order::kDimensionFirst, EndOfBlock::kNone},
                                         {Order::kDimensionFirst, EndOfBlock::kChunk},
                                         {Order::kDimensionFirst, EndOfBlock::kDimension}});
  const auto parsing = in.flag() ? Parsing::kBpe : Parsing::kOptimal;
  return {layout, parsing, in.between(0, 3)};
}

/// Of moderate numbers.
inline QuantizerSpec spec_from(Input& in, int action_dim) {
  QuantizerSpec spec;
  const auto dims = static_cast<size_t>(action_dim);
  for (size_t i = in.flag() ? 1 : dims; i > 0; --i) spec.scale.push_back(0.5 + in.between(0, 255) / 8.0);
  spec.lowest = -in.between(0, 20);
  spec.highest = in.between(0, 20);
  if (in.one_in(4)) spec.dead_zone = in.between(50, 99) / 100.0;
  if (in.flag()) return spec;
  Normalization norm;
  for (size_t d = 0; d < dims; ++d) {
    norm.center.push_back(in.coarse(3));
    norm.half_range.push_back(std::abs(in.coarse(2)));
  }
  norm.clip = in.flag() ? std::numeric_limits<double>::infinity() : 0.5 + in.between(0, 3) / 2.0;
  spec.normalization = std::move(norm);
  return spec;
}

inline int alphabet_of(const QuantizerSpec& spec, const Coding& coding) {
  return Levels{spec.lowest, spec.highest, coding.levels_beyond}.symbols() + (coding.layout.has_end() ? 1 : 0);
}

/// Short, seldom such as the FFT and Bluestein's algorithm transform.
inline int64_t horizon_from(Input& in) {
  return in.one_in(16) ? in.one_of<int64_t>({60, 75, 127, 225, 254}) : in.between<int64_t>(1, 20);
}

inline bool same_bits(const std::vector<double>& a, const std::vector<double>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](double x, double y) {
    return std::bit_cast<uint64_t>(x) == std::bit_cast<uint64_t>(y) || (std::isnan(x) && std::isnan(y));
  });
}

inline bool all_finite(const std::vector<double>& values) {
  return std::all_of(values.begin(), values.end(), [](double v) { return std::isfinite(v); });
}

}  // namespace fast_tokenizer::fuzz
