#define FT_KERNEL_LANES 2
#define FT_KERNEL_NAME baseline
#include "kernels_impl.hpp"
