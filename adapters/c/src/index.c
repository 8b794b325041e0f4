/* Ordered indexes of quartermaster.h. */
#include "core_calls.h"

#define VALUE_BYTES 8u

/* The ends of the key space are the index's own. */
static int is_key(uint64_t key) { return key != 0 && key != UINT64_MAX; }

int qm_index_create(qm_core* core, uint32_t capacity, qm_index* index) {
  if (core == NULL || index == NULL || capacity == 0) return QM_INVALID_ARGUMENT;
  uint32_t bits = 0, nodes = 0;
  double bytes = 0;
  int status = QM_OK;
  QM_CALL(core, bits, w2c_qm_orderedIndexDigitBits(instance, QM_DEFAULT_NODE_BYTES, VALUE_BYTES));
  QM_CALL(core, nodes, w2c_qm_orderedIndexNodesFor(instance, capacity, QM_DEFAULT_NODE_BYTES, VALUE_BYTES, bits));
  QM_CALL(core, bytes, w2c_qm_orderedIndexBytes(instance, nodes, QM_DEFAULT_NODE_BYTES, VALUE_BYTES, bits, 0));
  status = qm_make_room(core, bytes);
  if (status == QM_OK)
    QM_CALL(core, status,
            (int)w2c_qm_orderedIndexCreate(instance, nodes, QM_DEFAULT_NODE_BYTES, VALUE_BYTES, bits, 0));
  return status < 0 ? status : qm_last_region(core, index);
}

int qm_index_put(qm_core* core, qm_index index, uint64_t key, uint64_t value) {
  REQUIRE(core, QM_ORDERED_INDEX, index);
  RESULT(core, w2c_qm_orderedIndexSet64(instance, index, key, value));
}

int qm_index_get(qm_core* core, qm_index index, uint64_t key, uint64_t* value) {
  REQUIRE(core, QM_ORDERED_INDEX, index);
  uint32_t address = 0;
  if (value == NULL || !is_key(key)) return QM_INVALID_ARGUMENT;
  QM_CALL(core, address, w2c_qm_orderedIndexFind64(instance, index, key));
  if (address == 0) return 0;
  memcpy(value, at(core, address), sizeof *value);
  return 1;
}

int qm_index_delete(qm_core* core, qm_index index, uint64_t key) {
  REQUIRE(core, QM_ORDERED_INDEX, index);
  if (!is_key(key)) return QM_INVALID_ARGUMENT;
  RESULT(core, w2c_qm_orderedIndexDelete64(instance, index, key));
}

/* Entries go through the core's scratch, as many at a time as fit there. */
int qm_index_range(qm_core* core, qm_index index, uint64_t lowest, uint64_t highest, uint32_t limit,
                   uint64_t* keys, uint64_t* values) {
  REQUIRE(core, QM_ORDERED_INDEX, index);
  if (limit > 0 && (keys == NULL || values == NULL)) return QM_INVALID_ARGUMENT;
  const uint32_t batch = QM_SCRATCH_BYTES / 16;
  const uint32_t keys_at = core->scratch, values_at = core->scratch + 8 * batch;
  uint32_t total = 0;
  while (total < limit) {
    const uint32_t wanted = least(batch, limit - total);
    uint32_t found = 0;
    QM_CALL(core, found,
            w2c_qm_orderedIndexRange(instance, index, lowest, highest, wanted, keys_at, values_at));
    memcpy(keys + total, at(core, keys_at), (size_t)found * 8);
    memcpy(values + total, at(core, values_at), (size_t)found * 8);
    total += found;
    if (found < wanted || keys[total - 1] == UINT64_MAX) break;
    lowest = keys[total - 1] + 1;
  }
  return (int)total;
}

int qm_index_size(qm_core* core, qm_index index) {
  REQUIRE(core, QM_ORDERED_INDEX, index);
  RESULT(core, w2c_qm_orderedIndexSize(instance, index));
}

int qm_index_clear(qm_core* core, qm_index index) {
  REQUIRE(core, QM_ORDERED_INDEX, index);
  RESULT(core, (w2c_qm_orderedIndexClear(instance, index), QM_OK));
}

int qm_index_compare_exchange(qm_core* core, qm_index index, uint64_t key, uint64_t expected, uint64_t value) {
  REQUIRE(core, QM_ORDERED_INDEX, index);
  if (!is_key(key)) return QM_INVALID_ARGUMENT;
  RESULT(core, w2c_qm_orderedIndexCompareExchange64(instance, index, key, expected, value));
}

int qm_index_fetch_add(qm_core* core, qm_index index, uint64_t key, uint64_t delta, uint64_t* before) {
  REQUIRE(core, QM_ORDERED_INDEX, index);
  uint32_t address = 0;
  if (before == NULL || !is_key(key)) return QM_INVALID_ARGUMENT;
  QM_CALL(core, address, w2c_qm_orderedIndexFetchAdd64(instance, index, key, delta));
  if (address == 0) return QM_NOT_FOUND;
  memcpy(before, at(core, address), sizeof *before);
  return QM_OK;
}

/* Keys, values and flags of a batch: 17 bytes an entry of the core's scratch. */
enum { BATCH = QM_SCRATCH_BYTES / 17 & ~7 };

/* Whether there are `count` keys, and they are keys. */
static int are_keys(const uint64_t* keys, uint32_t count) {
  if (count > INT32_MAX || (keys == NULL && count > 0)) return 0;
  for (uint32_t i = 0; i < count; i++)
    if (!is_key(keys[i])) return 0;
  return 1;
}

int qm_index_get_many(qm_core* core, qm_index index, const uint64_t* keys, uint32_t count, uint64_t* values,
                      uint8_t* found) {
  REQUIRE(core, QM_ORDERED_INDEX, index);
  const uint32_t keys_at = core->scratch, values_at = keys_at + 8 * BATCH, found_at = values_at + 8 * BATCH;
  uint32_t total = 0;
  if (!are_keys(keys, count) || (count > 0 && (values == NULL || found == NULL))) return QM_INVALID_ARGUMENT;
  for (uint32_t from = 0; from < count; from += BATCH) {
    const uint32_t some = least(BATCH, count - from);
    uint32_t hits = 0;
    memcpy(at(core, keys_at), keys + from, 8ull * some);
    QM_CALL(core, hits, w2c_qm_orderedIndexGetMany(instance, index, keys_at, some, values_at, found_at));
    memcpy(values + from, at(core, values_at), 8ull * some);
    memcpy(found + from, at(core, found_at), some);
    total += hits;
  }
  return (int)total;
}

int qm_index_put_many(qm_core* core, qm_index index, const uint64_t* keys, const uint64_t* values, uint32_t count) {
  REQUIRE(core, QM_ORDERED_INDEX, index);
  const uint32_t keys_at = core->scratch, values_at = keys_at + 8 * BATCH;
  uint32_t total = 0;
  if (!are_keys(keys, count) || (count > 0 && values == NULL)) return QM_INVALID_ARGUMENT;
  for (uint32_t from = 0; from < count; from += BATCH) {
    const uint32_t some = least(BATCH, count - from);
    uint32_t entered = 0;
    memcpy(at(core, keys_at), keys + from, 8ull * some);
    memcpy(at(core, values_at), values + from, 8ull * some);
    QM_CALL(core, entered, w2c_qm_orderedIndexSetMany(instance, index, keys_at, values_at, some));
    total += entered;
    if (entered < some) break;
  }
  return (int)total;
}

int qm_index_delete_many(qm_core* core, qm_index index, const uint64_t* keys, uint32_t count) {
  REQUIRE(core, QM_ORDERED_INDEX, index);
  uint32_t total = 0;
  if (!are_keys(keys, count)) return QM_INVALID_ARGUMENT;
  for (uint32_t from = 0; from < count; from += BATCH) {
    const uint32_t some = least(BATCH, count - from);
    uint32_t removed = 0;
    memcpy(at(core, core->scratch), keys + from, 8ull * some);
    QM_CALL(core, removed, w2c_qm_orderedIndexDeleteMany(instance, index, core->scratch, some));
    total += removed;
  }
  return (int)total;
}

int qm_index_get_figures(qm_core* core, qm_index index, qm_index_figures* figures) {
  REQUIRE(core, QM_ORDERED_INDEX, index);
  qm_index_figures found = {0};
  if (figures == NULL) return QM_INVALID_ARGUMENT;
  QM_CALL(core, found.entries, w2c_qm_orderedIndexSize(instance, index));
  QM_CALL(core, found.levels, w2c_qm_orderedIndexLevels(instance, index));
  QM_CALL(core, found.nodes, w2c_qm_orderedIndexNodes(instance, index));
  QM_CALL(core, found.free_nodes, w2c_qm_orderedIndexFreeNodes(instance, index));
  QM_CALL(core, found.node_bytes, w2c_qm_orderedIndexNodeBytes(instance, index));
  QM_CALL(core, found.leaf_capacity, w2c_qm_orderedIndexLeafCapacity(instance, index));
  *figures = found;
  return QM_OK;
}
