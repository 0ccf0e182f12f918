// Exact greedy BPE training in one process: shards on threads, and the driver that picks their merges.
#pragma once

#include <functional>
#include <vector>

#include "merge_driver.hpp"
#include "ragged.hpp"

namespace fast_tokenizer {

struct TrainOptions {
  int vocab_size = 1024;                              ///< symbols and merges together; training may end with fewer
  int64_t min_frequency = 2;                          ///< pairs that occur less often are not merged
  int max_token_symbols = 1024;                       ///< pairs that would expand to more are not merged
  int num_threads = 0;                                ///< 0: all cores
  std::function<void(int done, int total)> progress;  ///< called after each merge; may throw to stop
};

/// Merges learned from the shards, which are used up.
std::vector<Merge> train_bpe(std::vector<CorpusShard>& shards, int alphabet_size, const TrainOptions& options);

/// The same on sequences in memory, split over `shards` shards (0: one a thread).
std::vector<Merge> train_bpe(RaggedView<Symbol> corpus, int alphabet_size, const TrainOptions& options, int shards = 0);

}  // namespace fast_tokenizer
