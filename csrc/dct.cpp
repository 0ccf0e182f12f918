#include "dct.hpp"

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <unordered_map>

#include "parallel.hpp"

namespace fast_tokenizer {
namespace {

constexpr double kPi = 3.14159265358979323846;

struct Point {
  double cos, sin;
};

/// cos and sin of 2 pi num / den, reduced to the first octant in integers, so that zeros, ones and symmetric
/// values are exact. (A rounded zero such as 1e-17 costs accuracy, and speed where it becomes denormal.)
Point unit_circle(int64_t num, int64_t den) {
  num %= den;
  if (num < 0) num += den;
  int64_t eighths = 8 * num;  // angle in units of 2 pi / (8 den)
  bool negate_sin = false, negate_cos = false, swap = false;
  if (eighths > 4 * den) {
    eighths = 8 * den - eighths;
    negate_sin = true;
  }
  if (eighths > 2 * den) {
    eighths = 4 * den - eighths;
    negate_cos = true;
  }
  if (eighths > den) {
    eighths = 2 * den - eighths;
    swap = true;
  }
  const double angle = 2.0 * kPi * static_cast<double>(eighths) / (8.0 * static_cast<double>(den));
  double c = std::cos(angle), s = std::sin(angle);
  if (eighths == 0) s = 0.0;
  if (eighths == den) c = s = std::sqrt(0.5);
  if (swap) std::swap(c, s);
  return {negate_cos ? -c : c, negate_sin ? -s : s};
}

void append(std::vector<double>& v, Point p, double factor = 1.0) {
  v.push_back(p.cos * factor);
  v.push_back(p.sin * factor);
}

/// Radices in the order of the passes, 4 before 2; empty when a prime factor exceeds 13, from where Bluestein's
/// convolution is cheaper than the textbook sum.
std::vector<int> factorize(int n) {
  std::vector<int> radices;
  for (int r : {4, 2, 3, 5, 7, 11, 13})
    for (; n % r == 0; n /= r) radices.push_back(r);
  if (n > 1) radices.clear();
  return radices;
}

bool is_smooth(int n) { return n == 1 || !factorize(n).empty(); }

/// Additions and multiplications of one column, near enough to choose a method by.
double fft_cost(int n) {
  if (!is_smooth(n)) {
    int length = 1;
    while (length < 2 * n - 1) length *= 2;
    return 2 * fft_cost(length) + 6.0 * (length + 2.0 * n);
  }
  double cost = 0;
  for (int r : factorize(n)) {
    const double butterfly = r == 2 ? 4 : r == 3 ? 16 : r == 4 ? 16 : r == 5 ? 40 : 8.0 * r * r;
    cost += static_cast<double>(n) / r * (butterfly + 6.0 * (r - 1));
  }
  return cost;
}

bool fft_is_cheaper(int horizon) {
  const bool even = horizon % 2 == 0;
  const double fft = fft_cost(even ? horizon / 2 : horizon) + (even ? 14.0 : 8.0) * horizon;
  // The matrix runs from registers, the FFT's passes go through memory: 1.6 was found by timing both.
  return horizon >= 16 && 1.6 * fft < static_cast<double>(horizon) * horizon;
}

/// Rearranges matrix(out, in) into the blocks of outputs that the kernels accumulate together.
template <typename Entry>
std::vector<double> blocked(int n_out, int n_in, Entry entry) {
  std::vector<double> table;
  const int blocks = (n_out + kMaxBlock - 1) / kMaxBlock;
  for (int b = 0; b < blocks; ++b)
    for (int i = 0; i < n_in; ++i)
      for (int o = n_out * b / blocks; o < n_out * (b + 1) / blocks; ++o) table.push_back(entry(o, i));
  return table;
}

/// Plain recursive FFT, for tables only.
std::vector<std::complex<double>> power_of_two_fft(const std::vector<std::complex<double>>& x) {
  const size_t n = x.size();
  if (n == 1) return x;
  std::vector<std::complex<double>> even, odd, out(n);
  for (size_t i = 0; i < n; i += 2) {
    even.push_back(x[i]);
    odd.push_back(x[i + 1]);
  }
  even = power_of_two_fft(even);
  odd = power_of_two_fft(odd);
  for (size_t k = 0; k < n / 2; ++k) {
    const Point w = unit_circle(-static_cast<int64_t>(k), static_cast<int64_t>(n));
    const std::complex<double> turned(odd[k].real() * w.cos - odd[k].imag() * w.sin,
                                      odd[k].real() * w.sin + odd[k].imag() * w.cos);
    out[k] = even[k] + turned;
    out[k + n / 2] = even[k] - turned;
  }
  return out;
}

}  // namespace

double* WorkBuffer::reserve(size_t vectors) {
  constexpr size_t kAlign = 64;
  const size_t need = vectors * kMaxLanes + kAlign / sizeof(double);
  double* const storage = storage_.reserve(need);
  return storage + (kAlign - reinterpret_cast<uintptr_t>(storage) % kAlign) % kAlign / sizeof(double);
}

FftPlan::FftPlan(int n) {
  tables_.n = n;
  if (is_smooth(n))
    build_stages(factorize(n));
  else
    build_bluestein();
}

void FftPlan::build_stages(const std::vector<int>& radices) {
  int length = tables_.n, interleaved = 1;
  for (int radix : radices) {
    const int m = length / radix;
    std::vector<double> twiddles, roots;
    for (int p = 0; p < m; ++p)
      for (int j = 1; j < radix; ++j) append(twiddles, unit_circle(-static_cast<int64_t>(p) * j, length));
    for (int j = 0; j < radix; ++j) append(roots, unit_circle(-j, radix));
    coefficients_.push_back(std::move(twiddles));
    coefficients_.push_back(std::move(roots));
    stages_.push_back({radix, m, interleaved, nullptr, nullptr});
    length = m;
    interleaved *= radix;
  }
  for (size_t i = 0; i < stages_.size(); ++i) {
    stages_[i].twiddles = coefficients_[2 * i].data();
    stages_[i].roots = coefficients_[2 * i + 1].data();
  }
  tables_.n_stages = static_cast<int>(stages_.size());
  tables_.stages = stages_.data();
}

void FftPlan::build_bluestein() {
  const int n = tables_.n;
  int length = 1;
  while (length < 2 * n - 1) length *= 2;
  conv_ = std::make_unique<FftPlan>(length);
  for (int64_t k = 0; k < n; ++k) append(chirp_, unit_circle(-k * k, 2 * static_cast<int64_t>(n)));

  std::vector<std::complex<double>> wrapped(static_cast<size_t>(length));
  for (int k = 0; k < n; ++k) {
    const auto at = static_cast<size_t>(k);
    const std::complex<double> conjugate(chirp_[2 * at], -chirp_[2 * at + 1]);
    wrapped[at] = wrapped[(wrapped.size() - at) % wrapped.size()] = conjugate;
  }
  for (const auto& c : power_of_two_fft(wrapped)) {
    chirp_spectrum_.push_back(c.real() / length);
    chirp_spectrum_.push_back(c.imag() / length);
  }
  tables_.conv = &conv_->tables();
  tables_.chirp = chirp_.data();
  tables_.chirp_spectrum = chirp_spectrum_.data();
}

DctPlan::DctPlan(int horizon, Method method) {
  if (horizon < 1 || horizon > kMaxHorizon)
    throw std::invalid_argument("horizon must lie in 1.." + std::to_string(kMaxHorizon) + ", got " +
                                std::to_string(horizon));
  tables_.horizon = horizon;
  tables_.work_vectors = 2 * static_cast<size_t>(horizon);
  const bool fft = method == Method::kFft || (method == Method::kAutomatic && fft_is_cheaper(horizon));
  if (fft && horizon > 1)
    build_fft();
  else
    build_matrices();
}

void DctPlan::build_matrices() {
  const int64_t T = tables_.horizon;
  const int half = tables_.horizon / 2, upper = tables_.horizon - half;
  auto entry = [T](int64_t k, int64_t t) {
    const double norm = std::sqrt((k == 0 ? 1.0 : 2.0) / static_cast<double>(T));
    return norm * unit_circle(k * (2 * t + 1), 4 * T).cos;
  };
  forward_even_ = blocked(upper, upper, [&](int o, int i) { return entry(2 * o, i); });
  forward_odd_ = blocked(half, half, [&](int o, int i) { return entry(2 * o + 1, i); });
  inverse_even_ = blocked(upper, upper, [&](int o, int i) { return entry(2 * i, o); });
  inverse_odd_ = blocked(half, half, [&](int o, int i) { return entry(2 * i + 1, o); });
  tables_.forward_even = forward_even_.data();
  tables_.forward_odd = forward_odd_.data();
  tables_.inverse_even = inverse_even_.data();
  tables_.inverse_odd = inverse_odd_.data();
  tables_.work_vectors += static_cast<size_t>(half);
}

void DctPlan::build_fft() {
  const int64_t T = tables_.horizon;
  const int half = tables_.horizon / 2;
  const bool even = T % 2 == 0;
  fft_ = std::make_unique<FftPlan>(even ? half : tables_.horizon);
  for (int k = 0; k <= half; ++k) {
    const double norm = std::sqrt((k == 0 ? 1.0 : 2.0) / static_cast<double>(T));
    // Even horizons: the inverse FFT's 1/(T/2), and 1/2 of the split into even and odd samples.
    append(forward_shift_, unit_circle(-k, 4 * T), norm);
    append(inverse_shift_, unit_circle(k, 4 * T), 1.0 / (norm * static_cast<double>(T)));
    if (even && k < half) append(real_twiddles_, unit_circle(-k, T));
  }
  for (int t = 0; t < tables_.horizon; t += 2) order_.push_back(t);
  for (int t = 2 * half - 1; t > 0; t -= 2) order_.push_back(t);
  tables_.order = order_.data();
  tables_.fft = &fft_->tables();
  tables_.forward_shift = forward_shift_.data();
  tables_.inverse_shift = inverse_shift_.data();
  tables_.real_twiddles = real_twiddles_.data();
  tables_.fft_points = tables_.fft->conv != nullptr ? tables_.fft->conv->n : tables_.fft->n + 1;
  tables_.work_vectors += 4 * static_cast<size_t>(tables_.fft_points);
}

void transform_chunks(const DctPlan& plan, Direction direction, const Kernels& kernels, size_t count, int action_dim,
                      const double* in, double* out, int num_threads) {
  const auto run = direction == Direction::kForward ? kernels.dct2 : kernels.dct3;
  const auto horizon = static_cast<size_t>(plan.tables().horizon), dims = static_cast<size_t>(action_dim);
  const size_t chunk = horizon * dims;
  // Chunks narrower than a vector share one: side by side, as the columns of one padded chunk.
  const size_t together = std::max<size_t>(1, kMaxLanes / dims);
  const size_t groups = (count + together - 1) / together;
  constexpr size_t kValuesPerThread = 1 << 15;
  parallel_for(groups, thread_count(num_threads, count * chunk / kValuesPerThread), [&](size_t begin, size_t end, int) {
    WorkBuffer work;
    double* const scratch = work.reserve(plan.tables().work_vectors);
    std::vector<double> packed(dims < kMaxLanes ? horizon * kMaxLanes : 0);
    for (size_t g = begin; g < end; ++g) {
      const size_t first = g * together, chunks = std::min(together, count - first);
      // A chunk that has its vector to itself is read where it is, unless the vector would pass the end of all.
      if (packed.empty() || (together == 1 && first + 1 < count && horizon * dims >= kMaxLanes)) {
        run(plan.tables(), action_dim, in + first * chunk, out + first * chunk, scratch);
        continue;
      }
      for (size_t c = 0; c < chunks; ++c)
        for (size_t t = 0; t < horizon; ++t)
          for (size_t d = 0; d < dims; ++d)
            packed[t * kMaxLanes + c * dims + d] = in[(first + c) * chunk + t * dims + d];
      run(plan.tables(), kMaxLanes, packed.data(), packed.data(), scratch);
      for (size_t c = 0; c < chunks; ++c)
        for (size_t t = 0; t < horizon; ++t)
          for (size_t d = 0; d < dims; ++d)
            out[(first + c) * chunk + t * dims + d] = packed[t * kMaxLanes + c * dims + d];
    }
  });
}

std::shared_ptr<const DctPlan> DctPlan::cached(int horizon) {
  constexpr size_t kMaxSteps = 1 << 17;  // of all horizons kept; bounds the memory
  thread_local std::unordered_map<int, std::shared_ptr<const DctPlan>> plans;
  thread_local size_t steps = 0;
  if (const auto found = plans.find(horizon); found != plans.end()) return found->second;
  auto plan = std::make_shared<const DctPlan>(horizon);
  if (steps + static_cast<size_t>(horizon) > kMaxSteps) {
    plans.clear();
    steps = 0;
  }
  plans.emplace(horizon, plan);
  steps += static_cast<size_t>(horizon);
  return plan;
}

}  // namespace fast_tokenizer
