// Exact BPE encoding without simulating the merges.
//
// Every merge table here has the property that a token's expansion encodes to that token alone (MergeTable
// checks it). Then a sequence of tokens is the greedy merge order's result if and only if each pair of
// neighbours is: no merge would join pieces across their boundary. So the encoder walks left to right, takes
// the longest token that matches and may follow the one before, and steps back when none may. A position
// that proved a dead end is never entered again, which keeps the walk linear. The idea is that of the
// `bpe` crate (github/rust-gems); the tables here are ours: all pairs' verdicts in one bit matrix, and a
// trie numbered so that a run of zeros is one addition.
//
// Not chosen, with what a prototype of each took for a 50 x 14 chunk: heap and linked list 111 us; a queue per rank
// 9.4 us; this walk with each pair decided on demand 5.3 us, with the bit matrix 2.4 us.
#pragma once

#include "bpe.hpp"

namespace fast_tokenizer {

/// Per-thread scratch, reused from chunk to chunk.
struct EncodeScratch {
  std::vector<uint64_t> dead_ends;
  std::vector<TokenId> tokens;
};

class BpeEncoder {
 public:
  /// `run_symbol` is the symbol whose runs are jumped over: the one of coefficient 0.
  BpeEncoder(const MergeTable& table, Symbol run_symbol);

  /// Encodes one sequence into scratch.tokens. `symbols` must be readable for kReadAhead elements past its end,
  /// and all below the alphabet size.
  void encode(std::span<const Symbol> symbols, EncodeScratch& scratch) const;

  static constexpr size_t kReadAhead = 4;

 private:
  struct Edge {
    uint32_t node;
    Symbol symbol;
    uint32_t child;
  };

  std::vector<Edge> build_trie(const MergeTable& table, std::vector<TokenId>& token_at);
  void number_nodes(std::vector<Edge> edges, const std::vector<TokenId>& token_at);
  void build_pair_verdicts(const MergeTable& table);

  uint32_t child(uint32_t node, Symbol symbol) const;
  TokenId longest_match(const Symbol* at, const Symbol* end) const;
  bool may_follow(TokenId before, TokenId token) const {
    return (verdicts_[before * verdict_words_ + token / 64U] >> (token % 64U) & 1) == 0;
  }

  Symbol run_symbol_;
  std::vector<uint32_t> lengths_;    ///< symbols a token expands to
  std::vector<TokenId> shorter_;     ///< longest token that is a proper prefix, or kNoToken
  std::vector<uint32_t> roots_;      ///< trie node of each symbol
  std::vector<TokenId> best_;        ///< deepest token at or above a node
  std::vector<uint16_t> run_below_;  ///< how many run symbols can follow a node
  std::vector<uint64_t> edges_;      ///< open addressing: node 24 bits, symbol 16, child 24
  int edge_shift_ = 0;
  std::vector<uint64_t> verdicts_;  ///< bit (a, b) set: b must not follow a
  size_t verdict_words_ = 0;
};

}  // namespace fast_tokenizer
