#include "bpe_train.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "parallel.hpp"

namespace fast_tokenizer {
namespace {

/// Below this many places, or words to pass over, a merge is not worth starting threads for.
constexpr int64_t kThreadedPlaces = 50'000;
constexpr size_t kThreadedWords = 200'000;

MergeDriver to_driver(int alphabet_size, const TrainOptions& options) {
  return {alphabet_size, options.vocab_size, options.min_frequency, options.max_token_symbols};
}

std::vector<Merge> train(MergeDriver driver, std::vector<CorpusShard>& shards, const TrainOptions& options) {
  const int threads = thread_count(options.num_threads, shards.size());
  auto for_each_shard = [&](int on_threads, auto body) {
    parallel_for(shards.size(), on_threads, [&](size_t begin, size_t end, int) {
      for (size_t i = begin; i < end; ++i) body(i);
    });
  };
  for (const PairCount& found : count_pairs(shards, threads)) driver.add_count(found);

  std::vector<const MergeEffect*> effects(shards.size());
  for (;;) {
    const std::vector<Pick>& picks = driver.next();
    if (picks.empty()) return driver.merges();
    const Pick& pick = picks[0];
    size_t words = 0;
    for (const CorpusShard& shard : shards) words += shard.words();
    const bool threaded = words >= kThreadedWords || pick.count >= kThreadedPlaces;
    for_each_shard(threaded ? threads : 1, [&](size_t i) { effects[i] = &shards[i].apply(pick.merge, pick.merged); });
    for (const MergeEffect* e : effects) driver.add_effect(0, *e);
    if (options.progress) options.progress(static_cast<int>(driver.merges().size()), driver.most_merges());
  }
}

std::vector<Segment> coded(RaggedView<Symbol> corpus, size_t first, size_t last, int alphabet_size,
                           const std::shared_ptr<BudgetedMemory>& memory) {
  WordWriter writer(memory);
  for (size_t i = first; i < last; ++i)
    writer.append(corpus[i], [&](Symbol s, size_t) {
      if (s >= alphabet_size)
        throw std::invalid_argument("symbol " + std::to_string(s) + " lies outside the alphabet 0.." +
                                    std::to_string(alphabet_size - 1));
    });
  return writer.take();
}

}  // namespace

std::vector<Merge> train_bpe(std::vector<CorpusShard>& shards, int alphabet_size, const TrainOptions& options) {
  return train(to_driver(alphabet_size, options), shards, options);
}

std::vector<Merge> train_bpe(RaggedView<Symbol> corpus, int alphabet_size, const TrainOptions& options, int n_shards) {
  MergeDriver driver = to_driver(alphabet_size, options);
  const int threads = thread_count(options.num_threads, corpus.size());
  if (n_shards <= 0) n_shards = threads;
  const auto memory = std::make_shared<BudgetedMemory>();
  std::vector<std::vector<Segment>> segments(static_cast<size_t>(n_shards));
  parallel_for(segments.size(), std::min(threads, n_shards), [&](size_t begin, size_t end, int) {
    for (size_t i = begin; i < end; ++i)
      segments[i] = coded(corpus, corpus.size() * i / segments.size(), corpus.size() * (i + 1) / segments.size(),
                          alphabet_size, memory);
  });
  std::vector<CorpusShard> shards;
  for (std::vector<Segment>& s : segments) shards.emplace_back(alphabet_size, std::move(s), memory);
  return train(std::move(driver), shards, options);
}

}  // namespace fast_tokenizer
