#define FT_KERNEL_LANES 8
#define FT_KERNEL_NAME avx512
#include "kernels_impl.hpp"
