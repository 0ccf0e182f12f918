// What the BPE trainer and encoder share: symbols, token ids, merges and the table they make.
//
// Symbols 0..A-1 are the alphabet; token id t < A stands for symbol t, and token id A + i for merge i, which
// joins two smaller token ids. The order of the merges is their rank.
#pragma once

#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "pair_map.hpp"

namespace fast_tokenizer {

using Symbol = uint16_t;
using TokenId = uint16_t;

inline constexpr int kMaxVocabSize = 16384;
inline constexpr int kMaxTokenSymbols = 16384;        ///< symbols that one token may expand to
inline constexpr int64_t kMaxTableSymbols = 1 << 22;  ///< symbols of all expansions together
inline constexpr TokenId kNoToken = 0xFFFF;

struct Merge {
  TokenId left, right;
};

/// Ids as they come from a file or a caller, before they are known to be token ids.
struct RawMerge {
  int64_t left, right;
};

/// Merges that training can produce, with the expansion of every token. Immutable.
class MergeTable {
 public:
  /// Throws std::invalid_argument, naming the merge, unless: the alphabet and vocabulary are within limits;
  /// each merge joins two ids smaller than its own; no pair occurs twice; expansions stay within limits;
  /// and every token encodes to itself (no earlier merge would take its symbols apart).
  MergeTable(int64_t alphabet_size, std::span<const RawMerge> merges);

  int alphabet_size() const { return alphabet_size_; }
  int vocab_size() const { return alphabet_size_ + static_cast<int>(merges_.size()); }
  const std::vector<Merge>& merges() const { return merges_; }
  /// The merge that made this token, which must not be a symbol.
  Merge parts(TokenId token) const { return merges_[static_cast<size_t>(token - alphabet_size_)]; }
  /// Token id that the pair merges into, or kNoToken.
  TokenId merged(TokenId left, TokenId right) const {
    const TokenId* found = ranks_.find(pair_key(left, right));
    return found != nullptr ? *found : kNoToken;
  }
  int expansion_length(TokenId token) const {
    return static_cast<int>(expansion_offsets_[token + 1U] - expansion_offsets_[token]);
  }
  std::span<const Symbol> expansion(TokenId token) const {
    return std::span(expansions_)
        .subspan(expansion_offsets_[token], expansion_offsets_[token + 1U] - expansion_offsets_[token]);
  }

 private:
  void add_merge(size_t index, RawMerge raw);
  bool encodes_to_itself(TokenId token) const;

  int alphabet_size_;
  std::vector<Merge> merges_;
  PairMap<TokenId> ranks_;
  std::vector<Symbol> expansions_;
  std::vector<uint32_t> expansion_offsets_;
};

}  // namespace fast_tokenizer
