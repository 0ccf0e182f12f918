// Published tokenizers: any vocabulary, text and ids.
#include "cases.hpp"
#include "text_codec.hpp"

using namespace fast_tokenizer;
using namespace fast_tokenizer::fuzz;

namespace {

constexpr int kZero = 0x90;  ///< a character of two bytes: code points on both sides of it are of one

std::vector<CharacterClass> some_classes() {
  std::vector<CharacterClass> classes(kMaxCodePoint + 1, CharacterClass::kOther);
  for (int32_t c = 'a'; c <= 'z'; ++c) classes[static_cast<size_t>(c)] = CharacterClass::kLetter;
  for (int32_t c = '0'; c <= '9'; ++c) classes[static_cast<size_t>(c)] = CharacterClass::kNumber;
  for (int32_t c = 0x80; c < 0xC0; ++c) classes[static_cast<size_t>(c)] = static_cast<CharacterClass>(c % 4);
  classes[' '] = classes['\n'] = CharacterClass::kSpace;
  return classes;
}

int32_t character_from(Input& in) {
  const int32_t code = in.one_in(8)   ? in.between<int32_t>(0, kMaxCodePoint)
                       : in.one_in(4) ? in.one_of<int32_t>({' ', '\'', 's', 'r', 'e', 'l', '\n', '0'})
                                      : in.between<int32_t>(kZero - 20, kZero + 20);
  return is_character(code) ? code : kZero;
}

/// Without classes. Most bytes that the texts need have a token.
TextVocabulary vocabulary_from(Input& in) {
  TextVocabulary vocabulary;
  vocabulary.zero = kZero;
  vocabulary.alphabet_size = 0;
  const int without = in.one_in(4) ? in.between(0, 255) : -1;
  for (int b = 0; b < 256; ++b)
    vocabulary.byte_tokens[static_cast<size_t>(b)] = b == without ? -1 : vocabulary.alphabet_size++;
  for (int i = in.between(0, 24); i > 0; --i) {
    const auto newest = int64_t{vocabulary.alphabet_size} + static_cast<int64_t>(vocabulary.merges.size()) - 1;
    auto id = [&]() -> int64_t {  // one of those that our characters are made of, or a merge
      const int64_t merges = newest - vocabulary.alphabet_size + 1;
      if (merges > 0 && in.flag()) return vocabulary.alphabet_size + in.between<int64_t>(0, merges - 1);
      return std::max(0, vocabulary.byte_tokens[in.one_of<size_t>({0xC2, 0x90, 0x91, 0x8F, ' ', 0x7F, '0', 's', '\'',
                                                                   0x85, 0xA0, in.between<size_t>(0, 255)})]);
    };
    vocabulary.merges.push_back({id(), id()});
    if (refused([&] { MergeTable(vocabulary.alphabet_size, vocabulary.merges); })) vocabulary.merges.pop_back();
  }
  const auto count = static_cast<size_t>(vocabulary.alphabet_size) + vocabulary.merges.size();
  const auto shift = in.between<size_t>(0, count - 1);
  const MergeTable table(vocabulary.alphabet_size, vocabulary.merges);
  vocabulary.spellings.resize(count);
  std::vector<char> byte_of(static_cast<size_t>(vocabulary.alphabet_size));
  for (size_t b = 0; b < 256; ++b)
    if (vocabulary.byte_tokens[b] >= 0) byte_of[static_cast<size_t>(vocabulary.byte_tokens[b])] = static_cast<char>(b);
  for (size_t t = 0; t < count; ++t) {
    vocabulary.ids.push_back(static_cast<int32_t>((t + shift) % count));
    for (const Symbol s : table.expansion(static_cast<TokenId>(t)))
      vocabulary.spellings[(t + shift) % count] += byte_of[s];
  }
  return vocabulary;
}

void check_encoding(Input& in, const TextVocabulary& vocabulary, const TextCodec& codec) {
  std::vector<int32_t> text;
  for (size_t n = in.between<size_t>(0, 60); n > 0 && !in.empty(); --n)
    text.insert(text.end(), in.one_in(4) ? in.between<size_t>(1, 40) : 1, character_from(in));
  text.shrink_to_fit();
  const std::vector<int64_t> offsets = {0, static_cast<int64_t>(text.size())};
  const EncodedTexts got = codec.encode({text, offsets}, 1);
  const Ranks ranks = ranks_of(MergeTable(vocabulary.alphabet_size, vocabulary.merges));
  std::vector<int32_t> wanted;
  int32_t damaged = 0;
  for (size_t start = 0, end; start < text.size(); start = end) {
    end = codec.bpe().word_end(text, start);
    expect(start < end && end <= text.size(), "a word has a character");
    Tokens word;
    for (size_t i = start; i < end; ++i) {
      std::vector<uint8_t> bytes;
      append_utf8(text[i], bytes);
      bool lost = false;
      for (const uint8_t b : bytes) {
        if (vocabulary.byte_tokens[b] >= 0) word.push_back(vocabulary.byte_tokens[b]);
        lost = lost || vocabulary.byte_tokens[b] < 0;
      }
      damaged += lost;
    }
    for (const int t : encode_naively(word, ranks)) wanted.push_back(vocabulary.ids[static_cast<size_t>(t)]);
  }
  expect(got.ids == wanted, "ids are those of each word's bytes merged greedily");
  expect(got.dropped[0] == damaged, "characters that lost a byte are counted");
  if (damaged == 0) expect(codec.expand(got.ids) == text, "ids spell the text");
}

void check_decoding(Input& in, const TextCodec& codec, std::pair<int, int> repair, double scale) {
  const int dims = in.between(1, 10);
  const int64_t horizon = in.between<int64_t>(1, 12);
  const auto expected = static_cast<size_t>(horizon * dims);
  std::vector<int32_t> ids, known;
  for (size_t n = in.between<size_t>(0, expected + 5); n > 0 && !in.empty(); --n)
    ids.push_back(in.one_in(16) ? static_cast<int32_t>(in.bits(4)) : in.between<int32_t>(-1, codec.bpe().vocab_size()));
  ids.shrink_to_fit();
  for (const int32_t id : ids)
    if (id >= 0 && id < codec.bpe().vocab_size()) known.push_back(id);
  const std::vector<int64_t> offsets = {0, static_cast<int64_t>(ids.size())};
  std::vector<double> out(expected, std::nan(""));
  DecodeCounts counts;
  codec.decode({ids, offsets}, {&horizon, 1}, dims, out.data(), &counts, 1);
  expect(all_finite(out), "decoded values are finite");

  const std::vector<int32_t> text = codec.expand(known);
  const auto size = static_cast<int64_t>(text.size()), wanted = static_cast<int64_t>(expected);
  expect(counts.unknown == static_cast<int64_t>(ids.size() - known.size()), "unknown ids are counted");
  expect(counts.broken == std::count(text.begin(), text.end(), -1), "broken characters are counted");
  expect(counts.missing == std::max<int64_t>(0, wanted - size), "missing characters are counted");
  expect(counts.extra == std::max<int64_t>(0, size - wanted), "characters too many are counted");
  std::vector<double> coefficients(expected, 0.0);
  int64_t clamped = 0;
  for (size_t k = 0; k < std::min(expected, text.size()); ++k) {
    double& q = coefficients[k];
    q = text[k] < 0 ? 0.0 : text[k] - kZero;
    if (counts.well_formed() || (repair.first <= q && q <= repair.second)) continue;
    q = std::clamp<double>(q, repair.first, repair.second);
    ++clamped;
  }
  expect(counts.clamped == clamped, "clamped coefficients are counted");
  for (double& q : coefficients) q /= scale;
  const auto chunk = textbook_dct(Direction::kInverse, static_cast<int>(horizon), dims, coefficients.data());
  double largest = 1;
  for (const double v : coefficients) largest = std::max(largest, std::abs(v));
  for (size_t v = 0; v < expected; ++v)
    expect(std::abs(out[v] - chunk[v]) <= 1e-9 * largest, "values are those of the coefficients that the ids spell");
}

/// Vocabularies that no tokenizer has are refused.
void check_refusal(Input& in, TextVocabulary vocabulary) {
  const auto at = [&](size_t size) { return in.between<size_t>(0, size - 1); };
  switch (in.between(0, 4)) {
    case 0:
      vocabulary.ids.pop_back();
      break;
    case 1:
      vocabulary.ids[at(vocabulary.ids.size())] = in.one_of<int32_t>({-1, static_cast<int32_t>(vocabulary.ids.size())});
      break;
    case 2:
      vocabulary.classes.resize(in.between<size_t>(0, 1000));
      break;
    case 3:
      vocabulary.byte_tokens[at(256)] = in.one_of<int32_t>({-2, vocabulary.alphabet_size, 0x10000});
      break;
    default:
      vocabulary.alphabet_size = in.between(-1, 0);
  }
  expect(refused([&] { TextBpe bpe(std::move(vocabulary)); }), "a vocabulary without meaning is refused");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input in(data, size);
  static const std::vector<CharacterClass> classes = some_classes();
  const TextVocabulary vocabulary = vocabulary_from(in);
  TextVocabulary complete = vocabulary;
  complete.classes = classes;
  if (in.one_in(16)) {
    check_refusal(in, std::move(complete));
    return 0;
  }
  const std::pair<int, int> repair = {-in.between(0, 60), in.between(0, 60)};
  const double scale = 1 + in.between(0, 200) / 8.0;
  const TextCodec codec(scale, -kZero, std::move(complete), repair);
  check_encoding(in, vocabulary, codec);
  check_decoding(in, codec, repair, scale);
  return 0;
}
