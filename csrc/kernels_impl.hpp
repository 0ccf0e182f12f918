// The body of every kernel file. The including file sets FT_KERNEL_LANES (doubles a vector) and
// FT_KERNEL_NAME. A vector holds one row of FT_KERNEL_LANES neighbouring columns (action dimensions).
//
// Columns are processed in groups of that width. The last group is shifted left so that it ends at the
// last column; the columns it shares with its neighbour are computed twice, to the same values, and
// counted once. A chunk narrower than a vector reads into the next row; rows are written in ascending
// order, so that what one row spills the next one overwrites.
//
// Not used: fused multiply-add. It rounds once where a machine without it rounds twice, and ids must not differ
// between the two.
#include "kernels.hpp"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace fast_tokenizer {
namespace {

#if defined(__GNUC__) || defined(__clang__)
constexpr int kLanes = FT_KERNEL_LANES;
typedef double Vec __attribute__((vector_size(sizeof(double) * kLanes)));
typedef int64_t Mask __attribute__((vector_size(sizeof(int64_t) * kLanes)));
typedef uint16_t SymbolVec __attribute__((vector_size(sizeof(uint16_t) * kLanes)));

template <typename V, typename T>
inline V load_raw(const T* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
template <typename V, typename T>
inline void store_raw(T* p, V v) {
  __builtin_memcpy(p, &v, sizeof v);
}
inline Vec broadcast(double x) { return Vec{} + x; }
inline Vec load(const double* p) { return load_raw<Vec>(p); }
// Spelled out, as GCC 12 converts in halves. (The mask is for its warning about a register left as it was.)
#if defined(__AVX512F__)
inline Vec load(const float* p) { return reinterpret_cast<Vec>(_mm512_maskz_cvtps_pd(0xFF, _mm256_loadu_ps(p))); }
#elif defined(__AVX2__)
inline Vec load(const float* p) { return reinterpret_cast<Vec>(_mm256_cvtps_pd(_mm_loadu_ps(p))); }
#else
typedef float FloatVec __attribute__((vector_size(sizeof(float) * kLanes)));
inline Vec load(const float* p) { return __builtin_convertvector(load_raw<FloatVec>(p), Vec); }
#endif
inline Vec load(const uint16_t* p) { return __builtin_convertvector(load_raw<SymbolVec>(p), Vec); }
inline void store(double* p, Vec v) { store_raw(p, v); }
inline void store(uint16_t* p, Mask v) { store_raw(p, __builtin_convertvector(v, SymbolVec)); }
inline Mask bits_of(Vec v) { return reinterpret_cast<Mask>(v); }
inline double lane(Vec v, int i) { return v[i]; }
inline int64_t lane(Mask v, int i) { return v[i]; }
inline void set_lane(Mask& v, int i, int64_t x) { v[i] = x; }
inline Vec select(Mask m, Vec yes, Vec no) { return m ? yes : no; }
template <typename Comparison>
inline Mask where(Comparison c) {  // -1 in the lanes where c holds
  return reinterpret_cast<Mask>(c);
}
#else  // a compiler without vector types: one lane, same arithmetic
constexpr int kLanes = 1;
typedef double Vec;
typedef int64_t Mask;
inline Vec broadcast(double x) { return x; }
inline Vec load(const double* p) { return *p; }
inline Vec load(const float* p) { return static_cast<double>(*p); }
inline Vec load(const uint16_t* p) { return static_cast<double>(*p); }
inline void store(double* p, Vec v) { *p = v; }
inline void store(uint16_t* p, Mask v) { *p = static_cast<uint16_t>(v); }
inline Mask bits_of(Vec v) {
  union {
    double d;
    int64_t i;
  } u;
  u.d = v;
  return u.i;
}
inline double lane(Vec v, int) { return v; }
inline int64_t lane(Mask v, int) { return v; }
inline void set_lane(Mask& v, int, int64_t x) { v = x; }
inline Vec select(Mask m, Vec yes, Vec no) { return m ? yes : no; }
inline Mask where(bool c) { return c ? -1 : 0; }
#endif

// ---- Real transforms by matrix: T x T / 2 products a column -------------------------------------

/// out[r * out_stride] = sum over i of matrix[i][r] * in[i * in_stride], R outputs at once, i ascending.
template <int R>
inline const double* block_product(const double* matrix, int n_in, const double* in, ptrdiff_t in_stride, double* out,
                                   ptrdiff_t out_stride) {
  Vec acc[R];
  for (int r = 0; r < R; ++r) acc[r] = broadcast(0.0);
  for (int i = 0; i < n_in; ++i) {
    const Vec x = load(in + i * in_stride * kLanes);
    for (int r = 0; r < R; ++r) acc[r] = acc[r] + x * matrix[i * R + r];
  }
  for (int r = 0; r < R; ++r) store(out + r * out_stride * kLanes, acc[r]);
  return matrix;
}

/// A (n_out, n_table) matrix stored in blocks of at most kMaxBlock outputs of nearly equal size, of which
/// only the first n_in <= n_table inputs are not zero.
void matrix_product(const double* matrix, int n_table, int n_in, int n_out, const double* in, ptrdiff_t in_stride,
                    double* out, ptrdiff_t out_stride) {
  if (n_out == 0) return;
  const int blocks = (n_out + kMaxBlock - 1) / kMaxBlock;
  for (int b = 0; b < blocks; ++b) {
    const int first = n_out * b / blocks, size = n_out * (b + 1) / blocks - first;
    double* o = out + first * out_stride * kLanes;
    switch (size) {
      case 1:
        block_product<1>(matrix, n_in, in, in_stride, o, out_stride);
        break;
      case 2:
        block_product<2>(matrix, n_in, in, in_stride, o, out_stride);
        break;
      case 3:
        block_product<3>(matrix, n_in, in, in_stride, o, out_stride);
        break;
      case 4:
        block_product<4>(matrix, n_in, in, in_stride, o, out_stride);
        break;
      case 5:
        block_product<5>(matrix, n_in, in, in_stride, o, out_stride);
        break;
      case 6:
        block_product<6>(matrix, n_in, in, in_stride, o, out_stride);
        break;
      case 7:
        block_product<7>(matrix, n_in, in, in_stride, o, out_stride);
        break;
      default:
        block_product<8>(matrix, n_in, in, in_stride, o, out_stride);
        break;
    }
    matrix += static_cast<ptrdiff_t>(n_table) * size;
  }
}

// ---- Complex FFT, one transform a lane ----------------------------------------------------------

struct Complex {
  Vec re, im;
};
inline Complex operator+(Complex a, Complex b) { return {a.re + b.re, a.im + b.im}; }
inline Complex operator-(Complex a, Complex b) { return {a.re - b.re, a.im - b.im}; }
inline Complex times(Complex a, double re, double im) { return {a.re * re - a.im * im, a.re * im + a.im * re}; }
inline Complex times_minus_i(Complex a) { return {a.im, -a.re}; }
inline Complex load_complex(const double* p, ptrdiff_t i) {
  return {load(p + 2 * i * kLanes), load(p + (2 * i + 1) * kLanes)};
}
inline void store_complex(double* p, ptrdiff_t i, Complex c) {
  store(p + 2 * i * kLanes, c.re);
  store(p + (2 * i + 1) * kLanes, c.im);
}

template <int R>
struct Butterfly;

template <>
struct Butterfly<2> {
  static void run(Complex* a) {
    const Complex t = a[1];
    a[1] = a[0] - t;
    a[0] = a[0] + t;
  }
};
template <>
struct Butterfly<3> {
  static void run(Complex* a) {
    constexpr double kSin = 0.86602540378443864676;  // sin(2 pi / 3)
    const Complex sum = a[1] + a[2], diff = a[1] - a[2];
    const Complex mid = {a[0].re - sum.re * 0.5, a[0].im - sum.im * 0.5};
    const Complex rot = times_minus_i({diff.re * kSin, diff.im * kSin});
    a[0] = a[0] + sum;
    a[1] = mid + rot;
    a[2] = mid - rot;
  }
};
template <>
struct Butterfly<4> {
  static void run(Complex* a) {
    const Complex s02 = a[0] + a[2], d02 = a[0] - a[2], s13 = a[1] + a[3];
    const Complex d13 = times_minus_i(a[1] - a[3]);
    a[0] = s02 + s13;
    a[1] = d02 + d13;
    a[2] = s02 - s13;
    a[3] = d02 - d13;
  }
};
template <>
struct Butterfly<5> {
  static void run(Complex* a) {
    constexpr double c1 = 0.30901699437494742410, c2 = -0.80901699437494742410;  // cos(2 pi k / 5)
    constexpr double s1 = 0.95105651629515357212, s2 = 0.58778525229247312917;   // sin(2 pi k / 5)
    const Complex s14 = a[1] + a[4], d14 = a[1] - a[4], s23 = a[2] + a[3], d23 = a[2] - a[3];
    const Complex m1 = {a[0].re + s14.re * c1 + s23.re * c2, a[0].im + s14.im * c1 + s23.im * c2};
    const Complex m2 = {a[0].re + s14.re * c2 + s23.re * c1, a[0].im + s14.im * c2 + s23.im * c1};
    const Complex r1 = times_minus_i({d14.re * s1 + d23.re * s2, d14.im * s1 + d23.im * s2});
    const Complex r2 = times_minus_i({d14.re * s2 - d23.re * s1, d14.im * s2 - d23.im * s1});
    a[0] = a[0] + s14 + s23;
    a[1] = m1 + r1;
    a[2] = m2 + r2;
    a[3] = m2 - r2;
    a[4] = m1 - r1;
  }
};

/// Stockham pass: reads sub-transform p of every interleaved signal q, writes it where the next pass looks.
template <int R>
void fft_pass(const FftStage& stage, const double* in, double* out) {
  const ptrdiff_t m = stage.m, s = stage.s;
  for (ptrdiff_t p = 0; p < m; ++p) {
    const double* w = stage.twiddles + 2 * p * (R - 1);
    for (ptrdiff_t q = 0; q < s; ++q) {
      Complex a[R];
      for (int j = 0; j < R; ++j) a[j] = load_complex(in, q + s * (p + m * j));
      Butterfly<R>::run(a);
      store_complex(out, q + s * R * p, a[0]);
      for (int j = 1; j < R; ++j) store_complex(out, q + s * (R * p + j), times(a[j], w[2 * j - 2], w[2 * j - 1]));
    }
  }
}

/// The same for any radix: the textbook sum.
void fft_pass_any(const FftStage& stage, const double* in, double* out) {
  const ptrdiff_t m = stage.m, s = stage.s, radix = stage.radix;
  for (ptrdiff_t p = 0; p < m; ++p) {
    const double* w = stage.twiddles + 2 * p * (radix - 1);
    for (ptrdiff_t q = 0; q < s; ++q) {
      for (ptrdiff_t j = 0; j < radix; ++j) {
        Complex sum = load_complex(in, q + s * p);
        for (ptrdiff_t i = 1; i < radix; ++i) {
          const ptrdiff_t root = i * j % radix;
          sum = sum + times(load_complex(in, q + s * (p + m * i)), stage.roots[2 * root], stage.roots[2 * root + 1]);
        }
        if (j > 0) sum = times(sum, w[2 * j - 2], w[2 * j - 1]);
        store_complex(out, q + s * (radix * p + j), sum);
      }
    }
  }
}

/// FFT of `data` (n complex vectors) by stages; the result is in the returned one of the two buffers.
double* fft_stages(const FftTables& fft, double* data, double* other) {
  for (int i = 0; i < fft.n_stages; ++i) {
    const FftStage& stage = fft.stages[i];
    switch (stage.radix) {
      case 2:
        fft_pass<2>(stage, data, other);
        break;
      case 3:
        fft_pass<3>(stage, data, other);
        break;
      case 4:
        fft_pass<4>(stage, data, other);
        break;
      case 5:
        fft_pass<5>(stage, data, other);
        break;
      default:
        fft_pass_any(stage, data, other);
        break;
    }
    double* t = data;
    data = other;
    other = t;
  }
  return data;
}

/// FFT of any length. Bluestein: X_k = chirp_k * (conj(chirp) convolved with chirp * x)_k.
double* fft_forward(const FftTables& fft, double* data, double* other) {
  if (fft.conv == nullptr) return fft_stages(fft, data, other);
  const ptrdiff_t n = fft.n, length = fft.conv->n;
  for (ptrdiff_t k = 0; k < n; ++k)
    store_complex(data, k, times(load_complex(data, k), fft.chirp[2 * k], fft.chirp[2 * k + 1]));
  const Complex zero = {broadcast(0.0), broadcast(0.0)};
  for (ptrdiff_t k = n; k < length; ++k) store_complex(data, k, zero);
  double* spectrum = fft_stages(*fft.conv, data, other);
  double* spare = spectrum == data ? other : data;
  // The inverse FFT is the forward one with real and imaginary parts swapped, before and after.
  for (ptrdiff_t k = 0; k < length; ++k) {
    const Complex c = times(load_complex(spectrum, k), fft.chirp_spectrum[2 * k], fft.chirp_spectrum[2 * k + 1]);
    store_complex(spectrum, k, {c.im, c.re});
  }
  double* conv = fft_stages(*fft.conv, spectrum, spare);
  for (ptrdiff_t k = 0; k < n; ++k) {
    const Complex c = load_complex(conv, k);
    store_complex(conv, k, times({c.im, c.re}, fft.chirp[2 * k], fft.chirp[2 * k + 1]));
  }
  return conv;
}

// ---- DCT-II and DCT-III of one column group -----------------------------------------------------

/// Scratch of one column group, in vectors: signal[T], coefficients[T], then half a signal for the matrix
/// path or two buffers of complex vectors for the FFT.
struct Work {
  double *signal, *coefficients, *spare, *fft_a, *fft_b;
  Work(const DctTables& dct, double* base)
      : signal(base),
        coefficients(signal + static_cast<ptrdiff_t>(dct.horizon) * kLanes),
        spare(coefficients + static_cast<ptrdiff_t>(dct.horizon) * kLanes),
        fft_a(spare),
        fft_b(spare + 2 * static_cast<ptrdiff_t>(dct.fft_points) * kLanes) {}
};

/// DCT-II of the rows that `row(t)` yields, into work.coefficients. Makhoul's reordering for the FFT.
template <typename Row>
inline void forward(const DctTables& dct, const Work& work, Row row) {
  const int T = dct.horizon, half = T / 2;
  double* out = work.coefficients;
  if (dct.fft == nullptr) {
    // Even frequencies see x_t + x_{T-1-t}, odd ones the difference.
    double *sums = work.signal, *diffs = work.signal + static_cast<ptrdiff_t>(T - half) * kLanes;
    for (int t = 0; t < half; ++t) {
      const Vec a = row(t), b = row(T - 1 - t);
      store(sums + t * kLanes, a + b);
      store(diffs + t * kLanes, a - b);
    }
    if (T % 2) store(sums + half * kLanes, row(half));
    matrix_product(dct.forward_even, T - half, T - half, T - half, sums, 1, out, 2);
    matrix_product(dct.forward_odd, half, half, half, diffs, 1, out + kLanes, 2);
    return;
  }
  auto reordered = [&](int i) { return row(dct.order[i]); };
  if (T % 2) {
    for (int i = 0; i < T; ++i) store_complex(work.fft_a, i, {reordered(i), broadcast(0.0)});
    const double* v = fft_forward(*dct.fft, work.fft_a, work.fft_b);
    for (int k = 0; k <= half; ++k) {
      const Complex w = times(load_complex(v, k), dct.forward_shift[2 * k], dct.forward_shift[2 * k + 1]);
      store(out + static_cast<ptrdiff_t>(k) * kLanes, w.re);
      if (k > 0) store(out + static_cast<ptrdiff_t>(T - k) * kLanes, -w.im);
    }
    return;
  }
  for (int i = 0; i < half; ++i) store_complex(work.fft_a, i, {reordered(2 * i), reordered(2 * i + 1)});
  const double* z = fft_forward(*dct.fft, work.fft_a, work.fft_b);
  for (int k = 0; k <= half; ++k) {
    const Complex a = load_complex(z, k < half ? k : 0), b = load_complex(z, k > 0 ? half - k : 0);
    const Complex even = {(a.re + b.re) * 0.5, (a.im - b.im) * 0.5};
    const Complex odd = {(a.im + b.im) * 0.5, (b.re - a.re) * 0.5};
    const double wr = k < half ? dct.real_twiddles[2 * k] : -1.0;
    const double wi = k < half ? dct.real_twiddles[2 * k + 1] : 0.0;
    const Complex w = times(even + times(odd, wr, wi), dct.forward_shift[2 * k], dct.forward_shift[2 * k + 1]);
    store(out + static_cast<ptrdiff_t>(k) * kLanes, w.re);
    if (k > 0 && k < half) store(out + static_cast<ptrdiff_t>(T - k) * kLanes, -w.im);
  }
}

/// DCT-III of work.coefficients, of which only the first `rows` are not zero, into work.signal.
inline void inverse(const DctTables& dct, const Work& work, int rows) {
  const int T = dct.horizon, half = T / 2;
  const double* in = work.coefficients;
  double* out = work.signal;
  if (dct.fft == nullptr) {
    // Sum of the even frequencies, then of the odd ones; the second half of the signal mirrors them.
    double* odd = work.spare;
    matrix_product(dct.inverse_even, T - half, (rows + 1) / 2, T - half, in, 2, out, 1);
    matrix_product(dct.inverse_odd, half, rows / 2, half, in + kLanes, 2, odd, 1);
    for (int t = 0; t < half; ++t) {
      const Vec e = load(out + t * kLanes), o = load(odd + t * kLanes);
      store(out + t * kLanes, e + o);
      store(out + static_cast<ptrdiff_t>(T - 1 - t) * kLanes, e - o);
    }
    return;
  }
  auto spectrum = [&](int k) -> Complex {  // V_k, up to the FFT's scale
    const Vec re = load(in + static_cast<ptrdiff_t>(k) * kLanes);
    const Vec im = k > 0 ? -load(in + static_cast<ptrdiff_t>(T - k) * kLanes) : broadcast(0.0);
    return times({re, im}, dct.inverse_shift[2 * k], dct.inverse_shift[2 * k + 1]);
  };
  auto emit = [&](int i, Vec v) { store(out + static_cast<ptrdiff_t>(dct.order[i]) * kLanes, v); };
  // Real and imaginary parts are swapped on the way in and out: the forward FFT then is the inverse one.
  if (T % 2) {
    for (int k = 0; k <= half; ++k) {
      const Complex v = spectrum(k);
      store_complex(work.fft_a, k, {v.im, v.re});
      if (k > 0) store_complex(work.fft_a, T - k, {-v.im, v.re});
    }
    const double* x = fft_forward(*dct.fft, work.fft_a, work.fft_b);
    for (int i = 0; i < T; ++i) emit(i, load_complex(x, i).im);
    return;
  }
  for (int k = 0; k <= half; ++k) store_complex(work.fft_b, k, spectrum(k));
  for (int k = 0; k < half; ++k) {
    const Complex a = load_complex(work.fft_b, k), b = load_complex(work.fft_b, half - k);
    const Complex even = {a.re + b.re, a.im - b.im};
    const Complex odd = times({a.re - b.re, a.im + b.im}, dct.real_twiddles[2 * k], -dct.real_twiddles[2 * k + 1]);
    store_complex(work.fft_a, k, {even.im + odd.re, even.re - odd.im});
  }
  const double* z = fft_forward(*dct.fft, work.fft_a, work.fft_b);
  for (int i = 0; i < half; ++i) {
    const Complex c = load_complex(z, i);
    emit(2 * i, c.im);
    emit(2 * i + 1, c.re);
  }
}

// ---- Column groups ------------------------------------------------------------------------------

/// Calls body(first_column, owned) for each group; `owned` is -1 in the lanes that are counted here.
template <typename Body>
inline void for_column_groups(int action_dim, Body body) {
  for (int next = 0; next < action_dim; next += kLanes) {
    const int first = next + kLanes <= action_dim || action_dim < kLanes ? next : action_dim - kLanes;
    Mask owned = bits_of(broadcast(0.0));
    for (int i = 0; i < kLanes; ++i)
      if (first + i >= next && first + i < action_dim) set_lane(owned, i, -1);
    body(first, owned);
  }
}

/// Writes rows 0..T-1 of one column group in ascending order; the last rows stop at the chunk's end.
template <typename RowValue>
inline void write_rows(int T, int D, int first, double* out, RowValue value) {
  const ptrdiff_t end = static_cast<ptrdiff_t>(T) * D;
  for (int t = 0; t < T; ++t) {
    const ptrdiff_t at = static_cast<ptrdiff_t>(t) * D + first;
    const Vec v = value(t);
    if (at + kLanes <= end)
      store(out + at, v);
    else
      for (int i = 0; at + i < end; ++i) out[at + i] = lane(v, i);
  }
}

/// x - x, which is 0 for a finite x and NaN otherwise.
inline Vec finite_residue(Vec x) { return x - x; }

inline bool all_owned_zero(Vec v, Mask owned) {
  for (int i = 0; i < kLanes; ++i)
    if (lane(owned, i) != 0 && !(lane(v, i) == 0.0)) return false;
  return true;
}

inline int64_t sum_owned(Mask count, Mask owned) {
  int64_t total = 0;
  for (int i = 0; i < kLanes; ++i) total += lane(count & owned, i);
  return total;
}

constexpr double kRoundMagic = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer, half to even
constexpr double kFloat32Ulp = 1.1920928955078125e-07, kFloat64Ulp = 2.220446049250313e-16;  // of 1
constexpr double kTieWidth = 1e-9;  // this near to .5 is a tie, whatever the summation order left

/// Nearest integer; a tie goes to the even one. |y| must be below 2^50.
inline Vec round_ties_to_even(Vec y) {
  const Vec nearest = (y + kRoundMagic) - kRoundMagic;
  const Vec even = ((y * 0.5 + kRoundMagic) - kRoundMagic) * 2.0;
  const Vec off = y - nearest;
  const Vec distance = select(where(off < 0.0), -off, off);
  return select(where(distance >= 0.5 - kTieWidth), even, nearest);
}

/// Horizons from which looking for rows that need no rounding pays.
constexpr int kManyRows = 32;

/// Rows up to the last that holds a coefficient which does not round to 0 (or is not finite). High frequencies mostly
/// do, and need no rounding then: 15 % of the time on 50 x 14 chunks.
inline int rows_to_round(const double* coefficients, Vec scale, int T) {
  Mask last = bits_of(broadcast(0.0)), next = last + 1;
  for (int k = 0; k < T; ++k) {
    const Vec y = load(coefficients + static_cast<ptrdiff_t>(k) * kLanes) * scale;
    const Mask zero = where(y < 0.5 - kTieWidth) & where(y > kTieWidth - 0.5);
    last = (last & zero) | (next & ~zero);
    next = next + 1;
  }
  int64_t rows = 0;
  for (int i = 0; i < kLanes; ++i) rows = lane(last, i) > rows ? lane(last, i) : rows;
  return static_cast<int>(rows);
}

/// Some coefficient lies so near to a tie that a sum with rounding errors of `relative` times the column's norm could
/// fall on its other side.
inline bool has_near_tie(const double* coefficients, Vec scale, int T, double relative, Mask owned) {
  Vec squares = broadcast(0.0);
  for (int k = 0; k < T; ++k) {
    const Vec c = load(coefficients + static_cast<ptrdiff_t>(k) * kLanes);
    squares = squares + c * c;
  }
  const Vec margin = squares * scale * scale * (relative * relative);  // squared
  Mask near = bits_of(broadcast(0.0));
  for (int k = 0; k < T; ++k) {
    const Vec y = load(coefficients + static_cast<ptrdiff_t>(k) * kLanes) * scale;
    const Vec off = y - ((y + kRoundMagic) - kRoundMagic);
    const Vec gap = (0.5 - kTieWidth) - select(where(off < 0.0), -off, off);
    near = near | where(gap < 0.0) | where(gap * gap < margin);
  }
  return sum_owned(near, owned) != 0;
}

template <typename In>
void quantize(const ForwardArgs& args, const In* chunk, uint16_t* symbols, ChunkCounts* counts) {
  const int T = args.horizon, D = args.action_dim;
  const Work work(*args.dct, args.work);
  *counts = {0, 0, true, false};
  for_column_groups(D, [&](int first, Mask owned) {
    Vec residue = broadcast(0.0);
    Mask clipped = bits_of(broadcast(0.0)), saturated = clipped;
    const In* column = chunk + first;
    if (args.normalization == nullptr) {
      forward(*args.dct, work, [&](int t) { return load(column + static_cast<ptrdiff_t>(t) * D); });
    } else {
      const NormalizationTables& norm = *args.normalization;
      const Vec center = load(norm.center + first), gain = load(norm.gain + first);
      const Vec clip = broadcast(norm.clip);
      forward(*args.dct, work, [&](int t) {
        const Vec x = load(column + static_cast<ptrdiff_t>(t) * D);
        residue = residue + finite_residue(x);  // before clipping hides it
        Vec y = (x - center) * gain;
        const Mask above = where(y > clip), below = where(y < -clip);
        clipped = clipped - (above | below);
        if (norm.has_constant) clipped = clipped - (where(gain == 0.0) & where(x != center));
        y = select(above, clip, y);
        return select(below, -clip, y);
      });
    }
    const Vec scale = load(args.scale + first);
    const double below_lowest = args.lowest - 1.0, above_highest = args.highest + 1.0;
    const bool has_dead_zone = args.dead_zone > 0.5;
    const double dead_zone = args.dead_zone + kTieWidth;  // as for ties: summation order decides nothing
    const int rows = T < kManyRows ? T : rows_to_round(work.coefficients, scale, T);
    for (int k = 0; k < rows; ++k) {
      const Vec c = load(work.coefficients + static_cast<ptrdiff_t>(k) * kLanes);
      residue = residue + finite_residue(c);  // the input was not finite, or so large that a sum overflowed
      Vec y = c * scale;
      y = select(where(y < below_lowest), broadcast(below_lowest), y);
      y = select(where(y > above_highest), broadcast(above_highest), y);
      Vec q = round_ties_to_even(y);
      if (has_dead_zone) q = select(where(y < dead_zone) & where(y > -dead_zone), broadcast(0.0), q);
      const Mask low = where(q < args.lowest), high = where(q > args.highest);
      saturated = saturated - (low | high);
      q = select(low, broadcast(args.lowest), q);
      q = select(high, broadcast(args.highest), q);
      const Mask symbol = bits_of((q - args.lowest) + kRoundMagic) - bits_of(broadcast(kRoundMagic));
      store(symbols + static_cast<ptrdiff_t>(k) * D + first, symbol);
    }
    const Mask zero = bits_of(broadcast(kRoundMagic - args.lowest)) - bits_of(broadcast(kRoundMagic));
    for (int k = rows; k < T; ++k) store(symbols + static_cast<ptrdiff_t>(k) * D + first, zero);
    if (args.tie_ulps > 0) {
      const double relative = args.tie_ulps * (sizeof(In) == sizeof(float) ? kFloat32Ulp : kFloat64Ulp);
      counts->near_tie = has_near_tie(work.coefficients, scale, T, relative, owned) || counts->near_tie;
    }
    counts->finite = counts->finite && all_owned_zero(residue, owned);
    counts->clipped += sum_owned(clipped, owned);
    counts->saturated += sum_owned(saturated, owned);
  });
}

void dequantize(const InverseArgs& args, const uint16_t* symbols, double* chunk) {
  const int T = args.horizon, D = args.action_dim;
  const Work work(*args.dct, args.work);
  for_column_groups(D, [&](int first, Mask) {
    const Vec scale = load(args.scale + first), lowest = broadcast(args.lowest);
    for (int k = 0; k < args.rows; ++k) {
      const Vec q = load(symbols + static_cast<ptrdiff_t>(k) * D + first) + lowest;
      store(work.coefficients + static_cast<ptrdiff_t>(k) * kLanes, q / scale);
    }
    if (args.dct->fft != nullptr)
      for (int k = args.rows; k < T; ++k) store(work.coefficients + static_cast<ptrdiff_t>(k) * kLanes, broadcast(0.0));
    inverse(*args.dct, work, args.rows);
    auto signal = [&](int t) { return load(work.signal + static_cast<ptrdiff_t>(t) * kLanes); };
    if (args.normalization == nullptr) {
      write_rows(T, D, first, chunk, signal);
    } else {
      const Vec center = load(args.normalization->center + first);
      const Vec half_range = load(args.normalization->half_range + first);
      write_rows(T, D, first, chunk, [&](int t) { return signal(t) * half_range + center; });
    }
  });
}

void dct2(const DctTables& dct, int D, const double* in, double* out, double* base) {
  const Work work(dct, base);
  for_column_groups(D, [&](int first, Mask) {
    forward(dct, work, [&](int t) { return load(in + static_cast<ptrdiff_t>(t) * D + first); });
    write_rows(dct.horizon, D, first, out,
               [&](int k) { return load(work.coefficients + static_cast<ptrdiff_t>(k) * kLanes); });
  });
}

void dct3(const DctTables& dct, int D, const double* in, double* out, double* base) {
  const Work work(dct, base);
  for_column_groups(D, [&](int first, Mask) {
    for (int k = 0; k < dct.horizon; ++k)
      store(work.coefficients + static_cast<ptrdiff_t>(k) * kLanes, load(in + static_cast<ptrdiff_t>(k) * D + first));
    inverse(dct, work, dct.horizon);
    write_rows(dct.horizon, D, first, out,
               [&](int t) { return load(work.signal + static_cast<ptrdiff_t>(t) * kLanes); });
  });
}

}  // namespace

#define FT_CONCAT_(a, b) a##b
#define FT_CONCAT(a, b) FT_CONCAT_(a, b)
#define FT_STRING_(a) #a
#define FT_STRING(a) FT_STRING_(a)

extern const Kernels FT_CONCAT(kernels_, FT_KERNEL_NAME);
const Kernels FT_CONCAT(kernels_, FT_KERNEL_NAME) = {
    FT_STRING(FT_KERNEL_NAME), quantize<float>, quantize<double>, dequantize, dct2, dct3,
};

}  // namespace fast_tokenizer
