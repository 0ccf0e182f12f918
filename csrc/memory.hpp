// Memory for a corpus and its shards: the heap up to a budget, and temporary files above it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <memory_resource>
#include <mutex>
#include <string>
#include <type_traits>
#include <utility>

namespace fast_tokenizer {

/// Allocations beyond the budget are mappings of files that have no name (any more), so nothing is left behind
/// however the process ends. Disk space is reserved first: a full disk is an exception here, and not a SIGBUS where
/// the memory is used. May be used by several threads.
class BudgetedMemory final : public std::pmr::memory_resource {
 public:
  static constexpr size_t kUnbounded = std::numeric_limits<size_t>::max();

  BudgetedMemory() = default;
  /// At most `budget` bytes from the heap, the rest from files in `directory` (empty: the system's for temporary
  /// files). Allocating throws std::system_error when the system refuses.
  BudgetedMemory(size_t budget, std::string directory);
  ~BudgetedMemory() override;

  /// Bytes that went to files, all together.
  int64_t spilled_bytes() const { return spilled_; }

 private:
  /// A mapped file. Small allocations share one, each after the other, since a process may have only some 65,000
  /// mappings; it goes when all of them are gone.
  struct Extent {
    size_t size, used, live;
  };

  void* do_allocate(size_t bytes, size_t alignment) override;
  void do_deallocate(void* p, size_t bytes, size_t alignment) override;
  bool do_is_equal(const std::pmr::memory_resource& other) const noexcept override { return this == &other; }
  void* allocate_in_file(size_t bytes);
  bool deallocate_in_file(void* p);

  const size_t budget_ = kUnbounded;
  const std::string directory_;
  std::mutex mutex_;
  size_t in_heap_ = 0;
  std::map<std::byte*, Extent> extents_;  ///< by first byte
  std::byte* open_ = nullptr;             ///< the extent that small allocations go to
  std::atomic<int64_t> spilled_ = 0;
};

/// An array of plain values that are not initialised. Keeps its memory resource alive.
template <typename T>
class Buffer {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  Buffer() = default;
  Buffer(std::shared_ptr<BudgetedMemory> memory, size_t size)
      : memory_(std::move(memory)),
        data_(static_cast<T*>(memory_->allocate(size * sizeof(T), alignof(T)))),
        size_(size) {}
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    Buffer(std::move(other)).swap(*this);
    return *this;
  }
  ~Buffer() {
    if (data_ != nullptr) memory_->deallocate(data_, size_ * sizeof(T), alignof(T));
  }

  T* data() { return data_; }
  const T* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  void swap(Buffer& other) noexcept {
    std::swap(memory_, other.memory_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
  }

  std::shared_ptr<BudgetedMemory> memory_;
  T* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace fast_tokenizer
