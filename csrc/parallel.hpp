// A loop on several threads: split into equal slices, or into blocks that threads take as they get to it.
//
// Threads are started for each call and joined before it returns: there is no pool, so nothing is left
// behind that a fork could lose. A call too small to pay for starting a thread stays on its own.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <thread>
#include <vector>

namespace fast_tokenizer {

/// Threads to use when the caller asks for `requested` (0: all cores) and there are `parts` parts to share out.
inline int thread_count(int requested, size_t parts) {
  // Asked once: the C library opens files for the answer, which takes longer than encoding a chunk.
  static const unsigned cores = std::max(1U, std::thread::hardware_concurrency());
  const size_t wanted = requested > 0 ? static_cast<size_t>(requested) : cores;
  return static_cast<int>(std::max<size_t>(1, std::min(wanted, parts)));
}

/// Calls body(part) for part = 0..parts-1, each on a thread of its own, the first on the caller's.
/// The exception of the lowest part that threw is rethrown.
template <typename Body>
void parallel_parts(int parts, Body&& body) {
  if (parts == 1) return body(0);
  std::vector<std::exception_ptr> errors(static_cast<size_t>(parts));
  auto guarded = [&](int part) {
    try {
      body(part);
    } catch (...) {
      errors[static_cast<size_t>(part)] = std::current_exception();
    }
  };
  std::vector<std::thread> threads;
  int started = 1;
  try {
    for (; started < parts; ++started) threads.emplace_back(guarded, started);
  } catch (const std::system_error&) {  // the system has no more threads: the caller does the rest
  }
  guarded(0);
  for (int part = started; part < parts; ++part) guarded(part);
  for (std::thread& t : threads) t.join();
  for (const std::exception_ptr& e : errors)
    if (e) std::rethrow_exception(e);
}

/// Calls body(begin, end, part) on `parts` consecutive slices of 0..count-1.
template <typename Body>
void parallel_for(size_t count, int parts, Body&& body) {
  const auto n = static_cast<size_t>(parts);
  parallel_parts(parts, [&](int part) {
    const auto p = static_cast<size_t>(part);
    body(count * p / n, count * (p + 1) / n, part);
  });
}

/// Calls body(begin, end, block, thread) on blocks of at most `size` of 0..count-1, numbered in order. Each thread
/// takes the next block when it is done with one, so that one which starts late does less.
template <typename Body>
void parallel_blocks(size_t count, size_t size, int threads, Body&& body) {
  std::atomic<size_t> next = 0;
  parallel_parts(threads, [&](int thread) {
    for (size_t block; (block = next++) * size < count;)
      body(block * size, std::min(count, (block + 1) * size), block, thread);
  });
}

}  // namespace fast_tokenizer
