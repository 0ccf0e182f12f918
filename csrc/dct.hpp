// Orthonormal DCT-II and DCT-III along time, for any horizon.
//
//   X_k = a_k sum_t x_t cos(pi k (2t + 1) / 2T),   a_0 = sqrt(1/T), a_k = sqrt(2/T)
//
// Short horizons multiply by the two half-size matrices that the even/odd symmetry leaves (T^2 / 2 products
// a column); long ones use one complex FFT of half the length (Makhoul 1980), Bluestein's algorithm where
// the length has a large prime factor. A plan is built once and never changes.
#pragma once

#include <memory>
#include <vector>

#include "kernels.hpp"
#include "uninitialized.hpp"

namespace fast_tokenizer {

/// Aligned storage for the kernels' vectors.
class WorkBuffer {
 public:
  /// Room for `vectors` vectors of kMaxLanes doubles, 64-byte aligned.
  double* reserve(size_t vectors);

 private:
  Uninitialized<double> storage_;
};

class FftPlan {
 public:
  explicit FftPlan(int n);
  const FftTables& tables() const { return tables_; }

 private:
  void build_stages(const std::vector<int>& radices);
  void build_bluestein();

  FftTables tables_{};
  std::vector<FftStage> stages_;
  std::vector<std::vector<double>> coefficients_;
  std::unique_ptr<FftPlan> conv_;
  std::vector<double> chirp_, chirp_spectrum_;
};

class DctPlan {
 public:
  static constexpr int kMaxHorizon = 1 << 20;

  enum class Method { kAutomatic, kMatrix, kFft };

  /// Throws std::invalid_argument unless 1 <= horizon <= kMaxHorizon.
  explicit DctPlan(int horizon, Method method = Method::kAutomatic);
  const DctTables& tables() const { return tables_; }

  /// The plan of this horizon, built on first use in the calling thread and kept there. No lock, so a
  /// process forked at any moment can use it.
  static std::shared_ptr<const DctPlan> cached(int horizon);

 private:
  void build_matrices();
  void build_fft();

  DctTables tables_{};
  std::vector<double> forward_even_, forward_odd_, inverse_even_, inverse_odd_;
  std::unique_ptr<FftPlan> fft_;
  std::vector<double> forward_shift_, inverse_shift_, real_twiddles_;
  std::vector<int> order_;
};

enum class Direction { kForward, kInverse };

/// Transforms `count` chunks of (horizon, action_dim), one after the other in `in` and in `out`.
void transform_chunks(const DctPlan& plan, Direction direction, const Kernels& kernels, size_t count, int action_dim,
                      const double* in, double* out, int num_threads);

}  // namespace fast_tokenizer
