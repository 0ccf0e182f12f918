#define FT_KERNEL_LANES 4
#define FT_KERNEL_NAME avx2
#include "kernels_impl.hpp"
