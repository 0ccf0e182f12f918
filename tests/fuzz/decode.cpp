// Any ids, for any table and coding: chunks are finite, hold fitted coefficients, and the counts say what was done.
#include "cases.hpp"

using namespace fast_tokenizer;
using namespace fast_tokenizer::fuzz;

namespace {

std::vector<int32_t> ids_from(Input& in, int vocab_size, size_t most) {
  std::vector<int32_t> ids;
  for (size_t n = in.between<size_t>(0, most); n > 0 && !in.empty(); --n)
    ids.push_back(in.one_in(16) ? static_cast<int32_t>(in.bits(4)) : in.between<int32_t>(-1, vocab_size));
  ids.shrink_to_fit();
  return ids;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::vector<const Kernels*> kernels = all_kernels();
  Input in(data, size);
  const int dims = in.between(1, 10);
  const QuantizerSpec spec = spec_from(in, dims);
  const Coding coding = coding_from(in);
  const std::vector<RawMerge> merges = grown_merges(in, alphabet_of(spec, coding), 16);
  const Kernels* const kernel = kernels[in.between<size_t>(0, kernels.size() - 1)];
  const Codec codec(spec, merges, *kernel, coding);

  std::vector<int64_t> horizons, offsets = {0};
  std::vector<int32_t> ids;
  size_t values = 0;
  const auto count = in.between<size_t>(1, 3);
  for (size_t i = 0; i < count; ++i) {
    horizons.push_back(horizon_from(in));
    const auto expected = static_cast<size_t>(horizons.back() * dims);
    const auto some = ids_from(in, codec.table().vocab_size(), expected + 5);
    ids.insert(ids.end(), some.begin(), some.end());
    offsets.push_back(static_cast<int64_t>(ids.size()));
    values += expected;
  }
  std::vector<double> out(values, std::nan(""));
  std::vector<DecodeCounts> counts(count);
  codec.decode({ids, offsets}, horizons, dims, out.data(), counts.data(), 1);
  expect(all_finite(out), "decoded values are finite");

  if (kernel != kernels[0]) {
    std::vector<double> by_baseline(values);
    std::vector<DecodeCounts> again(count);
    const Codec baseline(spec, merges, *kernels[0], coding);
    baseline.decode({ids, offsets}, horizons, dims, by_baseline.data(), again.data(), 1);
    expect(same_bits(out, by_baseline), "all kernels decode to the same bits");
  }

  size_t first = 0;
  for (size_t i = 0; i < count; ++i) {
    const auto of_chunk = RaggedView<int32_t>{ids, offsets}[i];
    const NaiveDecoded wanted = decode_naively(codec, coding, of_chunk, static_cast<int>(horizons[i]), dims);
    expect(counts[i].unknown == wanted.counts.unknown, "unknown ids are counted");
    expect(counts[i].missing == wanted.counts.missing, "missing symbols are counted");
    expect(counts[i].extra == wanted.counts.extra, "symbols too many are counted");
    expect(counts[i].expected == wanted.counts.expected, "expected symbols are counted");
    expect(counts[i].missing == 0 || counts[i].extra == 0, "no chunk is both too short and too long");
    for (size_t v = 0; v < wanted.values.size(); ++v)
      expect(std::abs(out[first + v] - wanted.values[v]) <= 1e-9 * (1 + std::abs(wanted.values[v])),
             "values are those of the coefficients that the ids spell");
    first += wanted.values.size();
    if (wanted.counts.unknown > 0) continue;
    const std::vector<Symbol> symbols = codec.expand(of_chunk);
    if (!coding.layout.has_end())
      expect(counts[i].well_formed() == (static_cast<int64_t>(symbols.size()) == counts[i].expected),
             "well-formed is what has the number of symbols of a chunk");
  }
  return 0;
}
