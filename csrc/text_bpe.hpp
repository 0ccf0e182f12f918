// Byte-pair encoding of text, as the published FAST tokenizers do it: characters are split into words by GPT-2's rule,
// written as UTF-8 bytes, and the bytes of each word are merged.
//
// A character is a code point: a quantized coefficient minus the lowest one. What that costs (words that end where a
// character class changes, coefficients of several bytes, bytes without a token) stays in this file.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "bpe_encode.hpp"

namespace fast_tokenizer {

/// What GPT-2's splitting rule tells apart.
enum class CharacterClass : uint8_t { kOther, kLetter, kNumber, kSpace };

inline constexpr int32_t kMaxCodePoint = 0x10FFFF;

/// A code point that UTF-8 can write.
inline bool is_character(int32_t code) {
  return code >= 0 && code <= kMaxCodePoint && (code < 0xD800 || code > 0xDFFF);
}

/// A vocabulary as it is published. Merge i makes token alphabet_size + i; `ids` says under which number each token is
/// published.
struct TextVocabulary {
  std::array<int32_t, 256> byte_tokens;  ///< token of each byte, or -1: such bytes are dropped
  int alphabet_size;
  std::vector<RawMerge> merges;
  std::vector<int32_t> ids;             ///< by token
  std::vector<std::string> spellings;   ///< by published id: the bytes that it decodes to
  std::vector<CharacterClass> classes;  ///< by code point, kMaxCodePoint + 1 of them
  int32_t zero;                         ///< code point of coefficient 0, whose runs are worth jumping over
};

struct TextScratch {
  EncodeScratch encode_bytes, encode_characters;  ///< each encoder continues a table of its own in it
  std::vector<Symbol> characters, bytes;
  std::vector<TokenId> tokens;
};

/// Immutable, and usable from several threads at once.
class TextBpe {
 public:
  /// Throws std::invalid_argument for parts that do not fit together and merges that no training produces.
  explicit TextBpe(TextVocabulary vocabulary);

  int vocab_size() const { return static_cast<int>(vocabulary_.spellings.size()); }
  /// The bytes that a published id decodes to.
  const std::string& spelling(int32_t id) const { return vocabulary_.spellings[static_cast<size_t>(id)]; }

  /// Throws std::invalid_argument unless all code points are characters.
  static void check(std::span<const int32_t> text);
  /// Appends the published ids of one text. Returns how many of its characters lost a byte that has no token.
  int64_t encode(std::span<const int32_t> text, std::vector<int32_t>& ids, TextScratch& scratch) const;

  /// One past the last character of the word that begins at `start`.
  size_t word_end(std::span<const int32_t> text, size_t start) const;
  /// Appends the tokens of a word's bytes; returns how many of its characters lost one.
  int64_t append_bytes(std::span<const int32_t> word, std::vector<Symbol>& bytes) const;

 private:
  CharacterClass class_of(int32_t code) const { return vocabulary_.classes[static_cast<size_t>(code)]; }
  void build_whole_characters();

  TextVocabulary vocabulary_;
  MergeTable table_;
  BpeEncoder encoder_;
  /// Most words consist of characters that are whole tokens, and their encoding too. Then the walk can go by
  /// characters, and from one that is not `zero` to the next: a third of the time of going by bytes.
  std::optional<BpeEncoder> by_characters_;
  std::vector<uint8_t> is_whole_;  ///< by code point: some token is this character alone
};

/// Reads UTF-8. Calls body(code) for each character, and body(-1) where bytes are part of none, once for each
/// U+FFFD that a lossy reader (W3C, "maximal subparts") writes there.
template <typename Body>
void for_each_character(std::span<const uint8_t> bytes, Body body) {
  for (size_t i = 0; i < bytes.size();) {
    const uint8_t lead = bytes[i++];
    if (lead < 0x80) {
      body(int32_t{lead});
      continue;
    }
    const int more = lead >= 0xC2 && lead <= 0xDF   ? 1
                     : (lead & 0xF0) == 0xE0        ? 2
                     : lead >= 0xF0 && lead <= 0xF4 ? 3
                                                    : 0;
    int32_t code = more == 0 ? -1 : lead & (0x3F >> more);
    // The second byte's range rules out longer spellings than needed, surrogates and what is beyond Unicode.
    uint8_t lowest = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    uint8_t highest = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    for (int k = 0; k < more; ++k) {
      if (i == bytes.size() || bytes[i] < lowest || bytes[i] > highest) {
        code = -1;
        break;
      }
      code = code << 6 | (bytes[i++] & 0x3F);
      lowest = 0x80;
      highest = 0xBF;
    }
    body(code);
  }
}

}  // namespace fast_tokenizer
