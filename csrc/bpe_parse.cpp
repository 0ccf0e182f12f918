#include "bpe_parse.hpp"

#include <algorithm>
#include <numeric>

namespace fast_tokenizer {

OptimalParser::OptimalParser(const MergeTable& table, Symbol run_symbol) : run_symbol_(run_symbol) {
  std::vector<TokenId> sorted(static_cast<size_t>(table.vocab_size()));
  std::iota(sorted.begin(), sorted.end(), TokenId{0});
  for (const TokenId t : sorted) lengths_.push_back(static_cast<uint32_t>(table.expansion_length(t)));
  std::sort(sorted.begin(), sorted.end(), [&](TokenId a, TokenId b) {
    const auto left = table.expansion(a), right = table.expansion(b);
    return std::lexicographical_compare(left.begin(), left.end(), right.begin(), right.end());
  });

  struct Range {
    size_t begin, end;  // sorted tokens that begin as the node does
    size_t depth;
  };
  std::vector<Range> ranges = {{0, sorted.size(), 0}};
  nodes_.emplace_back();
  for (size_t n = 0; n < nodes_.size(); ++n) {  // breadth first: so children lie side by side
    auto [begin, end, depth] = ranges[n];
    // Of tokens that are spelled alike the first merged stands for all.
    for (; begin < end && table.expansion(sorted[begin]).size() == depth; ++begin)
      nodes_[n].token = std::min(nodes_[n].token, sorted[begin]);
    nodes_[n].first_child = static_cast<uint32_t>(nodes_.size());
    while (begin < end) {
      const Symbol symbol = table.expansion(sorted[begin])[depth];
      size_t next = begin;
      while (next < end && table.expansion(sorted[next])[depth] == symbol) ++next;
      nodes_.push_back({0, 0, symbol, kNoToken});
      ranges.push_back({begin, next, depth + 1});
      ++nodes_[n].children;
      begin = next;
    }
  }

  for (uint32_t node = 0; node != kNoNode; node = child(node, run_symbol)) {
    const auto length = static_cast<uint32_t>(run_nodes_.size());
    run_nodes_.push_back(node);
    if (nodes_[node].token != kNoToken) run_tokens_.push_back({length, nodes_[node].token});
  }
}

uint32_t OptimalParser::child(uint32_t node, Symbol symbol) const {
  const auto begin = nodes_.begin() + nodes_[node].first_child, end = begin + nodes_[node].children;
  const auto found =
      std::lower_bound(begin, end, symbol, [](const Node& child, Symbol wanted) { return child.symbol < wanted; });
  return found != end && found->symbol == symbol ? static_cast<uint32_t>(found - nodes_.begin()) : kNoNode;
}

size_t OptimalParser::parse(std::span<const Symbol> symbols, TokenId* tokens, ParseScratch& scratch) const {
  const size_t size = symbols.size();
  ParseScratch::Step* const steps = scratch.steps_.reserve(size + 1);
  steps[size] = {0, 0, kNoToken};
  for (size_t i = size; i-- > 0;) {
    ParseScratch::Step& best = steps[i];
    best = {~uint32_t{0}, symbols[i] == run_symbol_ ? steps[i + 1].run + 1 : 0, kNoToken};
    auto consider = [&](size_t length, TokenId token) {  // called with rising lengths
      const uint32_t tokens_needed = steps[i + length].tokens + 1;
      if (tokens_needed > best.tokens) return;
      best.tokens = tokens_needed;
      best.token = token;
    };
    // Tokens within the run that begins here; then those that go on behind it, which take all of it.
    for (const RunToken& run : run_tokens_) {
      if (run.length > best.run) break;
      consider(run.length, run.token);
    }
    if (best.run >= run_nodes_.size()) continue;
    uint32_t node = run_nodes_[best.run];
    for (size_t at = i + best.run; at < size; ++at) {
      node = child(node, symbols[at]);
      if (node == kNoNode) break;
      if (nodes_[node].token != kNoToken) consider(at + 1 - i, nodes_[node].token);
    }
  }
  size_t count = 0;
  for (size_t i = 0; i < size; i += lengths_[tokens[count - 1]]) tokens[count++] = steps[i].token;
  return count;
}

}  // namespace fast_tokenizer
