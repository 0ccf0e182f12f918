// What the core must give on every machine: tests/data/golden.txt, which golden.py beside it writes.
//
//   golden_tests path/to/golden.txt
//
// Ids, counts and merges must be equal. Decoded values may differ in the last places: the transforms' tables come from
// the C library's cosine, which is not the same in all of them.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "bpe_train.hpp"
#include "codec.hpp"
#include "kernels.hpp"
#include "text_codec.hpp"

namespace fast_tokenizer {
namespace {

constexpr double kDivisor = 1024;
/// Of the largest value of a chunk.
constexpr double kTolerance = 1e-14;

class Words {
 public:
  explicit Words(const std::string& path) : file_(path) {
    if (!file_) throw std::runtime_error("cannot read " + path);
  }

  /// The next word; empty at the end of the file.
  std::string word() {
    std::string word;
    file_ >> word;
    return word;
  }
  void expect(const char* wanted) {
    if (const std::string got = word(); got != wanted)
      throw std::runtime_error("expected '" + std::string(wanted) + "', got '" + got + "'");
  }
  int64_t integer() { return std::stoll(word()); }
  int integer(const char* name) {
    expect(name);
    return static_cast<int>(integer());
  }
  double real() { return std::strtod(word().c_str(), nullptr); }
  template <typename T>
  std::vector<T> list() {
    std::vector<T> values(static_cast<size_t>(integer()));
    for (T& v : values) {
      if constexpr (std::is_floating_point_v<T>)
        v = real();
      else
        v = static_cast<T>(integer());
    }
    return values;
  }
  template <typename T>
  std::vector<T> list(const char* name) {
    expect(name);
    return list<T>();
  }

 private:
  std::ifstream file_;
};

int failures = 0;
int64_t values_compared = 0, values_of_other_bits = 0;

void check(bool holds, const std::string& what) {
  if (holds) return;
  std::printf("FAILED: %s\n", what.c_str());
  ++failures;
}

void check_values(const std::vector<double>& got, const std::vector<double>& wanted, const std::string& where) {
  double largest = 0, error = 0;
  for (const double v : wanted) largest = std::max(largest, std::abs(v));
  for (size_t i = 0; i < wanted.size(); ++i) {
    error = std::max(error, std::abs(got[i] - wanted[i]));
    ++values_compared;
    values_of_other_bits += std::bit_cast<uint64_t>(got[i]) != std::bit_cast<uint64_t>(wanted[i]);
  }
  check(got.size() == wanted.size() && error <= kTolerance * largest, where + ": decoded values");
}

struct Chunks {
  size_t count;
  int64_t horizon;
  int action_dim;
  std::vector<double> doubles;
  std::vector<float> floats;

  explicit Chunks(Words& words)
      : count(static_cast<size_t>(words.integer())),
        horizon(words.integer()),
        action_dim(static_cast<int>(words.integer())) {
    for (const int64_t v : words.list<int64_t>()) {
      doubles.push_back(static_cast<double>(v) / kDivisor);
      floats.push_back(static_cast<float>(doubles.back()));
    }
  }
  ChunkBatch batch(bool is_float32) const {
    const void* const data =
        is_float32 ? static_cast<const void*>(floats.data()) : static_cast<const void*>(doubles.data());
    return {data, is_float32, action_dim, count, horizon, {}, 0};
  }
  size_t size() const { return static_cast<size_t>(horizon) * static_cast<size_t>(action_dim); }
};

std::vector<RawMerge> merges_of(Words& words) {
  const auto ids = words.list<int64_t>("merges");
  std::vector<RawMerge> merges;
  for (size_t i = 0; i + 1 < ids.size(); i += 2) merges.push_back({ids[i], ids[i + 1]});
  return merges;
}

/// Decodes the first chunk.
template <typename AnyCodec>
std::vector<double> first_decoded(const AnyCodec& codec, const Chunks& chunks, const std::vector<int32_t>& ids,
                                  const std::vector<int64_t>& offsets) {
  std::vector<double> out(chunks.size());
  DecodeCounts counts;
  const std::span<const int32_t> first = std::span(ids).first(static_cast<size_t>(offsets[1]));
  codec.decode({first, std::span(offsets).first(2)}, {&chunks.horizon, 1}, chunks.action_dim, out.data(), &counts, 1);
  return out;
}

std::vector<const Kernels*> all_kernels() {
  std::vector<const Kernels*> kernels;
  for (const char* const* name = available_kernels(); *name != nullptr; ++name)
    kernels.push_back(&kernels_by_name(*name));
  return kernels;
}

void check_codec(Words& words, const std::vector<Chunks>& inputs) {
  const std::string name = words.word();
  Coding coding;
  coding.layout.order = static_cast<Order>(words.integer("order"));
  coding.layout.end_of_block = static_cast<EndOfBlock>(words.integer("end_of_block"));
  coding.parsing = static_cast<Parsing>(words.integer("parsing"));
  coding.levels_beyond = words.integer("levels_beyond");
  QuantizerSpec spec;
  words.expect("dead_zone");
  spec.dead_zone = words.real();
  spec.scale = words.list<double>("scale");
  spec.lowest = words.integer("range");
  spec.highest = static_cast<int>(words.integer());
  if (words.integer("normalization") != 0) {
    const double clip = words.real();
    std::vector<double> center = words.list<double>();
    spec.normalization = Normalization{std::move(center), words.list<double>(), clip};
  }
  const std::vector<RawMerge> merges = merges_of(words);
  std::vector<Codec> codecs;
  for (const Kernels* kernels : all_kernels()) codecs.emplace_back(spec, merges, *kernels, coding);

  size_t input = 0;
  std::vector<int32_t> ids;
  std::vector<int64_t> offsets;
  for (std::string next = words.word(); next != "end"; next = words.word()) {
    if (next == "batch") {
      input = static_cast<size_t>(words.integer());
      const bool is_float32 = words.integer() != 0;
      ids = words.list<int32_t>("ids");
      offsets = words.list<int64_t>("offsets");
      const auto saturated = words.list<int32_t>("saturated"), clipped = words.list<int32_t>("clipped");
      const auto kernels = all_kernels();
      for (size_t k = 0; k < codecs.size(); ++k) {
        const EncodedBatch got = codecs[k].encode(inputs[input].batch(is_float32), 1);
        const std::string where = name + ", input " + std::to_string(input) + ", kernel " + kernels[k]->name;
        check(got.ids == ids && got.offsets == offsets, where + ": ids");
        check(got.saturated == saturated && got.clipped == clipped, where + ": counts");
      }
    } else if (next == "decoded") {
      const auto wanted = words.list<double>();
      for (const Codec& codec : codecs)
        check_values(first_decoded(codec, inputs[input], ids, offsets), wanted,
                     name + ", input " + std::to_string(input));
    } else {
      throw std::runtime_error("unknown word '" + next + "'");
    }
  }
  std::printf("codec %s\n", name.c_str());
}

void check_training(Words& words) {
  const auto alphabet_size = static_cast<int>(words.integer());
  TrainOptions options;
  options.vocab_size = static_cast<int>(words.integer());
  const auto symbols = words.list<Symbol>();
  const auto offsets = words.list<int64_t>("offsets");
  const std::vector<RawMerge> wanted = merges_of(words);
  for (const int shards : {1, 3}) {
    const std::vector<Merge> got = train_bpe(RaggedView<Symbol>{symbols, offsets}, alphabet_size, options, shards);
    const bool same = std::equal(got.begin(), got.end(), wanted.begin(), wanted.end(), [](Merge a, RawMerge b) {
      return int64_t{a.left} == b.left && int64_t{a.right} == b.right;
    });
    check(same && !wanted.empty(), "merges of " + std::to_string(shards) + " shards");
  }
  std::printf("training\n");
}

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return bytes;
}

void check_text(Words& words) {
  const double scale = words.real();
  const auto min_token = static_cast<int>(words.integer());
  const auto lowest = static_cast<int>(words.integer()), highest = static_cast<int>(words.integer());
  TextVocabulary vocabulary;
  vocabulary.zero = -min_token;
  vocabulary.alphabet_size = static_cast<int>(words.integer());
  const auto byte_tokens = words.list<int32_t>("byte_tokens");
  std::copy(byte_tokens.begin(), byte_tokens.end(), vocabulary.byte_tokens.begin());
  vocabulary.merges = merges_of(words);
  vocabulary.ids = words.list<int32_t>("token_ids");
  for (int i = words.integer("spellings"); i > 0; --i) vocabulary.spellings.push_back(from_hex(words.word()));
  words.expect("classes");
  for (const char c : words.word()) vocabulary.classes.push_back(static_cast<CharacterClass>(c - '0'));
  vocabulary.classes.resize(kMaxCodePoint + 1, CharacterClass::kOther);
  words.expect("input");
  const Chunks chunks(words);
  const auto characters = words.list<int32_t>("characters"), ids = words.list<int32_t>("ids");
  const auto offsets = words.list<int64_t>("offsets");
  const auto saturated = words.list<int32_t>("saturated"), dropped = words.list<int32_t>("dropped");
  const auto wanted = words.list<double>("decoded");
  for (const Kernels* kernels : all_kernels()) {
    const TextCodec codec(scale, min_token, vocabulary, {lowest, highest}, *kernels);
    const QuantizedTexts texts = codec.quantize(chunks.batch(true), 1);
    check(texts.text == characters && texts.saturated == saturated, "text: characters");
    check(std::find(texts.uncertain.begin(), texts.uncertain.end(), 1) == texts.uncertain.end(), "text: ties");
    const EncodedTexts got = codec.encode({texts.text, texts.offsets}, 1);
    check(got.ids == ids && got.offsets == offsets && got.dropped == dropped, "text: ids");
    check_values(first_decoded(codec, chunks, ids, offsets), wanted, "text");
  }
  std::printf("text\n");
}

int run(const std::string& path) {
  Words words(path);
  std::vector<Chunks> inputs;
  int codecs = 0, others = 0;
  for (std::string next = words.word(); !next.empty(); next = words.word()) {
    if (next == "input") {
      inputs.emplace_back(words);
    } else if (next == "codec") {
      check_codec(words, inputs);
      ++codecs;
    } else if (next == "training") {
      check_training(words);
      ++others;
    } else if (next == "text") {
      check_text(words);
      ++others;
    } else {
      throw std::runtime_error("unknown word '" + next + "'");
    }
  }
  check(codecs == 6 && others == 2, "the file is whole");
  std::printf("%lld of %lld decoded values differ in the last places\n", static_cast<long long>(values_of_other_bits),
              static_cast<long long>(values_compared));
  std::printf("%d failed\n", failures);
  return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

}  // namespace
}  // namespace fast_tokenizer

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: golden_tests path/to/golden.txt\n");
    return EXIT_FAILURE;
  }
  try {
    return fast_tokenizer::run(argv[1]);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "golden_tests: %s\n", e.what());
    return EXIT_FAILURE;
  }
}
