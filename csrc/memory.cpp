#include "memory.hpp"

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <new>
#include <system_error>

#if !defined(_WIN32)
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#endif

namespace fast_tokenizer {
namespace {

constexpr size_t kExtent = size_t{4} << 20;

[[noreturn]] void refuse(int error, size_t bytes, const std::string& directory) {
  throw std::system_error(error, std::generic_category(),
                          "training needs " + std::to_string(bytes) +
                              " bytes beyond its memory budget, and no file in " + directory + " can take them");
}

#if defined(_WIN32)

std::byte* map_file(size_t bytes, const std::string& directory) { refuse(ENOSYS, bytes, directory); }
void unmap(std::byte*, size_t) {}

#else

/// A file without a name.
int open_unnamed(const std::string& directory) {
#if defined(O_TMPFILE)
  const int unnamed = open(directory.c_str(), O_TMPFILE | O_RDWR | O_EXCL | O_CLOEXEC, 0600);
  if (unnamed >= 0) return unnamed;
#endif  // not every file system can
  std::string name = directory + "/fast_tokenizer_XXXXXX";
  const int named = mkstemp(name.data());
  if (named >= 0) unlink(name.c_str());
  return named;
}

/// Reserves the bytes on disk; returns the system's error, or 0.
int reserve(int file, size_t bytes) {
  const auto length = static_cast<off_t>(bytes);
#if defined(__APPLE__)
  fstore_t wish = {F_ALLOCATEALL, F_PEOFPOSMODE, 0, length, 0};
  return fcntl(file, F_PREALLOCATE, &wish) == 0 && ftruncate(file, length) == 0 ? 0 : errno;
#else
  int error = 0;
  do error = posix_fallocate(file, 0, length);
  while (error == EINTR);
  return error;
#endif
}

std::byte* map_file(size_t bytes, const std::string& directory) {
  const int file = open_unnamed(directory);
  if (file < 0) refuse(errno, bytes, directory);
  int error = reserve(file, bytes);
  void* mapped = MAP_FAILED;
  if (error == 0) {
    mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (mapped == MAP_FAILED) error = errno;
  }
  close(file);
  if (error != 0) refuse(error, bytes, directory);
  return static_cast<std::byte*>(mapped);
}

void unmap(std::byte* p, size_t bytes) { munmap(p, bytes); }

#endif

}  // namespace

BudgetedMemory::BudgetedMemory(size_t budget, std::string directory)
    : budget_(budget),
      directory_(directory.empty() ? std::filesystem::temp_directory_path().string() : std::move(directory)) {}

BudgetedMemory::~BudgetedMemory() {
  for (const auto& [data, extent] : extents_) unmap(data, extent.size);
}

void* BudgetedMemory::do_allocate(size_t bytes, size_t alignment) {
  const std::lock_guard<std::mutex> turn(mutex_);
  if (bytes > budget_ - in_heap_) return allocate_in_file(bytes);
  void* const p = ::operator new(bytes, std::align_val_t{std::max(alignment, alignof(std::max_align_t))});
  in_heap_ += bytes;
  return p;
}

void BudgetedMemory::do_deallocate(void* p, size_t bytes, size_t alignment) {
  const std::lock_guard<std::mutex> turn(mutex_);
  if (deallocate_in_file(p)) return;
  ::operator delete(p, std::align_val_t{std::max(alignment, alignof(std::max_align_t))});
  in_heap_ -= bytes;
}

void* BudgetedMemory::allocate_in_file(size_t bytes) {
  constexpr size_t kAlignment = alignof(std::max_align_t);
  const size_t rounded = (std::max<size_t>(bytes, 1) + kAlignment - 1) / kAlignment * kAlignment;
  const bool small = rounded <= kExtent / 4;
  auto extent = small && open_ != nullptr ? extents_.find(open_) : extents_.end();
  if (extent == extents_.end() || extent->second.size - extent->second.used < rounded) {
    const size_t size = small ? kExtent : rounded;
    std::byte* const mapped = map_file(size, directory_);
    extent = extents_.emplace(mapped, Extent{size, 0, 0}).first;
    spilled_ += static_cast<int64_t>(size);
    if (small) open_ = mapped;
  }
  void* const p = extent->first + extent->second.used;
  extent->second.used += rounded;
  ++extent->second.live;
  return p;
}

bool BudgetedMemory::deallocate_in_file(void* p) {
  auto extent = extents_.upper_bound(static_cast<std::byte*>(p));
  if (extent == extents_.begin()) return false;
  --extent;
  if (static_cast<std::byte*>(p) >= extent->first + extent->second.size) return false;
  if (--extent->second.live > 0) return true;
  if (extent->first == open_) {
    extent->second.used = 0;
  } else {
    unmap(extent->first, extent->second.size);
    extents_.erase(extent);
  }
  return true;
}

}  // namespace fast_tokenizer
