#include "bpe_encode.hpp"

#include <algorithm>
#include <bit>
#include <stdexcept>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace fast_tokenizer {
namespace {

constexpr uint64_t kNoEdge = ~uint64_t{0};
constexpr uint32_t kNoNode = ~uint32_t{0};
constexpr Symbol kNoSymbol = 0xFFFF;
static_assert(kMaxTableSymbols < 1 << 24, "a trie node must fit 24 bits");

uint64_t edge_key(uint32_t node, Symbol symbol) { return uint64_t{node} << 16 | symbol; }
uint64_t hash_edge(uint64_t key) { return key * 0x9E3779B97F4A7C15ULL; }

/// Power of two at least twice `n`, and the shift that turns a hash into a slot.
size_t table_size(size_t n, int& shift) {
  const size_t size = std::bit_ceil(std::max<size_t>(2 * n, 16));
  shift = 64 - std::countr_zero(size);
  return size;
}

/// Bit i: symbols[i] is not `symbol`, for up to 64 symbols.
uint64_t differing(const Symbol* symbols, size_t count, Symbol symbol) {
  uint64_t bits = 0;
#ifdef __SSE2__
  if (count == 64) {
    const __m128i pattern = _mm_set1_epi16(static_cast<short>(symbol));
    for (int part = 0; part < 4; ++part) {
      const auto* at = reinterpret_cast<const __m128i*>(symbols) + 2 * part;
      const __m128i low = _mm_cmpeq_epi16(_mm_loadu_si128(at), pattern);
      const __m128i high = _mm_cmpeq_epi16(_mm_loadu_si128(at + 1), pattern);
      bits |= uint64_t{static_cast<uint16_t>(_mm_movemask_epi8(_mm_packs_epi16(low, high)))} << (16 * part);
    }
    return ~bits;
  }
#endif
  for (size_t i = 0; i < count; ++i) bits |= uint64_t{symbols[i] != symbol} << i;
  return bits;
}

/// Longest runs that are tabulated once and for all; longer ones are tabulated by whoever meets them. (Fuzzing sets it
/// lower: most of its time would go into the table, and no input would have longer runs.)
#ifndef FAST_TOKENIZER_TABULATED_RUN
#define FAST_TOKENIZER_TABULATED_RUN 16384
#endif
constexpr size_t kTabulatedRun = FAST_TOKENIZER_TABULATED_RUN;

}  // namespace

BpeEncoder::BpeEncoder(const MergeTable& table, Symbol run_symbol)
    : BpeEncoder(table, run_symbol, table.alphabet_size(), [&table](TokenId t) { return table.expansion(t); }) {}

BpeEncoder::BpeEncoder(const MergeTable& table, Symbol run_symbol, int alphabet_size, const Spelling& spelling)
    : run_symbol_(run_symbol) {
  for (int t = 0; t < table.vocab_size(); ++t) {
    const auto symbols = spelling(static_cast<TokenId>(t));
    const auto tail = std::find_if(symbols.rbegin(), symbols.rend(), [=](Symbol s) { return s != run_symbol; });
    const auto runs = std::count(symbols.begin(), symbols.end(), run_symbol);
    tokens_.push_back({static_cast<uint16_t>(symbols.size()),
                       static_cast<uint16_t>(symbols.size() - static_cast<size_t>(runs)),
                       static_cast<uint16_t>(tail - symbols.rbegin()), kNoToken, 0, 0});
  }
  std::vector<TokenId> token_at;
  none_ = static_cast<TokenId>(tokens_.size());
  tokens_.push_back({0, 0, 0, none_, 0, 0});
  std::vector<Edge> edges = build_trie(table, spelling, token_at);
  edges = number_nodes(std::move(edges), token_at);
  store_edges(edges);
  enter_symbols(edges, alphabet_size);
  build_pair_verdicts(table);
  tabulate_runs(runs_, kTabulatedRun);
}

/// Inserts every spelling; returns the edges, and the token that ends at each node.
std::vector<BpeEncoder::Edge> BpeEncoder::build_trie(const MergeTable& table, const Spelling& spelling,
                                                     std::vector<TokenId>& token_at) {
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
    const auto token = static_cast<TokenId>(t);
    std::span<const Symbol> rest = spelling(token);
    if (rest.empty()) continue;
    uint32_t node = 0;
    if (t >= alphabet) {  // go on from where the left part ends, if the token is spelled as its parts are
      const TokenId left = table.parts(token).left;
      const size_t length = tokens_[left].length;
      if (length > 0 && length + tokens_[table.parts(token).right].length == rest.size()) {
        node = end_node[left];
        rest = rest.subspan(length);
      }
    }
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
/// node + k; fills what is looked up by node, and returns the other edges by their new numbers.
std::vector<BpeEncoder::Edge> BpeEncoder::number_nodes(std::vector<Edge> edges, const std::vector<TokenId>& token_at) {
  // Run symbol first among a node's children; they are pushed in reverse and popped in order.
  std::sort(edges.begin(), edges.end(), [this](const Edge& a, const Edge& b) {
    if (a.node != b.node) return a.node < b.node;
    return (a.symbol == run_symbol_ ? -1 : a.symbol) < (b.symbol == run_symbol_ ? -1 : b.symbol);
  });
  std::vector<size_t> first_edge(token_at.size() + 1, edges.size());
  for (size_t e = edges.size(); e-- > 0;) first_edge[edges[e].node] = e;
  for (size_t n = token_at.size(); n-- > 0;) first_edge[n] = std::min(first_edge[n], first_edge[n + 1]);

  nodes_.assign(token_at.size(), {none_, 0});

  struct Visit {
    uint32_t old_node, new_parent;
    Symbol symbol;
  };
  std::vector<Visit> stack = {{0, kNoNode, 0}};
  std::vector<Edge> run_edges, other_edges;
  uint32_t next = 0;
  while (!stack.empty()) {
    const Visit visit = stack.back();
    stack.pop_back();
    const uint32_t node = next++;
    const TokenId above = visit.new_parent == kNoNode ? none_ : nodes_[visit.new_parent].best;
    const TokenId here = token_at[visit.old_node];
    nodes_[node].best = here != kNoToken ? here : above;
    if (here != kNoToken) tokens_[here].shorter = above;
    if (visit.new_parent != kNoNode) {
      (visit.symbol == run_symbol_ ? run_edges : other_edges).push_back({visit.new_parent, visit.symbol, node});
    }
    for (size_t e = first_edge[visit.old_node + 1]; e-- > first_edge[visit.old_node];)
      stack.push_back({edges[e].child, node, edges[e].symbol});
  }
  for (size_t e = run_edges.size(); e-- > 0;)  // children are numbered after their parents
    nodes_[run_edges[e].node].run_below = static_cast<uint16_t>(nodes_[run_edges[e].child].run_below + 1);
  return other_edges;
}

/// Cuckoo hashing: an edge lies in one of two slots, so that looking for one takes no branch.
void BpeEncoder::store_edges(const std::vector<Edge>& edges) {
  size_t size = std::bit_ceil(std::max<size_t>(2 * edges.size(), 16));
  for (;; size *= 2) {
    edge_shift_ = 64 - std::countr_zero(size);
    edges_.assign(size, kNoEdge);
    const bool all = std::all_of(edges.begin(), edges.end(), [this](const Edge& e) {
      uint64_t edge = edge_key(e.node, e.symbol) << 24 | e.child;
      size_t slot = first_slot(edge >> 24);
      for (int moved = 0; moved < 500; ++moved) {
        std::swap(edge, edges_[slot]);
        if (edge == kNoEdge) return true;
        const uint64_t key = edge >> 24;
        slot = slot == first_slot(key) ? second_slot(key) : first_slot(key);
      }
      return false;
    });
    if (all) return;
  }
}

/// Notes at which nodes each symbol follows a run that begins a token, and the tokens that are such runs.
void BpeEncoder::enter_symbols(const std::vector<Edge>& edges, int alphabet_size) {
  const uint32_t longest_run = nodes_[0].run_below;  // the node after k run symbols is k
  entries_.assign(static_cast<size_t>(alphabet_size), {0, 0});
  for (const Edge& e : edges)
    if (e.node <= longest_run)
      entries_[e.symbol].most = std::max(entries_[e.symbol].most, static_cast<uint16_t>(e.node));
  uint32_t size = 0;
  for (Entry& entry : entries_) {
    entry.first = size;
    size += entry.most + 1U;
  }
  starts_.assign(size, kNoNode);
  for (const Edge& e : edges)
    if (e.node <= longest_run) starts_[entries_[e.symbol].first + e.node] = e.child;
  for (TokenId t = nodes_[longest_run].best; t != none_; t = tokens_[t].shorter) run_tokens_.push_back(t);
}

/// Continues the table up to runs of `longest`. A run's encoding without its first token is a shorter run's, and of all
/// tokens just one leads to a sequence in which all neighbours may stand together.
void BpeEncoder::tabulate_runs(std::vector<RunEnds>& runs, size_t longest) const {
  if (runs.empty()) runs.push_back({none_, none_});
  size_t fitting = run_tokens_.size();  // from here on, tokens are no longer than n
  for (size_t n = runs.size(); n <= longest; ++n) {
    while (fitting > 0 && tokens_[run_tokens_[fitting - 1]].length <= n) --fitting;
    RunEnds ends = {none_, none_};
    for (size_t i = fitting; i < run_tokens_.size() && ends.first == none_; ++i) {
      const TokenId t = run_tokens_[i];
      const RunEnds& rest = runs[n - tokens_[t].length];
      if (may_follow(t, rest.first)) ends = {t, rest.last == none_ ? t : rest.last};
    }
    if (ends.first == none_) throw std::logic_error("BPE encoder: a run has no encoding; the table is inconsistent");
    runs.push_back(ends);
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
  verdicts_ = BitMatrix(vocab + 1, vocab + 1);  // with none_
  std::vector<uint64_t> row(verdicts_.words());
  for (size_t m = 0; m < table.merges().size(); ++m) {
    const Merge merge = table.merges()[m];
    const auto rank = static_cast<TokenId>(static_cast<size_t>(alphabet) + m);
    const auto &before = ends_with[merge.left], &after = begins_with[merge.right];
    auto mark = [&](uint64_t* bits) {
      for (const Owner& b : after)
        if (rank <= b.until) bits[b.token / 64U] |= uint64_t{1} << (b.token % 64U);
    };
    const bool by_row = after.size() > row.size();  // then one row of bits, or-ed into all, is cheaper
    if (by_row) {
      std::fill(row.begin(), row.end(), 0);
      mark(row.data());
    }
    for (const Owner& a : before) {
      if (rank >= a.until) continue;
      uint64_t* const bits = verdicts_.row(a.token);
      if (by_row)
        for (size_t w = 0; w < row.size(); ++w) bits[w] |= row[w];
      else
        mark(bits);
    }
  }
  const std::vector<uint16_t> endings = verdicts_.keep_distinct_rows();
  verdicts_ = verdicts_.transposed();
  const std::vector<uint16_t> beginnings = verdicts_.keep_distinct_rows();
  verdicts_ = verdicts_.transposed();
  for (size_t t = 0; t < tokens_.size(); ++t) {
    tokens_[t].ending = endings[t];
    tokens_[t].beginning = beginnings[t];
  }
}

inline uint32_t BpeEncoder::child(uint32_t node, Symbol symbol) const {
  const uint64_t key = edge_key(node, symbol);
  const uint64_t first = edges_[first_slot(key)], second = edges_[second_slot(key)];
  if (first >> 24 == key) return static_cast<uint32_t>(first & 0xFFFFFF);
  return second >> 24 == key ? static_cast<uint32_t>(second & 0xFFFFFF) : kNoNode;
}

/// The table of runs, continued as far as a run in this sequence can be long.
const RunEnds* BpeEncoder::runs_up_to(size_t longest, EncodeScratch& scratch) const {
  if (longest < runs_.size()) return runs_.data();
  if (longest >= scratch.long_runs_.size()) {
    if (scratch.long_runs_.empty()) scratch.long_runs_ = runs_;
    tabulate_runs(scratch.long_runs_, longest);
  }
  return scratch.long_runs_.data();
}

/// Lists the symbols that are not the run symbol, and the end as if it were one more; returns how many come before it.
/// Looks their tokens up as well where they are few: nothing here waits for the result of an earlier symbol, as the
/// walk does. Among many, most tokens begin at none of them, and the walk looks up the others itself.
uint32_t BpeEncoder::list_others(std::span<const Symbol> symbols, EncodeScratch::Other* others) const {
  const size_t size = symbols.size();
  uint32_t count = 0, start = 0;
  for (size_t base = 0; base < size; base += 64) {
    for (uint64_t bits = differing(symbols.data() + base, std::min<size_t>(64, size - base), run_symbol_); bits != 0;
         bits &= bits - 1) {
      const auto at = static_cast<uint32_t>(base) + static_cast<uint32_t>(std::countr_zero(bits));
      others[count++] = {start, at - start, symbols[at], 0, none_};
      start = at + 1;
    }
  }
  others[count] = {start, static_cast<uint32_t>(size) - start, kNoSymbol, 0, none_};
  const bool ahead = 2 * count < size;
  for (uint32_t i = 0; i < count; ++i) {
    const uint32_t most = entries_[others[i].symbol].most;
    others[i].taken = static_cast<uint16_t>(std::min(others[i].run, most));
    others[i].match = ahead ? match(others + i, others[i].taken) : kNoToken;
  }
  return count;
}

/// Longest token that begins with `taken` run symbols and this other symbol. Where no token does, one that is shorter.
inline TokenId BpeEncoder::match(const EncodeScratch::Other* other, uint32_t taken) const {
  uint32_t node = starts_[entries_[other->symbol].first + taken];
  if (node == kNoNode) return none_;
  for (;;) {
    ++other;
    const uint32_t below = nodes_[node].run_below;
    if (other->run > below) return nodes_[node + below].best;
    node += other->run;
    const uint32_t next = child(node, other->symbol);
    if (next == kNoNode) return nodes_[node].best;
    node = next;
  }
}

size_t BpeEncoder::encode(std::span<const Symbol> symbols, TokenId* tokens, EncodeScratch& scratch) const {
  const std::optional<size_t> count = try_encode(symbols, tokens, scratch);
  if (!count) throw std::logic_error("BPE encoder: no encoding exists; the merge table is inconsistent");
  return *count;
}

std::optional<size_t> BpeEncoder::try_encode(std::span<const Symbol> symbols, TokenId* tokens,
                                             EncodeScratch& scratch) const {
  using Other = EncodeScratch::Other;
  using Step = EncodeScratch::Step;
  const size_t size = symbols.size();
  Other* const others = scratch.others_.reserve(size + 1);
  const uint32_t end = list_others(symbols, others);
  Step* const steps = scratch.steps_.reserve(size);
  uint64_t* const dead_ends = scratch.dead_ends_.reserve(size / 64 + 1);  // bit i: no token can begin at symbol i
  std::fill_n(dead_ends, size / 64 + 1, 0);
  const RunEnds* const runs = runs_up_to(size, scratch);
  const Token* const shapes = tokens_.data();

  uint32_t count = 0, depth = 0;    // of tokens, and of steps
  uint32_t other = 0, skipped = 0;  // where the walk is: the next other symbol, and run symbols passed before it
  uint32_t run = 0, taken = 0;      // run symbols to go, and how many of them the candidate takes
  TokenId token = none_;            // the candidate
  TokenId before = none_;           // the token before it, or before the run that the candidate leaves

  auto position = [&] { return size_t{others[other].start} + skipped; };
  auto admissible = [&] {
    const uint32_t alone = run - taken;
    const size_t next = position() + alone + shapes[token].length;
    const uint64_t alive = ~dead_ends[next / 64] >> (next % 64);
    if (alone == 0) return (verdict(before, token) & alive & 1) != 0;
    return (verdict(before, runs[alone].first) & verdict(runs[alone].last, token) & alive & 1) != 0;
  };
  auto take_longest = [&] {
    taken = others[other].taken;
    token = others[other].match;
    if (skipped > 0 || token == kNoToken) {
      taken = std::min(run, taken);
      token = match(others + other, taken);
    }
    return shapes[token].length > taken && admissible();
  };
  // Goes on to shorter tokens, then to those that take less of the run.
  auto take_next = [&] {
    token = shapes[token].shorter;
    for (;;) {
      for (; shapes[token].length > taken; token = shapes[token].shorter)
        if (admissible()) return true;
      do {
        if (taken == 0) return false;
        --taken;
      } while (!may_follow(before, runs[run - taken].first));
      token = match(others + other, taken);
    }
  };
  auto step_back = [&] {
    dead_ends[position() / 64] |= uint64_t{1} << (position() % 64);
    const Step& step = steps[--depth];
    other = step.other;
    skipped = step.skipped;
    taken = step.taken;
    token = step.token;
    count = step.tokens_before;
    before = count > 0 ? tokens[count - 1] : none_;
    run = others[other].run - skipped;
  };
  auto append_run = [&](uint32_t n) {
    while (n > 0) {
      const TokenId t = runs[n].first;
      tokens[count++] = t;
      n -= shapes[t].length;
    }
  };

  for (;;) {
    run = others[other].run - skipped;
    bool stuck = other == end;
    if (stuck && may_follow(before, runs[run].first)) {
      append_run(run);
      return count;
    }
    if (stuck || !take_longest()) {
      do {
        if (stuck) {
          if (depth == 0) return std::nullopt;
          step_back();
        }
        stuck = !take_next();
      } while (stuck);
    }
    steps[depth++] = {other, count, static_cast<uint16_t>(skipped), static_cast<uint16_t>(taken), token};
    append_run(run - taken);
    tokens[count++] = token;
    before = token;
    other += shapes[token].others;
    skipped = shapes[token].tail;
  }
}

}  // namespace fast_tokenizer
