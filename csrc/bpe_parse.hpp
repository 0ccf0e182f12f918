// The fewest tokens that spell a sequence of symbols, instead of those that repeating the merges gives.
//
// A shortest path: position i leads to i + n over every token of n symbols that stands there. Each symbol is a token,
// so that there is always a path. Of several shortest ones the first token is as long as can be, then the second, ...:
// the result depends on the vocabulary alone.
#pragma once

#include <span>
#include <vector>

#include "bpe.hpp"
#include "uninitialized.hpp"

namespace fast_tokenizer {

/// Per-thread scratch, reused from chunk to chunk.
class ParseScratch {
 private:
  friend class OptimalParser;
  struct Step {
    uint32_t tokens;  ///< fewest for the rest of the sequence
    uint32_t run;     ///< run symbols from here on
    TokenId token;    ///< the first of them
  };
  Uninitialized<Step> steps_;
};

class OptimalParser {
 public:
  /// `run_symbol` is the symbol whose runs are jumped over: the one of coefficient 0.
  OptimalParser(const MergeTable& table, Symbol run_symbol);

  /// Writes the token ids of one sequence, of which there may be as many as symbols, and returns how many there are.
  /// All symbols must be below the alphabet size.
  size_t parse(std::span<const Symbol> symbols, TokenId* tokens, ParseScratch& scratch) const;

 private:
  /// A node of the trie of all tokens. The children of a node lie side by side, by their symbols.
  struct Node {
    uint32_t first_child = 0, children = 0;
    Symbol symbol = 0;
    TokenId token = kNoToken;  ///< that ends here
  };
  struct RunToken {
    uint32_t length;
    TokenId token;
  };
  static constexpr uint32_t kNoNode = ~uint32_t{0};

  uint32_t child(uint32_t node, Symbol symbol) const;

  Symbol run_symbol_;
  std::vector<uint32_t> lengths_;     ///< symbols of each token
  std::vector<Node> nodes_;           ///< node 0 is the root
  std::vector<uint32_t> run_nodes_;   ///< the node after so many run symbols
  std::vector<RunToken> run_tokens_;  ///< tokens of run symbols alone, shortest first
};

}  // namespace fast_tokenizer
