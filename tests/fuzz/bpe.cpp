// Training, encoding and parsing beside what their definitions say.
#include "cases.hpp"

using namespace fast_tokenizer;
using namespace fast_tokenizer::fuzz;

namespace {

/// Shards of the corpus, split at any place, that go over to the index at any time.
std::vector<CorpusShard> shards_from(Input& in, const std::vector<Symbols>& corpus, int alphabet_size) {
  const auto memory = std::make_shared<BudgetedMemory>();
  std::vector<CorpusShard> shards;
  shards.reserve(4);
  for (size_t next = 0; next < corpus.size() || shards.empty();) {
    WordWriter writer(memory, in.one_of<size_t>({1, 16, 1 << 10}));
    for (size_t n = in.between<size_t>(0, 3); n > 0 && next < corpus.size(); --n)
      writer.append(corpus[next++], [](Symbol, size_t) {});
    const auto pass_share = in.one_of<size_t>({CorpusShard::kPassShare, 0, 3, size_t{1} << 40});
    shards.emplace_back(alphabet_size, writer.take(), memory, pass_share);
    if (shards.size() == 3)  // the last takes the rest
      while (next < corpus.size()) {
        WordWriter rest(memory);
        while (next < corpus.size()) rest.append(corpus[next++], [](Symbol, size_t) {});
        shards.emplace_back(alphabet_size, rest.take(), memory, pass_share);
      }
  }
  return shards;
}

std::vector<Pair> pairs_of(const std::vector<Merge>& merges) {
  std::vector<Pair> pairs;
  for (const Merge m : merges) pairs.emplace_back(m.left, m.right);
  return pairs;
}

std::vector<RawMerge> trained(Input& in, int alphabet_size) {
  std::vector<Symbols> corpus;
  for (size_t n = in.between<size_t>(0, 6); n > 0; --n) corpus.push_back(symbols_from(in, alphabet_size, 60));
  TrainOptions options;
  options.vocab_size = alphabet_size + in.between(0, 20);
  options.min_frequency = in.between(0, 3);
  options.max_token_symbols = in.one_of({1024, 1, 2, 5, 8});
  options.num_threads = 1;
  const auto wanted = train_naively(corpus, alphabet_size, options).merges;
  std::vector<CorpusShard> shards = shards_from(in, corpus, alphabet_size);
  expect(pairs_of(train_bpe(shards, alphabet_size, options)) == wanted, "merges are those of the naive trainer");
  std::vector<RawMerge> merges;
  for (const auto& [left, right] : wanted) merges.push_back({left, right});
  return merges;
}

/// By how many tokens the sequence can be spelled at least.
size_t fewest_tokens(const MergeTable& table, const Symbols& symbols) {
  std::vector<size_t> fewest(symbols.size() + 1, 0);
  for (size_t i = symbols.size(); i-- > 0;) {
    fewest[i] = symbols.size();
    for (int t = 0; t < table.vocab_size(); ++t) {
      const auto token = table.expansion(static_cast<TokenId>(t));
      if (token.size() <= symbols.size() - i &&
          std::equal(token.begin(), token.end(), symbols.begin() + static_cast<ptrdiff_t>(i)))
        fewest[i] = std::min(fewest[i], 1 + fewest[i + token.size()]);
    }
  }
  return fewest[0];
}

void check_spelling(const MergeTable& table, const std::vector<TokenId>& tokens, const Symbols& symbols) {
  Symbols spelled;
  for (const TokenId t : tokens) {
    const auto expansion = table.expansion(t);
    spelled.insert(spelled.end(), expansion.begin(), expansion.end());
  }
  expect(spelled == symbols, "tokens spell the symbols");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input in(data, size);
  const int alphabet_size = in.between(1, 12);
  const std::vector<RawMerge> merges = in.one_in(6) ? trained(in, alphabet_size) : grown_merges(in, alphabet_size, 20);
  const MergeTable table(alphabet_size, merges);
  const Ranks ranks = ranks_of(table);
  const auto run_symbol = in.between<Symbol>(0, static_cast<Symbol>(alphabet_size - 1));
  const BpeEncoder encoder(table, run_symbol);
  const OptimalParser parser(table, run_symbol);
  EncodeScratch encode_scratch;
  ParseScratch parse_scratch;
  for (int i = 0; i < 3; ++i) {
    Symbols symbols = symbols_from(in, alphabet_size, 80);
    symbols.shrink_to_fit();
    std::vector<TokenId> tokens(symbols.size());
    tokens.resize(encoder.encode(symbols, tokens.data(), encode_scratch));
    check_spelling(table, tokens, symbols);
    expect(Tokens(tokens.begin(), tokens.end()) == encode_naively(tokens_of(symbols), ranks),
           "tokens are those of greedy merging");
    tokens.resize(symbols.size());
    tokens.resize(parser.parse(symbols, tokens.data(), parse_scratch));
    check_spelling(table, tokens, symbols);
    expect(tokens.size() == fewest_tokens(table, symbols), "an optimal parse has the fewest tokens");
  }
  return 0;
}
