#include "text_bpe.hpp"

#include <algorithm>
#include <stdexcept>

namespace fast_tokenizer {
namespace {

constexpr int32_t kSpaceCharacter = ' ';
/// Characters above are encoded by their bytes: a symbol has no room for them.
constexpr int32_t kMaxWholeCharacter = 0x7FFF;

/// The UTF-8 bytes of a character; returns how many there are.
int to_utf8(int32_t code, uint8_t* bytes) {
  const auto c = static_cast<uint32_t>(code);
  auto tail = [&](int shift) { return static_cast<uint8_t>(0x80U | ((c >> shift) & 0x3FU)); };
  if (c < 0x80) {
    bytes[0] = static_cast<uint8_t>(c);
    return 1;
  }
  if (c < 0x800) {
    bytes[0] = static_cast<uint8_t>(0xC0U | c >> 6);
    bytes[1] = tail(0);
    return 2;
  }
  if (c < 0x10000) {
    bytes[0] = static_cast<uint8_t>(0xE0U | c >> 12);
    bytes[1] = tail(6);
    bytes[2] = tail(0);
    return 3;
  }
  bytes[0] = static_cast<uint8_t>(0xF0U | c >> 18);
  bytes[1] = tail(12);
  bytes[2] = tail(6);
  bytes[3] = tail(0);
  return 4;
}

/// Length of the contraction ('s 't 'm 'd 're 've 'll) that begins here, or 0.
size_t contraction(std::span<const int32_t> text) {
  if (text.size() < 2 || text[0] != '\'') return 0;
  const int32_t a = text[1], b = text.size() > 2 ? text[2] : 0;
  if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
  return (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l') ? 3 : 0;
}

/// The vocabulary itself, when its parts fit together; what its merges may be is the table's to say.
TextVocabulary validated(TextVocabulary vocabulary) {
  auto require = [](bool ok, const char* message) {
    if (!ok) throw std::invalid_argument(message);
  };
  const int64_t tokens = int64_t{vocabulary.alphabet_size} + static_cast<int64_t>(vocabulary.merges.size());
  require(static_cast<int64_t>(vocabulary.ids.size()) == tokens, "every token needs an id");
  require(vocabulary.classes.size() == static_cast<size_t>(kMaxCodePoint) + 1, "every code point needs a class");
  for (const int32_t id : vocabulary.ids)
    require(id >= 0 && static_cast<size_t>(id) < vocabulary.spellings.size(), "an id lies outside the vocabulary");
  for (const int32_t token : vocabulary.byte_tokens)
    require(-1 <= token && token < vocabulary.alphabet_size, "a byte's token is no symbol");
  return vocabulary;
}

}  // namespace

TextBpe::TextBpe(TextVocabulary vocabulary)
    : vocabulary_(validated(std::move(vocabulary))),
      table_(vocabulary_.alphabet_size, vocabulary_.merges),
      encoder_(table_, static_cast<Symbol>(std::max(0, vocabulary_.byte_tokens[0]))) {
  build_whole_characters();
}

void TextBpe::build_whole_characters() {
  is_whole_.assign(kMaxWholeCharacter + 1, 0);
  // The bytes of each token as they come about by encoding, which only differ from its published spelling for tokens
  // that no byte leads to: those have none.
  std::vector<int> byte_of(static_cast<size_t>(table_.alphabet_size()), -1);
  for (size_t b = 0; b < 256; ++b)
    if (vocabulary_.byte_tokens[b] >= 0) byte_of[static_cast<size_t>(vocabulary_.byte_tokens[b])] = static_cast<int>(b);
  std::vector<std::vector<Symbol>> characters(static_cast<size_t>(table_.vocab_size()));
  int highest = 0;
  for (size_t t = 0; t < characters.size(); ++t) {
    std::vector<uint8_t> bytes;
    bool whole = true;
    for (const Symbol s : table_.expansion(static_cast<TokenId>(t))) {
      whole = whole && byte_of[s] >= 0;
      bytes.push_back(static_cast<uint8_t>(std::max(0, byte_of[s])));
    }
    std::vector<Symbol> found;
    for_each_character(bytes, [&](int32_t code) {
      whole = whole && code >= 0 && code <= kMaxWholeCharacter;
      if (whole) found.push_back(static_cast<Symbol>(code));
    });
    if (!whole) continue;
    if (found.size() == 1) {
      is_whole_[found[0]] = 1;
      highest = std::max(highest, int{found[0]});
    }
    characters[t] = std::move(found);
  }
  const int32_t zero = vocabulary_.zero;
  if (zero < 0 || zero > kMaxWholeCharacter || is_whole_[static_cast<size_t>(zero)] == 0) return;
  for (auto& spelling : characters)  // several whole characters, one of which no token is: out of the alphabet
    if (std::any_of(spelling.begin(), spelling.end(), [=](Symbol c) { return c > highest; })) spelling.clear();
  try {
    by_characters_.emplace(table_, static_cast<Symbol>(zero), highest + 1,
                           [&](TokenId t) { return std::span<const Symbol>(characters[t]); });
  } catch (const std::logic_error&) {  // a run of zeros needs tokens that are no whole characters
  }
}

/// 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
size_t TextBpe::word_end(std::span<const int32_t> text, size_t start) const {
  if (const size_t length = contraction(text.subspan(start)); length > 0) return start + length;
  size_t i = start;
  CharacterClass kind = class_of(text[i]);
  if (text[i] == kSpaceCharacter && i + 1 < text.size() && class_of(text[i + 1]) != CharacterClass::kSpace)
    kind = class_of(text[++i]);  // one space goes with the word that follows
  while (i < text.size() && class_of(text[i]) == kind) ++i;
  // White space before a word leaves its last character to the word.
  const bool leaves_one = kind == CharacterClass::kSpace && i < text.size() && i - start > 1;
  return leaves_one ? i - 1 : i;
}

int64_t TextBpe::append_bytes(std::span<const int32_t> word, std::vector<Symbol>& bytes) const {
  int64_t damaged = 0;
  for (const int32_t code : word) {
    uint8_t utf8[4];
    const int n = to_utf8(code, utf8);
    bool lost = false;
    for (int k = 0; k < n; ++k) {
      const int32_t token = vocabulary_.byte_tokens[utf8[k]];
      if (token >= 0)
        bytes.push_back(static_cast<Symbol>(token));
      else
        lost = true;
    }
    damaged += lost;
  }
  return damaged;
}

void TextBpe::check(std::span<const int32_t> text) {
  for (const int32_t code : text)
    if (!is_character(code)) throw std::invalid_argument("code point " + std::to_string(code) + " is no character");
}

int64_t TextBpe::encode(std::span<const int32_t> text, std::vector<int32_t>& ids, TextScratch& scratch) const {
  auto append = [&](size_t count) {
    for (size_t i = 0; i < count; ++i) ids.push_back(vocabulary_.ids[scratch.tokens[i]]);
  };
  auto is_whole = [this](int32_t c) { return c <= kMaxWholeCharacter && is_whole_[static_cast<size_t>(c)] != 0; };
  int64_t damaged = 0;
  for (size_t start = 0, end; start < text.size(); start = end) {
    end = word_end(text, start);
    const auto word = text.subspan(start, end - start);
    if (by_characters_ && std::all_of(word.begin(), word.end(), is_whole)) {
      scratch.characters.assign(word.begin(), word.end());
      scratch.tokens.resize(word.size());
      if (const auto count =
              by_characters_->try_encode(scratch.characters, scratch.tokens.data(), scratch.encode_characters)) {
        append(*count);
        continue;
      }
    }
    scratch.bytes.clear();
    damaged += append_bytes(word, scratch.bytes);
    scratch.tokens.resize(scratch.bytes.size());
    append(encoder_.encode(scratch.bytes, scratch.tokens.data(), scratch.encode_bytes));
  }
  return damaged;
}

}  // namespace fast_tokenizer
