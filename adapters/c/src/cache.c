/* KV caches and sequences of quartermaster.h. */
#include "core_calls.h"

#include <math.h>

int qm_cache_create(qm_core* core, const qm_cache_options* options, qm_cache* cache) {
  if (core == NULL || options == NULL || cache == NULL) return QM_INVALID_ARGUMENT;
  const uint32_t blocks = options->blocks;
  const uint32_t size = options->block_size ? options->block_size : 16;
  const uint32_t sequences = options->max_sequences ? options->max_sequences : 1024;
  const uint32_t tokens = options->max_sequence_tokens ? options->max_sequence_tokens : 8192;
  double bytes = 0;
  QM_CALL(core, bytes, w2c_qm_kvCacheBytes(instance, blocks, size, sequences, tokens, 0));
  int status = qm_make_room(core, bytes);
  if (status != QM_OK) return status;
  QM_CALL(core, status,
          (int)w2c_qm_kvCacheCreate(instance, blocks, size, sequences, tokens, !options->no_prefix_cache, 64, 0));
  return status < 0 ? status : qm_last_region(core, cache);
}

int qm_sequence_open(qm_core* core, qm_cache cache, uint32_t name_space, const uint32_t* tokens, uint32_t count,
                     int is_private) {
  REQUIRE(core, QM_KV_CACHE, cache);
  const int status = qm_put_tokens(core, cache, tokens, count);
  if (status != QM_OK) return status;
  RESULT(core, w2c_qm_kvOpen(instance, cache, name_space, count, is_private != 0));
}

int qm_cache_match(qm_core* core, qm_cache cache, uint32_t name_space, const uint32_t* tokens, uint32_t count) {
  REQUIRE(core, QM_KV_CACHE, cache);
  const int status = qm_put_tokens(core, cache, tokens, count);
  if (status != QM_OK) return status;
  RESULT(core, w2c_qm_kvMatch(instance, cache, name_space, count));
}

int qm_cache_get_statistics(qm_core* core, qm_cache cache, qm_cache_statistics* statistics) {
  REQUIRE(core, QM_KV_CACHE, cache);
  double copied = 0;
  if (statistics == NULL) return QM_INVALID_ARGUMENT;
  QM_CALL(core, copied, w2c_qm_kvCopiedTokens(instance, cache));
  *statistics = (qm_cache_statistics){
      .blocks = word(core, cache + QM_CACHE_BLOCKS),
      .block_size = word(core, cache + QM_CACHE_BLOCK_SIZE),
      .free = word(core, cache + QM_CACHE_FREE),
      .evictable = word(core, cache + QM_CACHE_EVICTABLE),
      .cached = word(core, cache + QM_CACHE_CACHED),
      .open_sequences = word(core, cache + QM_CACHE_OPEN_SEQUENCES),
      .queried_tokens = wide_word(core, cache + QM_CACHE_QUERIED_TOKENS),
      .hit_tokens = wide_word(core, cache + QM_CACHE_HIT_TOKENS),
      .copied_tokens = (uint64_t)copied,
      .evictions = wide_word(core, cache + QM_CACHE_EVICTIONS),
      .duplicates = wide_word(core, cache + QM_CACHE_DUPLICATES),
  };
  return QM_OK;
}

int qm_sequence_reserve(qm_core* core, qm_cache cache, uint32_t sequence, uint32_t count) {
  REQUIRE(core, QM_KV_CACHE, cache);
  RESULT(core, w2c_qm_kvReserve(instance, cache, sequence, count));
}

int qm_sequence_append(qm_core* core, qm_cache cache, uint32_t sequence, const uint32_t* tokens, uint32_t count) {
  REQUIRE(core, QM_KV_CACHE, cache);
  const int status = qm_put_tokens(core, cache, tokens, count);
  if (status != QM_OK) return status;
  RESULT(core, w2c_qm_kvAppend(instance, cache, sequence, count));
}

int qm_sequence_append_loaded(qm_core* core, qm_cache cache, uint32_t sequence, const uint32_t* tokens, uint32_t count,
                              uint32_t whole) {
  const int length = qm_sequence_length(core, cache, sequence);
  if (length < 0) return length;
  if (whole > word(core, cache + QM_CACHE_MAX_SEQUENCE_TOKENS) || whole < (uint64_t)length + count)
    return QM_INVALID_ARGUMENT;
  const int status = qm_put_tokens(core, cache, tokens, count);
  if (status != QM_OK) return status;
  RESULT(core, w2c_qm_kvAppendLoaded(instance, cache, sequence, count, whole));
}

int qm_sequence_truncate(qm_core* core, qm_cache cache, uint32_t sequence, uint32_t length) {
  REQUIRE(core, QM_KV_CACHE, cache);
  RESULT(core, w2c_qm_kvTruncate(instance, cache, sequence, length));
}

int qm_sequence_fork(qm_core* core, qm_cache cache, uint32_t sequence) {
  REQUIRE(core, QM_KV_CACHE, cache);
  RESULT(core, w2c_qm_kvFork(instance, cache, sequence));
}

int qm_sequence_close(qm_core* core, qm_cache cache, uint32_t sequence) {
  REQUIRE(core, QM_KV_CACHE, cache);
  RESULT(core, w2c_qm_kvClose(instance, cache, sequence));
}

int qm_sequence_length(qm_core* core, qm_cache cache, uint32_t sequence) {
  REQUIRE(core, QM_KV_CACHE, cache);
  int length = 0;
  QM_CALL(core, length, (int)w2c_qm_kvLength(instance, cache, sequence));
  return length < 0 ? QM_UNKNOWN_SEQUENCE : length;
}

int qm_sequence_slots(qm_core* core, qm_cache cache, uint32_t sequence) {
  REQUIRE(core, QM_KV_CACHE, cache);
  int slots = 0;
  QM_CALL(core, slots, (int)w2c_qm_kvSlots(instance, cache, sequence));
  return slots < 0 ? QM_UNKNOWN_SEQUENCE : slots;
}

int qm_sequence_table(qm_core* core, qm_cache cache, uint32_t sequence, const uint32_t** table) {
  REQUIRE(core, QM_KV_CACHE, cache);
  int count = 0;
  uint32_t address = 0;
  if (table == NULL) return QM_INVALID_ARGUMENT;
  QM_CALL(core, count, (int)w2c_qm_kvTableCount(instance, cache, sequence));
  if (count < 0) return QM_UNKNOWN_SEQUENCE;
  QM_CALL(core, address, w2c_qm_kvTable(instance, cache, sequence));
  *table = (const uint32_t*)at(core, address);
  return count;
}

int qm_cache_copies(qm_core* core, qm_cache cache, const uint32_t** records) {
  REQUIRE(core, QM_KV_CACHE, cache);
  uint32_t address = 0;
  if (records == NULL) return QM_INVALID_ARGUMENT;
  QM_CALL(core, address, w2c_qm_kvCopies(instance, cache));
  *records = (const uint32_t*)at(core, address);
  RESULT(core, w2c_qm_kvCopyCount(instance, cache));
}

int qm_cache_settle_copies(qm_core* core, qm_cache cache) {
  REQUIRE(core, QM_KV_CACHE, cache);
  RESULT(core, (w2c_qm_kvSettleCopies(instance, cache), 0));
}

int qm_cache_revert_copies(qm_core* core, qm_cache cache) {
  REQUIRE(core, QM_KV_CACHE, cache);
  RESULT(core, (w2c_qm_kvRevertCopies(instance, cache), 0));
}

int qm_cache_available(qm_core* core, qm_cache cache) {
  REQUIRE(core, QM_KV_CACHE, cache);
  RESULT(core, w2c_qm_kvAvailable(instance, cache));
}

int qm_block_references(qm_core* core, qm_cache cache, uint32_t block) {
  REQUIRE(core, QM_KV_CACHE, cache);
  RESULT(core, w2c_qm_kvReferences(instance, cache, block));
}

int qm_cache_forget(qm_core* core, qm_cache cache) {
  REQUIRE(core, QM_KV_CACHE, cache);
  RESULT(core, w2c_qm_kvForget(instance, cache));
}

int qm_cache_reuse_parts(qm_core* core, qm_cache cache, uint32_t threshold) {
  REQUIRE(core, QM_KV_CACHE, cache);
  double bytes = 0;
  QM_CALL(core, bytes,
          w2c_qm_kvChildrenBytes(instance, word(core, cache + QM_CACHE_BLOCKS), word(core, cache + QM_CACHE_ORDER)));
  const int status = qm_make_room(core, bytes);
  if (status != QM_OK) return status;
  RESULT(core, w2c_qm_kvChildrenCreate(instance, cache, threshold));
}

int qm_cache_advance(qm_core* core, qm_cache cache, double now_us) {
  REQUIRE(core, QM_KV_CACHE, cache);
  RESULT(core, w2c_qm_kvAdvance(instance, cache, now_us));
}

static double next_deadline(qm_core* core, qm_cache cache) {
  double deadline = INFINITY;
  QM_CALL(core, deadline, w2c_qm_kvNextDeadlineUs(instance, cache));
  return deadline;
}

double qm_cache_next_deadline_us(qm_core* core, qm_cache cache) {
  return is_a(core, QM_KV_CACHE, cache) && !core->poisoned ? next_deadline(core, cache) : INFINITY;
}
