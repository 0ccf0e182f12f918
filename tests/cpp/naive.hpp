// Slow references: every algorithm of the core as its definition says it, to be read at a glance.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "bpe.hpp"
#include "bpe_train.hpp"
#include "codec.hpp"
#include "dct.hpp"
#include "layout.hpp"
#include "levels.hpp"

namespace fast_tokenizer {

using Symbols = std::vector<Symbol>;
using Tokens = std::vector<int>;
using Pair = std::pair<int, int>;
using Ranks = std::map<Pair, int>;  ///< the token that each pair becomes

/// Replaces the pair wherever it stands, leftmost first.
inline Tokens merge_pair(const Tokens& tokens, Pair pair, int merged) {
  Tokens out;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const bool here = i + 1 < tokens.size() && tokens[i] == pair.first && tokens[i + 1] == pair.second;
    out.push_back(here ? merged : tokens[i]);
    i += here;
  }
  return out;
}

/// Merges the pair of lowest rank until no pair has one.
inline Tokens encode_naively(Tokens tokens, const Ranks& ranks) {
  for (;;) {
    auto best = ranks.end();
    for (size_t i = 0; i + 1 < tokens.size(); ++i) {
      const auto found = ranks.find({tokens[i], tokens[i + 1]});
      if (found != ranks.end() && (best == ranks.end() || found->second < best->second)) best = found;
    }
    if (best == ranks.end()) return tokens;
    tokens = merge_pair(tokens, best->first, best->second);
  }
}

struct NaiveTraining {
  std::vector<Pair> merges;
  size_t passes = 0;  ///< merges so frequent that passing over everything is best: about those before the index
};

/// Recounts every pair for every merge.
inline NaiveTraining train_naively(const std::vector<Symbols>& corpus, int alphabet_size, const TrainOptions& options) {
  std::vector<Tokens> sequences;
  for (const Symbols& s : corpus) sequences.emplace_back(s.begin(), s.end());
  std::vector<int> lengths(static_cast<size_t>(alphabet_size), 1);
  NaiveTraining result;
  bool streaming = true;
  for (int merged = alphabet_size; merged < options.vocab_size; ++merged) {
    std::map<Pair, int64_t> counts;
    size_t live = 0;
    for (const Tokens& s : sequences) {
      live += s.size() + 1;
      for (size_t i = 0; i + 1 < s.size(); ++i) ++counts[{s[i], s[i + 1]}];
    }
    auto length_of = [&](Pair p) { return lengths[size_t(p.first)] + lengths[size_t(p.second)]; };
    Pair best;
    int64_t highest = 0;
    for (const auto& [pair, count] : counts)  // ascending, so the smallest pair of equals comes first
      if (count > highest && length_of(pair) <= options.max_token_symbols) {
        best = pair;
        highest = count;
      }
    if (highest < std::max<int64_t>(1, options.min_frequency)) break;
    for (Tokens& s : sequences) s = merge_pair(s, best, merged);
    lengths.push_back(length_of(best));
    result.merges.push_back(best);
    streaming = streaming && static_cast<size_t>(highest) * 24 >= live;
    result.passes += streaming;
  }
  return result;
}

/// DCT-II or DCT-III of (horizon, action_dim) values, by its definition.
inline std::vector<double> textbook_dct(Direction direction, int horizon, int action_dim, const double* in) {
  const auto T = static_cast<size_t>(horizon), D = static_cast<size_t>(action_dim);
  std::vector<double> cosines;  // of pi m / 2T
  for (size_t m = 0; m < 4 * T; ++m)
    cosines.push_back(std::cos(3.14159265358979323846 * static_cast<double>(m) / static_cast<double>(2 * T)));
  std::vector<double> out(T * D, 0.0);
  for (size_t k = 0; k < T; ++k)
    for (size_t t = 0; t < T; ++t) {
      const double a = std::sqrt((k == 0 ? 1.0 : 2.0) / horizon) * cosines[k * (2 * t + 1) % (4 * T)];
      const size_t from = direction == Direction::kForward ? t : k, to = direction == Direction::kForward ? k : t;
      for (size_t d = 0; d < D; ++d) out[to * D + d] += a * in[from * D + d];
    }
  return out;
}

// ---- Tables ---------------------------------------------------------------------------------------

inline Ranks ranks_of(const MergeTable& table) {
  Ranks ranks;
  for (const Merge m : table.merges())
    ranks.emplace(Pair(m.left, m.right), table.alphabet_size() + static_cast<int>(ranks.size()));
  return ranks;
}

inline Tokens tokens_of(std::span<const Symbol> symbols) { return {symbols.begin(), symbols.end()}; }

/// The contract of MergeTable, checked by encoding every token. (Its limit on all expansions together is not
/// reached by the tables that this is asked about.)
inline bool is_acceptable(int alphabet_size, const std::vector<RawMerge>& merges) {
  std::vector<Tokens> expansions;
  for (int s = 0; s < alphabet_size; ++s) expansions.push_back({s});
  Ranks ranks;
  for (const RawMerge m : merges) {
    const auto own = static_cast<int64_t>(expansions.size());
    if (m.left < 0 || m.left >= own || m.right < 0 || m.right >= own) return false;
    const int token = static_cast<int>(own);
    if (!ranks.emplace(Pair(static_cast<int>(m.left), static_cast<int>(m.right)), token).second) return false;
    Tokens expansion = expansions[static_cast<size_t>(m.left)];
    const Tokens& right = expansions[static_cast<size_t>(m.right)];
    expansion.insert(expansion.end(), right.begin(), right.end());
    if (expansion.size() > kMaxTokenSymbols || encode_naively(expansion, ranks) != Tokens{token}) return false;
    expansions.push_back(std::move(expansion));
  }
  return true;
}

// ---- Chunks ---------------------------------------------------------------------------------------

/// The coefficient of each symbol.
inline std::vector<int> naive_levels(const Levels& levels) {
  std::vector<int> values;
  for (int v = levels.lowest; v <= levels.highest; ++v) values.push_back(v);
  auto step = [&](int end) { return std::max(1.0, std::ceil(static_cast<double>(end) / levels.beyond)); };
  for (int i = 1; i <= levels.beyond; ++i)
    values.push_back(levels.highest + i * static_cast<int>(step(levels.highest)));
  for (int i = 1; i <= levels.beyond; ++i) values.push_back(levels.lowest - i * static_cast<int>(step(-levels.lowest)));
  return values;
}

/// Number of a coefficient, frequency-first, by its place in a sequence without ends of blocks.
inline size_t naive_place(const Layout& layout, size_t at, size_t T, size_t D) {
  return layout.order == Order::kFrequencyFirst ? at : at % T * D + at / T;
}

/// Coefficients of a block.
inline size_t naive_block(const Layout& layout, size_t T, size_t D) {
  return layout.end_of_block == EndOfBlock::kDimension ? T : T * D;
}

inline Symbols arrange_naively(const Layout& layout, const Symbols& coefficients, size_t T, size_t D, Symbol zero,
                               Symbol end) {
  Symbols out;
  const size_t block = naive_block(layout, T, D);
  for (size_t begin = 0; begin < T * D; begin += block) {
    size_t used = block;
    if (layout.has_end())
      while (used > 0 && coefficients[naive_place(layout, begin + used - 1, T, D)] == zero) --used;
    for (size_t i = 0; i < used; ++i) out.push_back(coefficients[naive_place(layout, begin + i, T, D)]);
    if (used < block) out.push_back(end);
  }
  return out;
}

struct NaiveDecoded {
  std::vector<double> values;
  DecodeCounts counts;
};

inline NaiveDecoded decode_naively(const Codec& codec, const Coding& coding, std::span<const int32_t> ids, int horizon,
                                   int action_dim) {
  const QuantizerSpec& spec = codec.spec();
  const auto T = static_cast<size_t>(horizon), D = static_cast<size_t>(action_dim), expected = T * D;
  const Layout& layout = coding.layout;
  const std::vector<int> values = naive_levels({spec.lowest, spec.highest, coding.levels_beyond});
  const int end = layout.has_end() ? static_cast<int>(values.size()) : -1;
  NaiveDecoded out;
  std::vector<double> coefficients(expected, 0.0);
  size_t given = 0;
  for (const int32_t id : ids) {
    if (id < 0 || id >= codec.table().vocab_size()) {
      ++out.counts.unknown;
      continue;
    }
    for (const Symbol s : codec.table().expansion(static_cast<TokenId>(id))) {
      if (given == expected) {
        ++out.counts.extra;
      } else if (s == end) {
        do ++given;
        while (given % naive_block(layout, T, D) != 0);
      } else {
        coefficients[naive_place(layout, given++, T, D)] = values[s];
      }
    }
  }
  out.counts.expected = static_cast<int64_t>(expected);
  out.counts.missing = static_cast<int64_t>(expected - given);
  for (size_t i = 0; i < expected; ++i)
    coefficients[i] /= spec.scale[spec.scale.size() == 1 ? 0 : i % static_cast<size_t>(action_dim)];
  out.values = textbook_dct(Direction::kInverse, horizon, action_dim, coefficients.data());
  for (size_t i = 0; i < expected && spec.normalization; ++i) {
    const size_t d = i % static_cast<size_t>(action_dim);
    out.values[i] = out.values[i] * spec.normalization->half_range[d] + spec.normalization->center[d];
  }
  return out;
}

inline void append_utf8(int32_t code, std::vector<uint8_t>& bytes) {
  const auto c = static_cast<uint32_t>(code);
  const int more = c < 0x80 ? 0 : c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
  const uint32_t marks[] = {0, 0xC0, 0xE0, 0xF0};
  bytes.push_back(static_cast<uint8_t>(marks[more] | c >> (6 * more)));
  for (int k = more - 1; k >= 0; --k) bytes.push_back(static_cast<uint8_t>(0x80 | ((c >> (6 * k)) & 0x3F)));
}

}  // namespace fast_tokenizer
