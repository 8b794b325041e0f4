/* Content keys and events of quartermaster.h: what the outside knows of a KV cache. */
#include "core_calls.h"

static int hash_pieces(qm_core* core, const uint8_t* key, const uint8_t* input, uint64_t bytes, uint8_t* out) {
  uint32_t size = 0;
  QM_CALL(core, size, w2c_qm_hasherBytes(instance));
  const uint32_t hasher = core->scratch, piece = hasher + size, room = QM_SCRATCH_BYTES - size;
  int status = QM_OK;
  memcpy(at(core, piece), key, QM_KEY_BYTES);
  QM_CALL(core, status, (w2c_qm_hasherStart(instance, hasher, piece), QM_OK));
  while (bytes > 0) {
    const uint32_t taken = bytes < room ? (uint32_t)bytes : room;
    memcpy(at(core, piece), input, taken);
    QM_CALL(core, status, (w2c_qm_hasherUpdate(instance, hasher, piece, taken), QM_OK));
    input += taken;
    bytes -= taken;
  }
  QM_CALL(core, status, (w2c_qm_hasherEnd(instance, hasher, piece), QM_OK));
  memcpy(out, at(core, piece), QM_KEY_BYTES);
  return status;
}

int qm_keyed_hash(qm_core* core, const uint8_t* key, const void* input, uint64_t bytes, uint8_t* out) {
  if (core == NULL || key == NULL || out == NULL || (input == NULL && bytes > 0)) return QM_INVALID_ARGUMENT;
  return hash_pieces(core, key, input, bytes, out);
}

int qm_cache_set_content_keys(qm_core* core, qm_cache cache, uint32_t scopes, const uint8_t* domain_key,
                              const uint8_t* fingerprint) {
  REQUIRE(core, QM_KV_CACHE, cache);
  double bytes = 0;
  if (domain_key == NULL || fingerprint == NULL) return QM_INVALID_ARGUMENT;
  QM_CALL(core, bytes, w2c_qm_kvContentBytes(instance, word(core, cache + QM_CACHE_BLOCKS), scopes));
  const int status = qm_make_room(core, bytes);
  if (status != QM_OK) return status;
  const uint32_t scratch = core->scratch;
  memcpy(at(core, scratch), domain_key, QM_KEY_BYTES);
  memcpy(at(core, scratch + QM_KEY_BYTES), fingerprint, QM_KEY_BYTES);
  RESULT(core, w2c_qm_kvContentCreate(instance, cache, scopes, scratch, scratch + QM_KEY_BYTES));
}

/* Copies a list behind the 32 bytes that a call writes. */
static int put_list(qm_core* core, const uint8_t* list, uint32_t bytes) {
  if ((list == NULL && bytes > 0) || bytes > QM_SCRATCH_BYTES - QM_KEY_BYTES) return QM_INVALID_ARGUMENT;
  if (bytes > 0) memcpy(at(core, core->scratch + QM_KEY_BYTES), list, bytes);
  return QM_OK;
}

int qm_cache_set_scope(qm_core* core, qm_cache cache, uint32_t name_space, const uint8_t* list, uint32_t bytes) {
  REQUIRE(core, QM_KV_CACHE, cache);
  const uint32_t root = core->scratch;
  const int status = put_list(core, list, bytes);
  if (status != QM_OK) return status;
  RESULT(core, w2c_qm_kvContentScope(instance, cache, name_space, root + QM_KEY_BYTES, bytes, root));
}

int qm_sequence_content_keys(qm_core* core, qm_cache cache, uint32_t sequence, uint32_t from, uint32_t count,
                             uint8_t* out) {
  REQUIRE(core, QM_KV_CACHE, cache);
  const uint32_t room = QM_SCRATCH_BYTES / QM_KEY_BYTES;
  uint32_t done = 0;
  if (out == NULL && count > 0) return QM_INVALID_ARGUMENT;
  for (;;) {
    const uint32_t wanted = count - done < room ? count - done : room;
    int found = 0;
    QM_CALL(core, found, (int)w2c_qm_kvContentKeys(instance, cache, sequence, from + done, wanted, core->scratch));
    if (found < 0) return found;
    if (found > 0) memcpy(out + (size_t)done * QM_KEY_BYTES, at(core, core->scratch), (size_t)found * QM_KEY_BYTES);
    done += (uint32_t)found;
    if ((uint32_t)found < wanted || done == count) return (int)done;
  }
}

/* The call goes on behind the key that it finds at the beginning of its output: that of the last block before. */
int qm_prompt_content_keys(qm_core* core, qm_cache cache, uint32_t name_space, const uint32_t* tokens, uint32_t count,
                           uint32_t marks, uint8_t* out, uint32_t limit) {
  REQUIRE(core, QM_KV_CACHE, cache);
  const uint32_t room = QM_SCRATCH_BYTES / QM_KEY_BYTES - 1, keys = core->scratch + QM_KEY_BYTES;
  uint32_t done = 0;
  if (out == NULL && limit > 0) return QM_INVALID_ARGUMENT;
  const int status = qm_put_tokens(core, cache, tokens, count);
  if (status != QM_OK) return status;
  for (;;) {
    const uint32_t wanted = least(limit - done, room);
    int found = 0;
    QM_CALL(core, found,
            (int)w2c_qm_kvContentPrompt(instance, cache, name_space, count, marks, done, wanted, core->scratch));
    if (found < 0) return found;
    if (found > 0) memcpy(out + (size_t)done * QM_KEY_BYTES, at(core, keys), (size_t)found * QM_KEY_BYTES);
    done += (uint32_t)found;
    if ((uint32_t)found < wanted || done == limit) return (int)done;
    memcpy(at(core, core->scratch), out + (size_t)(done - 1) * QM_KEY_BYTES, QM_KEY_BYTES);
  }
}

int qm_block_content_key(qm_core* core, qm_cache cache, uint32_t block, uint8_t* out) {
  REQUIRE(core, QM_KV_CACHE, cache);
  int status = QM_OK;
  if (out == NULL) return QM_INVALID_ARGUMENT;
  QM_CALL(core, status, (int)w2c_qm_kvContentKey(instance, cache, block, core->scratch));
  if (status == QM_OK) memcpy(out, at(core, core->scratch), QM_KEY_BYTES);
  return status;
}

int qm_chunk_content_key(qm_core* core, qm_cache cache, const uint32_t* tokens, uint32_t count, const uint8_t* extras,
                         uint32_t bytes, uint8_t* out) {
  REQUIRE(core, QM_KV_CACHE, cache);
  const uint32_t key = core->scratch;
  uint32_t input = 0;
  if (out == NULL) return QM_INVALID_ARGUMENT;
  int status = qm_put_tokens(core, cache, tokens, count);
  if (status == QM_OK) status = put_list(core, extras, bytes);
  if (status != QM_OK) return status;
  QM_CALL(core, input, w2c_qm_kvInput(instance, cache));
  QM_CALL(core, status, (int)w2c_qm_kvContentChunk(instance, cache, input, count, key + QM_KEY_BYTES, bytes, key));
  if (status == QM_OK) memcpy(out, at(core, key), QM_KEY_BYTES);
  return status;
}

int qm_cache_set_events(qm_core* core, qm_cache cache, uint32_t ring, uint32_t tier, uint32_t group) {
  REQUIRE(core, QM_KV_CACHE, cache);
  double bytes = 0;
  QM_CALL(core, bytes, w2c_qm_kvEventsBytes(instance, word(core, cache + QM_CACHE_BLOCKS), ring));
  const int status = qm_make_room(core, bytes);
  if (status != QM_OK) return status;
  RESULT(core, w2c_qm_kvEventsCreate(instance, cache, ring, tier, group));
}

int qm_cache_read_events(qm_core* core, qm_cache cache, uint32_t others, const qm_event** events) {
  REQUIRE(core, QM_KV_CACHE, cache);
  if (events == NULL) return QM_INVALID_ARGUMENT;
  *events = (const qm_event*)at(core, core->scratch);
  RESULT(core, w2c_qm_kvEventsRead(instance, cache, core->scratch, QM_SCRATCH_BYTES / sizeof(qm_event), others));
}

static int read_batches(qm_core* core, qm_cache cache, double* batches) {
  QM_CALL(core, *batches, w2c_qm_kvEventsBatches(instance, cache));
  return QM_OK;
}

double qm_cache_event_batches(qm_core* core, qm_cache cache) {
  double batches = 0;
  return is_a(core, QM_KV_CACHE, cache) && read_batches(core, cache, &batches) == QM_OK ? batches : 0;
}

int qm_cache_snapshot_events(qm_core* core, qm_cache cache, int begin, const qm_event** events) {
  REQUIRE(core, QM_KV_CACHE, cache);
  if (events == NULL) return QM_INVALID_ARGUMENT;
  *events = (const qm_event*)at(core, core->scratch);
  RESULT(core, w2c_qm_kvEventsSnapshot(instance, cache, core->scratch, QM_SCRATCH_BYTES / sizeof(qm_event), begin != 0));
}

int qm_cache_lose_events(qm_core* core, qm_cache cache) {
  REQUIRE(core, QM_KV_CACHE, cache);
  RESULT(core, w2c_qm_kvEventsLose(instance, cache));
}

const uint32_t* qm_event_tokens(const qm_core* core, const qm_event* event) {
  return core == NULL || event == NULL || event->tokens == 0 ? NULL : (const uint32_t*)at(core, event->tokens);
}
