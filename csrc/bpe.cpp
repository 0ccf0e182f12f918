#include "bpe.hpp"

namespace fast_tokenizer {
namespace {

[[noreturn]] void reject(size_t index, RawMerge merge, const std::string& reason) {
  throw std::invalid_argument("merge " + std::to_string(index) + " (" + std::to_string(merge.left) + ", " +
                              std::to_string(merge.right) + "): " + reason);
}

}  // namespace

MergeTable::MergeTable(int64_t alphabet_size, std::span<const RawMerge> merges) {
  if (alphabet_size < 1 || alphabet_size > kMaxVocabSize)
    throw std::invalid_argument("alphabet size must lie in 1.." + std::to_string(kMaxVocabSize) + ", got " +
                                std::to_string(alphabet_size));
  const int64_t vocab = alphabet_size + static_cast<int64_t>(merges.size());
  if (vocab > kMaxVocabSize)
    throw std::invalid_argument("vocabulary size must be at most " + std::to_string(kMaxVocabSize) + ", got " +
                                std::to_string(vocab));
  alphabet_size_ = static_cast<int>(alphabet_size);
  merges_.reserve(merges.size());
  ranks_ = PairMap<TokenId>(merges.size());
  for (int s = 0; s <= alphabet_size_; ++s) expansion_offsets_.push_back(static_cast<uint32_t>(s));
  for (int s = 0; s < alphabet_size_; ++s) expansions_.push_back(static_cast<Symbol>(s));
  for (size_t i = 0; i < merges.size(); ++i) add_merge(i, merges[i]);
}

void MergeTable::add_merge(size_t index, RawMerge raw) {
  const int64_t own = vocab_size();
  if (raw.left < 0 || raw.left >= own || raw.right < 0 || raw.right >= own)
    reject(index, raw, "joins ids outside 0.." + std::to_string(own - 1) + ", the ids that exist before it");
  const Merge merge = {static_cast<TokenId>(raw.left), static_cast<TokenId>(raw.right)};
  if (merged(merge.left, merge.right) != kNoToken) reject(index, raw, "the same pair is merged twice");
  const int length = expansion_length(merge.left) + expansion_length(merge.right);
  if (length > kMaxTokenSymbols)
    reject(index, raw,
           "expands to " + std::to_string(length) + " symbols, more than " + std::to_string(kMaxTokenSymbols));
  if (static_cast<int64_t>(expansions_.size()) + length > kMaxTableSymbols)
    reject(index, raw, "the table's expansions exceed " + std::to_string(kMaxTableSymbols) + " symbols");
  const auto token = static_cast<TokenId>(own);
  merges_.push_back(merge);
  if (!encodes_to_itself(token)) reject(index, raw, "can never be produced: an earlier merge takes its symbols apart");
  ranks_[pair_key(merge.left, merge.right)] = token;
  for (TokenId part : {merge.left, merge.right})
    for (uint32_t at = expansion_offsets_[part]; at < expansion_offsets_[part + 1U]; ++at)
      expansions_.push_back(expansions_[at]);
  expansion_offsets_.push_back(static_cast<uint32_t>(expansions_.size()));
}

/// Undoes the two parts' merges, latest first, watching the pair of pieces that meet at the boundary. If such a
/// pair has a merge of its own that comes before the piece on either side is merged away, that merge is made
/// instead. Equal ranks occur only in runs of one token (x x x), where the leftmost pair goes first: that
/// takes `left` away from the boundary, but not `right`.
bool MergeTable::encodes_to_itself(TokenId token) const {
  TokenId left = parts(token).left, right = parts(token).right;
  TokenId left_until = token, right_until = token;
  for (;;) {
    const TokenId crossing = merged(left, right);
    if (crossing != kNoToken && crossing < left_until && crossing <= right_until) return false;
    if (left < alphabet_size_ && right < alphabet_size_) return true;
    if (left > right) {
      left_until = left;
      left = parts(left).right;
    } else {
      right_until = right;
      right = parts(right).left;
    }
  }
}

}  // namespace fast_tokenizer
