# Cross-compiles for aarch64 with Debian's compiler, and runs tests under qemu's user mode:
#   apt-get install g++-aarch64-linux-gnu qemu-user
#   cmake --toolchain cmake/aarch64-linux-gnu.cmake ...
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64 -L /usr/aarch64-linux-gnu)
