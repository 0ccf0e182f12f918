#include "quantize.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <sstream>
#include <stdexcept>
#include <string>

#include "parallel.hpp"

namespace fast_tokenizer {
namespace {

/// `values` for `action_dim` dimensions, filled up to a whole vector with `fill`.
std::vector<double> padded(const std::vector<double>& values, int action_dim, double fill, const char* name) {
  const auto dims = static_cast<size_t>(action_dim);
  if (values.size() != 1 && values.size() != dims)
    throw std::invalid_argument(std::string(name) + " has " + std::to_string(values.size()) +
                                " entries, the chunks have " + std::to_string(dims) + " dimensions");
  std::vector<double> out = values.size() == dims ? values : std::vector<double>(dims, values[0]);
  if (dims < kMaxLanes) out.resize(kMaxLanes, fill);
  return out;
}

template <typename T>
[[noreturn]] void throw_not_finite_in(const T* data, const ChunkBatch& batch, size_t chunk) {
  const auto dims = static_cast<int64_t>(batch.action_dim);
  const std::string name = "chunk " + std::to_string(batch.first_chunk + chunk);
  const T* values = data + batch.first_row(chunk) * dims;
  for (int64_t i = 0; i < batch.rows(chunk) * dims; ++i)
    if (!std::isfinite(values[i]))
      throw std::invalid_argument(name + ": value at time step " + std::to_string(i / dims) + ", dimension " +
                                  std::to_string(i % dims) + " is " + (std::isnan(values[i]) ? "NaN" : "infinite") +
                                  "; actions must be finite");
  T largest = 0;
  for (int64_t i = 0; i < batch.rows(chunk) * dims; ++i) largest = std::max(largest, std::abs(values[i]));
  std::ostringstream message;
  message << name << ": values as large as " << largest << " overflow in the transform; normalise the actions";
  throw std::invalid_argument(message.str());
}

}  // namespace

QuantizerSpec validated(QuantizerSpec spec) {
  auto require = [](bool ok, const std::string& message) {
    if (!ok) throw std::invalid_argument(message);
  };
  auto in_bounds = [](double x) { return 1 / kMaxMagnitude <= x && x <= kMaxMagnitude; };
  require(!spec.scale.empty(), "scale must have at least one entry");
  for (const double s : spec.scale) require(in_bounds(s), "scale must lie in 1e-100..1e100, got " + std::to_string(s));
  require(-kMaxCoefficient <= spec.lowest && spec.lowest <= 0 && 0 <= spec.highest && spec.highest <= kMaxCoefficient,
          "the coefficient range must include 0 and lie within +-" + std::to_string(kMaxCoefficient) + ", got " +
              std::to_string(spec.lowest) + ".." + std::to_string(spec.highest));
  require(0.5 <= spec.dead_zone && spec.dead_zone <= 0.99,
          "dead_zone must lie in 0.5..0.99, got " + std::to_string(spec.dead_zone));
  if (!spec.normalization) return spec;
  const Normalization& norm = *spec.normalization;
  require(norm.center.size() == norm.half_range.size(), "center and half_range must have the same length");
  require(norm.clip > 0, "clip must be positive");
  for (size_t d = 0; d < norm.center.size(); ++d) {
    const double h = norm.half_range[d];
    require(std::abs(norm.center[d]) <= kMaxMagnitude && (h == 0 || in_bounds(h)),
            "normalization of dimension " + std::to_string(d) +
                ": center must lie within +-1e100, half_range in 1e-100..1e100 or be 0");
  }
  return spec;
}

int batch_threads(const ChunkBatch& batch, int requested) {
  constexpr int64_t kValuesPerThread = 1 << 15;  // about 100 us of work, a few times what a thread costs
  const int64_t values = batch.total_rows() * batch.action_dim;
  return thread_count(requested, std::min(batch.count, static_cast<size_t>(values / kValuesPerThread)));
}

BatchPlans::BatchPlans(const ChunkBatch& batch) {
  if (batch.row_offsets.empty()) {
    add({&batch.horizon, 1});
    return;
  }
  std::vector<int64_t> horizons;
  for (size_t i = 0; i < batch.count; ++i) horizons.push_back(batch.rows(i));
  add(horizons);
}

void BatchPlans::add(std::span<const int64_t> horizons) {
  std::vector<int64_t> distinct(horizons.begin(), horizons.end());
  std::sort(distinct.begin(), distinct.end());
  distinct.erase(std::unique(distinct.begin(), distinct.end()), distinct.end());
  for (const int64_t h : distinct) {
    if (h < 1 || h > DctPlan::kMaxHorizon)
      throw std::invalid_argument("horizon must lie in 1.." + std::to_string(DctPlan::kMaxHorizon) + ", got " +
                                  std::to_string(h));
    plans_.emplace_back(h, DctPlan::cached(static_cast<int>(h)));
  }
}

const DctPlan& BatchPlans::operator[](int64_t horizon) const {
  const auto found = std::lower_bound(plans_.begin(), plans_.end(), horizon,
                                      [](const auto& plan, int64_t h) { return plan.first < h; });
  return *found->second;
}

DecodedBatch::DecodedBatch(size_t count, std::span<const int64_t> horizons, int action_dim)
    : first_rows(horizons.size() == 1 ? 0 : count + 1),
      shape{nullptr, false, action_dim, count, horizons[0], {}, 0},
      plans(horizons) {
  for (size_t i = 0; i + 1 < first_rows.size(); ++i) first_rows[i + 1] = first_rows[i] + horizons[i];
  shape.row_offsets = first_rows;
}

Quantizer::Quantizer(const QuantizerSpec& spec, int action_dim, const Kernels& kernels)
    : kernels_(kernels),
      action_dim_(action_dim),
      lowest_(spec.lowest),
      highest_(spec.highest),
      dead_zone_(spec.dead_zone),
      tie_ulps_(spec.tie_ulps),
      scale_(padded(spec.scale, action_dim, 1.0, "scale")) {
  if (!spec.normalization) return;
  const Normalization& norm = *spec.normalization;
  if (norm.center.size() != static_cast<size_t>(action_dim))
    throw std::invalid_argument("the normalizer has " + std::to_string(norm.center.size()) +
                                " dimensions, the chunks have " + std::to_string(action_dim));
  center_ = padded(norm.center, action_dim, 0.0, "center");
  half_range_ = padded(norm.half_range, action_dim, 1.0, "half_range");
  bool has_constant = false;
  for (const double h : half_range_) {
    gain_.push_back(h == 0.0 ? 0.0 : 1.0 / h);
    has_constant = has_constant || h == 0.0;
  }
  normalization_ = {center_.data(), gain_.data(), half_range_.data(), norm.clip, has_constant};
}

ChunkCounts Quantizer::quantize(const ChunkBatch& batch, size_t i, const DctPlan& plan, Symbol* symbols) {
  const int horizon = plan.tables().horizon;
  const ForwardArgs args = {&plan.tables(),
                            horizon,
                            action_dim_,
                            scale_.data(),
                            static_cast<double>(lowest_),
                            static_cast<double>(highest_),
                            normalization_ ? &*normalization_ : nullptr,
                            dead_zone_,
                            tie_ulps_,
                            work_.reserve(plan.tables().work_vectors)};
  ChunkCounts counts{};
  const size_t values = static_cast<size_t>(horizon) * static_cast<size_t>(action_dim_);
  const auto first = static_cast<size_t>(batch.first_row(i)) * static_cast<size_t>(action_dim_);
  auto run = [&](const auto* data, auto kernel) {
    using Value = std::remove_cvref_t<decltype(*data)>;
    const Value* chunk = data + first;
    if (action_dim_ < kMaxLanes) {  // whole vectors would read past the chunk
      padded_.assign((values * sizeof(Value)) / sizeof(double) + kMaxLanes + 1, 0.0);
      std::memcpy(padded_.data(), chunk, values * sizeof(Value));
      chunk = reinterpret_cast<const Value*>(padded_.data());
    }
    kernel(args, chunk, symbols, &counts);
  };
  if (batch.is_float32)
    run(static_cast<const float*>(batch.data), kernels_.quantize_f32);
  else
    run(static_cast<const double*>(batch.data), kernels_.quantize_f64);
  return counts;
}

void Quantizer::dequantize(const Symbol* symbols, const DctPlan& plan, double* chunk) {
  const int horizon = plan.tables().horizon;
  size_t used = static_cast<size_t>(horizon) * static_cast<size_t>(action_dim_);
  const Symbol zero = zero_symbol();
  while (used > 0 && symbols[used - 1] == zero) --used;
  const auto dims = static_cast<size_t>(action_dim_);
  const InverseArgs args = {&plan.tables(),
                            horizon,
                            action_dim_,
                            scale_.data(),
                            static_cast<double>(lowest_),
                            static_cast<int>((used + dims - 1) / dims),
                            normalization_ ? &*normalization_ : nullptr,
                            work_.reserve(plan.tables().work_vectors)};
  kernels_.dequantize(args, symbols, chunk);
}

void throw_not_finite(const ChunkBatch& batch, size_t chunk) {
  if (batch.is_float32) throw_not_finite_in(static_cast<const float*>(batch.data), batch, chunk);
  throw_not_finite_in(static_cast<const double*>(batch.data), batch, chunk);
}

}  // namespace fast_tokenizer
