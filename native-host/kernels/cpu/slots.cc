// Copies of blocks, and moves and merges of slots within lanes, as plans, compaction and merging policies ask for them.
#include <string.h>

#include <vector>

#include "forward.h"
#include "lanes.h"
#include "refusal.h"

namespace qm {
namespace {

constexpr size_t MOVE_WORDS = 8;

void requireLane(const char* what, size_t at, const KvShape& s, uint32_t layer, uint32_t kvHead) {
  if (layer >= s.layers || kvHead >= s.kvHeads) {
    refuse(QMH_INVALID_ARGUMENT, "%s at word %zu: layer %u, KV head %u of %u, %u", what, at, layer, kvHead,
           s.layers, s.kvHeads);
  }
}

void requireSlots(const char* what, size_t at, const KvShape& s, uint32_t block, uint32_t offset,
                  uint32_t slots) {
  if (block >= s.blocks || uint64_t{offset} + slots > s.blockSize) {
    refuse(QMH_INVALID_ARGUMENT,
           "%s at word %zu: %u slots from %u on of block %u; the pool has %u blocks of %u", what, at, slots,
           offset, block, s.blocks, s.blockSize);
  }
}

uint8_t* slotAt(uint8_t* pool, const KvShape& s, uint32_t layer, uint32_t part, uint32_t kvHead,
                uint32_t block, uint32_t offset) {
  return pool + kvOffset(s, block, layer, static_cast<KvPart>(part), kvHead) +
         size_t{offset} * s.headDim * bytesOf(s.type);
}

// The mean of slots, accumulated in float, to the first of them.
template <class T>
void mergeInto(T* target, const std::vector<const T*>& slots, uint32_t headDim) {
  const float count = static_cast<float>(slots.size());
  for (uint32_t i = 0; i < headDim; i++) {
    float sum = 0;
    for (const T* slot : slots) sum += toFloat(slot[i]);
    fromFloat(sum / count, target + i);
  }
}

template <class T>
void mergeTyped(uint8_t* pool, const KvShape& s, const uint32_t* merges, size_t words) {
  std::vector<const T*> slots;
  for (size_t at = 0; at < words; at += 5 + 2 * size_t{merges[at + 4]}) {
    const uint32_t* m = merges + at;
    for (uint32_t part = 0; part < 2; part++) {
      T* target = reinterpret_cast<T*>(slotAt(pool, s, m[0], part, m[1], m[2], m[3]));
      slots.assign(1, target);
      for (uint32_t i = 0; i < m[4]; i++) {
        slots.push_back(
            reinterpret_cast<const T*>(slotAt(pool, s, m[0], part, m[1], m[5 + 2 * i], m[6 + 2 * i])));
      }
      mergeInto(target, slots, s.headDim);
    }
  }
}

}  // namespace

void copyBlock(Model* model, uint32_t group, uint32_t source, uint32_t target, uint32_t tokens) {
  if (source == target) return;
  const KvShape& s = model->groups[group];
  uint8_t *from = model->pool.data() + source * kvBlockBytes(s),
          *to = model->pool.data() + target * kvBlockBytes(s);
  if (tokens == s.blockSize) {
    memcpy(to, from, kvBlockBytes(s));
    return;
  }
  const size_t bytes = size_t{tokens} * s.headDim * bytesOf(s.type);
  for (size_t head = 0; head < size_t{s.layers} * 2 * s.kvHeads; head++)
    memcpy(to + head * kvHeadBytes(s), from + head * kvHeadBytes(s), bytes);
}

void moveSlots(uint8_t* pool, const KvShape& s, const uint32_t* moves, size_t words) {
  if (words % MOVE_WORDS != 0) refuse(QMH_INVALID_ARGUMENT, "%zu words are no records of 8", words);
  const KvShape slices = slicesOf(s);
  for (size_t at = 0; at < words; at += MOVE_WORDS) {
    const uint32_t* m = moves + at;
    if (m[7] > 1) refuse(QMH_INVALID_ARGUMENT, "move at word %zu: slices %u; allowed: 0 and 1", at, m[7]);
    requireLane("move", at, s, m[0], m[1]);
    requireSlots("move from", at, m[7] != 0 ? slices : s, m[2], m[3], m[6]);
    requireSlots("move to", at, m[7] != 0 ? slices : s, m[4], m[5], m[6]);
  }
  for (size_t at = 0; at < words; at += MOVE_WORDS) {
    const uint32_t* m = moves + at;
    const KvShape& places = m[7] != 0 ? slices : s;
    const uint32_t layer = m[7] != 0 ? 0 : m[0];
    for (uint32_t part = 0; part < 2; part++) {
      memmove(slotAt(pool, places, layer, part, m[1], m[4], m[5]),
              slotAt(pool, places, layer, part, m[1], m[2], m[3]),
              size_t{m[6]} * s.headDim * bytesOf(s.type));
    }
  }
}

void mergeSlots(uint8_t* pool, const KvShape& s, const uint32_t* merges, size_t words) {
  for (size_t at = 0; at < words;) {
    const uint32_t* m = merges + at;
    if (words - at < 5 || (words - at - 5) / 2 < m[4])
      refuse(QMH_INVALID_ARGUMENT, "the merge at word %zu ends beyond the records", at);
    requireLane("merge", at, s, m[0], m[1]);
    for (uint32_t i = 0; i <= m[4]; i++)
      requireSlots("merge", at, s, i == 0 ? m[2] : m[3 + 2 * i], i == 0 ? m[3] : m[4 + 2 * i], 1);
    at += 5 + 2 * size_t{m[4]};
  }
  switch (s.type) {
    case NumberType::F32:
      return mergeTyped<float>(pool, s, merges, words);
    case NumberType::F16:
      return mergeTyped<F16>(pool, s, merges, words);
    case NumberType::BF16:
      return mergeTyped<BF16>(pool, s, merges, words);
  }
}

}  // namespace qm
