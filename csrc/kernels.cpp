#include "kernels.hpp"

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

namespace fast_tokenizer {

extern const Kernels kernels_baseline;
#ifdef FAST_TOKENIZER_X86_KERNELS
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
#endif

namespace {

struct Registry {
  const Kernels* kernels[4] = {};
  const char* names[4] = {};
  int count = 0;

  void add(const Kernels& k) {
    kernels[count] = &k;
    names[count++] = k.name;
  }

  Registry() {
    add(kernels_baseline);
#ifdef FAST_TOKENIZER_X86_KERNELS
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2")) add(kernels_avx2);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
      add(kernels_avx512);
#endif
  }
};

const Registry& registry() {
  static const Registry instance;
  return instance;
}

const Kernels& choose_default() {
  const char* forced = std::getenv("FAST_TOKENIZER_KERNEL");
  if (forced == nullptr || *forced == '\0') return *registry().kernels[registry().count - 1];
  try {
    return kernels_by_name(forced);
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(std::string("FAST_TOKENIZER_KERNEL: ") + error.what());
  }
}

}  // namespace

const Kernels& kernels_by_name(const char* name) {
  const Registry& r = registry();
  std::string have;
  for (int i = 0; i < r.count; ++i) {
    if (std::strcmp(r.names[i], name) == 0) return *r.kernels[i];
    have += (i ? ", " : "") + std::string(r.names[i]);
  }
  throw std::runtime_error("kernel '" + std::string(name) + "' cannot run here; this machine has: " + have);
}

const Kernels& default_kernels() {
  static const Kernels& chosen = choose_default();
  return chosen;
}

const char* const* available_kernels() { return registry().names; }

}  // namespace fast_tokenizer
