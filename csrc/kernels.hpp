// The numeric inner loops, compiled once per instruction set and chosen at run time.
//
// Every kernel performs the same additions and multiplications in the same order for every column of a
// chunk; a wider kernel only handles more columns at once. With floating-point contraction off, all
// kernels therefore give the same bits.
//
// Only plain structs and pointers cross this boundary: a kernel file must not instantiate a template or
// an inline function that other files share, or the linker may keep its AVX-512 copy for everyone.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fast_tokenizer {

/// Widest kernel in double lanes. Parameter arrays are padded to at least this length.
inline constexpr int kMaxLanes = 8;
/// Outputs of the matrix transform that are accumulated together.
inline constexpr int kMaxBlock = 8;

/// One pass of the mixed-radix FFT: `m` butterflies of `radix`, each on `s` interleaved sub-transforms.
struct FftStage {
  int radix, m, s;
  const double* twiddles;  ///< (m, radix - 1) complex: exp(-2 pi i p j / (radix * m)), j from 1
  const double* roots;     ///< (radix) complex: exp(-2 pi i j / radix); used by radices without code of their own
};

/// A complex FFT of length n: stages, or Bluestein's convolution of length conv->n when n has a large factor.
struct FftTables {
  int n;
  int n_stages;
  const FftStage* stages;
  const FftTables* conv;         ///< null unless Bluestein
  const double* chirp;           ///< (n) complex: exp(-pi i k^2 / n)
  const double* chirp_spectrum;  ///< (conv->n) complex: FFT of the conjugate chirp, divided by conv->n
};

/// Tables of one transform length. Either the four matrices are set, or the FFT and its twiddles.
struct DctTables {
  int horizon;
  const double *forward_even, *forward_odd, *inverse_even, *inverse_odd;  ///< in blocks of outputs
  const FftTables* fft;         ///< length horizon / 2 when even, horizon when odd
  const double* forward_shift;  ///< (horizon / 2 + 1) complex: a_k exp(-pi i k / 2T)
  const double* inverse_shift;  ///< (horizon / 2 + 1) complex: exp(pi i k / 2T) / a_k and the FFT's 1/n
  const double* real_twiddles;  ///< (horizon / 2) complex: exp(-2 pi i k / T), even horizons
  const int* order;             ///< (horizon) Makhoul's reordering: 0, 2, 4, ..., 5, 3, 1
  int fft_points;               ///< complex vectors in each FFT buffer
  size_t work_vectors;          ///< scratch that one column group needs, in vectors of kMaxLanes doubles
};

/// y = (x - center) * gain, then clipped to [-clip, clip]; x = y * half_range + center.
struct NormalizationTables {
  const double *center, *gain, *half_range;
  double clip;        ///< infinity: no clipping
  bool has_constant;  ///< some gain is 0: leaving the constant counts as clipped
};

struct ForwardArgs {
  const DctTables* dct;
  int horizon, action_dim;
  const double* scale;                       ///< per dimension
  double lowest, highest;                    ///< fitted range of quantized coefficients
  const NormalizationTables* normalization;  ///< null: input is taken as it is
  double dead_zone;                          ///< see QuantizerSpec; 0.5: none
  double tie_ulps;                           ///< see QuantizerSpec; 0: ties are not looked for
  double* work;
};

struct InverseArgs {
  const DctTables* dct;
  int horizon, action_dim;
  const double* scale;
  double lowest;
  int rows;  ///< frequencies from `rows` on are all zero
  const NormalizationTables* normalization;
  double* work;
};

struct ChunkCounts {
  int64_t saturated, clipped;
  bool finite;    ///< false: a value is not finite, or so large that the transform overflows
  bool near_tie;  ///< a coefficient lies within `tie_ulps` of a tie
};

/// Chunks and symbol rows are read and written a whole vector at a time: `chunk` and `symbols` must be
/// readable (writable) for kMaxLanes elements past their end.
struct Kernels {
  const char* name;
  void (*quantize_f32)(const ForwardArgs&, const float* chunk, uint16_t* symbols, ChunkCounts*);
  void (*quantize_f64)(const ForwardArgs&, const double* chunk, uint16_t* symbols, ChunkCounts*);
  void (*dequantize)(const InverseArgs&, const uint16_t* symbols, double* chunk);
  void (*dct2)(const DctTables&, int action_dim, const double* in, double* out, double* work);
  void (*dct3)(const DctTables&, int action_dim, const double* in, double* out, double* work);
};

/// The kernel in use: the widest that the machine runs, or the one named by FAST_TOKENIZER_KERNEL.
/// Throws std::runtime_error when that name is unknown or the machine cannot run it.
const Kernels& default_kernels();
/// The kernel of that name. Throws std::runtime_error as above.
const Kernels& kernels_by_name(const char* name);
/// Names of the kernels this machine can run, narrowest first; ends with a null pointer.
const char* const* available_kernels();

}  // namespace fast_tokenizer
