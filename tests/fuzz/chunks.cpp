// Any floats: refused with a message, or quantized as the textbook says, by all kernels to the same bit, and back.
#include "cases.hpp"
#include "corpus.hpp"

using namespace fast_tokenizer;
using namespace fast_tokenizer::fuzz;

namespace {

template <typename T>
std::vector<T> values_from(Input& in, size_t count) {
  std::vector<T> values(count);
  const bool wild = in.one_in(3);
  for (T& v : values) {
    if (!wild || in.flag())
      v = static_cast<T>(in.coarse(1.5));
    else if constexpr (sizeof(T) == 4)
      v = in.any_float();
    else
      v = in.any_double();
  }
  return values;
}

/// Coefficients may round either way this near to a tie, in parts of the largest value.
constexpr double kNearTie = 1e-9;

template <typename T>
void check_symbols(const QuantizerSpec& spec, const std::vector<T>& chunk, int horizon, int dims) {
  std::vector<double> normalized(chunk.begin(), chunk.end());
  for (size_t v = 0; v < chunk.size() && spec.normalization; ++v) {
    const auto& [center, half_range, clip] = *spec.normalization;
    const size_t d = v % static_cast<size_t>(dims);
    const double y = half_range[d] == 0 ? 0.0 : (normalized[v] - center[d]) * (1.0 / half_range[d]);
    normalized[v] = std::clamp(y, -clip, clip);
  }
  double largest = 1;
  for (const double y : normalized) largest = std::max(largest, std::abs(y));
  if (largest > 1e6) return;  // rounding errors are larger than a symbol
  Quantizer quantizer(spec, dims, default_kernels());
  std::vector<Symbol> symbols(chunk.size() + kMaxLanes);
  const ChunkBatch batch = {chunk.data(), sizeof(T) == 4, dims, 1, horizon, {}, 0};
  expect(quantizer.quantize(batch, 0, *DctPlan::cached(horizon), symbols.data()).finite, "moderate chunks are finite");
  const auto coefficients = textbook_dct(Direction::kForward, horizon, dims, normalized.data());
  for (size_t v = 0; v < chunk.size(); ++v) {
    const double inside =
        std::clamp<double>(coefficients[v] * spec.scale[v % spec.scale.size()], spec.lowest, spec.highest);
    const int quantized = symbols[v] + spec.lowest;
    expect(std::abs(quantized - inside) <= (quantized == 0 ? spec.dead_zone : 0.5) + kNearTie * largest,
           "a symbol is the nearest coefficient");
  }
}

/// A corpus takes what a codec takes.
void check_corpus(const QuantizerSpec& spec, const Coding& coding, const ChunkBatch& batch, bool fits) {
  const int64_t values = batch.total_rows() * batch.action_dim;
  QuantizerSpec full = spec;
  full.lowest = -kMaxCoefficient;
  full.highest = kMaxCoefficient;
  Corpus corpus(coding.layout);
  expect(refused([&] { corpus.add(full, batch, 1); }) != fits, "a corpus takes what a codec takes");
  expect(corpus.symbols() == (fits ? values : 0), "a corpus takes all of a batch or none");
  int64_t sum = 0;
  for (const int64_t n : corpus.histogram()) sum += n;
  expect(sum == corpus.symbols(), "every coefficient is in the histogram");
}

template <typename T>
void check(Input& in) {
  static const std::vector<const Kernels*> all = all_kernels();
  const std::vector<const Kernels*> kernels = {all.front(), all[in.between<size_t>(0, all.size() - 1)]};
  const int dims = in.between(1, 10);
  const int64_t horizon = horizon_from(in);
  const auto count = in.between<size_t>(1, 2), size = static_cast<size_t>(horizon) * static_cast<size_t>(dims);
  const QuantizerSpec spec = spec_from(in, dims);
  const Coding coding = coding_from(in);
  const std::vector<RawMerge> merges = grown_merges(in, alphabet_of(spec, coding), 8);
  const std::vector<T> values = values_from<T>(in, count * size);
  const ChunkBatch batch = {values.data(), sizeof(T) == 4, dims, count, horizon, {}, 0};

  std::optional<EncodedBatch> wanted;
  std::string reason;
  std::vector<double> wanted_values(count * size);
  for (const Kernels* k : kernels) {
    const Codec codec(spec, merges, *k, coding);
    EncodedBatch got;
    std::string message;
    const bool bad = refused([&] { got = codec.encode(batch, 1); }, &message);
    if (k == kernels[0]) reason = message;
    expect(message == reason, "all kernels refuse the same");
    if (bad) {
      expect(message.starts_with("chunk "), "a refusal names the chunk");
      continue;
    }
    std::vector<double> decoded(count * size, std::nan(""));
    std::vector<DecodeCounts> counts(count);
    codec.decode({got.ids, got.offsets}, {&horizon, 1}, dims, decoded.data(), counts.data(), 1);
    for (const DecodeCounts& c : counts) expect(c.well_formed(), "what was encoded is well-formed");
    expect(all_finite(decoded), "what was encoded decodes to finite values");
    if (!wanted) {
      wanted = got;
      wanted_values = decoded;
    }
    expect(got.ids == wanted->ids && got.offsets == wanted->offsets, "all kernels give the same ids");
    expect(got.saturated == wanted->saturated && got.clipped == wanted->clipped, "all kernels count the same");
    expect(same_bits(decoded, wanted_values), "all kernels decode to the same bits");
  }
  bool finite = true;
  for (const T v : values) finite = finite && std::isfinite(v);
  expect(finite || !wanted, "what is not finite is refused");

  if (in.one_in(8)) check_corpus(spec, coding, batch, wanted.has_value());
  if (wanted && size <= 200)
    check_symbols(spec, std::vector<T>(values.begin(), values.begin() + static_cast<ptrdiff_t>(size)),
                  static_cast<int>(horizon), dims);

  if constexpr (sizeof(T) == 8) {  // the transforms alone take anything, and must agree on it
    const auto plan = DctPlan::cached(static_cast<int>(horizon));
    for (const Direction direction : {Direction::kForward, Direction::kInverse}) {
      std::vector<double> first(values.size()), other(values.size());
      transform_chunks(*plan, direction, *kernels[0], count, dims, values.data(), first.data(), 1);
      for (const Kernels* k : kernels) {
        transform_chunks(*plan, direction, *k, count, dims, values.data(), other.data(), 1);
        expect(same_bits(first, other), "all kernels transform to the same bits");
      }
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input in(data, size);
  if (in.flag())
    check<float>(in);
  else
    check<double>(in);
  return 0;
}
