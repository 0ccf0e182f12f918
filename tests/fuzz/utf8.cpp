// The bytes that published ids decode to: read as the Unicode standard says.
#include "cases.hpp"
#include "text_bpe.hpp"

using namespace fast_tokenizer;

namespace {

/// W3C's "maximal subparts", from the table of well-formed sequences in the Unicode standard (3-7).
std::vector<int32_t> read_utf8(const std::vector<uint8_t>& bytes) {
  struct Row {
    uint8_t first, last;
    std::vector<std::pair<uint8_t, uint8_t>> more;
  };
  static const std::pair<uint8_t, uint8_t> any = {0x80, 0xBF};
  static const std::vector<Row> rows = {{0x00, 0x7F, {}},
                                        {0xC2, 0xDF, {any}},
                                        {0xE0, 0xE0, {{0xA0, 0xBF}, any}},
                                        {0xE1, 0xEC, {any, any}},
                                        {0xED, 0xED, {{0x80, 0x9F}, any}},
                                        {0xEE, 0xEF, {any, any}},
                                        {0xF0, 0xF0, {{0x90, 0xBF}, any, any}},
                                        {0xF1, 0xF3, {any, any, any}},
                                        {0xF4, 0xF4, {{0x80, 0x8F}, any, any}}};
  std::vector<int32_t> out;
  for (size_t i = 0; i < bytes.size();) {
    const uint8_t lead = bytes[i++];
    int32_t code = -1;
    for (const Row& row : rows) {
      if (lead < row.first || lead > row.last) continue;
      const int mask = row.more.empty() ? 0x7F : 0x3F >> row.more.size();
      code = lead & mask;
      for (const auto& [low, high] : row.more) {
        if (i == bytes.size() || bytes[i] < low || bytes[i] > high) {
          code = -1;
          break;
        }
        code = code * 64 + bytes[i++] % 64;
      }
    }
    out.push_back(code);
  }
  return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::vector<uint8_t> bytes(data, data + size);
  std::vector<int32_t> read;
  for_each_character(bytes, [&](int32_t code) { read.push_back(code); });
  fuzz::expect(read == read_utf8(bytes), "bytes are read as the Unicode standard says");
  std::vector<uint8_t> again;
  for (const int32_t code : read) {
    if (code < 0) return 0;
    fuzz::expect(is_character(code), "what is read is a character");
    append_utf8(code, again);
  }
  fuzz::expect(again == bytes, "characters are written as they were");
  return 0;
}
