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
// Most symbols are zeros, so the walk steps from one symbol that is none to the next. The zeros between them
// that no later token takes are a sequence of their own, and a sequence has one encoding: that of every
// possible run is tabulated, by its first and its last token. A step therefore only has to find how many
// zeros, at most, go to the token that also holds the next other symbol. At the end of the chunk none do.
//
// Not chosen, with what a prototype of each took for a 50 x 14 chunk: heap and linked list 111 us; a queue per rank
// 9.4 us; the walk with each pair decided on demand 5.3 us, with all pairs' verdicts in one bit matrix 2.4 us. Here, on
// a faster machine: token by token through the runs 1.33 us (0.86 on 16 x 7), from symbol to symbol 1.08 us (0.75).
// Branches that cannot be foreseen are most of that, yet doing without them (two symbols looked up at a time, whatever
// the first gives; a filter before each look-up) took 3 to 10 % longer, as did the walk as a class, with its state in
// members.
#pragma once

#include <functional>
#include <optional>

#include "bit_matrix.hpp"
#include "bpe.hpp"
#include "uninitialized.hpp"

namespace fast_tokenizer {

/// The only encoding of a run of zeros, by its ends; what is between is the encoding of a shorter run.
struct RunEnds {
  TokenId first, last;
};

/// Scratch of one thread and one encoder, reused from chunk to chunk.
class EncodeScratch {
 private:
  friend class BpeEncoder;

  /// A symbol that is not the run symbol, and what can be said without knowing what stands before.
  struct Other {
    uint32_t start;  ///< of the run before it
    uint32_t run;    ///< its length
    Symbol symbol;
    uint16_t taken;  ///< as much of it as any token takes that also has the symbol
    TokenId match;   ///< longest token that begins with these and the symbol, or kNoToken: not looked up yet
  };
  /// A part of a run, encoded by itself, and the token that takes the rest of the run and what follows.
  struct Step {
    uint32_t other;  ///< index of the symbol after the run
    uint32_t tokens_before;
    uint16_t skipped;  ///< how much of the run earlier tokens took
    uint16_t taken;    ///< how much of it `token` takes
    TokenId token;
  };
  Uninitialized<Other> others_;
  Uninitialized<Step> steps_;
  Uninitialized<uint64_t> dead_ends_;
  std::vector<RunEnds> long_runs_;  ///< the encoder's table continued, once a run was longer
};

class BpeEncoder {
 public:
  /// What a token stands for in the sequences to encode.
  using Spelling = std::function<std::span<const Symbol>(TokenId)>;

  /// `run_symbol` is the symbol whose runs are jumped over: the one of coefficient 0.
  BpeEncoder(const MergeTable& table, Symbol run_symbol);
  /// For sequences of coarser symbols, each of which stands for several of the table's: a token that is none or several
  /// of them whole is spelled so, one that is not is left out (empty). Throws std::logic_error where the tokens spelled
  /// cannot encode every run.
  BpeEncoder(const MergeTable& table, Symbol run_symbol, int alphabet_size, const Spelling& spelling);

  /// Writes the token ids of one sequence, of which there may be as many as symbols, and returns how many there are.
  /// All symbols must be below the alphabet size.
  size_t encode(std::span<const Symbol> symbols, TokenId* tokens, EncodeScratch& scratch) const;
  /// The same where some tokens are left out. Nothing: the encoding needs one of those.
  std::optional<size_t> try_encode(std::span<const Symbol> symbols, TokenId* tokens, EncodeScratch& scratch) const;

 private:
  struct Edge {
    uint32_t node;
    Symbol symbol;
    uint32_t child;
  };
  struct Node {
    TokenId best;        ///< deepest token at or above the node
    uint16_t run_below;  ///< how many run symbols can follow
  };
  struct Token {
    uint16_t length;             ///< symbols it expands to
    uint16_t others;             ///< those that are not run symbols
    uint16_t tail;               ///< run symbols at its end
    TokenId shorter;             ///< longest token that is a proper prefix, or none_
    uint16_t ending, beginning;  ///< row and column of its verdicts
  };
  /// Where a symbol stands in the trie: after k run symbols at starts_[first + k], k = 0..most.
  struct Entry {
    uint32_t first;
    uint16_t most;
  };

  std::vector<Edge> build_trie(const MergeTable& table, const Spelling& spelling, std::vector<TokenId>& token_at);
  std::vector<Edge> number_nodes(std::vector<Edge> edges, const std::vector<TokenId>& token_at);
  void enter_symbols(const std::vector<Edge>& edges, int alphabet_size);
  void build_pair_verdicts(const MergeTable& table);
  void tabulate_runs(std::vector<RunEnds>& runs, size_t longest) const;
  const RunEnds* runs_up_to(size_t longest, EncodeScratch& scratch) const;

  void store_edges(const std::vector<Edge>& edges);
  size_t first_slot(uint64_t key) const { return key * 0x9E3779B97F4A7C15ULL >> edge_shift_; }
  size_t second_slot(uint64_t key) const { return key * 0xC2B2AE3D27D4EB4FULL >> edge_shift_; }
  uint32_t child(uint32_t node, Symbol symbol) const;
  /// Bit 0: `token` may follow `before`. The other bits mean nothing.
  uint64_t verdict(TokenId before, TokenId token) const {
    const size_t column = tokens_[token].beginning;
    return ~verdicts_.row(tokens_[before].ending)[column / 64] >> (column % 64);
  }
  bool may_follow(TokenId before, TokenId token) const { return (verdict(before, token) & 1) != 0; }
  uint32_t list_others(std::span<const Symbol> symbols, EncodeScratch::Other* others) const;
  TokenId match(const EncodeScratch::Other* other, uint32_t taken) const;

  Symbol run_symbol_;
  TokenId none_;  ///< stands for no token: may follow and precede any
  std::vector<Token> tokens_;
  std::vector<Node> nodes_;
  std::vector<Entry> entries_;    ///< of each symbol
  std::vector<uint32_t> starts_;  ///< trie nodes, or kNoNode
  std::vector<uint64_t> edges_;   ///< by other symbols: node 24 bits, symbol 16, child 24
  int edge_shift_ = 0;
  /// Bit (a, b) is set: a token that begins as b does must not follow one that ends as a does. Of 1,024 tokens some 300
  /// differ in this: the matrix shrinks from 128 KiB to 11, which stay in the nearest cache.
  BitMatrix verdicts_;
  std::vector<TokenId> run_tokens_;  ///< tokens of run symbols alone, longest first
  std::vector<RunEnds> runs_;        ///< of each length up to kTabulatedRun
};

}  // namespace fast_tokenizer
