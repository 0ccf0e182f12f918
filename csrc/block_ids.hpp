// Ids that threads encode block by block, put together in the order of the blocks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fast_tokenizer {

template <typename Id>
class BlockIds {
 public:
  BlockIds(size_t blocks, int threads) : pieces_(blocks), of_thread_(static_cast<size_t>(threads)) {}

  /// Adds the ids of one block. Threads may do so at the same time, each under its own number.
  void add(size_t block, int thread, const Id* ids, size_t count) {
    std::vector<Id>& mine = of_thread_[static_cast<size_t>(thread)];
    // Room for this thread's share, if all blocks are like its first: to grow would touch fresh memory again and again.
    if (mine.empty()) mine.reserve(count * (pieces_.size() / of_thread_.size() + 1) * 9 / 8);
    pieces_[block] = {thread, mine.size(), mine.size() + count};
    mine.insert(mine.end(), ids, ids + count);
  }

  /// All ids. Turns lengths, sequence i's at offsets[i + 1], into offsets.
  std::vector<int32_t> joined(std::vector<int64_t>& offsets) const {
    for (size_t i = 1; i < offsets.size(); ++i) offsets[i] += offsets[i - 1];
    std::vector<int32_t> all;
    all.reserve(static_cast<size_t>(offsets.back()));
    for (const Piece& piece : pieces_) {
      const auto from = of_thread_[static_cast<size_t>(piece.thread)].begin();
      all.insert(all.end(), from + static_cast<ptrdiff_t>(piece.begin), from + static_cast<ptrdiff_t>(piece.end));
    }
    return all;
  }

 private:
  struct Piece {
    int thread;
    size_t begin, end;
  };
  std::vector<Piece> pieces_;
  std::vector<std::vector<Id>> of_thread_;
};

}  // namespace fast_tokenizer
