// How many query heads attend to a tile of K and V together.
//
// Source      Saha and Ye, "The I/O Complexity of Attention, or How Optimal is Flash Attention?" (ICML 2024, arXiv
//             2402.07443). Keys pass in order under a tile of Br query rows that stays: 2 Nq d + ceil(Nq / Br) 2 Nk d
//             words are moved, so the largest Br that fits is best. docs/attention-io.md derives it.
// Choice      The tile of keys is ATTEND_TILE positions in every call (kernels.h says why), so that Br alone is left:
//             the largest for which queries, sums, running maxima and totals, a tile of K and V and its scores fit.
// Invariant   Never shows in the bits: a query's additions do not depend on who attends beside it.
#ifndef QUARTERMASTER_CPU_ATTENTION_TILES_H
#define QUARTERMASTER_CPU_ATTENTION_TILES_H

#include "../kernels.h"

namespace qm {

// Words (4 bytes) of the cache that tiles are made for: half of the second level of this machine. Asked once.
size_t cacheWords();

// Rows of one call: a multiple of group; at least group, and but for that at most `most`. REQUIRES: group >= 1.
static inline uint32_t attendRows(size_t words, uint32_t headDim, uint32_t group,
                                  uint64_t most = ATTEND_MOST_ROWS) {
  const uint64_t keys = uint64_t{2} * ATTEND_TILE * headDim, row = uint64_t{2} * headDim + 2 + ATTEND_TILE;
  uint64_t rows = words > keys ? (words - keys) / row : 0;
  if (rows > most) rows = most;
  if (rows > ATTEND_MOST_ROWS) rows = ATTEND_MOST_ROWS;
  return rows < group ? group : static_cast<uint32_t>(rows / group * group);
}

// Most rows of a call that leave each thread four calls of a pass with `total` rows, so that one that is late leaves
// little to wait for; no fewer than 64, above which a tile's fetch costs little beside its products.
static inline uint64_t sharedRows(uint64_t total, uint32_t threads) {
  const uint64_t share = total / (uint64_t{4} * threads);
  return share < 64 ? 64 : share;
}

}  // namespace qm

#endif  // QUARTERMASTER_CPU_ATTENTION_TILES_H
