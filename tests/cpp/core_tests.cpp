// Randomised tests of the C++ core, meant to run under AddressSanitizer and UndefinedBehaviorSanitizer.
//
//   core_tests [iterations] [seed] [part of the names of the tests to run]
//
// Every fast algorithm stands beside a slow one that can be read at a glance: greedy merging, recounting every
// pair, the textbook cosine sum. Buffers are allocated to the exact size that the headers ask for, so that the
// sanitizer sees a read or write one element too far.
#include <algorithm>
#include <bit>
#include <chrono>
#include <climits>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bit_matrix.hpp"
#include "bpe.hpp"
#include "bpe_encode.hpp"
#include "bpe_parse.hpp"
#include "bpe_train.hpp"
#include "codec.hpp"
#include "corpus.hpp"
#include "dct.hpp"
#include "kernels.hpp"
#include "layout.hpp"
#include "levels.hpp"
#include "naive.hpp"
#include "parallel.hpp"
#include "quantize.hpp"
#include "text_codec.hpp"

namespace fast_tokenizer {
namespace {

// ---- Checks -------------------------------------------------------------------------------------

constexpr int kFailuresShown = 10;  // of each test

int failures = 0;    ///< of the test that runs
int iteration = -1;  ///< of the loop that runs in it, or -1

template <typename T>
  requires std::is_arithmetic_v<T>
std::string show(T x) {
  std::ostringstream out;
  out.precision(17);
  out << +x;
  return out.str();
}
std::string show(const std::string& s) { return std::string(1, '"').append(s).append(1, '"'); }
std::string show(std::pair<int, int> p) { return show(p.first).append(", ").append(show(p.second)); }

template <typename T>
std::string difference(const T& got, const T& wanted) {
  return std::string("got ").append(show(got)).append(", wanted ").append(show(wanted));
}
template <typename T>
std::string difference(const std::vector<T>& got, const std::vector<T>& wanted) {
  const size_t shorter = std::min(got.size(), wanted.size());
  size_t i = 0;
  while (i < shorter && got[i] == wanted[i]) ++i;
  const std::string lengths = show(got.size()) + " and " + show(wanted.size()) + " entries, ";
  if (i == shorter) return lengths + "equal as far as both go";
  return lengths + "at " + show(i) + " got " + show(got[i]) + ", wanted " + show(wanted[i]);
}

void fail(const char* file, int line, const char* expression, const std::string& values) {
  if (++failures > kFailuresShown) return;
  const std::string where = iteration < 0 ? "" : " (iteration " + show(iteration) + ")";
  std::printf("%s:%d: %s%s: %s\n", file, line, expression, where.c_str(), values.c_str());
}

template <typename T>
void check_equal(const T& got, const T& wanted, const char* file, int line, const char* expression) {
  if (!(got == wanted)) fail(file, line, expression, difference(got, wanted));
}

/// Fails for NaN too.
template <typename T>
void check_at_most(const T& got, const T& bound, const char* file, int line, const char* expression) {
  if (!(got <= bound)) fail(file, line, expression, "got " + show(got) + ", bound " + show(bound));
}

void check_contains(const std::string& text, const std::string& part, const char* file, int line,
                    const char* expression) {
  if (text.find(part) == std::string::npos) fail(file, line, expression, show(text) + " lacks " + show(part));
}

#define CHECK(condition) check_equal(bool(condition), true, __FILE__, __LINE__, #condition)
#define CHECK_EQUAL(got, wanted) check_equal(got, wanted, __FILE__, __LINE__, #got " == " #wanted)
#define CHECK_AT_MOST(got, bound) check_at_most(got, bound, __FILE__, __LINE__, #got " <= " #bound)
#define CHECK_CONTAINS(text, part) check_contains(text, part, __FILE__, __LINE__, #text " contains " #part)

/// Message of the std::invalid_argument that `action` throws; empty if it throws none.
template <typename Action>
std::string refusal(Action action) {
  try {
    action();
  } catch (const std::exception& e) {
    return e.what();
  }
  return "";
}

template <typename Body>
void repeat(int times, Body body) {
  for (iteration = 0; iteration < times; ++iteration) body();
  iteration = -1;
}

// ---- Random choices, the same on every platform ---------------------------------------------------

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}

  uint64_t bits() { return engine_(); }
  /// Both bounds can be drawn.
  template <typename T>
  T between(T low, T high) {
    return static_cast<T>(low + static_cast<T>(bits() % (static_cast<uint64_t>(high - low) + 1)));
  }
  double real(double low, double high) { return low + (high - low) * static_cast<double>(bits() >> 11) * 0x1p-53; }
  bool chance(double share) { return real(0, 1) < share; }
  template <typename T>
  T one_of(const std::vector<T>& values) {
    return values[between<size_t>(0, values.size() - 1)];
  }

 private:
  std::mt19937_64 engine_;
};

// ---- Random symbols, corpora and tables -----------------------------------------------------------

/// Uniform, constant, periodic, mostly `quiet`, or in runs.
Symbols random_symbols(Random& random, int alphabet_size, size_t length, Symbol quiet) {
  auto any = [&] { return static_cast<Symbol>(random.between(0, alphabet_size - 1)); };
  const int kind = random.between(0, 4);
  Symbols out;
  const Symbol constant = any();
  const auto period = random.between<size_t>(1, 7);
  size_t run = 0;
  while (out.size() < length) {
    const size_t n = out.size();
    switch (kind) {
      case 0:
        out.push_back(any());
        break;
      case 1:
        out.push_back(constant);
        break;
      case 2:
        out.push_back(n < period ? any() : out[n - period]);
        break;
      case 3:
        out.push_back(random.chance(0.9) ? quiet : any());
        break;
      default:
        if (run == 0) run = random.between<size_t>(1, 9);
        out.push_back(--run > 0 && n > 0 ? out.back() : any());
    }
  }
  return out;
}

std::vector<Symbols> random_corpus(Random& random, int alphabet_size, size_t max_sequences, size_t max_length) {
  std::vector<Symbols> corpus(random.between<size_t>(1, max_sequences));
  const auto quiet = static_cast<Symbol>(random.between(0, alphabet_size - 1));
  for (Symbols& s : corpus) s = random_symbols(random, alphabet_size, random.between<size_t>(0, max_length), quiet);
  return corpus;
}

Ragged<Symbol> flattened(const std::vector<Symbols>& corpus) {
  Ragged<Symbol> flat;
  for (const Symbols& s : corpus) {
    flat.values.insert(flat.values.end(), s.begin(), s.end());
    flat.offsets.push_back(static_cast<int64_t>(flat.values.size()));
  }
  return flat;
}

std::vector<Merge> train(const std::vector<Symbols>& corpus, int alphabet_size, const TrainOptions& options,
                         int shards) {
  const Ragged<Symbol> flat = flattened(corpus);
  return train_bpe(RaggedView<Symbol>{flat.values, flat.offsets}, alphabet_size, options, shards);
}

/// Mostly small alphabets, where pairs overlap and ranks tie.
int random_alphabet_size(Random& random) { return random.chance(0.7) ? random.between(1, 5) : random.between(6, 80); }

std::vector<Pair> pairs_of(const std::vector<Merge>& merges) {
  std::vector<Pair> pairs;
  for (const Merge m : merges) pairs.emplace_back(m.left, m.right);
  return pairs;
}

std::vector<RawMerge> raw(const std::vector<Merge>& merges) {
  std::vector<RawMerge> out;
  for (const Merge m : merges) out.push_back({m.left, m.right});
  return out;
}

std::vector<RawMerge> random_merges(Random& random, int alphabet_size, int max_merges) {
  TrainOptions options;
  options.vocab_size = alphabet_size + random.between(0, max_merges);
  options.min_frequency = random.between(1, 2);
  return raw(train(random_corpus(random, alphabet_size, 8, 300), alphabet_size, options, 1));
}

/// Encodes a copy of the symbols, so that reading past their end shows under AddressSanitizer.
Tokens encode(const BpeEncoder& encoder, std::span<const Symbol> symbols) {
  const Symbols copy(symbols.begin(), symbols.end());
  std::vector<TokenId> tokens(symbols.size());
  EncodeScratch scratch;
  const size_t count = encoder.encode(copy, tokens.data(), scratch);
  return tokens_of(std::span(tokens).first(count));
}

Symbols expand(const MergeTable& table, const Tokens& tokens) {
  Symbols out;
  for (const int t : tokens) {
    const auto expansion = table.expansion(static_cast<TokenId>(t));
    out.insert(out.end(), expansion.begin(), expansion.end());
  }
  return out;
}

// ---- 1. BPE training and encoding -----------------------------------------------------------------

void trained_merges_equal_the_naive_trainers(Random& random, int iterations) {
  repeat(iterations, [&] {
    const int alphabet_size = random_alphabet_size(random);
    const auto corpus = random_corpus(random, alphabet_size, 10, 150);
    TrainOptions options;
    options.vocab_size = alphabet_size + random.between(0, 30);
    options.min_frequency = random.between(0, 5);
    options.max_token_symbols = random.one_of<int>({1, 2, 3, 5, 8, 1024});
    options.num_threads = random.between(0, 3);
    const auto wanted = train_naively(corpus, alphabet_size, options).merges;
    for (const int shards : {1, 3, 0}) CHECK_EQUAL(pairs_of(train(corpus, alphabet_size, options, shards)), wanted);
  });
}

void training_stays_exact_when_it_goes_over_to_the_index(Random& random, int iterations) {
  int crossings = 0;
  repeat(iterations / 15 + 5, [&] {
    const int alphabet_size = random.between(2, 30);
    const auto corpus = random_corpus(random, alphabet_size, 30, 400);
    TrainOptions options;
    options.vocab_size = alphabet_size + 60;
    const NaiveTraining wanted = train_naively(corpus, alphabet_size, options);
    crossings += wanted.passes > 0 && wanted.passes + 10 < wanted.merges.size();
    for (const int shards : {1, 3}) CHECK_EQUAL(pairs_of(train(corpus, alphabet_size, options, shards)), wanted.merges);
  });
  CHECK(crossings > 0);
}

/// Enough places for one merge (50,000) that the indexed shards work on threads of their own.
void training_stays_exact_on_threads(Random& random, int) {
  std::vector<Symbols> corpus(16, Symbols(100'000));
  for (Symbols& s : corpus)
    for (Symbol& symbol : s) symbol = static_cast<Symbol>(random.between(0, 4));
  TrainOptions options;
  options.vocab_size = 5 + 3;
  options.num_threads = 4;
  const NaiveTraining wanted = train_naively(corpus, 5, options);
  CHECK_EQUAL(wanted.passes, size_t{0});
  CHECK_EQUAL(pairs_of(train(corpus, 5, options, 4)), wanted.merges);
}

void what_training_cannot_do_is_refused(Random&, int) {
  auto refused = [](const Symbols& symbols, int alphabet_size, int vocab_size, int max_token_symbols) {
    TrainOptions options;
    options.vocab_size = vocab_size;
    options.max_token_symbols = max_token_symbols;
    return refusal([&] { train({symbols}, alphabet_size, options, 1); });
  };
  CHECK_EQUAL(refused({0, 1}, 2, 2, 1), std::string());
  CHECK_CONTAINS(refused({0, 2}, 2, 2, 1), "symbol 2 lies outside the alphabet 0..1");
  CHECK_CONTAINS(refused({0, 1}, 2, 1, 1), "vocab_size 1 is smaller than the alphabet of 2 symbols");
  CHECK_CONTAINS(refused({0, 1}, 2, kMaxVocabSize + 1, 1), "vocab_size must be at most 16384, got 16385");
  for (const int length : {INT_MIN, 0, kMaxTokenSymbols + 1})
    CHECK_CONTAINS(refused({0, 1}, 2, 2, length), "max_token_symbols must lie in 1..16384");
}

using Effect = std::pair<std::map<int, int64_t>, std::map<int, int64_t>>;

Effect apply(CorpusShard& shard, Pair pair, int merged) {
  Effect out;
  const MergeEffect& effect =
      shard.apply({static_cast<TokenId>(pair.first), static_cast<TokenId>(pair.second)}, static_cast<TokenId>(merged));
  effect.for_each_left([&](TokenId p, int64_t n) { out.first[p] += n; });
  effect.for_each_right([&](TokenId q, int64_t n) { out.second[q] += n; });
  return out;
}

/// What the contract says of one merge: neighbours on the left are those after, on the right those before merging.
Effect apply_naively(std::vector<Tokens>& sequences, Pair pair, int merged) {
  Effect effect;
  for (Tokens& tokens : sequences) {
    Tokens out;
    for (size_t i = 0; i < tokens.size(); ++i) {
      if (i + 1 == tokens.size() || Pair(tokens[i], tokens[i + 1]) != pair) {
        out.push_back(tokens[i]);
        continue;
      }
      if (!out.empty()) ++effect.first[out.back()];
      if (i + 2 < tokens.size()) ++effect.second[tokens[i + 2]];
      out.push_back(merged);
      ++i;
    }
    tokens = out;
  }
  return effect;
}

/// Never: a segment has fewer words. At once: after the first pass.
constexpr size_t kNeverIndex = size_t{1} << 40, kIndexAtOnce = 0;

CorpusShard make_shard(const std::vector<Symbols>& corpus, int alphabet_size, size_t segment_words, size_t pass_share,
                       std::shared_ptr<BudgetedMemory> memory = std::make_shared<BudgetedMemory>()) {
  WordWriter writer(memory, segment_words);
  for (const Symbols& s : corpus) writer.append(s, [](Symbol, size_t) {});
  return {alphabet_size, writer.take(), memory, pass_share};
}

std::map<Pair, int64_t> counts_of(const CorpusShard& shard) {
  std::map<Pair, int64_t> out;
  for (const auto& [pair, n] : shard.count_pairs()) out[{left_of(pair), right_of(pair)}] += n;
  return out;
}

std::map<Pair, int64_t> count_naively(const std::vector<Tokens>& sequences) {
  std::map<Pair, int64_t> out;
  for (const Tokens& s : sequences)
    for (size_t i = 0; i + 1 < s.size(); ++i) ++out[{s[i], s[i + 1]}];
  return out;
}

/// Merges here are drawn at random, so a shard also sees pairs that are rare, absent, or made of long tokens.
void check_that_shards_do_what_merging_means(Random& random, const std::vector<Symbols>& corpus, int alphabet_size,
                                             int merges) {
  std::vector<Tokens> plain;
  for (const Symbols& s : corpus) plain.emplace_back(s.begin(), s.end());
  std::vector<CorpusShard> shards;
  for (const size_t share : {kNeverIndex, kIndexAtOnce, size_t{3}, CorpusShard::kPassShare})
    shards.push_back(make_shard(corpus, alphabet_size, random.one_of<size_t>({1, 16, 100, 1 << 17}), share));
  for (const CorpusShard& shard : shards) CHECK(counts_of(shard) == count_naively(plain));
  std::set<Pair> used;
  for (int merged = alphabet_size; merged < alphabet_size + merges; ++merged) {
    Pair pair;
    // Often the symbols of long runs, and the tokens made last.
    const auto id = [&] {
      return random.chance(0.5) ? std::max(0, merged - random.between(1, 3)) : random.between(0, merged - 1);
    };
    do {
      pair = {id(), id()};
      if (random.chance(0.3)) pair.second = pair.first;
    } while (!used.insert(pair).second);
    const Effect wanted = apply_naively(plain, pair, merged);
    for (CorpusShard& shard : shards) CHECK(apply(shard, pair, merged) == wanted);
    CHECK(counts_of(shards[0]) == count_naively(plain));
  }
  CHECK(!shards[0].indexed());
  CHECK(shards[1].indexed());
}

void shards_do_what_merging_means(Random& random, int iterations) {
  repeat(iterations, [&] {
    const int alphabet_size = random.between(1, 5);
    check_that_shards_do_what_merging_means(random, random_corpus(random, alphabet_size, 6, 200), alphabet_size, 20);
  });
}

/// A word counts at most 32,767 repeats.
void runs_may_be_longer_than_a_word_counts(Random& random, int) {
  for (const size_t length : {32'767, 32'768, 32'769, 65'535, 65'536, 65'537, 98'304, 200'001}) {
    std::vector<Symbols> corpus = {Symbols(length, 1), {}, Symbols(length + 1, 1), Symbols(2 * length, 1)};
    corpus[0].push_back(0);
    corpus[2].insert(corpus[2].begin(), {0, 1, 0, 0});
    corpus[3][length] = 0;
    check_that_shards_do_what_merging_means(random, corpus, 2, 6);
    Symbols pairs;  // a run of the token that (0, 1) makes, as long
    for (size_t i = 0; i < length; ++i) pairs.insert(pairs.end(), {0, 1});
    CorpusShard shard = make_shard({pairs}, 2, 1 << 17, kNeverIndex);
    apply(shard, {0, 1}, 2);
    CHECK((counts_of(shard) == std::map<Pair, int64_t>{{{2, 2}, static_cast<int64_t>(length) - 1}}));
  }
}

void a_shard_takes_merges_in_order(Random&, int) {
  CorpusShard shard = make_shard({{0, 1, 0, 1}}, 2, 16, kIndexAtOnce);
  CHECK_CONTAINS(refusal([&] { apply(shard, {0, 1}, 3); }), "expected one into 2, got (0, 1) into 3");
  CHECK_CONTAINS(refusal([&] { apply(shard, {0, 2}, 2); }), "expected one into 2, got (0, 2) into 2");
  apply(shard, {0, 1}, 2);
  CHECK_CONTAINS(refusal([&] { apply(shard, {0, 1}, 2); }), "expected one into 3");
  apply(shard, {1, 1}, 3);
  CHECK_CONTAINS(refusal([&] { shard.count_pairs(); }), "before the first merge");
}

void a_driver_takes_ids_that_exist(Random&, int) {
  MergeDriver driver(2, 9, 1, 8);
  CHECK_CONTAINS(refusal([&] { driver.add_count({pair_key(0, 2), 1}); }), "id 2 does not exist: there are 2");
  driver.add_count({pair_key(0, 1), 3});
  CHECK_EQUAL(driver.next()[0].merged, TokenId{2});
  CHECK_CONTAINS(refusal([&] { driver.add_left(0, 3, 1); }), "id 3 does not exist: there are 3");
  CHECK_CONTAINS(refusal([&] { driver.add_right(0, kEndWord, 1); }), "id 32767 does not exist");
  CHECK_CONTAINS(refusal([&] { driver.add_left(1, 0, 1); }), "there is no pick 1: there are 1");
  CHECK(driver.next().empty());
}

// ---- Memory ---------------------------------------------------------------------------------------

const std::string kTemporary = std::filesystem::temp_directory_path().string();

/// Blocks keep what is written to them, wherever they lie, until they are given back, in any order.
void memory_above_its_budget_holds_what_is_written(Random& random, int) {
  for (const size_t budget : {size_t{0}, size_t{3'000'000}, BudgetedMemory::kUnbounded}) {
    BudgetedMemory memory(budget, kTemporary);
    struct Block {
      unsigned char* data;
      size_t size;
      unsigned char mark;
    };
    std::vector<Block> blocks;
    for (int i = 0; i < 600; ++i) {
      if (!blocks.empty() && random.chance(0.4)) {
        std::swap(blocks[random.between<size_t>(0, blocks.size() - 1)], blocks.back());
        const Block b = blocks.back();
        CHECK(std::all_of(b.data, b.data + b.size, [&](unsigned char c) { return c == b.mark; }));
        memory.deallocate(b.data, b.size);
        blocks.pop_back();
      } else {
        const auto size = random.one_of<size_t>({1, 17, 4096, 300'000, 1 << 20, (1 << 20) + 1, 5'000'000});
        const auto mark = static_cast<unsigned char>(i);
        blocks.push_back({static_cast<unsigned char*>(memory.allocate(size)), size, mark});
        std::fill_n(blocks.back().data, size, mark);
      }
    }
    for (const Block& b : blocks) memory.deallocate(b.data, b.size);
    CHECK_EQUAL(memory.spilled_bytes() > 0, budget != BudgetedMemory::kUnbounded);
  }
}

void a_directory_that_takes_no_files_is_named(Random&, int) {
  BudgetedMemory memory(10, "/no/such/directory");
  memory.deallocate(memory.allocate(10), 10);
  const std::string message = refusal([&] { static_cast<void>(memory.allocate(11)); });
  CHECK_CONTAINS(message, "bytes beyond its memory budget");
  CHECK_CONTAINS(message, "/no/such/directory");
  CHECK_CONTAINS(message, std::generic_category().message(ENOENT));
}

void encoding_equals_greedy_merging(Random& random, int iterations) {
  repeat(iterations, [&] {
    const int alphabet_size = random_alphabet_size(random);
    const MergeTable table(alphabet_size, random_merges(random, alphabet_size, 60));
    const Ranks ranks = ranks_of(table);
    const auto run_symbol = static_cast<Symbol>(random.between(0, alphabet_size - 1));
    const BpeEncoder encoder(table, run_symbol);
    for (int i = 0; i < 10; ++i) {
      const Symbols symbols = random_symbols(random, alphabet_size, random.between<size_t>(0, 200), run_symbol);
      const Tokens tokens = encode(encoder, symbols);
      CHECK_EQUAL(tokens, encode_naively(tokens_of(symbols), ranks));
      CHECK_EQUAL(expand(table, tokens), symbols);
    }
  });
}

/// Short sequences over a small alphabet, all of them: every way two tokens can meet.
void encoding_equals_greedy_merging_on_every_short_sequence(Random& random, int iterations) {
  repeat(iterations / 20 + 2, [&] {
    const int alphabet_size = random.between(1, 3);
    const MergeTable table(alphabet_size, random_merges(random, alphabet_size, 12));
    const Ranks ranks = ranks_of(table);
    const BpeEncoder encoder(table, 0);
    for (Symbols symbols; symbols.size() <= 6;) {
      CHECK_EQUAL(encode(encoder, symbols), encode_naively(tokens_of(symbols), ranks));
      size_t i = 0;  // count up, and start a longer sequence after the last one
      while (i < symbols.size() && ++symbols[i] == alphabet_size) symbols[i++] = 0;
      if (i == symbols.size()) symbols.push_back(0);
    }
  });
}

// ---- 2. Merge tables from hostile files -----------------------------------------------------------

int64_t random_id(Random& random, int64_t own) { return random.between<int64_t>(0, own - 1); }

int64_t hostile_id(Random& random, int64_t own) {
  if (random.chance(0.8)) return random_id(random, own);
  return random.one_of<int64_t>({-1, own, own + 1, 0xFFFE, 0xFFFF, 0x10000, INT64_C(1) << 32, INT64_MIN, INT64_MAX,
                                 static_cast<int64_t>(random.bits())});
}

std::vector<RawMerge> wild_merges(Random& random, int alphabet_size) {
  std::vector<RawMerge> merges(random.between<size_t>(1, 12));
  int64_t own = alphabet_size;
  for (RawMerge& m : merges) {
    m = {hostile_id(random, own), hostile_id(random, own)};
    ++own;
  }
  return merges;
}

/// Ids that exist, so that only duplicates and unreachable tokens are wrong.
std::vector<RawMerge> plausible_merges(Random& random, int alphabet_size) {
  std::vector<RawMerge> merges(random.between<size_t>(1, 6));
  int64_t own = alphabet_size;
  for (RawMerge& m : merges) {
    m = {random_id(random, own), random_id(random, own)};
    ++own;
  }
  return merges;
}

std::vector<RawMerge> spoiled_merges(Random& random, int alphabet_size) {
  std::vector<RawMerge> merges = random_merges(random, alphabet_size, 30);
  for (int spoils = random.between(0, 2); spoils > 0 && !merges.empty(); --spoils) {
    RawMerge& a = merges[random.between<size_t>(0, merges.size() - 1)];
    RawMerge& b = merges[random.between<size_t>(0, merges.size() - 1)];
    switch (random.between(0, 3)) {
      case 0:
        std::swap(a, b);
        break;
      case 1:
        a = b;
        break;
      case 2:
        a.left = hostile_id(random, alphabet_size + 10);
        break;
      default:
        std::swap(a.left, a.right);
    }
  }
  return merges;
}

/// x x, xx xx, ...: fifteen merges make a token that is too long.
std::vector<RawMerge> doubling_merges(Random& random, int alphabet_size) {
  std::vector<RawMerge> merges;
  int64_t token = random_id(random, alphabet_size);
  for (int n = random.between(1, 20); n > 0; --n) {
    merges.push_back({token, token});
    token = alphabet_size + static_cast<int64_t>(merges.size()) - 1;
  }
  return merges;
}

/// Random merges that are kept when they are acceptable: tables that training would hardly make.
std::vector<RawMerge> grown_merges(Random& random, int alphabet_size) {
  std::vector<RawMerge> merges;
  for (int attempts = 40; attempts > 0; --attempts) {
    const auto own = alphabet_size + static_cast<int64_t>(merges.size());
    merges.push_back({random_id(random, own), random_id(random, own)});
    if (!refusal([&] { MergeTable(alphabet_size, merges); }).empty()) merges.pop_back();
  }
  return merges;
}

std::vector<RawMerge> garbage_merges(Random& random, int alphabet_size) {
  switch (random.between(0, 9)) {
    case 0:
    case 1:
      return wild_merges(random, alphabet_size);
    case 2:
    case 3:
      return plausible_merges(random, alphabet_size);
    case 4:
    case 5:
      return spoiled_merges(random, alphabet_size);
    case 6:
      return doubling_merges(random, alphabet_size);
    default:
      return grown_merges(random, alphabet_size);
  }
}

void check_that_tokens_encode_to_themselves(const MergeTable& table, const BpeEncoder& encoder, const Ranks& ranks) {
  for (int t = 0; t < table.vocab_size(); ++t) {
    const auto expansion = table.expansion(static_cast<TokenId>(t));
    CHECK_EQUAL(encode(encoder, expansion), Tokens{t});
    CHECK_EQUAL(encode_naively(tokens_of(expansion), ranks), Tokens{t});
  }
}

void garbage_merges_are_refused_or_encode_exactly(Random& random, int iterations) {
  int accepted = 0, refused = 0;
  repeat(iterations + 20, [&] {
    const int alphabet_size = random.between(1, 6);
    const std::vector<RawMerge> merges = garbage_merges(random, alphabet_size);
    std::unique_ptr<MergeTable> table;
    const std::string message = refusal([&] { table = std::make_unique<MergeTable>(alphabet_size, merges); });
    CHECK_EQUAL(table != nullptr, is_acceptable(alphabet_size, merges));
    if (table == nullptr) {
      ++refused;
      CHECK_CONTAINS(message, "merge ");
      return;
    }
    ++accepted;
    const Ranks ranks = ranks_of(*table);
    const auto run_symbol = static_cast<Symbol>(random.between(0, alphabet_size - 1));
    const BpeEncoder encoder(*table, run_symbol);
    check_that_tokens_encode_to_themselves(*table, encoder, ranks);
    for (int i = 0; i < 5; ++i) {
      const Symbols symbols = random_symbols(random, alphabet_size, random.between<size_t>(0, 150), run_symbol);
      const Tokens tokens = encode(encoder, symbols);
      CHECK_EQUAL(tokens, encode_naively(tokens_of(symbols), ranks));
      CHECK_EQUAL(expand(*table, tokens), symbols);
    }
  });
  CHECK(accepted > 0);
  CHECK(refused > 0);
}

void vocabularies_beyond_the_limits_are_refused(Random&, int) {
  auto refused = [](int64_t alphabet_size, const std::vector<RawMerge>& merges) {
    return refusal([&] { MergeTable(alphabet_size, merges); });
  };
  for (const int64_t size : {INT64_MIN, INT64_C(-1), INT64_C(0), int64_t{kMaxVocabSize} + 1, INT64_MAX - 1})
    CHECK_CONTAINS(refused(size, {}), "alphabet size must lie in 1..16384");
  CHECK_EQUAL(refused(kMaxVocabSize, {}), std::string());
  CHECK_CONTAINS(refused(kMaxVocabSize, {{0, 0}}), "vocabulary size must be at most 16384");
}

/// D = 8192 zeros, then (D, 1), (D, 2), ...: 2^24 symbols hold 2045 of these beside what D took.
void expansions_of_a_whole_table_are_limited(Random&, int) {
  constexpr int kAlphabetSize = 3000, kDoublings = 13, kLongTokens = 509;
  std::vector<RawMerge> merges = {{0, 0}};
  while (merges.size() < kDoublings) {
    const int64_t last = kAlphabetSize + static_cast<int64_t>(merges.size()) - 1;
    merges.push_back({last, last});
  }
  const int64_t zeros = kAlphabetSize + kDoublings - 1;
  for (int symbol = 1; symbol <= kLongTokens; ++symbol) merges.push_back({zeros, symbol});
  const MergeTable table(kAlphabetSize, merges);
  const BpeEncoder encoder(table, 0);
  const int last = table.vocab_size() - 1;
  CHECK_EQUAL(encode(encoder, table.expansion(static_cast<TokenId>(last))), Tokens{last});
  merges.push_back({zeros, kLongTokens + 1});
  CHECK_CONTAINS(refusal([&] { MergeTable(kAlphabetSize, merges); }), "the table's expansions exceed");
}

// ---- Random chunks, specs and codecs --------------------------------------------------------------

std::vector<const Kernels*> all_kernels() {
  std::vector<const Kernels*> kernels;
  for (const char* const* name = available_kernels(); *name != nullptr; ++name)
    kernels.push_back(&kernels_by_name(*name));
  return kernels;
}

int random_action_dim(Random& random) {
  return random.chance(0.4) ? random.one_of<int>({1, 7, 8, 9, 16, 17}) : random.between(1, 20);
}

/// Horizons that DctPlan transforms by matrix, by FFT and by Bluestein's algorithm, odd and even ones of each.
int64_t random_horizon(Random& random) {
  if (random.chance(0.1)) return random.between(100, 300);
  if (random.chance(0.1)) return random.one_of<int64_t>({75, 101, 127, 135, 194, 225, 243, 254, 257, 293, 403});
  if (random.chance(0.2)) return random.one_of<int64_t>({1, 2, 3, 5, 7, 11, 13, 17, 31, 61, 67});
  return random.between(1, 70);
}

struct Shape {
  int action_dim;
  bool ragged;
  std::vector<int64_t> row_offsets = {0};

  size_t count() const { return row_offsets.size() - 1; }
  int64_t rows(size_t i) const { return row_offsets[i + 1] - row_offsets[i]; }
  size_t values(size_t i) const { return static_cast<size_t>(rows(i) * action_dim); }
  size_t first_value(size_t i) const { return static_cast<size_t>(row_offsets[i] * action_dim); }
  size_t size() const { return first_value(count()); }

  ChunkBatch view(const void* data, bool is_float32) const {
    const std::span<const int64_t> offsets = row_offsets;
    return {data, is_float32, action_dim, count(), ragged ? 0 : rows(0), ragged ? offsets : offsets.first(0), 0};
  }
  ChunkBatch view(const std::vector<float>& data) const { return view(data.data(), true); }
  ChunkBatch view(const std::vector<double>& data) const { return view(data.data(), false); }

  /// As Codec::decode takes them: one, or one a chunk.
  std::vector<int64_t> horizons() const {
    std::vector<int64_t> out;
    for (size_t i = 0; i < (ragged ? count() : 1); ++i) out.push_back(rows(i));
    return out;
  }
};

Shape random_shape(Random& random, size_t count) {
  Shape shape = {random_action_dim(random), random.chance(0.5)};
  const int64_t uniform = random_horizon(random);
  for (size_t i = 0; i < count; ++i)
    shape.row_offsets.push_back(shape.row_offsets.back() + (shape.ragged ? random_horizon(random) : uniform));
  return shape;
}

/// Noise, slow motion, or standing still; in -1..1 or so. A vector made with its size has no spare capacity, so
/// the data end where the allocation ends.
template <typename T>
std::vector<T> random_chunks(Random& random, const Shape& shape) {
  std::vector<T> data(shape.size());
  const auto dims = static_cast<size_t>(shape.action_dim);
  for (size_t i = 0; i < shape.count(); ++i) {
    const double step = random.one_of<double>({0.0, 0.05, 1.0});
    for (size_t v = 0; v < shape.values(i); ++v) {
      T* const value = &data[shape.first_value(i) + v];
      const double before = v < dims || step == 1.0 ? 0.0 : static_cast<double>(value[-shape.action_dim]);
      *value = static_cast<T>(before + (v < dims ? random.real(-1, 1) : random.real(-step, step)));
    }
  }
  return data;
}

QuantizerSpec random_spec(Random& random, int action_dim, bool may_clip) {
  QuantizerSpec spec;
  const auto dims = static_cast<size_t>(action_dim);
  spec.scale.resize(random.chance(0.5) ? 1 : dims);
  for (double& s : spec.scale) s = random.real(0.5, 20);
  spec.lowest = -random.between(0, 40);
  spec.highest = random.between(0, 40);
  if (random.chance(0.3)) spec.dead_zone = random.real(0.5, 0.99);
  if (random.chance(0.5)) return spec;
  Normalization norm;
  for (size_t d = 0; d < dims; ++d) {
    norm.center.push_back(random.real(-3, 3));
    norm.half_range.push_back(random.chance(0.1) ? 0.0 : random.real(0.3, 2));
  }
  norm.clip = may_clip && random.chance(0.7) ? random.real(0.5, 2) : std::numeric_limits<double>::infinity();
  spec.normalization = std::move(norm);
  return spec;
}

std::vector<RawMerge> random_merges(Random& random, const QuantizerSpec& spec, const Coding& coding = {}) {
  const Levels levels = {spec.lowest, spec.highest, coding.levels_beyond};
  return random_merges(random, levels.symbols() + (coding.layout.has_end() ? 1 : 0), 60);
}

Layout random_layout(Random& random) {
  return random.one_of<Layout>({{},
                                {Order::kFrequencyFirst, EndOfBlock::kChunk},
                                {Order::kDimensionFirst, EndOfBlock::kNone},
                                {Order::kDimensionFirst, EndOfBlock::kChunk},
                                {Order::kDimensionFirst, EndOfBlock::kDimension}});
}

Coding random_coding(Random& random) {
  return {random_layout(random), random.one_of<Parsing>({Parsing::kBpe, Parsing::kOptimal}),
          random.chance(0.5) ? 0 : random.between(1, 9)};
}

void symbols_are_the_nearest_levels(Random& random, int iterations) {
  repeat(iterations, [&] {
    const Levels levels = {-random.between(0, 200), random.between(0, 200), random.between(0, 12)};
    const std::vector<int> values = naive_levels(levels);
    CHECK_EQUAL(values.size(), static_cast<size_t>(levels.symbols()));
    CHECK_EQUAL(*std::max_element(values.begin(), values.end()), levels.farthest_up());
    CHECK_EQUAL(*std::min_element(values.begin(), values.end()), levels.farthest_down());
    for (size_t s = 0; s < values.size(); ++s) {
      CHECK_EQUAL(levels.coefficient_of(static_cast<Symbol>(s)), values[s]);
      CHECK_EQUAL(static_cast<size_t>(levels.symbol_of(values[s])), s);
    }
    for (int c = -500; c <= 500; ++c) {
      const int chosen = values[levels.symbol_of(c)];
      for (const int v : values) {
        CHECK_AT_MOST(std::abs(chosen - c), std::abs(v - c));
        if (std::abs(v - c) == std::abs(chosen - c)) CHECK_AT_MOST(std::abs(v), std::abs(chosen));
      }
    }
  });
}

struct Decoded {
  std::vector<double> values;
  std::vector<DecodeCounts> counts;
};

Decoded decode(const Codec& codec, const std::vector<int32_t>& ids, const std::vector<int64_t>& offsets,
               const Shape& shape, int num_threads = 1) {
  Decoded out = {std::vector<double>(shape.size(), std::nan("")), std::vector<DecodeCounts>(shape.count())};
  codec.decode({ids, offsets}, shape.horizons(), shape.action_dim, out.values.data(), out.counts.data(), num_threads);
  return out;
}

std::vector<uint64_t> bits(const std::vector<double>& values) {
  std::vector<uint64_t> out;
  for (const double v : values) out.push_back(std::bit_cast<uint64_t>(v));
  return out;
}

bool all_finite(const std::vector<double>& values) {
  return std::all_of(values.begin(), values.end(), [](double v) { return std::isfinite(v); });
}

/// Symbols of chunk i in a buffer that ends where the quantizer may write no further.
Symbols quantize(Quantizer& quantizer, const Shape& shape, const ChunkBatch& batch, size_t i,
                 ChunkCounts* counts = nullptr) {
  Symbols symbols(shape.values(i) + kMaxLanes);
  const DctPlan plan(static_cast<int>(shape.rows(i)));
  const ChunkCounts c = quantizer.quantize(batch, i, plan, symbols.data());
  if (counts != nullptr) *counts = c;
  symbols.resize(shape.values(i));
  return symbols;
}

// ---- 3. Decoding whatever a model says ------------------------------------------------------------

int32_t garbage_id(Random& random, int vocab_size) {
  return random.one_of<int32_t>({-1, INT_MIN, INT_MAX, vocab_size, vocab_size + 1, 0xFFFF, 0x10000, 0x10000 + 1,
                                 static_cast<int32_t>(random.bits() | 0x80000000)});
}

/// Nothing, only garbage, some garbage, or none; from far too few symbols to far too many.
std::vector<int32_t> random_ids(Random& random, int vocab_size, size_t expected) {
  const double garbage = random.one_of<double>({0.0, 0.3, 1.0});
  std::vector<int32_t> ids(random.chance(0.1) ? 0 : random.between<size_t>(0, expected + 5));
  for (int32_t& id : ids)
    id = random.chance(garbage) ? garbage_id(random, vocab_size) : random.between(0, vocab_size - 1);
  return ids;
}

void any_ids_decode_to_finite_chunks(Random& random, int iterations) {
  const auto kernels = all_kernels();
  bool by_matrix = false, by_fft = false, by_bluestein = false;
  const Shape by_every_method = {5, true, {0, 7, 7 + 225, 7 + 225 + 254}};
  repeat(iterations, [&] {
    const Shape shape = iteration == 0 ? by_every_method : random_shape(random, random.between<size_t>(1, 4));
    const QuantizerSpec spec = random_spec(random, shape.action_dim, true);
    const Coding coding = random_coding(random);
    const Codec codec(spec, random_merges(random, spec, coding), *random.one_of(kernels), coding);
    std::vector<int32_t> ids;
    std::vector<int64_t> offsets = {0};
    for (size_t i = 0; i < shape.count(); ++i) {
      const auto more = random_ids(random, codec.table().vocab_size(), shape.values(i));
      ids.insert(ids.end(), more.begin(), more.end());
      offsets.push_back(static_cast<int64_t>(ids.size()));
    }
    ids.shrink_to_fit();
    const Decoded got = decode(codec, ids, offsets, shape);
    CHECK(all_finite(got.values));
    for (size_t i = 0; i < shape.count(); ++i) {
      const auto first = static_cast<size_t>(offsets[i]), last = static_cast<size_t>(offsets[i + 1]);
      const NaiveDecoded wanted = decode_naively(codec, coding, std::span(ids).subspan(first, last - first),
                                                 static_cast<int>(shape.rows(i)), shape.action_dim);
      CHECK_EQUAL(got.counts[i].expected, wanted.counts.expected);
      CHECK_EQUAL(got.counts[i].unknown, wanted.counts.unknown);
      CHECK_EQUAL(got.counts[i].missing, wanted.counts.missing);
      CHECK_EQUAL(got.counts[i].extra, wanted.counts.extra);
      CHECK(got.counts[i].missing == 0 || got.counts[i].extra == 0);
      double error = 0;
      for (size_t v = 0; v < wanted.values.size(); ++v)
        error = std::max(error, std::abs(got.values[shape.first_value(i) + v] - wanted.values[v]));
      CHECK_AT_MOST(error, 1e-8);

      const DctPlan plan(static_cast<int>(shape.rows(i)));
      const FftTables* const fft = plan.tables().fft;
      by_matrix = by_matrix || fft == nullptr;
      by_fft = by_fft || (fft != nullptr && fft->conv == nullptr);
      by_bluestein = by_bluestein || (fft != nullptr && fft->conv != nullptr);
    }
  });
  CHECK(by_matrix);
  CHECK(by_fft);
  CHECK(by_bluestein);
}

void no_ids_decode_to_the_center(Random& random, int) {
  const Normalization norm = {{1.5, -2.0, 0.25}, {2.0, 0.0, 1.0}, 3.0};
  const QuantizerSpec spec = {{10.0}, -5, 5, norm};
  const Codec codec(spec, random_merges(random, spec));
  const Shape shape = {3, true, {0, 1, 8, 138}};
  const std::vector<int32_t> only_unknown = {-1, INT_MAX, INT_MIN};
  const Decoded got = decode(codec, only_unknown, {0, 0, 0, 3}, shape);
  for (size_t v = 0; v < got.values.size(); ++v) CHECK_EQUAL(got.values[v], norm.center[v % 3]);
  for (size_t i = 0; i < shape.count(); ++i) {
    CHECK_EQUAL(got.counts[i].unknown, int64_t{i == 2 ? 3 : 0});
    CHECK_EQUAL(got.counts[i].missing, got.counts[i].expected);
  }
}

void horizons_beyond_the_limits_are_refused(Random&, int) {
  const Codec codec({{1.0}, -1, 1, {}}, {});
  const std::vector<int64_t> offsets = {0, 0, 0};
  double out[2];
  DecodeCounts counts[2];
  for (const int64_t horizon : {INT64_C(0), INT64_C(-1), int64_t{DctPlan::kMaxHorizon} + 1, INT64_MAX / 2}) {
    const std::string wanted = "horizon must lie in 1..1048576, got " + std::to_string(horizon);
    for (const std::vector<int64_t>& horizons : {std::vector{horizon}, std::vector{INT64_C(1), horizon}})
      CHECK_CONTAINS(refusal([&] { codec.decode({{}, offsets}, horizons, 1, out, counts, 2); }), wanted);
  }
  const double value = 0;
  const std::vector<int64_t> row_offsets = {0, 1, 1};
  CHECK_CONTAINS(refusal([&] { codec.encode({&value, false, 1, 2, 0, row_offsets, 0}, 1); }), "got 0");
  CHECK_CONTAINS(refusal([&] { codec.encode({&value, false, 1, 1, 0, {}, 0}, 1); }), "got 0");
}

// ---- 4. Encoding and decoding chunks --------------------------------------------------------------

/// Each symbol against the textbook transform; a coefficient this near to a tie may go either way.
void symbols_are_the_nearest_coefficients(Random& random, int iterations) {
  constexpr double kNearTie = 1e-6;
  const auto kernels = all_kernels();
  repeat(iterations / 2, [&] {
    const Shape shape = random_shape(random, 1);
    const QuantizerSpec spec = random_spec(random, shape.action_dim, true);
    const std::vector<double> chunk = random_chunks<double>(random, shape);
    Quantizer quantizer(spec, shape.action_dim, *random.one_of(kernels));
    ChunkCounts counts;
    const Symbols symbols = quantize(quantizer, shape, shape.view(chunk), 0, &counts);

    std::vector<double> normalized = chunk;
    int64_t clipped = 0;
    for (size_t v = 0; v < chunk.size() && spec.normalization; ++v) {
      const size_t d = v % static_cast<size_t>(shape.action_dim);
      const double half_range = spec.normalization->half_range[d], clip = spec.normalization->clip;
      const double y = half_range == 0 ? 0.0 : (chunk[v] - spec.normalization->center[d]) * (1.0 / half_range);
      normalized[v] = std::clamp(y, -clip, clip);
      clipped += half_range == 0 ? chunk[v] != spec.normalization->center[d] : std::abs(y) > clip;
    }
    CHECK_EQUAL(counts.clipped, clipped);

    std::vector<double> coefficients =
        textbook_dct(Direction::kForward, static_cast<int>(shape.rows(0)), shape.action_dim, normalized.data());
    int64_t saturated = 0, doubtful = 0;
    for (size_t v = 0; v < coefficients.size(); ++v) {
      const double y = coefficients[v] * spec.scale[v % spec.scale.size()];
      const double inside = std::clamp<double>(y, spec.lowest, spec.highest);
      const int quantized = symbols[v] + spec.lowest;
      CHECK_AT_MOST(std::abs(quantized - inside), (quantized == 0 ? spec.dead_zone : 0.5) + kNearTie);
      if (quantized != 0) CHECK_AT_MOST(spec.dead_zone - kNearTie, std::abs(inside));
      const double beyond = std::abs(y - inside), rounds_inside = inside == 0 ? spec.dead_zone : 0.5;
      saturated += beyond > rounds_inside + kNearTie;
      doubtful += std::abs(beyond - rounds_inside) <= kNearTie;
    }
    CHECK_AT_MOST(saturated, counts.saturated);
    CHECK_AT_MOST(counts.saturated, saturated + doubtful);
  });
}

/// At horizon 1 the transform is the identity.
void ties_go_to_the_even_coefficient(Random&, int) {
  const std::vector<std::pair<double, int>> rounded = {{0.5, 0},         {1.5, 2},         {2.5, 2},   {-0.5, 0},
                                                       {-1.5, -2},       {-2.5, -2},       {3.49, 3},  {-3.51, -4},
                                                       {2.5 + 1e-10, 2}, {1.5 - 1e-10, 2}, {2.501, 3}, {1.499, 1}};
  std::vector<double> data;
  std::vector<int32_t> wanted;
  for (const auto& [value, coefficient] : rounded) {
    data.push_back(value);
    wanted.push_back(coefficient + 5);
  }
  const Shape shape = {static_cast<int>(data.size()), false, {0, 1}};
  for (const Kernels* kernels : all_kernels())
    CHECK_EQUAL(Codec({{1.0}, -5, 5, {}}, {}, *kernels).encode(shape.view(data), 1).ids, wanted);
}

void encoded_chunks_are_the_greedy_encoding_of_their_symbols(Random& random, int iterations) {
  repeat(iterations / 4, [&] {
    const Shape shape = random_shape(random, random.between<size_t>(1, 3));
    const QuantizerSpec spec = random_spec(random, shape.action_dim, true);
    const Layout layout = random_layout(random);
    const Codec codec(spec, random_merges(random, spec, {layout}), default_kernels(), {layout});
    const std::vector<float> data = random_chunks<float>(random, shape);
    const EncodedBatch encoded = codec.encode(shape.view(data), 1);
    const Ranks ranks = ranks_of(codec.table());
    Quantizer quantizer(spec, shape.action_dim, default_kernels());
    for (size_t i = 0; i < shape.count(); ++i) {
      const auto T = static_cast<size_t>(shape.rows(i)), D = static_cast<size_t>(shape.action_dim);
      const Symbols symbols =
          arrange_naively(layout, quantize(quantizer, shape, shape.view(data), i), T, D,
                          static_cast<Symbol>(-spec.lowest), static_cast<Symbol>(spec.highest - spec.lowest + 1));
      const Tokens ids(encoded.ids.begin() + encoded.offsets[i], encoded.ids.begin() + encoded.offsets[i + 1]);
      CHECK_EQUAL(ids, encode_naively(tokens_of(symbols), ranks));
      const std::vector<int32_t> as_symbols = codec.encode_symbols(symbols);
      CHECK_EQUAL(Tokens(as_symbols.begin(), as_symbols.end()), ids);
      CHECK_EQUAL(codec.expand(as_symbols), symbols);
    }
  });
}

/// Values that the normalizer cuts would be cut again, so there is no clipping here.
template <typename T>
void check_that_decoded_chunks_encode_to_the_same_ids(Random& random) {
  const Shape shape = random_shape(random, random.between<size_t>(1, 4));
  const QuantizerSpec spec = random_spec(random, shape.action_dim, false);
  const Coding coding = random_coding(random);
  const Codec codec(spec, random_merges(random, spec, coding), default_kernels(), coding);
  const std::vector<T> data = random_chunks<T>(random, shape);
  const EncodedBatch first = codec.encode(shape.view(data), 1);
  CHECK_EQUAL(first.offsets.back(), static_cast<int64_t>(first.ids.size()));
  const Decoded decoded = decode(codec, first.ids, first.offsets, shape);
  for (const DecodeCounts& c : decoded.counts) CHECK_EQUAL(c.unknown + c.missing + c.extra, int64_t{0});
  const std::vector<T> again(decoded.values.begin(), decoded.values.end());
  const EncodedBatch second = codec.encode(shape.view(again), 1);
  CHECK_EQUAL(second.ids, first.ids);
  CHECK_EQUAL(second.offsets, first.offsets);
  for (size_t i = 0; i < shape.count(); ++i)  // what a level beyond the range brought back lies beyond it again
    CHECK_AT_MOST(second.saturated[i], coding.levels_beyond == 0 ? 0 : first.saturated[i]);
}

void decoded_chunks_encode_to_the_same_ids(Random& random, int iterations) {
  repeat(iterations / 2, [&] {
    check_that_decoded_chunks_encode_to_the_same_ids<float>(random);
    check_that_decoded_chunks_encode_to_the_same_ids<double>(random);
  });
}

template <typename T>
void check_that_kernels_agree(Random& random) {
  const Shape shape = random_shape(random, random.between<size_t>(1, 4));
  const QuantizerSpec spec = random_spec(random, shape.action_dim, true);
  const std::vector<RawMerge> merges = random_merges(random, spec);
  const std::vector<T> data = random_chunks<T>(random, shape);
  const Codec baseline(spec, merges, *all_kernels().front());
  const EncodedBatch wanted = baseline.encode(shape.view(data), 1);
  const std::vector<uint64_t> wanted_bits = bits(decode(baseline, wanted.ids, wanted.offsets, shape).values);
  for (const Kernels* kernels : all_kernels()) {
    const Codec codec(spec, merges, *kernels);
    const EncodedBatch got = codec.encode(shape.view(data), 1);
    CHECK_EQUAL(got.ids, wanted.ids);
    CHECK_EQUAL(got.offsets, wanted.offsets);
    CHECK_EQUAL(got.saturated, wanted.saturated);
    CHECK_EQUAL(got.clipped, wanted.clipped);
    CHECK_EQUAL(bits(decode(codec, wanted.ids, wanted.offsets, shape).values), wanted_bits);
  }
}

/// Every way to spell a sequence, tried.
size_t fewest_tokens(const MergeTable& table, std::span<const Symbol> symbols) {
  if (symbols.empty()) return 0;
  size_t fewest = symbols.size();
  for (int t = 0; t < table.vocab_size(); ++t) {
    const auto token = table.expansion(static_cast<TokenId>(t));
    if (token.size() <= symbols.size() && std::equal(token.begin(), token.end(), symbols.begin()))
      fewest = std::min(fewest, 1 + fewest_tokens(table, symbols.subspan(token.size())));
  }
  return fewest;
}

void optimal_parsing_takes_the_fewest_tokens(Random& random, int iterations) {
  repeat(iterations, [&] {
    const int alphabet_size = random.between(1, 4);
    const MergeTable table(alphabet_size, random_merges(random, alphabet_size, 20));
    const OptimalParser parser(table, static_cast<Symbol>(random.between(0, alphabet_size - 1)));
    Symbols symbols(random.between<size_t>(0, 12));
    for (Symbol& s : symbols) s = static_cast<Symbol>(random.between(0, alphabet_size - 1));
    symbols.shrink_to_fit();
    std::vector<TokenId> tokens(symbols.size());
    ParseScratch scratch;
    tokens.resize(parser.parse(symbols, tokens.data(), scratch));
    CHECK_EQUAL(expand(table, Tokens(tokens.begin(), tokens.end())), symbols);
    CHECK_EQUAL(tokens.size(), fewest_tokens(table, symbols));
  });
}

void kernels_give_the_same_bits(Random& random, int iterations) {
  repeat(iterations / 2, [&] {
    check_that_kernels_agree<float>(random);
    check_that_kernels_agree<double>(random);
  });
}

void kernels_that_do_not_exist_are_refused(Random&, int) {
  std::string message;
  try {
    kernels_by_name("abacus");
  } catch (const std::runtime_error& e) {
    message = e.what();
  }
  CHECK_CONTAINS(message, "abacus");
  CHECK_CONTAINS(message, "baseline");  // one that does exist
}

/// Large enough that a call is worth five threads.
Shape large_shape(Random& random) {
  Shape shape = {random.one_of<int>({6, 8, 14}), random.chance(0.5)};
  const int64_t uniform = random.between(60, 300);
  while (shape.size() < 5 * (1 << 15) || shape.count() < 5)
    shape.row_offsets.push_back(shape.row_offsets.back() + (shape.ragged ? random.between(20, 300) : uniform));
  return shape;
}

void threads_do_not_change_results(Random& random, int iterations) {
  repeat(iterations / 100 + 2, [&] {
    const Shape shape = large_shape(random);
    const QuantizerSpec spec = random_spec(random, shape.action_dim, true);
    const Codec codec(spec, random_merges(random, spec));
    const std::vector<float> data = random_chunks<float>(random, shape);
    CHECK_EQUAL(batch_threads(shape.view(data), 5), 5);
    const EncodedBatch wanted = codec.encode(shape.view(data), 1);
    const Decoded wanted_values = decode(codec, wanted.ids, wanted.offsets, shape, 1);
    for (const int threads : {2, 5, 0}) {
      const EncodedBatch got = codec.encode(shape.view(data), threads);
      CHECK_EQUAL(got.ids, wanted.ids);
      CHECK_EQUAL(got.offsets, wanted.offsets);
      CHECK_EQUAL(got.saturated, wanted.saturated);
      CHECK_EQUAL(got.clipped, wanted.clipped);
      const Decoded values = decode(codec, wanted.ids, wanted.offsets, shape, threads);
      CHECK_EQUAL(bits(values.values), bits(wanted_values.values));
      for (const DecodeCounts& c : values.counts) CHECK_EQUAL(c.unknown + c.missing + c.extra, int64_t{0});
    }
  });
}

/// All calls on one codec at once, from threads that are not its own. For ThreadSanitizer.
void many_threads_share_one_codec(Random& random, int) {
  const Shape shape = random_shape(random, 6);
  for (const Parsing parsing : {Parsing::kBpe, Parsing::kOptimal}) {
    const QuantizerSpec spec = random_spec(random, shape.action_dim, true);
    const Coding coding = {random_layout(random), parsing, 2};
    const Codec codec(spec, random_merges(random, spec, coding), default_kernels(), coding);
    const std::vector<float> data = random_chunks<float>(random, shape);
    const EncodedBatch wanted = codec.encode(shape.view(data), 1);
    const Decoded wanted_values = decode(codec, wanted.ids, wanted.offsets, shape);
    std::vector<EncodedBatch> encoded(4);
    std::vector<Decoded> decoded(encoded.size());
    parallel_parts(static_cast<int>(encoded.size()), [&](int part) {
      for (int i = 0; i < 20; ++i) {
        encoded[static_cast<size_t>(part)] = codec.encode(shape.view(data), 2);
        decoded[static_cast<size_t>(part)] = decode(codec, wanted.ids, wanted.offsets, shape, 2);
      }
    });
    for (size_t i = 0; i < encoded.size(); ++i) {
      CHECK_EQUAL(encoded[i].ids, wanted.ids);
      CHECK_EQUAL(bits(decoded[i].values), bits(wanted_values.values));
    }
  }
}

void empty_batches_encode_and_decode_to_nothing(Random&, int) {
  const Codec codec({{1.0}, -1, 1, {}}, {});
  const EncodedBatch encoded = codec.encode({nullptr, true, 7, 0, 10, {}, 0}, 4);
  CHECK_EQUAL(encoded.offsets, std::vector<int64_t>{0});
  CHECK(encoded.ids.empty());
  const std::vector<int64_t> horizon = {10};
  codec.decode({{}, encoded.offsets}, horizon, 7, nullptr, nullptr, 4);
  CHECK(codec.encode_symbols({}).empty());
  CHECK(codec.expand({}).empty());
}

void symbols_and_ids_that_do_not_exist_are_refused(Random&, int) {
  const Codec codec({{1.0}, -1, 1, {}}, std::vector<RawMerge>{{1, 1}});
  const Symbols symbols = {0, 3};
  CHECK_CONTAINS(refusal([&] { codec.encode_symbols(symbols); }), "symbol 3 lies outside the alphabet 0..2");
  for (const int32_t id : {-1, 4, INT_MAX, INT_MIN}) {
    const std::vector<int32_t> ids = {3, id};
    CHECK_CONTAINS(refusal([&] { codec.expand(ids); }), "token id " + std::to_string(id) + " lies outside");
  }
}

void chunks_of_other_dimensions_are_refused(Random&, int) {
  const std::vector<double> chunk(12, 0.0);
  const Shape shape = {6, false, {0, 2}};
  const std::vector<int64_t> no_ids = {0, 0};
  const Normalization norm = {{0, 0, 0}, {1, 1, 1}, 1.0};
  for (const QuantizerSpec& spec : {QuantizerSpec{{1, 1, 1}, -1, 1, {}}, QuantizerSpec{{1}, -1, 1, norm}}) {
    const Codec codec(spec, {});
    CHECK_CONTAINS(refusal([&] { codec.encode(shape.view(chunk), 1); }), "the chunks have 6");
    CHECK_CONTAINS(refusal([&] { decode(codec, {}, no_ids, shape); }), "the chunks have 6");
  }
}

// ---- 5. Values that are not finite ----------------------------------------------------------------

template <typename T>
T random_not_finite(Random& random) {
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  return random.one_of<T>({kInfinity, -kInfinity, std::numeric_limits<T>::quiet_NaN()});
}

/// Spoils one value of the batch, and another one in a later chunk or later in the same, and expects the first to
/// be named.
template <typename T>
void check_that_the_first_bad_value_is_named(Random& random, const Codec& codec, const Shape& shape,
                                             std::vector<T> data, size_t at) {
  data[at] = random_not_finite<T>(random);
  if (random.chance(0.5)) data[random.between(at + 1, data.size()) - 1] = data[at];
  size_t chunk = 0;
  while (at >= shape.first_value(chunk + 1)) ++chunk;
  const auto dims = static_cast<size_t>(shape.action_dim);
  const size_t within = at - shape.first_value(chunk);
  const std::string wanted = "chunk " + std::to_string(chunk) + ": value at time step " +
                             std::to_string(within / dims) + ", dimension " + std::to_string(within % dims) +
                             (std::isnan(data[at]) ? " is NaN" : " is infinite");
  CHECK_CONTAINS(refusal([&] { codec.encode(shape.view(data), 5); }), wanted);
  Corpus corpus;
  QuantizerSpec full_range = codec.spec();
  CHECK_CONTAINS(refusal([&] { Corpus().add({full_range.scale, -1, 1, {}}, shape.view(data), 5); }), "full range");
  full_range.lowest = -kMaxCoefficient;
  full_range.highest = kMaxCoefficient;
  CHECK_CONTAINS(refusal([&] { corpus.add(full_range, shape.view(data), 5); }), wanted);
  CHECK_EQUAL(corpus.symbols() + corpus.saturated() + corpus.clipped(), int64_t{0});
}

void a_bad_value_is_named_wherever_it_stands(Random& random, int iterations) {
  const auto kernels = all_kernels();
  repeat(iterations / 10 + 10, [&] {
    const Shape shape = random_shape(random, random.between<size_t>(1, 4));
    const QuantizerSpec spec = random_spec(random, shape.action_dim, true);
    const std::vector<float> floats = random_chunks<float>(random, shape);
    const std::vector<double> doubles = random_chunks<double>(random, shape);
    for (const Kernels* k : kernels) {
      const Codec codec(spec, {}, *k);
      check_that_the_first_bad_value_is_named(random, codec, shape, floats,
                                              random.between<size_t>(0, shape.size() - 1));
      check_that_the_first_bad_value_is_named(random, codec, shape, doubles,
                                              random.between<size_t>(0, shape.size() - 1));
    }
  });
}

void a_bad_value_is_named_at_every_place(Random& random, int) {
  for (const Kernels* kernels : all_kernels())
    for (const int action_dim : {1, 3, 7, 8, 9, 17}) {
      const Codec codec(random_spec(random, action_dim, true), {}, *kernels);
      const Shape shape = {action_dim, true, {0, 4, 5}};
      const std::vector<float> data = random_chunks<float>(random, shape);
      for (size_t at = 0; at < data.size(); ++at)
        check_that_the_first_bad_value_is_named(random, codec, shape, data, at);
    }
}

void the_first_bad_chunk_is_named_whatever_thread_finds_it(Random& random, int) {
  const Shape shape = large_shape(random);
  const Codec codec(random_spec(random, shape.action_dim, true), {});
  std::vector<double> data = random_chunks<double>(random, shape);
  data.back() = std::nan("");  // in the last thread's slice
  check_that_the_first_bad_value_is_named(random, codec, shape, data, random.between<size_t>(0, shape.size() - 1));
}

void a_batch_can_say_what_its_first_chunk_is_called(Random&, int) {
  const std::vector<double> data = {0, 0, std::nan("")};
  const Shape shape = {1, false, {0, 1, 2, 3}};
  ChunkBatch batch = shape.view(data);
  batch.first_chunk = 1000;
  const Codec codec({{1.0}, -1, 1, {}}, {});
  CHECK_CONTAINS(refusal([&] { codec.encode(batch, 1); }), "chunk 1002: value at time step 0, dimension 0 is NaN");
}

// ---- 6. DCT ---------------------------------------------------------------------------------------

void check_transforms(Random& random, int horizon, size_t count, int action_dim) {
  const size_t chunk = static_cast<size_t>(horizon) * static_cast<size_t>(action_dim);
  std::vector<double> in(count * chunk);
  for (double& x : in) x = random.real(-1, 1);
  for (const Direction direction : {Direction::kForward, Direction::kInverse}) {
    std::vector<double> wanted;
    for (size_t c = 0; c < count; ++c)
      for (const double x : textbook_dct(direction, horizon, action_dim, in.data() + c * chunk)) wanted.push_back(x);
    for (const auto method : {DctPlan::Method::kMatrix, DctPlan::Method::kFft}) {
      const DctPlan plan(horizon, method);
      std::vector<uint64_t> baseline_bits;
      for (const Kernels* kernels : all_kernels()) {
        std::vector<double> got(in.size());
        transform_chunks(plan, direction, *kernels, count, action_dim, in.data(), got.data(), 1);
        double error = 0;
        for (size_t v = 0; v < got.size(); ++v) error = std::max(error, std::abs(got[v] - wanted[v]));
        CHECK_AT_MOST(error, 1e-11);
        CHECK(all_finite(got));
        if (baseline_bits.empty()) baseline_bits = bits(got);
        CHECK_EQUAL(bits(got), baseline_bits);
      }
    }
  }
}

void transforms_equal_the_textbook_sum(Random& random, int) {
  for (iteration = 1; iteration <= 130; ++iteration)
    check_transforms(random, iteration, random.between<size_t>(1, 5), random_action_dim(random));
  for (const int horizon : {131, 144, 169, 243, 256, 257, 289, 343, 499, 500, 512, 625, 998, 1000, 1024, 1331, 1499}) {
    iteration = horizon;
    check_transforms(random, horizon, 1, random.between(1, 2));
  }
  iteration = -1;
}

void transforms_are_the_same_on_threads(Random& random, int) {
  const DctPlan plan(50);
  for (const int action_dim : {3, 14}) {
    const size_t count = 5 * (1 << 15) / (50 * static_cast<size_t>(action_dim)) + 1;
    std::vector<double> in(count * 50 * static_cast<size_t>(action_dim)), wanted(in.size()), got(in.size());
    for (double& x : in) x = random.real(-1, 1);
    transform_chunks(plan, Direction::kForward, default_kernels(), count, action_dim, in.data(), wanted.data(), 1);
    transform_chunks(plan, Direction::kForward, default_kernels(), count, action_dim, in.data(), got.data(), 5);
    CHECK_EQUAL(bits(got), bits(wanted));
  }
}

void plans_beyond_the_limits_are_refused(Random&, int) {
  for (const int horizon : {INT_MIN, -1, 0, DctPlan::kMaxHorizon + 1, INT_MAX})
    CHECK_CONTAINS(refusal([&] { DctPlan plan(horizon); }), "horizon must lie in 1..1048576");
}

// ---- 7. Corpus ------------------------------------------------------------------------------------

/// A corpus, and the same coefficients as plain sequences.
struct Fitted {
  explicit Fitted(Layout arranged = {}) : layout(arranged) {}

  Layout layout;
  Corpus corpus{layout};
  std::vector<std::vector<int>> coefficients;
  std::vector<std::pair<size_t, size_t>> shapes;  ///< (T, D) of each
};

void add_random_batch(Random& random, const QuantizerSpec& spec, int action_dim, Fitted& fitted) {
  Shape shape = random_shape(random, random.between<size_t>(0, 6));
  if (shape.count() == 0) shape.ragged = true;
  shape.action_dim = action_dim;
  const std::vector<double> data = random_chunks<double>(random, shape);
  fitted.corpus.add(spec, shape.view(data), 0);
  Quantizer quantizer(spec, action_dim, default_kernels());
  for (size_t i = 0; i < shape.count(); ++i) {
    fitted.coefficients.emplace_back();
    fitted.shapes.emplace_back(shape.rows(i), action_dim);
    for (const Symbol s : quantize(quantizer, shape, shape.view(data), i))
      fitted.coefficients.back().push_back(s - kMaxCoefficient);
  }
}

void random_fitted(Random& random, Fitted& fitted) {
  const int action_dim = random_action_dim(random);
  QuantizerSpec spec = random_spec(random, action_dim, true);
  spec.lowest = -kMaxCoefficient;
  spec.highest = kMaxCoefficient;
  for (int batches = random.between(1, 3); batches > 0; --batches) add_random_batch(random, spec, action_dim, fitted);
}

int64_t count_if(const Fitted& fitted, const std::function<bool(int)>& predicate) {
  int64_t n = 0;
  for (const auto& chunk : fitted.coefficients) n += std::count_if(chunk.begin(), chunk.end(), predicate);
  return n;
}

void ranges_leave_out_no_more_than_allowed(Random& random, int iterations) {
  repeat(iterations / 10 + 2, [&] {
    Fitted fitted(random_layout(random));
    random_fitted(random, fitted);
    const Corpus& corpus = fitted.corpus;
    CHECK_EQUAL(corpus.chunks(), fitted.coefficients.size());
    CHECK_EQUAL(corpus.symbols(), count_if(fitted, [](int) { return true; }));
    CHECK_EQUAL(corpus.outside(corpus.range(1.0)), int64_t{0});
    for (const double quantile : {1.0, 0.999, 0.99, 0.9, 0.5}) {
      const CoefficientRange range = corpus.range(quantile);
      CHECK_AT_MOST(range.lowest, 0);
      CHECK_AT_MOST(0, range.highest);
      const double allowed = (1.0 - quantile) * static_cast<double>(corpus.symbols());
      const int64_t below = count_if(fitted, [&](int q) { return q < range.lowest; });
      const int64_t above = count_if(fitted, [&](int q) { return q > range.highest; });
      CHECK_AT_MOST(static_cast<double>(below), allowed);
      CHECK_AT_MOST(static_cast<double>(above), allowed);
      CHECK_EQUAL(corpus.outside(range), below + above);
      // No wider than needed: leaving out one value more would be too much.
      const int least = fitted.layout.has_end() ? 1 : 0;  // a range that has -1 and 1 at least
      if (range.lowest < -least)
        CHECK(static_cast<double>(count_if(fitted, [&](int q) { return q <= range.lowest; })) > allowed);
      if (range.highest > least)
        CHECK(static_cast<double>(count_if(fitted, [&](int q) { return q >= range.highest; })) > allowed);
    }
  });
}

std::vector<Symbols> symbols_of(const Fitted& fitted, const Levels& levels) {
  std::vector<Symbols> out;
  for (size_t i = 0; i < fitted.coefficients.size(); ++i) {
    Symbols symbols;
    for (const int q : fitted.coefficients[i]) symbols.push_back(levels.symbol_of(q));
    const auto [T, D] = fitted.shapes[i];
    out.push_back(
        arrange_naively(fitted.layout, symbols, T, D, levels.symbol_of(0), static_cast<Symbol>(levels.symbols())));
  }
  return out;
}

void a_corpus_trains_like_its_symbols(Random& random, int iterations) {
  repeat(iterations / 20 + 2, [&] {
    Fitted fitted(random_layout(random));
    random_fitted(random, fitted);
    const CoefficientRange range = fitted.corpus.range(random.one_of<double>({1.0, 0.99, 0.9}));
    const Levels levels = {range.lowest, range.highest, random.between(0, 4)};
    const int alphabet_size = levels.symbols() + (fitted.layout.has_end() ? 1 : 0);
    TrainOptions options;
    options.vocab_size = alphabet_size + 40;
    options.num_threads = random.between(1, 5);
    const auto corpus = symbols_of(fitted, levels);
    const auto wanted = pairs_of(train(corpus, alphabet_size, options, 1));
    CHECK_EQUAL(wanted, train_naively(corpus, alphabet_size, options).merges);
    CHECK_EQUAL(pairs_of(fitted.corpus.train(levels, options)), wanted);
    CHECK_EQUAL(fitted.corpus.symbols(), int64_t{0});  // used up
  });
}

void a_corpus_is_the_same_on_threads(Random& random, int) {
  const Shape shape = large_shape(random);
  const QuantizerSpec spec = {{5.0}, -kMaxCoefficient, kMaxCoefficient, {}};
  const std::vector<float> data = random_chunks<float>(random, shape);
  TrainOptions options;
  options.vocab_size = 600;
  std::vector<std::vector<Pair>> merges;
  for (const int threads : {1, 2, 5}) {
    Corpus corpus;
    corpus.add(spec, shape.view(data), threads);
    CHECK_EQUAL(corpus.symbols(), static_cast<int64_t>(shape.size()));
    options.num_threads = threads;
    merges.push_back(pairs_of(corpus.train({corpus.range(1.0).lowest, corpus.range(1.0).highest}, options)));
  }
  CHECK_EQUAL(merges[1], merges[0]);
  CHECK_EQUAL(merges[2], merges[0]);
}

// ---- Extreme numbers ------------------------------------------------------------------------------

void specs_without_meaning_are_refused(Random&, int) {
  constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  auto check_refused = [](const QuantizerSpec& spec) { CHECK(!refusal([&] { Codec(spec, {}); }).empty()); };
  check_refused({{}, -1, 1, {}});
  for (const double scale : {0.0, -1.0, kNaN, kInfinity}) check_refused({{1.0, scale}, -1, 1, {}});
  for (const auto& [lowest, highest] :
       {Pair(1, 2), Pair(-2, -1), Pair(1, 0), Pair(0, kMaxCoefficient + 1), Pair(-kMaxCoefficient - 1, 0),
        Pair(INT_MIN, INT_MAX), Pair(INT_MAX, INT_MAX), Pair(INT_MIN, INT_MIN + 5)})
    check_refused({{1.0}, lowest, highest, {}});
  for (const double center : {kNaN, kInfinity}) check_refused({{1.0}, -1, 1, Normalization{{center}, {1}, 1}});
  for (const double half_range : {kNaN, kInfinity, -1.0, 1e-310})
    check_refused({{1.0}, -1, 1, Normalization{{0}, {half_range}, 1}});
  for (const double clip : {kNaN, 0.0, -1.0}) check_refused({{1.0}, -1, 1, Normalization{{0}, {1}, clip}});
  check_refused({{1.0}, -1, 1, Normalization{{0, 0}, {1}, 1}});
}

/// Codec::decode promises finite chunks for any ids, so a codec whose scales cannot keep that must be refused.
void an_accepted_codec_decodes_to_finite_chunks_however_extreme_its_scales(Random& random, int) {
  const std::vector<double> sizes = {1e-320, 1e-307, 1 / kMaxMagnitude, 1.0, kMaxMagnitude, 1e307};
  int accepted = 0;
  for (const double scale : sizes)
    for (const double half_range : sizes)
      for (const double center : {0.0, -kMaxMagnitude, 1e308}) {
        const QuantizerSpec spec = {{scale}, -2000, 2000, Normalization{{center}, {half_range}, 5.0}};
        std::unique_ptr<Codec> codec;
        if (!refusal([&] { codec = std::make_unique<Codec>(spec, std::span<const RawMerge>()); }).empty()) continue;
        ++accepted;
        std::vector<int32_t> ids(3);
        for (int32_t& id : ids) id = random.one_of<int32_t>({0, 4000});
        const Shape shape = {1, false, {0, 3}};
        const bool finite = all_finite(decode(*codec, ids, {0, 3}, shape).values);
        if (!finite)
          fail(__FILE__, __LINE__, "decoded values are finite",
               "scale " + show(scale) + ", half_range " + show(half_range) + ", center " + show(center));
      }
  CHECK(accepted > 0);
}

/// Frequencies 1 and 3 of this chunk are far below and far above any range, and both beyond what a double holds
/// before they are scaled.
void finite_values_whose_transform_overflows_saturate_or_are_refused(Random&, int) {
  const std::vector<double> chunk = {-1.5e308, -1.5e308, 1.5e308, 1.5e308};
  const Shape shape = {1, false, {0, 4}};
  for (const Kernels* kernels : all_kernels()) {
    const Codec codec({{1.0}, -10, 10, {}}, {}, *kernels);
    EncodedBatch got;
    if (!refusal([&] { got = codec.encode(shape.view(chunk), 1); }).empty()) continue;
    CHECK_EQUAL(got.ids, (std::vector<int32_t>{10, 0, 10, 20}));
    CHECK_EQUAL(got.saturated, std::vector<int32_t>{2});
  }
}

/// The lanes beside a narrow chunk hold the next row before normalization; that they overflow must not matter.
void huge_values_encode_where_the_normalizer_makes_them_smaller(Random&, int) {
  const std::vector<double> chunk = {-1.5e308, -1.5e308, 1.5e308, 1.5e308};
  const Normalization norm = {{0.0}, {kMaxMagnitude}, std::numeric_limits<double>::infinity()};
  const Shape shape = {1, false, {0, 4}};
  for (const Kernels* kernels : all_kernels()) {
    const EncodedBatch got = Codec({{1.0}, -10, 10, norm}, {}, *kernels).encode(shape.view(chunk), 1);
    CHECK_EQUAL(got.ids, (std::vector<int32_t>{10, 0, 10, 20}));
    CHECK_EQUAL(got.saturated, std::vector<int32_t>{2});
  }
}

// ---- Bit matrix ---------------------------------------------------------------------------------

void a_bit_matrix_transposes_and_keeps_what_is_distinct(Random& random, int iterations) {
  for (iteration = 0; iteration < iterations; ++iteration) {
    const auto rows = static_cast<size_t>(random.between(1, 140)),
               columns = static_cast<size_t>(random.between(1, 140));
    const int kinds = random.between(1, 5);  // rows and columns that repeat
    BitMatrix matrix(rows, columns);
    for (size_t r = 0; r < rows; ++r)
      for (size_t c = 0; c < columns; ++c)
        if ((r % static_cast<size_t>(kinds) * 7 + c % 3) % 4 == 0) matrix.row(r)[c / 64] |= uint64_t{1} << (c % 64);
    const BitMatrix turned = matrix.transposed();
    BitMatrix distinct = matrix;
    const std::vector<uint16_t> kind = distinct.keep_distinct_rows();
    std::set<std::vector<bool>> seen;
    for (size_t r = 0; r < rows; ++r) {
      std::vector<bool> row;
      bool same = true;
      for (size_t c = 0; c < columns; ++c) {
        row.push_back(matrix(r, c));
        same = same && turned(c, r) == matrix(r, c) && distinct(kind[r], c) == matrix(r, c);
      }
      seen.insert(row);
      CHECK(same);
    }
    CHECK_EQUAL(turned.rows(), columns);
    CHECK_EQUAL(distinct.rows(), seen.size());
  }
}

// ---- Text -----------------------------------------------------------------------------------------

using Text = std::vector<int32_t>;

/// Few characters, one of them most of the time: with pieces of any length, of all classes and numbers of bytes.
Text random_text(Random& random, size_t length, int32_t quiet) {
  Text some;
  for (int i = 0; i < 6; ++i) {
    int32_t code = random.one_of<int32_t>({random.between(0, 0x7F), random.between(0x80, 0x7FF), quiet + i, ' ', '\'',
                                           random.between(0x800, 0xD7FF), random.between(0xE000, 0x10FFFF)});
    some.push_back(is_character(code) ? code : quiet);
  }
  Text text;
  while (text.size() < length) text.push_back(random.chance(0.6) ? quiet : random.one_of(some));
  return text;
}

/// Merges trained on the bytes of texts, published in any order; some bytes may have no token.
TextVocabulary random_vocabulary(Random& random, const std::vector<Text>& texts, int32_t zero) {
  TextVocabulary vocabulary;
  vocabulary.zero = zero;
  vocabulary.alphabet_size = 0;
  const double missing = random.one_of<double>({0.0, 0.0, 0.1});
  for (int32_t& token : vocabulary.byte_tokens) token = random.chance(missing) ? -1 : vocabulary.alphabet_size++;
  std::vector<Symbols> corpus;
  for (const Text& text : texts) {
    std::vector<uint8_t> bytes;
    for (const int32_t code : text) append_utf8(code, bytes);
    Symbols symbols;
    for (const uint8_t b : bytes)
      if (vocabulary.byte_tokens[b] >= 0) symbols.push_back(static_cast<Symbol>(vocabulary.byte_tokens[b]));
    corpus.push_back(symbols);
  }
  TrainOptions options;
  options.vocab_size = vocabulary.alphabet_size + random.between(0, 80);
  vocabulary.merges = raw(train(corpus, vocabulary.alphabet_size, options, 1));
  const MergeTable table(vocabulary.alphabet_size, vocabulary.merges);
  std::vector<int32_t> ids(static_cast<size_t>(table.vocab_size()));
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i);
  for (size_t i = ids.size(); i-- > 1;) std::swap(ids[i], ids[random.between<size_t>(0, i)]);
  vocabulary.ids = ids;
  vocabulary.spellings.resize(ids.size());
  for (size_t t = 0; t < ids.size(); ++t)
    for (const Symbol s : table.expansion(static_cast<TokenId>(t)))
      for (size_t b = 0; b < 256; ++b)
        if (vocabulary.byte_tokens[b] == int{s})
          vocabulary.spellings[static_cast<size_t>(ids[t])] += static_cast<char>(b);
  for (int32_t code = 0; code <= kMaxCodePoint; ++code)
    vocabulary.classes.push_back(code == ' ' || code == 0x85 ? CharacterClass::kSpace
                                 : code % 7 == 3             ? CharacterClass::kOther
                                 : code % 7 == 5             ? CharacterClass::kNumber
                                                             : CharacterClass::kLetter);
  return vocabulary;
}

void text_encodes_as_its_words_merged_greedily(Random& random, int iterations) {
  repeat(std::max(1, iterations / 10), [&] {
    const int32_t zero = random.one_of<int32_t>({random.between(0, 0x7F), random.between(0x80, 0x300), 0xE000});
    std::vector<Text> texts;
    for (int i = 0; i < 8; ++i) texts.push_back(random_text(random, random.between<size_t>(0, 120), zero));
    const TextVocabulary vocabulary = random_vocabulary(random, texts, zero);
    const MergeTable table(vocabulary.alphabet_size, vocabulary.merges);
    const Ranks ranks = ranks_of(table);
    const TextBpe bpe(vocabulary);
    texts.push_back(random_text(random, 100, zero));
    for (const Text& text : texts) {
      Tokens expected;
      std::vector<uint8_t> kept;
      int64_t damaged = 0;
      for (size_t start = 0; start < text.size(); start = bpe.word_end(text, start)) {
        const size_t end = bpe.word_end(text, start);
        CHECK_AT_MOST(start + 1, end);
        Tokens word;
        for (size_t i = start; i < end; ++i) {
          std::vector<uint8_t> bytes;
          append_utf8(text[i], bytes);
          bool lost = false;
          for (const uint8_t b : bytes) {
            lost = lost || vocabulary.byte_tokens[b] < 0;
            if (vocabulary.byte_tokens[b] < 0) continue;
            word.push_back(vocabulary.byte_tokens[b]);
            kept.push_back(b);
          }
          damaged += lost;
        }
        for (const int t : encode_naively(word, ranks)) expected.push_back(vocabulary.ids[static_cast<size_t>(t)]);
      }
      const Text exact(text.begin(), text.end());  // of the very size, for the sanitizer
      std::vector<int32_t> ids;
      TextScratch scratch;
      CHECK_EQUAL(bpe.encode(exact, ids, scratch), damaged);
      CHECK_EQUAL(Tokens(ids.begin(), ids.end()), expected);
      std::vector<uint8_t> spelled;
      for (const int32_t id : ids) spelled.insert(spelled.end(), bpe.spelling(id).begin(), bpe.spelling(id).end());
      CHECK_EQUAL(std::vector<int>(spelled.begin(), spelled.end()), std::vector<int>(kept.begin(), kept.end()));
    }
  });
}

/// Words that both encoders continue their tables of runs for, one after the other, in either order.
void text_with_longer_runs_than_are_tabulated_is_encoded_exactly(Random&, int) {
  constexpr int32_t kZero = 'o';
  TextVocabulary vocabulary;
  vocabulary.zero = kZero;
  vocabulary.alphabet_size = 256;
  for (int32_t b = 0; b < 256; ++b) vocabulary.byte_tokens[static_cast<size_t>(b)] = b;
  vocabulary.merges = {{kZero, kZero}, {256, kZero}, {0, 0}, {258, 258}};  // ooo and four zero bytes
  for (int32_t id = 0; id < 260; ++id) vocabulary.ids.push_back(id);
  vocabulary.spellings.resize(260);  // not decoded here
  vocabulary.classes.assign(kMaxCodePoint + 1, CharacterClass::kLetter);
  vocabulary.classes['.'] = CharacterClass::kOther;
  const Ranks ranks = ranks_of(MergeTable(vocabulary.alphabet_size, vocabulary.merges));
  const TextBpe bpe(vocabulary);
  Text by_characters(20'000, kZero), by_bytes(20'003, 0);
  by_bytes.push_back(0xE9);  // no token is this character alone
  for (const bool bytes_first : {false, true}) {
    Text text = bytes_first ? by_bytes : by_characters;
    text.push_back('.');
    const Text& second = bytes_first ? by_characters : by_bytes;
    text.insert(text.end(), second.begin(), second.end());
    Tokens wanted;
    for (size_t start = 0, end; start < text.size(); start = end) {
      end = bpe.word_end(text, start);
      std::vector<uint8_t> bytes;
      for (size_t i = start; i < end; ++i) append_utf8(text[i], bytes);
      for (const int t : encode_naively({bytes.begin(), bytes.end()}, ranks)) wanted.push_back(t);
    }
    std::vector<int32_t> ids;
    TextScratch scratch;
    bpe.encode(text, ids, scratch);
    CHECK_EQUAL(Tokens(ids.begin(), ids.end()), wanted);
  }
}

void utf8_is_read_back_whole_and_garbage_is_counted(Random& random, int iterations) {
  repeat(iterations, [&] {
    Text text;
    std::vector<uint8_t> bytes;
    for (int i = random.between(0, 20); i > 0; --i) {
      const int32_t code = random.between(0, random.one_of<int32_t>({0x80, 0x900, 0x10FFFF}));
      if (!is_character(code)) continue;
      text.push_back(code);
      append_utf8(code, bytes);
    }
    Text read;
    for_each_character(bytes, [&](int32_t code) { read.push_back(code); });
    CHECK_EQUAL(std::vector<int>(read.begin(), read.end()), std::vector<int>(text.begin(), text.end()));
    for (uint8_t& b : bytes)
      if (random.chance(0.3)) b = static_cast<uint8_t>(random.bits());
    const std::vector<uint8_t> exact(bytes.begin(), bytes.end());
    size_t whole = 0;
    for_each_character(exact, [&](int32_t code) {
      std::vector<uint8_t> again;
      if (code >= 0 && is_character(code)) append_utf8(code, again);
      CHECK_EQUAL(code >= 0, !again.empty());
      whole += again.size();
    });
    CHECK_AT_MOST(whole, exact.size());
  });
}

void any_published_ids_decode_to_finite_chunks(Random& random, int iterations) {
  repeat(std::max(1, iterations / 20), [&] {
    const int32_t zero = random.between(0, 0x300);
    std::vector<Text> texts;
    for (int i = 0; i < 5; ++i) texts.push_back(random_text(random, 80, zero));
    const TextCodec codec(10.0, -zero, random_vocabulary(random, texts, zero), {-50, 60});
    const int horizon = random.between(1, 40), dims = random.between(1, 12);
    const auto expected = static_cast<size_t>(horizon * dims);
    std::vector<int32_t> ids;
    std::vector<int64_t> offsets = {0};
    for (int i = random.between(1, 40); i > 0; --i) {
      const auto some = random_ids(random, codec.bpe().vocab_size(), expected);
      ids.insert(ids.end(), some.begin(), some.end());
      offsets.push_back(static_cast<int64_t>(ids.size()));
    }
    const size_t count = offsets.size() - 1;
    const std::vector<int64_t> horizons = {horizon};
    std::vector<double> out(count * expected);
    std::vector<DecodeCounts> counts(count);
    codec.decode({ids, offsets}, horizons, dims, out.data(), counts.data(), 1);
    CHECK(all_finite(out));
    for (size_t i = 0; i < count; ++i) {
      std::vector<int32_t> known;
      for (int64_t at = offsets[i]; at < offsets[i + 1]; ++at) {
        const int32_t id = ids[static_cast<size_t>(at)];
        if (id >= 0 && id < codec.bpe().vocab_size()) known.push_back(id);
      }
      const auto text = codec.expand(known);
      const auto size = static_cast<int64_t>(text.size()), wanted = static_cast<int64_t>(expected);
      CHECK_EQUAL(counts[i].unknown, offsets[i + 1] - offsets[i] - static_cast<int64_t>(known.size()));
      CHECK_EQUAL(counts[i].broken, static_cast<int64_t>(std::count(text.begin(), text.end(), -1)));
      CHECK_EQUAL(counts[i].missing, std::max<int64_t>(0, wanted - size));
      CHECK_EQUAL(counts[i].extra, std::max<int64_t>(0, size - wanted));
      std::vector<double> coefficients(expected, 0.0);
      for (size_t k = 0; k < std::min(expected, text.size()); ++k) {
        coefficients[k] = text[k] < 0 ? 0.0 : text[k] - zero;
        if (!counts[i].well_formed()) coefficients[k] = std::clamp(coefficients[k], -50.0, 60.0);
      }
      for (double& c : coefficients) c /= 10.0;
      const auto chunk = textbook_dct(Direction::kInverse, horizon, dims, coefficients.data());
      for (size_t k = 0; k < expected; ++k)
        CHECK_AT_MOST(std::abs(out[i * expected + k] - chunk[k]), 1e-6 * (1 + std::abs(chunk[k])));
    }
  });
}

/// Each refused before anything is built from it.
void vocabularies_whose_parts_do_not_fit_are_refused(Random& random, int) {
  const TextVocabulary good = random_vocabulary(random, {random_text(random, 80, 300)}, 300);
  auto refused = [&](auto spoil) {
    TextVocabulary vocabulary = good;
    spoil(vocabulary);
    return refusal([&] { TextBpe bpe(std::move(vocabulary)); });
  };
  CHECK_EQUAL(refused([](TextVocabulary&) {}), std::string());
  for (const size_t byte : {0, 1, 255})
    for (const int32_t token : {-2, good.alphabet_size, 0xFFFF, INT_MAX})
      CHECK_CONTAINS(refused([&](TextVocabulary& v) { v.byte_tokens[byte] = token; }), "a byte's token is no symbol");
  CHECK_CONTAINS(refused([](TextVocabulary& v) { v.alphabet_size = -1; }), "every token needs an id");
  CHECK_CONTAINS(refused([](TextVocabulary& v) { v.ids.pop_back(); }), "every token needs an id");
  CHECK_CONTAINS(refused([](TextVocabulary& v) { v.ids[0] = static_cast<int32_t>(v.spellings.size()); }), "an id lies");
  CHECK_CONTAINS(refused([](TextVocabulary& v) { v.classes.pop_back(); }), "every code point needs a class");
}

void chunks_near_a_tie_are_marked(Random& random, int iterations) {
  const std::vector<Text> texts = {random_text(random, 50, 300)};
  const TextCodec codec(10.0, -300, random_vocabulary(random, texts, 300), {-50, 60});
  repeat(iterations, [&] {
    const int horizon = random.between(1, 70), dims = random.between(1, 12);
    const auto size = static_cast<size_t>(horizon * dims);
    std::vector<double> chunk(size);
    for (double& x : chunk) x = random.real(-1, 1);
    std::vector<double> coefficients = textbook_dct(Direction::kForward, horizon, dims, chunk.data());
    const bool tie = random.chance(0.5);
    if (tie) {
      coefficients[random.between<size_t>(0, size - 1)] = (random.between(-20, 20) + 0.5) / 10;
      chunk = textbook_dct(Direction::kInverse, horizon, dims, coefficients.data());
    }
    double nearest = 1;
    for (const double c : textbook_dct(Direction::kForward, horizon, dims, chunk.data()))
      nearest = std::min(nearest, 0.5 - std::abs(c * 10 - std::nearbyint(c * 10)));
    const ChunkBatch batch = {chunk.data(), false, dims, 1, horizon, {}, 0};
    const bool marked = codec.quantize(batch, 1).uncertain[0] != 0;
    if (tie) CHECK(marked);
    if (nearest > 1e-8) CHECK(!marked);
  });
}

// ---- The list -------------------------------------------------------------------------------------

struct Test {
  const char* name;
  void (*run)(Random&, int iterations);
};

#define TEST(function) {#function, function}

const Test kTests[] = {
    TEST(trained_merges_equal_the_naive_trainers),
    TEST(training_stays_exact_when_it_goes_over_to_the_index),
    TEST(training_stays_exact_on_threads),
    TEST(what_training_cannot_do_is_refused),
    TEST(shards_do_what_merging_means),
    TEST(runs_may_be_longer_than_a_word_counts),
    TEST(a_shard_takes_merges_in_order),
    TEST(a_driver_takes_ids_that_exist),
    TEST(memory_above_its_budget_holds_what_is_written),
    TEST(a_directory_that_takes_no_files_is_named),
    TEST(encoding_equals_greedy_merging),
    TEST(encoding_equals_greedy_merging_on_every_short_sequence),
    TEST(garbage_merges_are_refused_or_encode_exactly),
    TEST(vocabularies_beyond_the_limits_are_refused),
    TEST(expansions_of_a_whole_table_are_limited),
    TEST(any_ids_decode_to_finite_chunks),
    TEST(no_ids_decode_to_the_center),
    TEST(horizons_beyond_the_limits_are_refused),
    TEST(symbols_are_the_nearest_coefficients),
    TEST(ties_go_to_the_even_coefficient),
    TEST(encoded_chunks_are_the_greedy_encoding_of_their_symbols),
    TEST(decoded_chunks_encode_to_the_same_ids),
    TEST(symbols_are_the_nearest_levels),
    TEST(optimal_parsing_takes_the_fewest_tokens),
    TEST(kernels_give_the_same_bits),
    TEST(kernels_that_do_not_exist_are_refused),
    TEST(threads_do_not_change_results),
    TEST(many_threads_share_one_codec),
    TEST(empty_batches_encode_and_decode_to_nothing),
    TEST(symbols_and_ids_that_do_not_exist_are_refused),
    TEST(chunks_of_other_dimensions_are_refused),
    TEST(a_bad_value_is_named_wherever_it_stands),
    TEST(a_bad_value_is_named_at_every_place),
    TEST(the_first_bad_chunk_is_named_whatever_thread_finds_it),
    TEST(a_batch_can_say_what_its_first_chunk_is_called),
    TEST(transforms_equal_the_textbook_sum),
    TEST(transforms_are_the_same_on_threads),
    TEST(plans_beyond_the_limits_are_refused),
    TEST(ranges_leave_out_no_more_than_allowed),
    TEST(a_corpus_trains_like_its_symbols),
    TEST(a_corpus_is_the_same_on_threads),
    TEST(specs_without_meaning_are_refused),
    TEST(text_encodes_as_its_words_merged_greedily),
    TEST(text_with_longer_runs_than_are_tabulated_is_encoded_exactly),
    TEST(utf8_is_read_back_whole_and_garbage_is_counted),
    TEST(any_published_ids_decode_to_finite_chunks),
    TEST(vocabularies_whose_parts_do_not_fit_are_refused),
    TEST(chunks_near_a_tie_are_marked),
    TEST(a_bit_matrix_transposes_and_keeps_what_is_distinct),
    TEST(an_accepted_codec_decodes_to_finite_chunks_however_extreme_its_scales),
    TEST(finite_values_whose_transform_overflows_saturate_or_are_refused),
    TEST(huge_values_encode_where_the_normalizer_makes_them_smaller),
};

/// True when the test passed. Each has random choices of its own, which do not depend on the tests before it.
bool run(const Test& test, uint64_t seed, int iterations) {
  Random random(seed);
  failures = 0;
  iteration = -1;
  std::printf("%s\n", test.name);
  std::fflush(stdout);  // a sanitizer's report must not come before it
  const auto start = std::chrono::steady_clock::now();
  try {
    test.run(random, iterations);
  } catch (const std::exception& e) {
    fail(__FILE__, __LINE__, test.name, std::string("threw ") + e.what());
  }
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
  if (failures == 0)
    std::printf("  passed, %.2f s\n", taken.count());
  else
    std::printf("  FAILED %d checks, %.2f s\n", failures, taken.count());
  return failures == 0;
}

int run_all(int iterations, uint64_t seed, const char* part_of_name) {
  std::printf("%d iterations, seed %llu\n", iterations, static_cast<unsigned long long>(seed));
  int passed = 0, failed = 0;
  for (const Test& test : kTests)
    if (std::strstr(test.name, part_of_name) != nullptr) ++(run(test, seed, iterations) ? passed : failed);
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 && passed > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

}  // namespace
}  // namespace fast_tokenizer

int main(int argc, char** argv) {
  const int iterations = argc > 1 ? std::atoi(argv[1]) : 500;
  const uint64_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1;
  if (iterations < 1 || argc > 4) {
    std::fprintf(stderr, "usage: core_tests [iterations] [seed] [part of names]\n");
    return EXIT_FAILURE;
  }
  return fast_tokenizer::run_all(iterations, seed, argc > 3 ? argv[3] : "");
}
