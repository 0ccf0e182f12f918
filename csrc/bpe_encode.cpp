#include "bpe_encode.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

namespace fast_tokenizer {
namespace {

constexpr uint64_t kNoEdge = ~uint64_t{0};
constexpr uint32_t kNoNode = ~uint32_t{0};
static_assert(kMaxTableSymbols < 1 << 24, "a trie node must fit 24 bits");

uint64_t edge_key(uint32_t node, Symbol symbol) { return uint64_t{node} << 16 | symbol; }
uint64_t hash_edge(uint64_t key) { return key * 0x9E3779B97F4A7C15ULL; }

/// Power of two at least twice `n`, and the shift that turns a hash into a slot.
size_t table_size(size_t n, int& shift) {
  const size_t size = std::bit_ceil(std::max<size_t>(2 * n, 16));
  shift = 64 - std::countr_zero(size);
  return size;
}

/// Number of symbols equal to `symbol` from `at` on, at most `limit`. Reads four symbols at a time.
size_t run_length(const Symbol* at, size_t limit, Symbol symbol) {
  const uint64_t pattern = symbol * uint64_t{0x0001000100010001};
  for (size_t n = 0; n < limit; n += 4) {
    uint64_t four;
    std::memcpy(&four, at + n, sizeof four);
    const uint64_t differing = four ^ pattern;
    if (differing != 0) {
      const int zeros =
          std::endian::native == std::endian::little ? std::countr_zero(differing) : std::countl_zero(differing);
      return std::min(limit, n + static_cast<size_t>(zeros) / 16);
    }
  }
  return limit;
}

}  // namespace

BpeEncoder::BpeEncoder(const MergeTable& table, Symbol run_symbol) : run_symbol_(run_symbol) {
  for (int t = 0; t < table.vocab_size(); ++t)
    lengths_.push_back(static_cast<uint32_t>(table.expansion_length(static_cast<TokenId>(t))));
  std::vector<TokenId> token_at;
  std::vector<Edge> edges = build_trie(table, token_at);
  number_nodes(std::move(edges), token_at);
  build_pair_verdicts(table);
}

/// Inserts every expansion; returns the edges, and the token that ends at each node.
std::vector<BpeEncoder::Edge> BpeEncoder::build_trie(const MergeTable& table, std::vector<TokenId>& token_at) {
  const auto vocab = static_cast<size_t>(table.vocab_size());
  const auto alphabet = static_cast<size_t>(table.alphabet_size());
  std::vector<Edge> edges;
  std::vector<uint32_t> slots(1024, kNoNode);  // indices into edges
  int shift = 64 - 10;
  auto find_slot = [&](uint32_t node, Symbol symbol) {
    size_t i = hash_edge(edge_key(node, symbol)) >> shift;
    while (slots[i] != kNoNode && (edges[slots[i]].node != node || edges[slots[i]].symbol != symbol))
      i = (i + 1) & (slots.size() - 1);
    return i;
  };
  token_at.assign(1, kNoToken);  // node 0 is the root
  std::vector<uint32_t> end_node(vocab);
  for (size_t t = 0; t < vocab; ++t) {
    const bool is_symbol = t < alphabet;
    const auto token = static_cast<TokenId>(t);
    uint32_t node = is_symbol ? 0 : end_node[table.parts(token).left];
    const auto rest = table.expansion(is_symbol ? token : table.parts(token).right);
    for (const Symbol symbol : rest) {
      size_t slot = find_slot(node, symbol);
      if (slots[slot] == kNoNode) {
        if (2 * edges.size() >= slots.size()) {
          slots.assign(table_size(2 * edges.size(), shift), kNoNode);
          for (size_t e = 0; e < edges.size(); ++e)
            slots[find_slot(edges[e].node, edges[e].symbol)] = static_cast<uint32_t>(e);
          slot = find_slot(node, symbol);
        }
        slots[slot] = static_cast<uint32_t>(edges.size());
        edges.push_back({node, symbol, static_cast<uint32_t>(token_at.size())});
        token_at.push_back(kNoToken);
      }
      node = edges[slots[slot]].child;
    }
    end_node[t] = node;
    token_at[node] = token;
  }
  return edges;
}

/// Renumbers the nodes depth first with the run symbol's child first, so that the node after k run symbols is
/// node + k; then fills everything that is looked up by node.
void BpeEncoder::number_nodes(std::vector<Edge> edges, const std::vector<TokenId>& token_at) {
  // Run symbol first among a node's children; they are pushed in reverse and popped in order.
  std::sort(edges.begin(), edges.end(), [this](const Edge& a, const Edge& b) {
    if (a.node != b.node) return a.node < b.node;
    return (a.symbol == run_symbol_ ? -1 : a.symbol) < (b.symbol == run_symbol_ ? -1 : b.symbol);
  });
  std::vector<size_t> first_edge(token_at.size() + 1, edges.size());
  for (size_t e = edges.size(); e-- > 0;) first_edge[edges[e].node] = e;
  for (size_t n = token_at.size(); n-- > 0;) first_edge[n] = std::min(first_edge[n], first_edge[n + 1]);

  best_.assign(token_at.size(), kNoToken);
  run_below_.assign(token_at.size(), 0);
  shorter_.assign(lengths_.size(), kNoToken);
  edges_.assign(table_size(edges.size(), edge_shift_), kNoEdge);

  struct Visit {
    uint32_t old_node, new_parent;
    Symbol symbol;
  };
  std::vector<Visit> stack = {{0, kNoNode, 0}};
  std::vector<Edge> run_edges;
  uint32_t next = 0;
  while (!stack.empty()) {
    const Visit visit = stack.back();
    stack.pop_back();
    const uint32_t node = next++;
    const TokenId above = visit.new_parent == kNoNode ? kNoToken : best_[visit.new_parent];
    const TokenId here = token_at[visit.old_node];
    best_[node] = here != kNoToken ? here : above;
    if (here != kNoToken) shorter_[here] = above;
    if (visit.new_parent != kNoNode) {
      if (visit.symbol == run_symbol_) run_edges.push_back({visit.new_parent, visit.symbol, node});
      const uint64_t key = edge_key(visit.new_parent, visit.symbol);
      size_t i = hash_edge(key) >> edge_shift_;
      while (edges_[i] != kNoEdge) i = (i + 1) & (edges_.size() - 1);
      edges_[i] = key << 24 | node;
    }
    for (size_t e = first_edge[visit.old_node + 1]; e-- > first_edge[visit.old_node];)
      stack.push_back({edges[e].child, node, edges[e].symbol});
  }
  for (size_t e = run_edges.size(); e-- > 0;)  // children are numbered after their parents
    run_below_[run_edges[e].node] = static_cast<uint16_t>(run_below_[run_edges[e].child] + 1);
  roots_.clear();
  for (Symbol s = 0; static_cast<size_t>(s) < lengths_.size(); ++s) {
    const uint32_t node = child(0, s);
    if (node == kNoNode) break;  // past the alphabet
    roots_.push_back(node);
  }
}

/// Marks (a, b) for every merge (x, y) that would be made across their boundary: x ends a, y begins b, and both
/// are still whole when the merge's turn comes. See MergeTable::encodes_to_itself for the comparison.
void BpeEncoder::build_pair_verdicts(const MergeTable& table) {
  const auto vocab = static_cast<size_t>(table.vocab_size());
  const auto alphabet = table.alphabet_size();
  struct Owner {
    TokenId token, until;  // `until`: the merge that swallows the piece within this token
  };
  std::vector<std::vector<Owner>> ends_with(vocab), begins_with(vocab);
  for (size_t t = 0; t < vocab; ++t) {
    const auto token = static_cast<TokenId>(t);
    for (TokenId piece = token, until = kNoToken;;) {
      ends_with[piece].push_back({token, until});
      if (piece < alphabet) break;
      until = piece;
      piece = table.parts(piece).right;
    }
    for (TokenId piece = token, until = kNoToken;;) {
      begins_with[piece].push_back({token, until});
      if (piece < alphabet) break;
      until = piece;
      piece = table.parts(piece).left;
    }
  }
  verdict_words_ = (vocab + 63) / 64;
  verdicts_.assign(vocab * verdict_words_, 0);
  std::vector<uint64_t> row(verdict_words_);
  for (size_t m = 0; m < table.merges().size(); ++m) {
    const Merge merge = table.merges()[m];
    const auto rank = static_cast<TokenId>(static_cast<size_t>(alphabet) + m);
    const auto &before = ends_with[merge.left], &after = begins_with[merge.right];
    auto mark = [&](uint64_t* bits) {
      for (const Owner& b : after)
        if (rank <= b.until) bits[b.token / 64U] |= uint64_t{1} << (b.token % 64U);
    };
    const bool by_row = after.size() > verdict_words_;  // then one row of bits, or-ed into all, is cheaper
    if (by_row) {
      std::fill(row.begin(), row.end(), 0);
      mark(row.data());
    }
    for (const Owner& a : before) {
      if (rank >= a.until) continue;
      uint64_t* const bits = verdicts_.data() + a.token * verdict_words_;
      if (by_row)
        for (size_t w = 0; w < verdict_words_; ++w) bits[w] |= row[w];
      else
        mark(bits);
    }
  }
}

uint32_t BpeEncoder::child(uint32_t node, Symbol symbol) const {
  const uint64_t key = edge_key(node, symbol);
  for (size_t i = hash_edge(key) >> edge_shift_;; i = (i + 1) & (edges_.size() - 1)) {
    const uint64_t edge = edges_[i];
    if (edge >> 24 == key) return static_cast<uint32_t>(edge & 0xFFFFFF);
    if (edge == kNoEdge) return kNoNode;
  }
}

TokenId BpeEncoder::longest_match(const Symbol* at, const Symbol* end) const {
  uint32_t node = roots_[*at];
  for (++at; at < end;) {
    if (*at == run_symbol_) {
      const size_t below = run_below_[node];
      if (below == 0) break;
      const size_t run = run_length(at, std::min(below, static_cast<size_t>(end - at)), run_symbol_);
      node += static_cast<uint32_t>(run);
      at += run;
    } else {
      const uint32_t next = child(node, *at);
      if (next == kNoNode) break;
      node = next;
      ++at;
    }
  }
  return best_[node];
}

void BpeEncoder::encode(std::span<const Symbol> symbols, EncodeScratch& scratch) const {
  std::vector<TokenId>& tokens = scratch.tokens;
  std::vector<uint64_t>& dead_ends = scratch.dead_ends;
  tokens.clear();
  const size_t n = symbols.size();
  if (n == 0) return;
  dead_ends.assign(n / 64 + 1, 0);
  const Symbol* const begin = symbols.data();
  const Symbol* const end = begin + n;
  size_t position = 0;
  TokenId token = longest_match(begin, end);
  for (;;) {
    const size_t next = position + lengths_[token];
    const bool dead = (dead_ends[next / 64] >> (next % 64) & 1) != 0;
    if (!dead && (tokens.empty() || may_follow(tokens.back(), token))) {
      tokens.push_back(token);
      position = next;
      if (position == n) return;
      token = longest_match(begin + position, end);
    } else if (shorter_[token] != kNoToken) {
      token = shorter_[token];
    } else {
      if (tokens.empty()) throw std::logic_error("BPE encoder: no encoding exists; the merge table is inconsistent");
      dead_ends[position / 64] |= uint64_t{1} << (position % 64);
      token = tokens.back();
      tokens.pop_back();
      position -= lengths_[token];
    }
  }
}

}  // namespace fast_tokenizer
