// The Python module: converts arrays to spans, releases the GIL around one core call, converts back.
#include <pybind11/functional.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <chrono>
#include <cstring>
#include <limits>
#include <mutex>
#include <system_error>

#include "codec.hpp"
#include "corpus.hpp"
#include "dct.hpp"
#include "parallel.hpp"
#include "text_codec.hpp"

namespace py = pybind11;
namespace ft = fast_tokenizer;

namespace {

template <typename T>
using Array = py::array_t<T, py::array::c_style>;

template <typename T>
std::span<const T> span_of(const Array<T>& a) {
  return {a.data(), static_cast<size_t>(a.size())};
}

/// A NumPy array of the values. It owns the vector; a short one is copied, which takes less than handing it over.
template <typename T>
Array<T> to_array(std::vector<T>&& values) {
  if (values.size() < 4096) {
    Array<T> copy(static_cast<py::ssize_t>(values.size()));
    std::copy(values.begin(), values.end(), copy.mutable_data());
    return copy;
  }
  auto owner = std::make_unique<std::vector<T>>(std::move(values));
  const auto size = static_cast<py::ssize_t>(owner->size());
  T* const data = owner->data();
  py::capsule free(owner.release(), [](void* p) { delete static_cast<std::vector<T>*>(p); });
  return Array<T>({size}, data, free);
}

/// (M, 2) int32.
Array<int32_t> merges_to_array(const std::vector<ft::Merge>& merges) {
  Array<int32_t> out({static_cast<py::ssize_t>(merges.size()), py::ssize_t{2}});
  auto view = out.mutable_unchecked<2>();
  for (size_t i = 0; i < merges.size(); ++i) {
    view(static_cast<py::ssize_t>(i), 0) = merges[i].left;
    view(static_cast<py::ssize_t>(i), 1) = merges[i].right;
  }
  return out;
}

/// The chunks of a (N, T, D) array, or, with row offsets, of a (rows, D) array. The Python layer has validated
/// dtype, rank and contiguity; what would read out of bounds is checked once more.
ft::ChunkBatch to_batch(const py::array& a, const std::optional<Array<int64_t>>& row_offsets) {
  // By number, as comparing types costs as much as encoding a small chunk.
  const int type = a.dtype().num();
  const bool is_float32 = type == py::dtype::num_of<float>();
  if ((!is_float32 && type != py::dtype::num_of<double>()) || (a.flags() & py::array::c_style) == 0)
    throw py::type_error("chunks must be float32 or float64, C-contiguous");
  const py::ssize_t rank = row_offsets ? 2 : 3;
  if (a.ndim() != rank) throw py::type_error("chunks must have rank " + std::to_string(rank));
  if (a.shape(rank - 1) < 1 || a.shape(rank - 1) > std::numeric_limits<int>::max())
    throw py::type_error("chunks must have at least one dimension");
  const int dims = static_cast<int>(a.shape(rank - 1));
  if (!row_offsets) return {a.data(), is_float32, dims, static_cast<size_t>(a.shape(0)), a.shape(1), {}, 0};
  const auto offsets = span_of(*row_offsets);
  if (offsets.empty() || offsets.front() != 0 || offsets.back() != a.shape(0))
    throw py::type_error("row offsets must run from 0 to the number of rows");
  for (size_t i = 0; i + 1 < offsets.size(); ++i)
    if (offsets[i] > offsets[i + 1]) throw py::type_error("row offsets must not fall");
  return {a.data(), is_float32, dims, offsets.size() - 1, 0, offsets, 0};
}

template <typename T>
ft::RaggedView<T> to_ragged(const Array<T>& values, const Array<int64_t>& offsets) {
  const auto ends = span_of(offsets);
  if (ends.empty() || ends.front() != 0 || ends.back() != values.size())
    throw py::value_error("offsets must run from 0 to the number of values");
  for (size_t i = 0; i + 1 < ends.size(); ++i)
    if (ends[i] > ends[i + 1]) throw py::value_error("offsets must not fall");
  return {span_of(values), ends};
}

ft::QuantizerSpec to_spec(std::vector<double> scale, int lowest, int highest, std::optional<std::vector<double>> center,
                          std::optional<std::vector<double>> half_range, double clip, double dead_zone) {
  ft::QuantizerSpec spec{std::move(scale), lowest, highest, {}, dead_zone};
  if (center.has_value() != half_range.has_value()) throw py::value_error("center and half_range go together");
  if (center) spec.normalization = ft::Normalization{std::move(*center), std::move(*half_range), clip};
  return ft::validated(std::move(spec));
}

ft::Layout to_layout(const std::string& order, const std::optional<std::string>& end_of_block) {
  if (order != "frequency-first" && order != "dimension-first")
    throw py::value_error("order must be 'frequency-first' or 'dimension-first', got '" + order + "'");
  if (end_of_block && *end_of_block != "chunk" && *end_of_block != "dimension")
    throw py::value_error("end_of_block must be 'chunk', 'dimension' or None, got '" + *end_of_block + "'");
  using End = ft::EndOfBlock;
  return ft::validated({order == "frequency-first" ? ft::Order::kFrequencyFirst : ft::Order::kDimensionFirst,
                        !end_of_block              ? End::kNone
                        : *end_of_block == "chunk" ? End::kChunk
                                                   : End::kDimension});
}

ft::Parsing to_parsing(const std::string& parsing) {
  if (parsing != "bpe" && parsing != "optimal")
    throw py::value_error("parsing must be 'bpe' or 'optimal', got '" + parsing + "'");
  return parsing == "bpe" ? ft::Parsing::kBpe : ft::Parsing::kOptimal;
}

/// The same quantizer with the scale and normalization of other data.
ft::QuantizerSpec with_embodiment(ft::QuantizerSpec spec, std::vector<double> scale,
                                  std::optional<std::vector<double>> center,
                                  std::optional<std::vector<double>> half_range, double clip) {
  const auto own = to_spec(std::move(scale), spec.lowest, spec.highest, std::move(center), std::move(half_range), clip,
                           spec.dead_zone);
  spec.scale = own.scale;
  spec.normalization = own.normalization;
  return spec;
}

const ft::Kernels& to_kernels(const std::optional<std::string>& name) {
  return name ? ft::kernels_by_name(name->c_str()) : ft::default_kernels();
}

/// Reports about ten times a second, and lets Ctrl-C stop the work.
std::function<void(int, int)> to_progress(const py::object& callback) {
  auto last = std::chrono::steady_clock::now();
  return [&callback, last](int done, int total) mutable {
    const auto now = std::chrono::steady_clock::now();
    if (done < total && now - last < std::chrono::milliseconds(100)) return;
    last = now;
    py::gil_scoped_acquire lock;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    if (!callback.is_none()) callback(done, total);
  };
}

ft::TrainOptions to_options(int vocab_size, int64_t min_frequency, int max_token_symbols, int num_threads,
                            const py::object& progress) {
  return {vocab_size, min_frequency, max_token_symbols, num_threads, to_progress(progress)};
}

py::tuple encode(const ft::Codec& codec, const py::array& chunks, const std::optional<Array<int64_t>>& row_offsets,
                 int num_threads) {
  const ft::ChunkBatch batch = to_batch(chunks, row_offsets);
  ft::EncodedBatch out;
  {
    py::gil_scoped_release unlock;
    out = codec.encode(batch, num_threads);
  }
  return py::make_tuple(to_array(std::move(out.ids)), to_array(std::move(out.offsets)),
                        to_array(std::move(out.saturated)), to_array(std::move(out.clipped)));
}

/// Of a Codec or a TextCodec.
template <typename AnyCodec>
py::tuple decode(const AnyCodec& codec, const Array<int32_t>& ids, const Array<int64_t>& offsets,
                 const Array<int64_t>& horizons, int action_dim, int num_threads) {
  const ft::RaggedView<int32_t> view = to_ragged(ids, offsets);
  const auto rows = span_of(horizons);
  if (action_dim < 1 || rows.empty() || (rows.size() != 1 && rows.size() != view.size()))
    throw py::value_error("horizons must hold one entry, or one per chunk, and action_dim be positive");
  int64_t total = 0;
  for (const int64_t h : rows) {
    if (h < 1 || h > ft::DctPlan::kMaxHorizon) throw py::value_error("horizon out of range: " + std::to_string(h));
    total += h;
  }
  if (rows.size() == 1) total *= static_cast<int64_t>(view.size());
  Array<double> chunks({static_cast<py::ssize_t>(total), static_cast<py::ssize_t>(action_dim)});
  constexpr py::ssize_t fields = sizeof(ft::DecodeCounts) / sizeof(int64_t);
  Array<int64_t> counts({static_cast<py::ssize_t>(view.size()), fields});
  double* const out = chunks.mutable_data();
  auto* const status = reinterpret_cast<ft::DecodeCounts*>(counts.mutable_data());
  {
    py::gil_scoped_release unlock;
    codec.decode(view, rows, action_dim, out, status, num_threads);
  }
  return py::make_tuple(chunks, counts);
}

Array<int32_t> expansion_lengths(const ft::Codec& codec) {
  std::vector<int32_t> lengths;
  for (int t = 0; t < codec.table().vocab_size(); ++t)
    lengths.push_back(codec.table().expansion_length(static_cast<ft::TokenId>(t)));
  return to_array(std::move(lengths));
}

std::vector<ft::RawMerge> to_merges(const Array<int64_t>& merges) {
  if (merges.ndim() != 2 || merges.shape(1) != 2) throw py::value_error("merges must have shape (M, 2)");
  std::vector<ft::RawMerge> out(static_cast<size_t>(merges.shape(0)));
  auto view = merges.unchecked<2>();
  for (size_t i = 0; i < out.size(); ++i)
    out[i] = {view(static_cast<py::ssize_t>(i), 0), view(static_cast<py::ssize_t>(i), 1)};
  return out;
}

/// DCT along the middle axis of (N, T, D), forward or back.
Array<double> transform(const Array<double>& x, ft::Direction direction, const std::string& method,
                        const std::optional<std::string>& kernel, int num_threads) {
  if (x.ndim() != 3) throw py::value_error("expected rank 3 (N, T, D), got rank " + std::to_string(x.ndim()));
  if (x.shape(2) < 1 || x.shape(2) > std::numeric_limits<int>::max()) throw py::value_error("D must be positive");
  const ft::Kernels& kernels = to_kernels(kernel);
  using Method = ft::DctPlan::Method;
  if (method != "matrix" && method != "fft" && method != "automatic")
    throw py::value_error("method must be 'matrix', 'fft' or 'automatic', got '" + method + "'");
  const Method how = method == "matrix" ? Method::kMatrix : method == "fft" ? Method::kFft : Method::kAutomatic;
  if (x.shape(1) > ft::DctPlan::kMaxHorizon) throw py::value_error("T is too large");
  const auto plan = how == Method::kAutomatic ? ft::DctPlan::cached(static_cast<int>(x.shape(1)))
                                              : std::make_shared<const ft::DctPlan>(static_cast<int>(x.shape(1)), how);
  Array<double> out({x.shape(0), x.shape(1), x.shape(2)});
  double* const result = out.mutable_data();
  py::gil_scoped_release unlock;
  ft::transform_chunks(*plan, direction, kernels, static_cast<size_t>(x.shape(0)), static_cast<int>(x.shape(2)),
                       x.data(), result, num_threads);
  return out;
}

/// An object that several Python threads may share: their calls take turns, without the GIL.
template <typename T>
class Shared {
 public:
  explicit Shared(T object) : object_(std::move(object)) {}

  /// Calls body(object) alone.
  template <typename Body>
  auto alone(Body body) {
    py::gil_scoped_release unlock;
    const std::lock_guard<std::mutex> turn(mutex_);
    return body(object_);
  }

 private:
  T object_;
  std::mutex mutex_;
};

/// A corpus together with the quantizer that fills it and the memory it lies in.
struct BoundCorpus {
  template <typename Body>
  auto alone(Body body) {
    return guarded.alone([&](ft::Corpus& corpus) {
      if (used_up) throw std::invalid_argument("the corpus was used up by training");
      return body(corpus);
    });
  }

  ft::QuantizerSpec spec;
  ft::Layout layout;
  std::shared_ptr<ft::BudgetedMemory> memory;
  Shared<ft::Corpus> guarded{ft::Corpus(layout, memory)};
  bool used_up = false;
};

using BoundShards = Shared<std::vector<ft::CorpusShard>>;
using BoundDriver = Shared<ft::MergeDriver>;

/// What merges did, as arrays: for each merge the entries on the left, those on the right, and how many these are.
py::tuple to_arrays(const std::vector<ft::EffectEntries>& effects) {
  std::vector<uint16_t> ids;
  std::vector<int64_t> counts;
  Array<int64_t> entries({static_cast<py::ssize_t>(effects.size()), py::ssize_t{2}});
  int64_t* out = entries.mutable_data();
  for (const ft::EffectEntries& e : effects)
    for (const auto* side : {&e.left, &e.right}) {
      *out++ = static_cast<int64_t>(side->size());
      for (const auto& [id, n] : *side) {
        ids.push_back(id);
        counts.push_back(n);
      }
    }
  return py::make_tuple(entries, to_array(std::move(ids)), to_array(std::move(counts)));
}

ft::CorpusCounts to_counts(size_t chunks, int64_t symbols, int64_t clipped, int64_t saturated) {
  if (symbols < 0 || clipped < 0 || saturated < 0) throw py::value_error("a corpus counts nothing below 0");
  return {chunks, symbols, clipped, saturated};
}

void register_codec(py::module_& m) {
  py::class_<ft::Codec>(m, "Codec")
      .def(py::init([](std::vector<double> scale, int lowest, int highest, const Array<int64_t>& merges,
                       std::optional<std::vector<double>> center, std::optional<std::vector<double>> half_range,
                       double clip, double dead_zone, const std::string& order,
                       const std::optional<std::string>& end_of_block, const std::string& parsing, int levels_beyond,
                       const std::optional<std::string>& kernel) {
             const auto raw = to_merges(merges);
             return std::make_unique<ft::Codec>(
                 to_spec(std::move(scale), lowest, highest, std::move(center), std::move(half_range), clip, dead_zone),
                 raw, to_kernels(kernel),
                 ft::Coding{to_layout(order, end_of_block), to_parsing(parsing), levels_beyond});
           }),
           py::arg("scale"), py::arg("lowest"), py::arg("highest"), py::arg("merges"), py::kw_only(),
           py::arg("center") = py::none(), py::arg("half_range") = py::none(),
           py::arg("clip") = std::numeric_limits<double>::infinity(), py::arg("dead_zone") = 0.5,
           py::arg("order") = "frequency-first", py::arg("end_of_block") = py::none(), py::arg("parsing") = "bpe",
           py::arg("levels_beyond") = 0, py::arg("kernel") = py::none())
      .def("encode", &encode, py::arg("chunks"), py::arg("row_offsets") = py::none(), py::arg("num_threads") = 0)
      .def("decode", &decode<ft::Codec>, py::arg("ids"), py::arg("offsets"), py::arg("horizons"), py::arg("action_dim"),
           py::arg("num_threads") = 0)
      .def(
          "encode_symbols",
          [](const ft::Codec& c, const Array<uint16_t>& s) { return to_array(c.encode_symbols(span_of(s))); },
          py::arg("symbols"))
      .def(
          "expand", [](const ft::Codec& c, const Array<int32_t>& ids) { return to_array(c.expand(span_of(ids))); },
          py::arg("ids"))
      .def("expansion_lengths", &expansion_lengths);
}

/// Words of the texts as tokens of bytes, for training; and, per text, the characters that lost a byte.
py::tuple words_as_bytes(const ft::TextCodec& codec, const Array<int32_t>& text, const Array<int64_t>& offsets) {
  const auto texts = to_ragged(text, offsets);
  std::vector<ft::Symbol> bytes;
  std::vector<int64_t> ends = {0};
  {
    py::gil_scoped_release unlock;
    codec.bpe().check(texts.values);
    for (size_t i = 0; i < texts.size(); ++i) {
      for (size_t start = 0; start < texts[i].size();) {
        const size_t end = codec.bpe().word_end(texts[i], start);
        codec.bpe().append_bytes(texts[i].subspan(start, end - start), bytes);
        ends.push_back(static_cast<int64_t>(bytes.size()));
        start = end;
      }
    }
  }
  return py::make_tuple(to_array(std::move(bytes)), to_array(std::move(ends)));
}

void register_text_codec(py::module_& m) {
  py::class_<ft::TextCodec>(m, "TextCodec")
      .def(py::init([](double scale, int min_token, const std::array<int32_t, 256>& byte_tokens, int alphabet_size,
                       const Array<int64_t>& merges, std::vector<int32_t> ids, std::vector<std::string> spellings,
                       const py::bytes& classes, std::pair<int, int> repair_range) {
             const std::string_view kinds = classes;
             ft::TextVocabulary vocabulary{
                 byte_tokens, alphabet_size, to_merges(merges), std::move(ids), std::move(spellings), {}, -min_token};
             for (const char kind : kinds) {
               if (kind < 0 || kind > 3) throw py::value_error("a character class lies outside 0..3");
               vocabulary.classes.push_back(static_cast<ft::CharacterClass>(kind));
             }
             return std::make_unique<ft::TextCodec>(scale, min_token, std::move(vocabulary), repair_range);
           }),
           py::arg("scale"), py::arg("min_token"), py::kw_only(), py::arg("byte_tokens"), py::arg("alphabet_size"),
           py::arg("merges"), py::arg("ids"), py::arg("spellings"), py::arg("classes"), py::arg("repair_range"))
      .def(
          "quantize",
          [](const ft::TextCodec& codec, const py::array& chunks, const std::optional<Array<int64_t>>& row_offsets,
             int num_threads) {
            const ft::ChunkBatch batch = to_batch(chunks, row_offsets);
            ft::QuantizedTexts out;
            {
              py::gil_scoped_release unlock;
              out = codec.quantize(batch, num_threads);
            }
            const bool any = std::find(out.uncertain.begin(), out.uncertain.end(), 1) != out.uncertain.end();
            Array<bool> uncertain(static_cast<py::ssize_t>(out.uncertain.size()));
            std::copy(out.uncertain.begin(), out.uncertain.end(), uncertain.mutable_data());
            return py::make_tuple(to_array(std::move(out.text)), to_array(std::move(out.offsets)),
                                  to_array(std::move(out.saturated)), uncertain, any);
          },
          py::arg("chunks"), py::arg("row_offsets") = py::none(), py::arg("num_threads") = 0)
      .def(
          "encode",
          [](const ft::TextCodec& codec, const Array<int32_t>& text, const Array<int64_t>& offsets, int num_threads) {
            const auto texts = to_ragged(text, offsets);
            ft::EncodedTexts out;
            {
              py::gil_scoped_release unlock;
              out = codec.encode(texts, num_threads);
            }
            return py::make_tuple(to_array(std::move(out.ids)), to_array(std::move(out.offsets)),
                                  to_array(std::move(out.dropped)));
          },
          py::arg("text"), py::arg("offsets"), py::arg("num_threads") = 0)
      .def("words_as_bytes", &words_as_bytes, py::arg("text"), py::arg("offsets"))
      .def("decode", &decode<ft::TextCodec>, py::arg("ids"), py::arg("offsets"), py::arg("horizons"),
           py::arg("action_dim"), py::arg("num_threads") = 0)
      .def(
          "expand", [](const ft::TextCodec& c, const Array<int32_t>& ids) { return to_array(c.expand(span_of(ids))); },
          py::arg("ids"));
}

void register_distributed_training(py::module_& m) {
  py::class_<BoundShards>(m, "CorpusShards")
      .def(
          "count_pairs",
          [](BoundShards& shards, int num_threads) {
            const auto counts =
                shards.alone([&](std::vector<ft::CorpusShard>& s) { return ft::count_pairs(s, num_threads); });
            Array<uint16_t> pairs({static_cast<py::ssize_t>(counts.size()), py::ssize_t{2}});
            uint16_t* out = pairs.mutable_data();
            std::vector<int64_t> found;
            for (const auto& [pair, n] : counts) {
              *out++ = static_cast<uint16_t>(ft::left_of(pair));
              *out++ = static_cast<uint16_t>(ft::right_of(pair));
              found.push_back(n);
            }
            return py::make_tuple(pairs, to_array(std::move(found)));
          },
          py::arg("num_threads") = 0)
      .def(
          "apply",
          [](BoundShards& shards, const Array<uint16_t>& merges, uint16_t first, int num_threads) {
            if (merges.ndim() != 2 || merges.shape(1) != 2) throw py::value_error("merges must have shape (n, 2)");
            std::vector<ft::Merge> pairs;
            const auto ids = span_of(merges);
            for (size_t i = 0; i < ids.size(); i += 2) pairs.push_back({ids[i], ids[i + 1]});
            return to_arrays(shards.alone(
                [&](std::vector<ft::CorpusShard>& s) { return ft::apply_merges(s, pairs, first, num_threads); }));
          },
          py::arg("merges"), py::arg("first"), py::arg("num_threads") = 0);

  py::class_<BoundDriver>(m, "MergeDriver")
      .def(py::init([](int alphabet_size, int vocab_size, int64_t min_frequency, int max_token_symbols) {
             return std::make_unique<BoundDriver>(
                 ft::MergeDriver(alphabet_size, vocab_size, min_frequency, max_token_symbols));
           }),
           py::arg("alphabet_size"), py::arg("vocab_size"), py::arg("min_frequency"), py::arg("max_token_symbols"))
      .def(
          "add_counts",
          [](BoundDriver& driver, const Array<uint16_t>& pairs, const Array<int64_t>& counts) {
            if (pairs.ndim() != 2 || pairs.shape(1) != 2 || counts.ndim() != 1 || counts.shape(0) != pairs.shape(0))
              throw py::value_error("pairs must have shape (n, 2) and counts (n,)");
            const auto ids = span_of(pairs);
            const auto found = span_of(counts);
            driver.alone([&](ft::MergeDriver& d) {
              for (size_t i = 0; i < found.size(); ++i)
                d.add_count({ft::pair_key(ids[2 * i], ids[2 * i + 1]), found[i]});
            });
          },
          py::arg("pairs"), py::arg("counts"))
      .def(
          "next",
          [](BoundDriver& driver, size_t most) {
            const auto picks = driver.alone([&](ft::MergeDriver& d) { return d.next(most); });
            Array<uint16_t> merges({static_cast<py::ssize_t>(picks.size()), py::ssize_t{2}});
            uint16_t* out = merges.mutable_data();
            for (const ft::Pick& pick : picks) {
              *out++ = pick.merge.left;
              *out++ = pick.merge.right;
            }
            return merges;
          },
          py::arg("most") = 1)
      .def(
          "add_effects",
          [](BoundDriver& driver, const Array<int64_t>& entries, const Array<uint16_t>& ids,
             const Array<int64_t>& counts) {
            if (entries.ndim() != 2 || entries.shape(1) != 2 || ids.ndim() != 1 || counts.ndim() != 1 ||
                ids.shape(0) != counts.shape(0))
              throw py::value_error("entries must have shape (n, 2), ids and counts (m,)");
            int64_t left = ids.size();
            for (const int64_t n : span_of(entries)) {
              if (n < 0 || n > left) throw py::value_error("effects have as many entries as ids");
              left -= n;
            }
            if (left != 0) throw py::value_error("effects have as many entries as ids");
            const auto sizes = span_of(entries);
            const uint16_t* id = ids.data();
            const int64_t* n = counts.data();
            driver.alone([&](ft::MergeDriver& d) {
              for (size_t pick = 0; 2 * pick < sizes.size(); ++pick) {
                for (int64_t i = 0; i < sizes[2 * pick]; ++i) d.add_left(pick, *id++, *n++);
                for (int64_t i = 0; i < sizes[2 * pick + 1]; ++i) d.add_right(pick, *id++, *n++);
              }
            });
          },
          py::arg("entries"), py::arg("ids"), py::arg("counts"))
      .def_property_readonly("merges", [](BoundDriver& driver) {
        return merges_to_array(driver.alone([](const ft::MergeDriver& d) { return d.merges(); }));
      });
}

void register_corpus(py::module_& m) {
  py::class_<BoundCorpus>(m, "Corpus")
      .def(py::init([](std::vector<double> scale, std::optional<std::vector<double>> center,
                       std::optional<std::vector<double>> half_range, double clip, double dead_zone,
                       const std::string& order, const std::optional<std::string>& end_of_block,
                       const std::optional<size_t>& memory_budget, const std::optional<std::string>& spill_directory) {
             auto spec = to_spec(std::move(scale), -ft::kMaxCoefficient, ft::kMaxCoefficient, std::move(center),
                                 std::move(half_range), clip, dead_zone);
             auto memory = std::make_shared<ft::BudgetedMemory>(memory_budget.value_or(ft::BudgetedMemory::kUnbounded),
                                                                spill_directory.value_or(""));
             return std::unique_ptr<BoundCorpus>(
                 new BoundCorpus{std::move(spec), to_layout(order, end_of_block), std::move(memory)});
           }),
           py::arg("scale"), py::kw_only(), py::arg("center") = py::none(), py::arg("half_range") = py::none(),
           py::arg("clip") = std::numeric_limits<double>::infinity(), py::arg("dead_zone") = 0.5,
           py::arg("order") = "frequency-first", py::arg("end_of_block") = py::none(),
           py::arg("memory_budget") = py::none(), py::arg("spill_directory") = py::none())
      .def_property_readonly("spilled_bytes", [](const BoundCorpus& c) { return c.memory->spilled_bytes(); })
      .def(
          "add",
          [](BoundCorpus& c, const py::array& chunks, const std::optional<Array<int64_t>>& row_offsets,
             size_t first_chunk, int num_threads, std::optional<std::vector<double>> scale,
             std::optional<std::vector<double>> center, std::optional<std::vector<double>> half_range, double clip) {
            ft::ChunkBatch batch = to_batch(chunks, row_offsets);
            batch.first_chunk = first_chunk;
            if (!scale && center) throw py::value_error("a normalizer goes with a scale");
            const ft::QuantizerSpec spec =
                scale ? with_embodiment(c.spec, std::move(*scale), std::move(center), std::move(half_range), clip)
                      : c.spec;
            c.alone([&](ft::Corpus& corpus) { corpus.add(spec, batch, num_threads); });
          },
          py::arg("chunks"), py::arg("row_offsets") = py::none(), py::arg("first_chunk") = 0,
          py::arg("num_threads") = 0, py::kw_only(), py::arg("scale") = py::none(), py::arg("center") = py::none(),
          py::arg("half_range") = py::none(), py::arg("clip") = std::numeric_limits<double>::infinity())
      .def_property_readonly("chunks",
                             [](BoundCorpus& c) { return c.alone([](ft::Corpus& corpus) { return corpus.chunks(); }); })
      .def_property_readonly(
          "symbols", [](BoundCorpus& c) { return c.alone([](ft::Corpus& corpus) { return corpus.symbols(); }); })
      .def_property_readonly(
          "clipped", [](BoundCorpus& c) { return c.alone([](ft::Corpus& corpus) { return corpus.clipped(); }); })
      .def_property_readonly(
          "saturated", [](BoundCorpus& c) { return c.alone([](ft::Corpus& corpus) { return corpus.saturated(); }); })
      .def(
          "range",
          [](BoundCorpus& c, double quantile) {
            const ft::CoefficientRange r = c.alone([&](ft::Corpus& corpus) { return corpus.range(quantile); });
            return py::make_tuple(r.lowest, r.highest);
          },
          py::arg("quantile"))
      .def(
          "outside",
          [](BoundCorpus& c, int lowest, int highest) {
            return c.alone([&](ft::Corpus& corpus) { return corpus.outside({lowest, highest}); });
          },
          py::arg("lowest"), py::arg("highest"))
      .def("histogram",
           [](BoundCorpus& c) {
             const auto counts = c.alone([](ft::Corpus& corpus) { return corpus.histogram(); });
             std::vector<int32_t> values;
             std::vector<int64_t> found;
             for (size_t i = 0; i < counts.size(); ++i) {
               if (counts[i] == 0) continue;
               values.push_back(static_cast<int32_t>(i) - ft::kMaxCoefficient);
               found.push_back(counts[i]);
             }
             return py::make_tuple(to_array(std::move(values)), to_array(std::move(found)));
           })
      .def("words", [](BoundCorpus& c) { return to_array(c.alone([](ft::Corpus& corpus) { return corpus.words(); })); })
      .def(
          "add_words",
          [](BoundCorpus& c, const Array<uint16_t>& words, size_t chunks, int64_t symbols, int64_t clipped,
             int64_t saturated) {
            const auto counts = to_counts(chunks, symbols, clipped, saturated);
            c.alone([&](ft::Corpus& corpus) { corpus.add(span_of(words), counts); });
          },
          py::arg("words"), py::arg("chunks"), py::arg("symbols"), py::arg("clipped"), py::arg("saturated"))
      .def(
          "into_shards",
          [](BoundCorpus& c, int lowest, int highest, int shards, int num_threads, int levels_beyond) {
            if (shards < 1) throw py::value_error("there is at least one shard, got " + std::to_string(shards));
            return c.alone([&](ft::Corpus& corpus) {
              auto made = corpus.into_shards({lowest, highest, levels_beyond}, shards, num_threads);
              c.used_up = true;
              return std::make_unique<BoundShards>(std::move(made));
            });
          },
          py::arg("lowest"), py::arg("highest"), py::arg("shards") = 1, py::arg("num_threads") = 0,
          py::arg("levels_beyond") = 0)
      .def(
          "train",
          [](BoundCorpus& c, int lowest, int highest, int vocab_size, int64_t min_frequency, int max_token_symbols,
             int num_threads, const py::object& progress, int levels_beyond) {
            const auto options = to_options(vocab_size, min_frequency, max_token_symbols, num_threads, progress);
            return merges_to_array(c.alone([&](ft::Corpus& corpus) {
              c.used_up = true;
              return corpus.train({lowest, highest, levels_beyond}, options);
            }));
          },
          py::arg("lowest"), py::arg("highest"), py::arg("vocab_size"), py::arg("min_frequency"),
          py::arg("max_token_symbols"), py::arg("num_threads") = 0, py::arg("progress") = py::none(),
          py::arg("levels_beyond") = 0);
}

void register_functions(py::module_& m) {
  m.def(
      "fitted_range",
      [](const Array<int32_t>& values, const Array<int64_t>& counts, double quantile, bool has_end) {
        if (values.ndim() != 1 || counts.ndim() != 1 || values.size() != counts.size())
          throw py::value_error("values and counts must have one length");
        std::vector<int64_t> histogram(ft::Corpus::kValues);
        for (py::ssize_t i = 0; i < values.size(); ++i) {
          const int32_t v = values.data()[i];
          if (v < -ft::kMaxCoefficient || v > ft::kMaxCoefficient)
            throw py::value_error("no coefficient has the value " + std::to_string(v));
          histogram[static_cast<size_t>(v + ft::kMaxCoefficient)] += counts.data()[i];
        }
        const ft::CoefficientRange r = ft::fitted_range(histogram, quantile, has_end);
        return py::make_tuple(r.lowest, r.highest);
      },
      py::arg("values"), py::arg("counts"), py::arg("quantile"), py::arg("has_end"));
  m.def(
      "train_bpe",
      [](const Array<uint16_t>& symbols, const Array<int64_t>& offsets, int alphabet_size, int vocab_size,
         int64_t min_frequency, int max_token_symbols, int num_threads, int shards, const py::object& progress) {
        const auto corpus = to_ragged(symbols, offsets);
        const auto options = to_options(vocab_size, min_frequency, max_token_symbols, num_threads, progress);
        std::vector<ft::Merge> merges;
        {
          py::gil_scoped_release unlock;
          merges = ft::train_bpe(corpus, alphabet_size, options, shards);
        }
        return merges_to_array(merges);
      },
      py::arg("symbols"), py::arg("offsets"), py::arg("alphabet_size"), py::arg("vocab_size"),
      py::arg("min_frequency") = 2, py::arg("max_token_symbols") = ft::kMaxTokenSymbols, py::arg("num_threads") = 0,
      py::arg("shards") = 0, py::arg("progress") = py::none());
  m.def(
      "dct2",
      [](const Array<double>& x, const std::string& method, const std::optional<std::string>& kernel, int threads) {
        return transform(x, ft::Direction::kForward, method, kernel, threads);
      },
      py::arg("x"), py::kw_only(), py::arg("method") = "automatic", py::arg("kernel") = py::none(),
      py::arg("num_threads") = 0);
  m.def(
      "dct3",
      [](const Array<double>& x, const std::string& method, const std::optional<std::string>& kernel, int threads) {
        return transform(x, ft::Direction::kInverse, method, kernel, threads);
      },
      py::arg("x"), py::kw_only(), py::arg("method") = "automatic", py::arg("kernel") = py::none(),
      py::arg("num_threads") = 0);
  m.def("build_info", [] {
    py::dict info;
    info["version"] = FAST_TOKENIZER_VERSION;
    info["kernel"] = ft::default_kernels().name;
    py::list kernels;
    for (const char* const* k = ft::available_kernels(); *k != nullptr; ++k) kernels.append(*k);
    info["kernels"] = kernels;
#if defined(__clang__)
    info["compiler"] = "clang " __clang_version__;
#elif defined(__GNUC__)
    info["compiler"] = "gcc " __VERSION__;
#else
    info["compiler"] = "other";
#endif
    info["threads"] = ft::thread_count(0, std::numeric_limits<size_t>::max());
    return info;
  });
}

}  // namespace

PYBIND11_MODULE(_core, m) {
  m.doc() = "Native core of fast_tokenizer. Use the classes of fast_tokenizer instead.";
  py::register_local_exception_translator([](std::exception_ptr p) {
    try {
      if (p) std::rethrow_exception(p);
    } catch (const std::system_error& e) {  // what the system refused, with its errno
      PyErr_SetObject(PyExc_OSError, py::make_tuple(e.code().value(), e.what()).ptr());
    }
  });
  ft::default_kernels();  // a wrong FAST_TOKENIZER_KERNEL fails the import, not the first call
  m.attr("MAX_VOCAB_SIZE") = ft::kMaxVocabSize;
  m.attr("MAX_TOKEN_SYMBOLS") = ft::kMaxTokenSymbols;
  m.attr("MAX_COEFFICIENT") = ft::kMaxCoefficient;
  m.attr("MAX_MAGNITUDE") = ft::kMaxMagnitude;
  m.attr("MAX_HORIZON") = ft::DctPlan::kMaxHorizon;
  register_codec(m);
  register_text_codec(m);
  register_distributed_training(m);
  register_corpus(m);
  register_functions(m);
}
