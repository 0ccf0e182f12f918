// What a file may hold: any merges, ranges, scales and codings are refused with std::invalid_argument, or make a codec
// that keeps its promises.
#include "cases.hpp"

using namespace fast_tokenizer;
using namespace fast_tokenizer::fuzz;

namespace {

/// Above it the naive encoder takes too long.
constexpr size_t kMostNaiveSymbols = 2000;

int64_t any_id(Input& in, int64_t newest) {
  if (!in.one_in(8)) return in.between<int64_t>(0, newest);
  return in.flag() ? static_cast<int64_t>(in.bits(8)) : in.one_of<int64_t>({-1, newest + 1, 0xFFFE, 0xFFFF, 0x10000});
}

std::vector<RawMerge> any_merges(Input& in, int64_t alphabet_size) {
  std::vector<RawMerge> merges;
  for (int n = in.between(0, 20); n > 0 && !in.empty(); --n) {
    const auto newest = std::clamp<int64_t>(alphabet_size, 1, 99) + static_cast<int64_t>(merges.size()) - 1;
    if (in.one_in(4))
      merges.push_back({newest, newest});
    else
      merges.push_back({any_id(in, newest), any_id(in, newest)});
  }
  return merges;
}

size_t table_symbols(const MergeTable& table) {
  size_t sum = 0;
  for (int t = 0; t < table.vocab_size(); ++t)
    sum += static_cast<size_t>(table.expansion_length(static_cast<TokenId>(t)));
  return sum;
}

void check_table(Input& in) {
  const int64_t alphabet_size = in.one_in(16) ? static_cast<int64_t>(in.bits(8)) : in.between<int64_t>(0, 20);
  const std::vector<RawMerge> merges = any_merges(in, alphabet_size);
  std::optional<MergeTable> table;
  const bool bad = refused([&] { table.emplace(alphabet_size, merges); });
  if (alphabet_size < 1 || alphabet_size > kMaxVocabSize - static_cast<int64_t>(merges.size())) {
    expect(bad, "a vocabulary beyond the limits is refused");
    return;
  }
  if (bad && merges.size() <= 9)
    expect(!is_acceptable(static_cast<int>(alphabet_size), merges), "refused for a reason");
  if (bad) return;
  if (table_symbols(*table) > kMostNaiveSymbols) return;
  expect(is_acceptable(static_cast<int>(alphabet_size), merges), "accepted merges are what training could make");
  const Ranks ranks = ranks_of(*table);
  const BpeEncoder encoder(*table, in.between<Symbol>(0, static_cast<Symbol>(alphabet_size - 1)));
  const Symbols symbols = symbols_from(in, static_cast<int>(alphabet_size), 60);
  std::vector<TokenId> tokens(symbols.size());
  EncodeScratch scratch;
  tokens.resize(encoder.encode(symbols, tokens.data(), scratch));
  expect(Tokens(tokens.begin(), tokens.end()) == encode_naively(tokens_of(symbols), ranks),
         "an accepted table encodes as greedy merging does");
}

double any_number(Input& in) { return in.one_in(8) ? in.any_double() : 1 + in.coarse(0.9); }

/// Seldom anything; then seldom such that the codec is large, which takes long to build.
int any_integer(Input& in, int low, int high) {
  if (!in.one_in(16)) return in.between(low, high);
  const auto any = static_cast<int>(in.bits(4));
  return std::abs(int64_t{any}) <= kMaxVocabSize && !in.one_in(64) ? any % 256 : any;
}

void check_codec(Input& in) {
  QuantizerSpec spec;
  const int dims = in.between(1, 9);
  for (int n = in.one_of({1, dims, 0, 2}); n > 0; --n) spec.scale.push_back(any_number(in));
  spec.lowest = any_integer(in, -15, 1);
  spec.highest = any_integer(in, -1, 15);
  spec.dead_zone = in.one_in(8) ? in.any_double() : 0.5;
  if (in.flag()) {
    Normalization norm;
    for (int n = in.one_in(16) ? in.between(0, 3) : dims; n > 0; --n) norm.center.push_back(any_number(in));
    for (int n = in.one_in(16) ? in.between(0, 3) : dims; n > 0; --n) norm.half_range.push_back(any_number(in));
    norm.clip = any_number(in);
    spec.normalization = norm;
  }
  const Coding coding = {{in.flag() ? Order::kFrequencyFirst : Order::kDimensionFirst,
                          in.one_of({EndOfBlock::kNone, EndOfBlock::kChunk, EndOfBlock::kDimension})},
                         in.flag() ? Parsing::kBpe : Parsing::kOptimal,
                         any_integer(in, 0, 3)};
  const std::vector<RawMerge> merges = any_merges(in, 12);
  std::optional<Codec> codec;
  if (refused([&] { codec.emplace(spec, merges, default_kernels(), coding); })) return;
  std::vector<int32_t> ids;
  for (int n = in.between(0, 40); n > 0; --n) ids.push_back(in.between(-1, codec->table().vocab_size()));
  const std::vector<int64_t> offsets = {0, static_cast<int64_t>(ids.size())}, horizons = {in.between<int64_t>(-1, 9)};
  std::vector<double> out(static_cast<size_t>(std::max<int64_t>(0, horizons[0]) * dims));
  DecodeCounts counts;
  const bool bad = refused([&] { codec->decode({ids, offsets}, horizons, dims, out.data(), &counts, 1); });
  const bool fits = spec.scale.size() == 1 || spec.scale.size() == static_cast<size_t>(dims);
  const bool fits_normalization = !spec.normalization || spec.normalization->center.size() == static_cast<size_t>(dims);
  expect(bad == (horizons[0] < 1 || !fits || !fits_normalization), "decoding fails for shapes alone");
  expect(bad || all_finite(out), "an accepted codec decodes to finite chunks");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input in(data, size);
  if (in.flag())
    check_table(in);
  else
    check_codec(in);
  return 0;
}
