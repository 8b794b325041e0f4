/* Keyed pools of quartermaster.h. */
#include "core_calls.h"

/* Words of the header, and what it and a block take before its key: docs/abi.md. */
enum { KEYED_STRIDE = 10, KEYED_INPUT = 11, KEYED_IDS = 13, KEYED_HEADER_BYTES = 64 };

int qm_keyed_pool_create(qm_core* core, uint32_t blocks, uint32_t key_bytes, uint32_t batch, qm_keyed_pool* pool) {
  if (core == NULL || pool == NULL) return QM_INVALID_ARGUMENT;
  double bytes = 0;
  QM_CALL(core, bytes, w2c_qm_keyedPoolBytes(instance, blocks, key_bytes, batch));
  int status = qm_make_room(core, bytes);
  if (status == QM_OK) QM_CALL(core, status, (int)w2c_qm_keyedPoolCreate(instance, blocks, key_bytes, batch));
  return status < 0 ? status : qm_last_region(core, pool);
}

int qm_keyed_pool_view(qm_core* core, qm_keyed_pool pool, qm_keyed_view* view) {
  REQUIRE(core, QM_KEYED_POOL, pool);
  if (view == NULL) return QM_INVALID_ARGUMENT;
  *view = (qm_keyed_view){
      .header = (const uint32_t*)at(core, pool),
      .blocks = at(core, pool + KEYED_HEADER_BYTES),
      .stride = word(core, pool + 4 * KEYED_STRIDE),
      .ids = (uint32_t*)at(core, word(core, pool + 4 * KEYED_IDS)),
      .input = at(core, word(core, pool + 4 * KEYED_INPUT)),
  };
  return QM_OK;
}

int qm_keyed_pool_fits(qm_core* core, qm_keyed_pool pool, uint32_t touched, uint32_t needed) {
  REQUIRE(core, QM_KEYED_POOL, pool);
  RESULT(core, w2c_qm_keyedPoolFits(instance, pool, touched, needed));
}

int qm_keyed_pool_allocate(qm_core* core, qm_keyed_pool pool, uint32_t touched, uint32_t taken) {
  REQUIRE(core, QM_KEYED_POOL, pool);
  RESULT(core, w2c_qm_keyedPoolAllocate(instance, pool, touched, taken));
}

int qm_keyed_pool_release(qm_core* core, qm_keyed_pool pool, uint32_t count) {
  REQUIRE(core, QM_KEYED_POOL, pool);
  RESULT(core, w2c_qm_keyedPoolRelease(instance, pool, count));
}

int qm_keyed_pool_enter_keys(qm_core* core, qm_keyed_pool pool, uint32_t group, uint32_t length, uint32_t count) {
  REQUIRE(core, QM_KEYED_POOL, pool);
  RESULT(core, w2c_qm_keyedPoolEnterKeys(instance, pool, group, length, count));
}

int qm_keyed_pool_find_keys(qm_core* core, qm_keyed_pool pool, uint32_t group, uint32_t length, uint32_t count,
                            int all) {
  REQUIRE(core, QM_KEYED_POOL, pool);
  RESULT(core, w2c_qm_keyedPoolFindKeys(instance, pool, group, length, count, all != 0));
}

int qm_keyed_pool_drop_keys(qm_core* core, qm_keyed_pool pool, uint32_t count) {
  REQUIRE(core, QM_KEYED_POOL, pool);
  RESULT(core, w2c_qm_keyedPoolDropKeys(instance, pool, count));
}

int qm_keyed_pool_set_aside(qm_core* core, qm_keyed_pool pool, uint32_t block, int aside) {
  REQUIRE(core, QM_KEYED_POOL, pool);
  RESULT(core, w2c_qm_keyedPoolSetAside(instance, pool, block, aside != 0));
}
