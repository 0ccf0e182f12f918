// Chunk <-> symbols: normalise, DCT, scale, round, saturate; and back.
//
// A symbol is a quantized coefficient minus the lowest one of the fitted range. Symbols stand in
// frequency-first order: all dimensions of frequency 0, then of frequency 1, ...
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "bpe.hpp"
#include "dct.hpp"
#include "kernels.hpp"

namespace fast_tokenizer {

/// Quantized coefficients lie in -kMaxCoefficient..kMaxCoefficient. A vocabulary has room for no more of them, and
/// 15 bits hold them with two markers, which leaves one of 16 to the coding of runs.
inline constexpr int kMaxCoefficient = 16382;

/// Scales, centers and half ranges are at most this large, and scales and half ranges at least its inverse: then
/// every decoded value is finite.
inline constexpr double kMaxMagnitude = 1e100;

/// Per dimension: y = (x - center) / half_range, clipped to [-clip, clip]. A half_range of 0 marks a constant
/// dimension: it maps to 0 and comes back as its center.
struct Normalization {
  std::vector<double> center, half_range;
  double clip;  ///< infinity: no clipping
};

struct QuantizerSpec {
  std::vector<double> scale;  ///< one for all dimensions, or one per dimension
  int lowest = -kMaxCoefficient, highest = kMaxCoefficient;
  std::optional<Normalization> normalization;
  /// Scaled coefficients below this in magnitude become 0, the others are rounded; in 0.5..0.99. 0.5 is plain rounding.
  /// (1 itself stays, so that what was decoded is encoded to the same.)
  double dead_zone = 0.5;
  /// Not 0: chunks with a coefficient near a tie are marked, for whoever has to round as another transform does. Near
  /// is this many units in the last place (of the input's type) of the norm of the coefficient's column.
  double tie_ulps = 0;
};

/// The spec itself, when it has a meaning and every value it decodes to is finite; otherwise std::invalid_argument.
QuantizerSpec validated(QuantizerSpec spec);

/// Chunks side by side in one array of rows, each of action_dim values. All share one horizon, or chunk i has
/// rows row_offsets[i]..row_offsets[i + 1].
struct ChunkBatch {
  const void* data;
  bool is_float32;
  int action_dim;
  size_t count;
  int64_t horizon;  ///< used when row_offsets is empty
  std::span<const int64_t> row_offsets;
  size_t first_chunk = 0;  ///< what error messages call chunk 0

  int64_t first_row(size_t i) const { return row_offsets.empty() ? static_cast<int64_t>(i) * horizon : row_offsets[i]; }
  int64_t rows(size_t i) const { return row_offsets.empty() ? horizon : row_offsets[i + 1] - row_offsets[i]; }
  int64_t total_rows() const { return first_row(count); }
};

/// Threads that a call on this batch is worth, at most `requested` (0: all cores).
int batch_threads(const ChunkBatch& batch, int requested);

/// The DCT plans of every horizon in a batch.
class BatchPlans {
 public:
  explicit BatchPlans(const ChunkBatch& batch);
  BatchPlans(std::span<const int64_t> horizons) { add(horizons); }
  const DctPlan& operator[](int64_t horizon) const;

 private:
  void add(std::span<const int64_t> horizons);
  std::vector<std::pair<int64_t, std::shared_ptr<const DctPlan>>> plans_;  ///< by horizon, ascending
};

/// Where the chunks of a batch to decode lie: chunk i has horizons[i] steps, or all have horizons[0] if there is one.
struct DecodedBatch {
  DecodedBatch(size_t count, std::span<const int64_t> horizons, int action_dim);
  DecodedBatch(const DecodedBatch&) = delete;  // `shape` points into it
  DecodedBatch& operator=(const DecodedBatch&) = delete;

  std::vector<int64_t> first_rows;
  ChunkBatch shape;  ///< without data
  BatchPlans plans;
};

/// A quantizer bound to a number of dimensions, with the scratch of one thread.
class Quantizer {
 public:
  /// Throws std::invalid_argument when the spec's arrays do not have `action_dim` entries.
  Quantizer(const QuantizerSpec& spec, int action_dim, const Kernels& kernels);

  /// Quantizes chunk i into `symbols`, which must have room for rows * action_dim + kMaxLanes.
  ChunkCounts quantize(const ChunkBatch& batch, size_t i, const DctPlan& plan, Symbol* symbols);
  /// The reverse; `symbols` must be readable for kMaxLanes past their end.
  void dequantize(const Symbol* symbols, const DctPlan& plan, double* chunk);

  Symbol zero_symbol() const { return static_cast<Symbol>(-lowest_); }

 private:
  const Kernels& kernels_;
  int action_dim_, lowest_, highest_;
  double dead_zone_, tie_ulps_;
  std::vector<double> scale_, center_, gain_, half_range_;
  std::optional<NormalizationTables> normalization_;
  std::vector<double> padded_;  ///< a copy of chunks too narrow or too near the end to be read by whole vectors
  WorkBuffer work_;
};

/// Throws std::invalid_argument that names chunk, time step and dimension of the first value that is not finite, or the
/// chunk whose values are too large to transform.
[[noreturn]] void throw_not_finite(const ChunkBatch& batch, size_t chunk);

}  // namespace fast_tokenizer
