// What the fuzz targets share: choices taken from the input byte by byte, and checks that stop the process.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace fast_tokenizer::fuzz {

/// Reads choices off the front of an input; zeros once it is used up. (libFuzzer has the like, but what the corpus
/// means must not depend on the compiler that replays it.)
class Input {
 public:
  Input(const uint8_t* data, size_t size) : rest_(data, size) {}

  bool empty() const { return rest_.empty(); }
  size_t size() const { return rest_.size(); }

  uint64_t bits(int bytes) {
    uint64_t value = 0;
    for (int i = 0; i < bytes && !rest_.empty(); ++i) {
      value |= uint64_t{rest_.front()} << (8 * i);
      rest_ = rest_.subspan(1);
    }
    return value;
  }
  /// Both bounds can be chosen. Takes as many bytes as the range needs.
  template <typename T>
  T between(T low, T high) {
    const auto range = static_cast<uint64_t>(high) - static_cast<uint64_t>(low);
    const auto bytes = static_cast<int>((std::bit_width(range) + 7) / 8);
    return static_cast<T>(static_cast<uint64_t>(low) + (bytes == 8 ? bits(8) : bits(bytes) % (range + 1)));
  }
  bool flag() { return (bits(1) & 1) != 0; }
  bool one_in(int n) { return between(1, n) == n; }
  template <typename T>
  T one_of(std::initializer_list<T> values) {
    return values.begin()[between<size_t>(0, values.size() - 1)];
  }
  double any_double() { return std::bit_cast<double>(bits(8)); }
  float any_float() { return std::bit_cast<float>(static_cast<uint32_t>(bits(4))); }
  /// Of few digits: in -span..span.
  double coarse(double span) { return span * static_cast<double>(static_cast<int8_t>(bits(1))) / 128; }

 private:
  std::span<const uint8_t> rest_;
};

inline void expect(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "does not hold: %s\n", what);
  std::abort();
}

/// Whether the action is refused by std::invalid_argument; nothing else may be thrown.
template <typename Action>
bool refused(Action action, std::string* message = nullptr) {
  try {
    action();
    return false;
  } catch (const std::invalid_argument& e) {
    if (message != nullptr) *message = e.what();
    return true;
  }
}

}  // namespace fast_tokenizer::fuzz
