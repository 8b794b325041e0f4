/*
 * quartermaster.h over the translated core. Longer than its neighbours because it is a list: a call of the header, a call of the
 * core, in the header's order, over one struct that nobody else sees.
 */
#include "quartermaster.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core_calls.h"

#define PAGE 65536ull
#define MAX_PAGES 65536ull
#define MAX_REGIONS 64u
/* A core's arena starts here; a snapshot without a whole header is none. */
#define SNAPSHOT_MINIMUM 1024ull

const char* qm_status_name(int status) {
  static const char* const names[] = {
      "OK",               "INVALID_ARGUMENT", "OUT_OF_MEMORY",    "OUT_OF_BLOCKS",   "OUT_OF_SEQUENCES",
      "OUT_OF_REQUESTS",  "OUT_OF_TOKENS",    "UNKNOWN_SEQUENCE", "UNKNOWN_REQUEST", "DUPLICATE_ID",
      "EMPTY_PROMPT",     "TOO_LONG",         "POOL_TOO_SMALL",   "INVALID_TIME",    "INVALID_TOKEN",
      "UNKNOWN_STEP",     "STEP_IN_FLIGHT",   "NOT_RESERVED",     "SEQUENCE_OWNED",  "NOT_FOUND",
      "QUEUE_TIMEOUT",    "BAD_SNAPSHOT",     "CORRUPT",          "COPIES_PENDING",  "OUT_OF_WORKERS",
      "POISONED",         "ALREADY_FREE",
      "LANES_SHARED",     "COMPACTION_PENDING", "LOSSY_SEQUENCE", "QUOTA_EXCEEDED", "PIN_LIMIT", "OUT_OF_SCOPES"};
  const int last = (int)(sizeof names / sizeof *names) - 1;
  return status <= 0 && -status <= last ? names[-status] : "UNKNOWN_STATUS";
}

/* ---- core ------------------------------------------------------------------------------------------------- */

wasm_rt_memory_t* w2c_env_memory(struct w2c_env* env) { return &((struct qm_core*)env)->memory; }

uint32_t qm_abi_version(void) {
  w2c_qm none = {0};
  return w2c_qm_abiVersion(&none);
}

static int allocate_core(uint64_t bytes, uint64_t maximum_bytes, qm_core** core) {
  if (maximum_bytes == 0) maximum_bytes = MAX_PAGES * PAGE;
  if (maximum_bytes < PAGE || maximum_bytes > MAX_PAGES * PAGE) return QM_INVALID_ARGUMENT;
  struct qm_core* made = calloc(1, sizeof *made);
  if (made == NULL) return QM_OUT_OF_MEMORY;
  if (!wasm_rt_reserve_memory(&made->memory, (bytes + PAGE - 1) / PAGE, maximum_bytes / PAGE)) {
    free(made);
    return QM_OUT_OF_MEMORY;
  }
  wasm2c_qm_instantiate(&made->instance, (struct w2c_env*)made);
  *core = made;
  return QM_OK;
}

void qm_core_free(qm_core* core) {
  if (core == NULL) return;
  wasm2c_qm_free(&core->instance);
  wasm_rt_release_memory(&core->memory);
  free(core);
}

uint64_t qm_core_bytes(const qm_core* core) { return core == NULL ? 0 : core->memory.size; }

static uint8_t* at(const qm_core* core, uint32_t address) { return core->memory.data + address; }

static uint32_t word(const qm_core* core, uint32_t address) {
  uint32_t value;
  memcpy(&value, at(core, address), sizeof value);
  return value;
}

/* Address of the `position`-th structure of a kind, 0 when there are fewer. */
static int64_t structure_at(qm_core* core, uint32_t kind, uint32_t position) {
  uint32_t regions = 0;
  QM_CALL(core, regions, w2c_qm_coreRegions(instance));
  for (uint32_t region = 0; region < regions; region++) {
    uint32_t found = 0, pointer = 0;
    QM_CALL(core, found, w2c_qm_coreRegionKind(instance, region));
    if (found != kind || position-- != 0) continue;
    QM_CALL(core, pointer, w2c_qm_coreRegionPointer(instance, region));
    return pointer;
  }
  return 0;
}

static uint32_t none_if_refused(int64_t pointer) { return pointer < 0 ? 0 : (uint32_t)pointer; }

qm_cache qm_cache_at(qm_core* core, uint32_t position) {
  return core == NULL ? 0 : none_if_refused(structure_at(core, QM_KV_CACHE, position));
}

qm_scheduler qm_scheduler_at(qm_core* core, uint32_t position) {
  return core == NULL ? 0 : none_if_refused(structure_at(core, QM_SCHEDULER, position));
}

qm_index qm_index_at(qm_core* core, uint32_t position) {
  return core == NULL ? 0 : none_if_refused(structure_at(core, QM_ORDERED_INDEX, position));
}

qm_page_set qm_page_set_at(qm_core* core, uint32_t position) {
  return core == NULL ? 0 : none_if_refused(structure_at(core, QM_PAGE_SET, position));
}

qm_keyed_pool qm_keyed_pool_at(qm_core* core, uint32_t position) {
  return core == NULL ? 0 : none_if_refused(structure_at(core, QM_KEYED_POOL, position));
}

qm_virtual_memory qm_virtual_memory_at(qm_core* core, uint32_t position) {
  return core == NULL ? 0 : none_if_refused(structure_at(core, QM_VIRTUAL_MEMORY, position));
}

/* Whether `pointer` names a structure of this kind: remembered, as every call asks. */
static int is_structure(qm_core* core, uint32_t kind, uint32_t pointer) {
  if (core == NULL || pointer == 0) return 0;
  uint32_t* const known = &core->known[kind];
  if (*known == pointer) return 1;
  for (uint32_t position = 0; position < MAX_REGIONS; position++) {
    const uint32_t found = none_if_refused(structure_at(core, kind, position));
    if (found == 0) return 0;
    if (found == pointer) {
      *known = pointer;
      return 1;
    }
  }
  return 0;
}

#define REQUIRE(core, kind, pointer) \
  if (!is_structure(core, kind, pointer)) return QM_INVALID_ARGUMENT

/* Grows the memory until a region of `bytes` fits. */
static int make_room(qm_core* core, double bytes) {
  double top = 0, cost = 0;
  int status = QM_OK;
  if (bytes < 0) return (int)bytes;
  QM_CALL(core, top, w2c_qm_coreTop(instance));
  QM_CALL(core, cost, w2c_qm_coreCost(instance, bytes));
  const double pages = ceil((top + cost) / (double)PAGE);
  if (pages > (double)MAX_PAGES) return QM_OUT_OF_MEMORY;
  if (!wasm_rt_extend_memory(&core->memory, (uint64_t)pages)) return QM_OUT_OF_MEMORY;
  QM_CALL(core, status, (int)w2c_qm_coreExtend(instance));
  return status;
}

static int last_region(qm_core* core, uint32_t* pointer) {
  QM_CALL(core, *pointer, w2c_qm_coreRegionPointer(instance, w2c_qm_coreRegions(instance) - 1));
  return QM_OK;
}

static int created(qm_core* core, uint64_t seed) {
  int status = QM_OK;
  QM_CALL(core, status, (int)w2c_qm_coreCreate(instance, seed));
  if (status == QM_OK) QM_CALL(core, status, (int)w2c_qm_coreAttach(instance, 1));
  if (status >= 0) status = make_room(core, QM_SCRATCH_BYTES);
  if (status == QM_OK) QM_CALL(core, status, (int)w2c_qm_scratchCreate(instance, QM_SCRATCH_BYTES));
  return status == QM_OK ? last_region(core, &core->scratch) : status;
}

int qm_core_create(uint64_t seed, uint64_t maximum_bytes, qm_core** core) {
  if (core == NULL) return QM_INVALID_ARGUMENT;
  *core = NULL;
  qm_core* made = NULL;
  int status = allocate_core(PAGE, maximum_bytes, &made);
  if (status != QM_OK) return status;
  status = created(made, seed);
  if (status != QM_OK) qm_core_free(made);
  else *core = made;
  return status;
}

/* Full check of one structure; what has none is right. */
static int validate_structure(qm_core* core, uint32_t kind, uint32_t pointer) {
  int status = QM_OK;
  if (kind == QM_ORDERED_INDEX) QM_CALL(core, status, (int)w2c_qm_orderedIndexValidate(instance, pointer));
  if (kind == QM_KV_CACHE) QM_CALL(core, status, (int)w2c_qm_kvValidateCache(instance, pointer));
  if (kind == QM_SCHEDULER) QM_CALL(core, status, (int)w2c_qm_schedulerValidateAll(instance, pointer));
  if (kind == QM_VIEW) QM_CALL(core, status, (int)w2c_qm_orderedViewValidate(instance, pointer));
  if (kind == QM_LANES) QM_CALL(core, status, (int)w2c_qm_lanesValidateAll(instance, pointer));
  if (kind == QM_EXTENTS) QM_CALL(core, status, (int)w2c_qm_freeExtentsValidate(instance, pointer));
  if (kind == QM_KEYED_POOL) QM_CALL(core, status, (int)w2c_qm_keyedPoolValidate(instance, pointer));
  return status;
}

int qm_core_validate(qm_core* core) {
  if (core == NULL) return QM_INVALID_ARGUMENT;
  int status = QM_OK;
  QM_CALL(core, status, (int)w2c_qm_coreValidate(instance));
  for (uint32_t kind = QM_ORDERED_INDEX; kind < QM_KINDS; kind++) {
    for (uint32_t position = 0; status == QM_OK && position < MAX_REGIONS; position++) {
      const uint32_t pointer = none_if_refused(structure_at(core, kind, position));
      if (pointer == 0) break;
      status = validate_structure(core, kind, pointer);
    }
  }
  return status;
}

static int64_t snapshot_bytes(qm_core* core) {
  double top = 0;
  QM_CALL(core, top, w2c_qm_coreTop(instance));
  return (int64_t)top;
}

uint64_t qm_snapshot_bytes(qm_core* core) {
  const int64_t bytes = core == NULL ? 0 : snapshot_bytes(core);
  return bytes < 0 ? 0 : (uint64_t)bytes;
}

int qm_snapshot(qm_core* core, void* out, uint64_t bytes) {
  if (core == NULL || out == NULL || bytes != qm_snapshot_bytes(core) || bytes == 0)
    return core != NULL && core->poisoned ? QM_POISONED : QM_INVALID_ARGUMENT;
  memcpy(out, core->memory.data, bytes);
  /* A snapshot carries no workers: docs/abi.md. */
  memset((uint8_t*)out + QM_WORKERS_AT, 0, QM_WORKERS_BYTES);
  return QM_OK;
}

static int adopted(qm_core* core) {
  int status = QM_OK;
  QM_CALL(core, status, (int)w2c_qm_coreAdopt(instance));
  if (status == QM_OK) QM_CALL(core, status, (int)w2c_qm_coreAttach(instance, 1));
  if (status < 0) return status;
  core->scratch = none_if_refused(structure_at(core, QM_SCRATCH, 0));
  return core->scratch == 0 ? QM_BAD_SNAPSHOT : QM_OK;
}

int qm_core_restore(const void* snapshot, uint64_t bytes, uint64_t maximum_bytes, qm_core** core) {
  if (core == NULL || snapshot == NULL) return QM_INVALID_ARGUMENT;
  *core = NULL;
  if (bytes < SNAPSHOT_MINIMUM || bytes > MAX_PAGES * PAGE) return QM_BAD_SNAPSHOT;
  qm_core* made = NULL;
  int status = allocate_core(bytes, maximum_bytes, &made);
  if (status != QM_OK) return status;
  memcpy(made->memory.data, snapshot, bytes);
  status = adopted(made);
  if (status != QM_OK) qm_core_free(made);
  else *core = made;
  return status;
}

/* ---- KV cache ----------------------------------------------------------------------------------------------- */

int qm_cache_create(qm_core* core, const qm_cache_options* options, qm_cache* cache) {
  if (core == NULL || options == NULL || cache == NULL) return QM_INVALID_ARGUMENT;
  const uint32_t blocks = options->blocks;
  const uint32_t size = options->block_size ? options->block_size : 16;
  const uint32_t sequences = options->max_sequences ? options->max_sequences : 1024;
  const uint32_t tokens = options->max_sequence_tokens ? options->max_sequence_tokens : 8192;
  double bytes = 0;
  QM_CALL(core, bytes, w2c_qm_kvCacheBytes(instance, blocks, size, sequences, tokens, 0));
  int status = make_room(core, bytes);
  if (status != QM_OK) return status;
  QM_CALL(core, status,
          (int)w2c_qm_kvCacheCreate(instance, blocks, size, sequences, tokens, !options->no_prefix_cache, 64, 0));
  return status < 0 ? status : last_region(core, cache);
}

/* Writes token ids to the cache's input region. */
static int put_tokens(qm_core* core, qm_cache cache, const uint32_t* tokens, uint32_t count) {
  uint32_t input = 0;
  if (count == 0) return QM_OK;
  if (tokens == NULL) return QM_INVALID_ARGUMENT;
  if (count > word(core, cache + QM_CACHE_MAX_SEQUENCE_TOKENS)) return QM_TOO_LONG;
  QM_CALL(core, input, w2c_qm_kvInput(instance, cache));
  memcpy(at(core, input), tokens, (size_t)count * sizeof *tokens);
  return QM_OK;
}

/* A call that returns a result >= 0 or a status. */
#define RESULT(core, expression)                        \
  do {                                                  \
    int qm_result = QM_OK;                              \
    QM_CALL(core, qm_result, (int)(expression));        \
    return qm_result;                                   \
  } while (0)

int qm_sequence_open(qm_core* core, qm_cache cache, uint32_t name_space, const uint32_t* tokens, uint32_t count,
                     int is_private) {
  REQUIRE(core, QM_KV_CACHE, cache);
  const int status = put_tokens(core, cache, tokens, count);
  if (status != QM_OK) return status;
  RESULT(core, w2c_qm_kvOpen(instance, cache, name_space, count, is_private != 0));
}

int qm_cache_match(qm_core* core, qm_cache cache, uint32_t name_space, const uint32_t* tokens, uint32_t count) {
  REQUIRE(core, QM_KV_CACHE, cache);
  const int status = put_tokens(core, cache, tokens, count);
  if (status != QM_OK) return status;
  RESULT(core, w2c_qm_kvMatch(instance, cache, name_space, count));
}

static uint64_t wide_word(const qm_core* core, uint32_t address) {
  return word(core, address) | (uint64_t)word(core, address + 4) << 32;
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
  const int status = put_tokens(core, cache, tokens, count);
  if (status != QM_OK) return status;
  RESULT(core, w2c_qm_kvAppend(instance, cache, sequence, count));
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
  const int status = make_room(core, bytes);
  if (status != QM_OK) return status;
  RESULT(core, w2c_qm_kvChildrenCreate(instance, cache, threshold));
}

/* Groups that a cache can have beside its own tables, and words of a record of one (docs/abi.md). */
enum { MAX_GROUPS = 7, GROUP_SPEC_WORDS = 3 };

int qm_cache_set_groups(qm_core* core, qm_cache cache, const qm_group* groups, uint32_t count) {
  REQUIRE(core, QM_KV_CACHE, cache);
  const uint32_t bytes = count * GROUP_SPEC_WORDS * 4;
  double needed = 0;
  if (groups == NULL || count == 0 || count > MAX_GROUPS) return QM_INVALID_ARGUMENT;
  memcpy(at(core, core->scratch), groups, bytes);
  QM_CALL(core, needed,
          w2c_qm_kvGroupsBytes(instance, word(core, cache + QM_CACHE_BLOCKS), word(core, cache + QM_CACHE_BLOCK_SIZE),
                               word(core, cache + QM_CACHE_MAX_SEQUENCES),
                               word(core, cache + QM_CACHE_MAX_SEQUENCE_TOKENS), core->scratch, count));
  const int status = make_room(core, needed);
  if (status != QM_OK) return status;
  RESULT(core, w2c_qm_kvGroupsCreate(instance, cache, core->scratch, count));
}

int qm_sequence_group_table(qm_core* core, qm_cache cache, uint32_t sequence, uint32_t group, const uint32_t** table) {
  REQUIRE(core, QM_KV_CACHE, cache);
  int count = 0;
  uint32_t groups = 0, address = 0;
  QM_CALL(core, groups, w2c_qm_kvGroups(instance, cache));
  if (table == NULL || groups == 0 || group == 0 || group > word(core, groups)) return QM_INVALID_ARGUMENT;
  QM_CALL(core, count, (int)w2c_qm_kvGroupTableCount(instance, cache, sequence, group - 1));
  if (count < 0) return QM_UNKNOWN_SEQUENCE;
  QM_CALL(core, address, w2c_qm_kvGroupTable(instance, cache, sequence, group - 1));
  *table = (const uint32_t*)at(core, address);
  return count;
}

/* Words of the header of runs, blocks reserved at a time by default, and the slot in a sequence's handle: docs/abi.md. */
enum {
  RUNS_EXTENTS = 0,
  RUNS_TAILS = 1,
  RUNS_RESERVED = 2,
  RUNS_GROUP = 3,
  RUNS_SPLITS = 7,
  RUNS_RESERVE = 60,
  SLOT_MASK = 0xfffff
};

int qm_cache_set_runs(qm_core* core, qm_cache cache, uint32_t reserve) {
  REQUIRE(core, QM_KV_CACHE, cache);
  const uint32_t blocks = word(core, cache + QM_CACHE_BLOCKS), quarter = blocks < 4 ? 1 : blocks / 4;
  double bytes = 0;
  if (reserve == 0) reserve = quarter < RUNS_RESERVE ? quarter : RUNS_RESERVE;
  QM_CALL(core, bytes, w2c_qm_kvRunsBytes(instance, blocks, word(core, cache + QM_CACHE_MAX_SEQUENCES)));
  const int status = make_room(core, bytes);
  if (status != QM_OK) return status;
  RESULT(core, w2c_qm_kvRunsCreate(instance, cache, reserve));
}

/* Address of a cache's runs. */
static int runs_of(qm_core* core, qm_cache cache, uint32_t* runs) {
  QM_CALL(core, *runs, w2c_qm_kvRuns(instance, cache));
  return *runs == 0 ? QM_NOT_FOUND : QM_OK;
}

int qm_cache_run_figures(qm_core* core, qm_cache cache, qm_run_figures* figures) {
  REQUIRE(core, QM_KV_CACHE, cache);
  uint32_t runs = 0;
  if (figures == NULL) return QM_INVALID_ARGUMENT;
  const int status = runs_of(core, cache, &runs);
  if (status != QM_OK) return status;
  *figures = (qm_run_figures){.group = word(core, runs + 4 * RUNS_GROUP),
                              .reserved = word(core, runs + 4 * RUNS_RESERVED),
                              .splits = word(core, runs + 4 * RUNS_SPLITS)};
  return QM_OK;
}

/* Runs go through the core's scratch, as many at a time as fit there. */
int qm_cache_free_runs(qm_core* core, qm_cache cache, uint32_t from, qm_run* runs, uint32_t limit) {
  REQUIRE(core, QM_KV_CACHE, cache);
  const uint32_t batch = QM_SCRATCH_BYTES / sizeof *runs;
  uint32_t header = 0, total = 0;
  if (runs == NULL && limit > 0) return QM_INVALID_ARGUMENT;
  const int status = runs_of(core, cache, &header);
  if (status != QM_OK) return status;
  const uint32_t extents = word(core, header + 4 * RUNS_EXTENTS);
  while (total < limit) {
    const uint32_t wanted = limit - total < batch ? limit - total : batch;
    uint32_t found = 0;
    QM_CALL(core, found, w2c_qm_freeExtentsList(instance, extents, from, wanted, core->scratch));
    memcpy(runs + total, at(core, core->scratch), found * sizeof *runs);
    total += found;
    if (found < wanted) break;
    from = runs[total - 1].start + 1;
  }
  return (int)total;
}

int qm_sequence_tail(qm_core* core, qm_cache cache, uint32_t sequence, qm_run* tail) {
  uint32_t runs = 0;
  if (tail == NULL) return QM_INVALID_ARGUMENT;
  int status = qm_sequence_length(core, cache, sequence);
  if (status >= 0) status = runs_of(core, cache, &runs);
  if (status != QM_OK) return status;
  memcpy(tail, at(core, word(core, runs + 4 * RUNS_TAILS) + (sequence & SLOT_MASK) * sizeof *tail), sizeof *tail);
  return QM_OK;
}

int qm_cache_set_tenants(qm_core* core, qm_cache cache, uint32_t tenants) {
  REQUIRE(core, QM_KV_CACHE, cache);
  double bytes = 0;
  QM_CALL(core, bytes, w2c_qm_kvAccountsBytes(instance, word(core, cache + QM_CACHE_BLOCKS), tenants));
  const int status = make_room(core, bytes);
  if (status != QM_OK) return status;
  RESULT(core, w2c_qm_kvAccountsCreate(instance, cache, tenants));
}

int qm_cache_set_pins(qm_core* core, qm_cache cache, uint32_t capacity, uint32_t limit) {
  REQUIRE(core, QM_KV_CACHE, cache);
  double bytes = 0;
  QM_CALL(core, bytes, w2c_qm_kvPinsBytes(instance, word(core, cache + QM_CACHE_BLOCKS), capacity));
  const int status = make_room(core, bytes);
  if (status != QM_OK) return status;
  RESULT(core, w2c_qm_kvPinsCreate(instance, cache, capacity, limit));
}

int qm_sequence_pin(qm_core* core, qm_cache cache, uint32_t sequence, int hard, uint32_t priority, double until_us) {
  REQUIRE(core, QM_KV_CACHE, cache);
  RESULT(core, w2c_qm_kvPin(instance, cache, sequence, hard != 0, priority, until_us));
}

int qm_unpin(qm_core* core, qm_cache cache, uint32_t pin) {
  REQUIRE(core, QM_KV_CACHE, cache);
  RESULT(core, w2c_qm_kvUnpin(instance, cache, pin));
}

static int pin_figure(qm_core* core, qm_cache cache, uint32_t figure, uint32_t* value) {
  QM_CALL(core, *value, w2c_qm_kvPinFigure(instance, cache, figure));
  return QM_OK;
}

int qm_cache_pin_figures(qm_core* core, qm_cache cache, qm_pin_figures* figures) {
  REQUIRE(core, QM_KV_CACHE, cache);
  qm_pin_figures found;
  if (figures == NULL) return QM_INVALID_ARGUMENT;
  /* Figures 0 to 3, in the struct's order: docs/abi.md. */
  uint32_t* const words[] = {&found.hard_blocks, &found.soft_blocks, &found.pins, &found.gave_way};
  for (uint32_t figure = 0; figure < 4; figure++) {
    const int status = pin_figure(core, cache, figure, words[figure]);
    if (status != QM_OK) return status;
  }
  *figures = found;
  return QM_OK;
}

int qm_cache_set_marks(qm_core* core, qm_cache cache, uint32_t capacity) {
  REQUIRE(core, QM_KV_CACHE, cache);
  double bytes = 0;
  QM_CALL(core, bytes, w2c_qm_kvMarksBytes(instance, word(core, cache + QM_CACHE_BLOCKS), capacity));
  const int status = make_room(core, bytes);
  if (status != QM_OK) return status;
  RESULT(core, w2c_qm_kvMarksCreate(instance, cache, capacity));
}

int qm_marks(qm_core* core, qm_cache cache, const qm_mark* marks, uint32_t count) {
  REQUIRE(core, QM_KV_CACHE, cache);
  uint32_t input = 0;
  QM_CALL(core, input, w2c_qm_kvMarksInput(instance, cache));
  if (input == 0 || count > 256 || (count != 0 && marks == NULL)) return QM_INVALID_ARGUMENT;
  if (count != 0) memcpy(at(core, input), marks, (size_t)count * sizeof *marks);
  RESULT(core, w2c_qm_kvMarks(instance, cache, count));
}

int qm_marks_release(qm_core* core, qm_cache cache, uint32_t marks) {
  REQUIRE(core, QM_KV_CACHE, cache);
  RESULT(core, w2c_qm_kvMarksRelease(instance, cache, marks));
}

int qm_marks_read(qm_core* core, qm_cache cache, uint32_t marks, const qm_mark** out) {
  REQUIRE(core, QM_KV_CACHE, cache);
  uint32_t input = 0;
  QM_CALL(core, input, w2c_qm_kvMarksInput(instance, cache));
  if (input == 0 || out == NULL) return QM_INVALID_ARGUMENT;
  *out = (const qm_mark*)at(core, input);
  RESULT(core, w2c_qm_kvMarksRead(instance, cache, marks));
}

int qm_sequence_open_marked(qm_core* core, qm_cache cache, uint32_t name_space, const uint32_t* tokens, uint32_t count,
                            uint32_t tenant, uint32_t marks) {
  REQUIRE(core, QM_KV_CACHE, cache);
  const int status = put_tokens(core, cache, tokens, count);
  if (status != QM_OK) return status;
  RESULT(core, w2c_qm_kvOpenAs(instance, cache, name_space, count, 0, tenant, marks));
}

int qm_cache_match_marked(qm_core* core, qm_cache cache, uint32_t name_space, const uint32_t* tokens, uint32_t count,
                          uint32_t marks) {
  REQUIRE(core, QM_KV_CACHE, cache);
  const int status = put_tokens(core, cache, tokens, count);
  if (status != QM_OK) return status;
  RESULT(core, w2c_qm_kvMatchAs(instance, cache, name_space, count, marks));
}

int qm_request_marks(qm_core* core, qm_scheduler scheduler, uint32_t request, uint32_t marks) {
  REQUIRE(core, QM_SCHEDULER, scheduler);
  RESULT(core, w2c_qm_requestMarks(instance, scheduler, request, marks));
}

int qm_request_pin(qm_core* core, qm_scheduler scheduler, uint32_t request, int hard, uint32_t priority,
                   double for_us) {
  REQUIRE(core, QM_SCHEDULER, scheduler);
  RESULT(core, w2c_qm_requestPin(instance, scheduler, request, hard != 0, priority, for_us));
}

int qm_cache_set_quota(qm_core* core, qm_cache cache, uint32_t tenant, uint32_t floor, uint32_t watermark,
                       uint32_t ceiling) {
  REQUIRE(core, QM_KV_CACHE, cache);
  RESULT(core, w2c_qm_kvSetQuota(instance, cache, tenant, floor, watermark, ceiling));
}

int qm_sequence_open_as(qm_core* core, qm_cache cache, uint32_t name_space, const uint32_t* tokens, uint32_t count,
                        int is_private, uint32_t tenant) {
  REQUIRE(core, QM_KV_CACHE, cache);
  const int status = put_tokens(core, cache, tokens, count);
  if (status != QM_OK) return status;
  RESULT(core, w2c_qm_kvOpenAs(instance, cache, name_space, count, is_private != 0, tenant, 0));
}

/* Words of an account: docs/abi.md. */
enum {
  ACCOUNT_FLOOR = 0,
  ACCOUNT_WATERMARK = 1,
  ACCOUNT_CEILING = 2,
  ACCOUNT_USED = 3,
  ACCOUNT_EVICTABLE = 4,
  ACCOUNT_EVICTED_OWN = 9,
  ACCOUNT_EVICTED_BY_OTHERS = 11,
  ACCOUNT_REFUSED = 13
};

/* Address of a tenant's account; of a tenant that has none, refused. */
static int account_of(qm_core* core, qm_cache cache, uint32_t tenant, uint32_t* account) {
  REQUIRE(core, QM_KV_CACHE, cache);
  QM_CALL(core, *account, w2c_qm_kvAccount(instance, cache, tenant));
  return *account == 0 ? QM_INVALID_ARGUMENT : QM_OK;
}

int qm_tenant_blocks(qm_core* core, qm_cache cache, uint32_t tenant) {
  uint32_t account = 0;
  const int status = account_of(core, cache, tenant, &account);
  return status == QM_OK ? (int)word(core, account + 4 * ACCOUNT_USED) : status;
}

int qm_tenant_account(qm_core* core, qm_cache cache, uint32_t tenant, qm_account* account) {
  uint32_t at = 0;
  if (account == NULL) return QM_INVALID_ARGUMENT;
  const int status = account_of(core, cache, tenant, &at);
  if (status != QM_OK) return status;
  *account = (qm_account){
      .floor = word(core, at + 4 * ACCOUNT_FLOOR),
      .watermark = word(core, at + 4 * ACCOUNT_WATERMARK),
      .ceiling = word(core, at + 4 * ACCOUNT_CEILING),
      .used = word(core, at + 4 * ACCOUNT_USED),
      .evictable = word(core, at + 4 * ACCOUNT_EVICTABLE),
      .evicted_own = wide_word(core, at + 4 * ACCOUNT_EVICTED_OWN),
      .evicted_by_others = wide_word(core, at + 4 * ACCOUNT_EVICTED_BY_OTHERS),
      .refused = wide_word(core, at + 4 * ACCOUNT_REFUSED),
  };
  return QM_OK;
}

int qm_tenant_available(qm_core* core, qm_cache cache, uint32_t tenant) {
  uint32_t account = 0;
  const int status = account_of(core, cache, tenant, &account);
  if (status != QM_OK) return status;
  RESULT(core, w2c_qm_kvTenantAvailable(instance, cache, tenant));
}

int qm_cache_set_order(qm_core* core, qm_cache cache, qm_order order, uint32_t history, double base_cost,
                       double depth_cost) {
  REQUIRE(core, QM_KV_CACHE, cache);
  double bytes = 0;
  if (order == QM_LRU) return QM_OK;
  QM_CALL(core, bytes, w2c_qm_kvOrderBytes(instance, word(core, cache + QM_CACHE_BLOCKS), (uint32_t)order, history));
  const int status = make_room(core, bytes);
  if (status != QM_OK) return status;
  RESULT(core, w2c_qm_kvOrderCreate(instance, cache, (uint32_t)order, history, base_cost, depth_cost));
}

int qm_cache_retain(qm_core* core, qm_cache cache, uint32_t blocks) {
  REQUIRE(core, QM_KV_CACHE, cache);
  RESULT(core, w2c_qm_kvRetain(instance, cache, blocks));
}

int qm_sequence_prioritize(qm_core* core, qm_cache cache, uint32_t sequence, uint32_t priority,
                           double priority_until_us, double live_until_us) {
  REQUIRE(core, QM_KV_CACHE, cache);
  RESULT(core, w2c_qm_kvPrioritize(instance, cache, sequence, priority, priority_until_us, live_until_us));
}

int qm_sequence_advise(qm_core* core, qm_cache cache, uint32_t sequence, uint32_t discard) {
  REQUIRE(core, QM_KV_CACHE, cache);
  RESULT(core, w2c_qm_kvAdvise(instance, cache, sequence, discard));
}

int qm_sequence_score(qm_core* core, qm_cache cache, uint32_t sequence, uint32_t from, const double* scores,
                      uint32_t count) {
  REQUIRE(core, QM_KV_CACHE, cache);
  const uint32_t batch = QM_SCRATCH_BYTES / 8;
  int scored = 0;
  if (scores == NULL && count > 0) return QM_INVALID_ARGUMENT;
  for (uint32_t i = 0; i < count; i++)
    if (isnan(scores[i])) return QM_INVALID_ARGUMENT;
  do {
    const uint32_t some = count < batch ? count : batch;
    int result = QM_OK;
    if (some > 0) memcpy(at(core, core->scratch), scores, 8ull * some);
    QM_CALL(core, result, (int)w2c_qm_kvScore(instance, cache, sequence, from, some, core->scratch));
    if (result < 0) return result;
    scored += result;
    scores += some;
    from += some;
    count -= some;
  } while (count > 0);
  return scored;
}

int qm_cache_advance(qm_core* core, qm_cache cache, double now_us) {
  REQUIRE(core, QM_KV_CACHE, cache);
  RESULT(core, w2c_qm_kvAdvance(instance, cache, now_us));
}

/* ---- content keys and events ----------------------------------------------------------------------------------- */

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
  const int status = make_room(core, bytes);
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
  int status = put_tokens(core, cache, tokens, count);
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
  const int status = make_room(core, bytes);
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
  return is_structure(core, QM_KV_CACHE, cache) && read_batches(core, cache, &batches) == QM_OK ? batches : 0;
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

/* ---- scheduler ------------------------------------------------------------------------------------------------ */

static uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }

/* Defaults as the TypeScript binding's. */
static qm_scheduler_options with_defaults(const qm_core* core, qm_cache cache, const qm_scheduler_options* given) {
  qm_scheduler_options o = *given;
  const uint32_t sequences = word(core, cache + QM_CACHE_MAX_SEQUENCES);
  const uint32_t longest = word(core, cache + QM_CACHE_MAX_SEQUENCE_TOKENS);
  if (o.aging_tokens == 0) o.aging_tokens = 1;
  if (o.tenants == 0) o.tenants = 1;
  if (o.input_weight == 0 && o.output_weight == 0) {
    o.input_weight = 1;
    o.output_weight = 2;
  }
  if (o.max_requests == 0) o.max_requests = 4096;
  if (o.max_batch_tokens == 0) o.max_batch_tokens = 2048;
  if (o.max_running == 0) o.max_running = least(256, least(sequences, o.max_batch_tokens));
  if (o.token_capacity == 0) o.token_capacity = o.max_requests * least(longest, 1024);
  return o;
}

int qm_scheduler_create(qm_core* core, qm_cache cache, const qm_scheduler_options* options,
                        qm_scheduler* scheduler) {
  REQUIRE(core, QM_KV_CACHE, cache);
  if (options == NULL || scheduler == NULL) return QM_INVALID_ARGUMENT;
  const qm_scheduler_options o = with_defaults(core, cache, options);
  double bytes = 0;
  QM_CALL(core, bytes,
          w2c_qm_schedulerRegionBytes(instance, cache, o.max_requests, o.max_running, o.max_batch_tokens,
                                      o.token_capacity, o.tenants));
  int status = make_room(core, bytes);
  if (status != QM_OK) return status;
  QM_CALL(core, status,
          (int)w2c_qm_schedulerRegionCreate(instance, cache, o.max_requests, o.max_running, o.max_batch_tokens,
                                            o.max_chunk_tokens, o.watermark_blocks, o.vocab_size, o.policy,
                                            o.token_capacity, o.queue_timeout_us, o.aging_tokens, o.tenants,
                                            o.input_weight, o.output_weight));
  return status < 0 ? status : last_region(core, scheduler);
}

int qm_submit(qm_core* core, qm_scheduler scheduler, const qm_request* request) {
  REQUIRE(core, QM_SCHEDULER, scheduler);
  if (request == NULL) return QM_INVALID_ARGUMENT;
  uint32_t cache = 0;
  QM_CALL(core, cache, w2c_qm_schedulerCache(instance, scheduler));
  const int status = put_tokens(core, cache, request->tokens, request->token_count);
  if (status != QM_OK) return status;
  RESULT(core, w2c_qm_requestSubmit(instance, scheduler, (uint32_t)request->id, (uint32_t)(request->id >> 32),
                                    request->token_count, request->max_new_tokens, request->name_space, request->tenant,
                                    request->priority, request->arrival_us, request->deadline_us, 0, 0,
                                    request->max_chunk_tokens));
}

int qm_abort(qm_core* core, qm_scheduler scheduler, uint32_t request) {
  REQUIRE(core, QM_SCHEDULER, scheduler);
  RESULT(core, w2c_qm_requestAbort(instance, scheduler, request));
}

int qm_request_state(qm_core* core, qm_scheduler scheduler, uint32_t request) {
  REQUIRE(core, QM_SCHEDULER, scheduler);
  RESULT(core, w2c_qm_requestState(instance, scheduler, request));
}

int qm_request_turns(qm_core* core, qm_scheduler scheduler, uint32_t request) {
  REQUIRE(core, QM_SCHEDULER, scheduler);
  RESULT(core, w2c_qm_requestTurns(instance, scheduler, request));
}

int qm_next_turn(qm_core* core, qm_scheduler scheduler, uint32_t request, const qm_turn* turn) {
  REQUIRE(core, QM_SCHEDULER, scheduler);
  if (turn == NULL) return QM_INVALID_ARGUMENT;
  uint32_t cache = 0;
  QM_CALL(core, cache, w2c_qm_schedulerCache(instance, scheduler));
  const int status = put_tokens(core, cache, turn->tokens, turn->token_count);
  if (status != QM_OK) return status;
  RESULT(core, w2c_qm_requestNextTurn(instance, scheduler, request, turn->token_count, turn->max_new_tokens,
                                      turn->last != 0));
}

static const uint32_t* section(const qm_core* core, uint32_t plan, uint32_t index) {
  return (const uint32_t*)at(core, word(core, plan + 4 * index));
}

/* Words of the record: docs/abi.md. */
static void read_plan(const qm_core* core, uint32_t address, qm_plan* plan) {
  uint32_t w[32];
  memcpy(w, at(core, address), sizeof w);
  *plan = (qm_plan){
      .step_id = w[0],
      .rows = w[1],
      .decode_rows = w[2],
      .sampling_rows = w[3],
      .total_tokens = w[4],
      .transfer_count = w[5],
      .outcome_count = w[6],
      .table_words = w[7],
      .running = w[25],
      .waiting = w[26],
      .free_blocks = w[27],
      .evictable_blocks = w[28],
      .requests = section(core, address, 8),
      .sequences = section(core, address, 9),
      .phases = section(core, address, 10),
      .new_tokens = section(core, address, 11),
      .computed_before = section(core, address, 12),
      .token_start = section(core, address, 15),
      .tokens = section(core, address, 16),
      .slots = section(core, address, 17),
      .table_start = section(core, address, 18),
      .table_count = section(core, address, 19),
      .tables = section(core, address, 20),
      .transfers = section(core, address, 21),
      .outcomes = section(core, address, 22),
  };
}

int qm_step(qm_core* core, qm_scheduler scheduler, double now_us, qm_plan* plan) {
  REQUIRE(core, QM_SCHEDULER, scheduler);
  if (plan == NULL) return QM_INVALID_ARGUMENT;
  int step = 0;
  uint32_t address = 0;
  QM_CALL(core, step, (int)w2c_qm_schedulerStep(instance, scheduler, now_us));
  if (step < 0) return step;
  QM_CALL(core, address, w2c_qm_schedulerPlan(instance, scheduler));
  read_plan(core, address, plan);
  return QM_OK;
}

int qm_scheduler_set_drafts(qm_core* core, qm_scheduler scheduler, uint32_t most) {
  REQUIRE(core, QM_SCHEDULER, scheduler);
  double bytes = 0;
  QM_CALL(core, bytes, w2c_qm_schedulerDraftsBytes(instance, scheduler, most));
  const int status = make_room(core, bytes);
  if (status != QM_OK) return status;
  RESULT(core, w2c_qm_schedulerDraftsCreate(instance, scheduler, most));
}

int qm_propose(qm_core* core, qm_scheduler scheduler, uint32_t request, const uint32_t* tokens, uint32_t count) {
  REQUIRE(core, QM_SCHEDULER, scheduler);
  uint32_t cache = 0;
  QM_CALL(core, cache, w2c_qm_schedulerCache(instance, scheduler));
  const int status = put_tokens(core, cache, tokens, count);
  if (status != QM_OK) return status;
  RESULT(core, w2c_qm_requestPropose(instance, scheduler, request, count));
}

int qm_commit(qm_core* core, qm_scheduler scheduler, uint32_t step_id, double now_us, const uint32_t* tokens,
              const uint32_t* finish) {
  return qm_commit_drafts(core, scheduler, step_id, now_us, tokens, finish, NULL);
}

/* Word of the drafts' header that has the address of the counts of right ones. */
enum { DRAFTS_ACCEPTED = 3 };

int qm_commit_drafts(qm_core* core, qm_scheduler scheduler, uint32_t step_id, double now_us, const uint32_t* tokens,
                     const uint32_t* finish, const uint32_t* accepted) {
  REQUIRE(core, QM_SCHEDULER, scheduler);
  uint32_t plan = 0, results = 0, max_running = 0, drafts = 0;
  QM_CALL(core, drafts, w2c_qm_schedulerDrafts(instance, scheduler));
  if (drafts == 0 && accepted != NULL) return QM_INVALID_ARGUMENT;
  QM_CALL(core, plan, w2c_qm_schedulerPlan(instance, scheduler));
  QM_CALL(core, results, w2c_qm_schedulerResults(instance, scheduler));
  QM_CALL(core, max_running, w2c_qm_schedulerMaxRunning(instance, scheduler));
  const uint32_t samples = word(core, plan + 4 * 3);
  if (samples > 0 && tokens == NULL) return QM_INVALID_ARGUMENT;
  if (samples > 0) memcpy(at(core, results), tokens, samples * sizeof *tokens);
  uint32_t* const flags = (uint32_t*)at(core, results + 4 * max_running);
  for (uint32_t i = 0; i < samples; i++) flags[i] = finish != NULL && finish[i] != 0;
  if (drafts != 0) {
    uint32_t* const right = (uint32_t*)at(core, word(core, drafts + 4 * DRAFTS_ACCEPTED));
    for (uint32_t i = 0; i < samples; i++) right[i] = accepted == NULL ? 0 : accepted[i];
  }
  RESULT(core, w2c_qm_schedulerCommit(instance, scheduler, step_id, now_us));
}

int qm_abandon(qm_core* core, qm_scheduler scheduler, uint32_t step_id) {
  REQUIRE(core, QM_SCHEDULER, scheduler);
  RESULT(core, w2c_qm_schedulerAbandon(instance, scheduler, step_id));
}

int qm_outcomes(qm_core* core, qm_scheduler scheduler, const uint32_t** records) {
  REQUIRE(core, QM_SCHEDULER, scheduler);
  uint32_t plan = 0;
  if (records == NULL) return QM_INVALID_ARGUMENT;
  QM_CALL(core, plan, w2c_qm_schedulerPlan(instance, scheduler));
  *records = section(core, plan, 22);
  return (int)word(core, plan + 4 * 6);
}

static double next_wake(qm_core* core, qm_scheduler scheduler) {
  double wake = INFINITY;
  QM_CALL(core, wake, w2c_qm_schedulerNextWakeUs(instance, scheduler));
  return wake;
}

int qm_set_priority(qm_core* core, qm_scheduler scheduler, uint32_t request, uint32_t priority) {
  REQUIRE(core, QM_SCHEDULER, scheduler);
  RESULT(core, w2c_qm_requestPrioritize(instance, scheduler, request, priority));
}

int qm_set_prediction(qm_core* core, qm_scheduler scheduler, uint32_t request, uint32_t tokens) {
  REQUIRE(core, QM_SCHEDULER, scheduler);
  RESULT(core, w2c_qm_requestPredict(instance, scheduler, request, tokens));
}

int qm_set_preemptive(qm_core* core, qm_scheduler scheduler, int preemptive) {
  REQUIRE(core, QM_SCHEDULER, scheduler);
  RESULT(core, w2c_qm_schedulerPreemptive(instance, scheduler, preemptive != 0));
}

int qm_scheduler_add_host_tier(qm_core* core, qm_scheduler scheduler, const qm_host_tier_options* o) {
  REQUIRE(core, QM_SCHEDULER, scheduler);
  if (o == NULL) return QM_INVALID_ARGUMENT;
  double bytes = 0;
  QM_CALL(core, bytes, w2c_qm_hostTierBytes(instance, scheduler, o->blocks, o->copies));
  const int status = make_room(core, bytes);
  if (status != QM_OK) return status;
  RESULT(core, w2c_qm_hostTierCreate(instance, scheduler, o->blocks, o->copies, o->by_cost ? 2 : 1, o->blocking != 0,
                                     o->no_reuse == 0, o->out_us, o->in_us, o->prefill_us, (uint32_t)o->swap_in));
}

int qm_transferred(qm_core* core, qm_scheduler scheduler, uint32_t transfer, uint32_t blocks, double us) {
  REQUIRE(core, QM_SCHEDULER, scheduler);
  RESULT(core, w2c_qm_schedulerTransferred(instance, scheduler, transfer, blocks, us));
}

double qm_next_wake_us(qm_core* core, qm_scheduler scheduler) {
  return is_structure(core, QM_SCHEDULER, scheduler) && !core->poisoned ? next_wake(core, scheduler) : INFINITY;
}

static double tenant_served(qm_core* core, qm_scheduler scheduler, uint32_t tenant) {
  double served = QM_POISONED;
  QM_CALL(core, served, w2c_qm_schedulerTenantCounter(instance, scheduler, tenant));
  return served;
}

double qm_tenant_served(qm_core* core, qm_scheduler scheduler, uint32_t tenant) {
  REQUIRE(core, QM_SCHEDULER, scheduler);
  return tenant_served(core, scheduler, tenant);
}

/* ---- page set --------------------------------------------------------------------------------------------------- */

int qm_page_set_create(qm_core* core, qm_order order, uint32_t slots, uint32_t pages, uint32_t history,
                       qm_page_set* set) {
  double bytes = 0;
  if (core == NULL || set == NULL) return QM_INVALID_ARGUMENT;
  QM_CALL(core, bytes, w2c_qm_pageSetBytes(instance, (uint32_t)order, slots, pages, history));
  int status = make_room(core, bytes);
  if (status == QM_OK)
    QM_CALL(core, status, (int)w2c_qm_pageSetCreate(instance, (uint32_t)order, slots, pages, history, 0));
  return status < 0 ? status : last_region(core, set);
}

int qm_page_set_request(qm_core* core, qm_page_set set, uint32_t page, uint32_t advice) {
  REQUIRE(core, QM_PAGE_SET, set);
  RESULT(core, w2c_qm_pageSetRequest(instance, set, page, advice));
}

int qm_page_set_slot(qm_core* core, qm_page_set set, uint32_t page) {
  REQUIRE(core, QM_PAGE_SET, set);
  RESULT(core, w2c_qm_pageSetSlot(instance, set, page));
}

/* ---- ordered index -------------------------------------------------------------------------------------------- */

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
  status = make_room(core, bytes);
  if (status == QM_OK)
    QM_CALL(core, status,
            (int)w2c_qm_orderedIndexCreate(instance, nodes, QM_DEFAULT_NODE_BYTES, VALUE_BYTES, bits, 0));
  return status < 0 ? status : last_region(core, index);
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

/* ---- keyed pool ------------------------------------------------------------------------------------------------ */

/* Words of the header, and what it and a block take before its key: docs/abi.md. */
enum { KEYED_STRIDE = 10, KEYED_INPUT = 11, KEYED_IDS = 13, KEYED_HEADER_BYTES = 64 };

int qm_keyed_pool_create(qm_core* core, uint32_t blocks, uint32_t key_bytes, uint32_t batch, qm_keyed_pool* pool) {
  if (core == NULL || pool == NULL) return QM_INVALID_ARGUMENT;
  double bytes = 0;
  QM_CALL(core, bytes, w2c_qm_keyedPoolBytes(instance, blocks, key_bytes, batch));
  int status = make_room(core, bytes);
  if (status == QM_OK) QM_CALL(core, status, (int)w2c_qm_keyedPoolCreate(instance, blocks, key_bytes, batch));
  return status < 0 ? status : last_region(core, pool);
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

/* ---- virtual memory ---------------------------------------------------------------------------------------------- */

/* Words of the header, and of a slot: docs/abi.md. */
enum {
  VM_SLOT_COUNT = 0,
  VM_SLOT_PAGES = 4,
  VM_SLOTS = 11,
  VM_TABLE = 12,
  VM_LENGTHS = 15,
  VM_SHORT = 16,
  VM_RING = 17,
  VM_RING_MASK = 18,
  VM_TAKEN = 19,
  VM_MADE = 20,
  VM_SLOT_BYTES = 16,
  VM_SLOT_MAPPED = 2
};

int qm_virtual_memory_create(qm_core* core, const qm_virtual_memory_options* options, qm_virtual_memory* memory) {
  if (core == NULL || options == NULL || memory == NULL) return QM_INVALID_ARGUMENT;
  const qm_virtual_memory_options o = *options;
  const uint32_t page_bytes = o.page_bytes ? o.page_bytes : 65536, tensors = o.tensors ? o.tensors : 1;
  double bytes = 0;
  QM_CALL(core, bytes,
          w2c_qm_virtualMemoryBytes(instance, o.slots, o.max_tokens, o.token_bytes, page_bytes, o.blocks));
  int status = make_room(core, bytes);
  if (status == QM_OK)
    QM_CALL(core, status,
            (int)w2c_qm_virtualMemoryCreate(instance, o.slots, o.max_tokens, o.token_bytes, page_bytes, o.blocks,
                                            tensors, o.eager_steps, o.eager_blocks, o.eager_reclaim != 0));
  return status < 0 ? status : last_region(core, memory);
}

int qm_virtual_memory_allocate(qm_core* core, qm_virtual_memory memory, uint32_t tokens, uint32_t from,
                               uint32_t prefix) {
  REQUIRE(core, QM_VIRTUAL_MEMORY, memory);
  RESULT(core, w2c_qm_virtualMemoryAllocate(instance, memory, tokens, from, prefix));
}

int qm_virtual_memory_free(qm_core* core, qm_virtual_memory memory, uint32_t slot, int unmap) {
  REQUIRE(core, QM_VIRTUAL_MEMORY, memory);
  RESULT(core, w2c_qm_virtualMemoryFree(instance, memory, slot, unmap != 0));
}

static uint32_t vm_word(const qm_core* core, qm_virtual_memory memory, uint32_t index) {
  return word(core, memory + 4 * index);
}

int qm_virtual_memory_step(qm_core* core, qm_virtual_memory memory, const uint32_t* lengths, const uint32_t** refused) {
  REQUIRE(core, QM_VIRTUAL_MEMORY, memory);
  if (lengths == NULL || refused == NULL) return QM_INVALID_ARGUMENT;
  memcpy(at(core, vm_word(core, memory, VM_LENGTHS)), lengths, 4ull * vm_word(core, memory, VM_SLOT_COUNT));
  *refused = (const uint32_t*)at(core, vm_word(core, memory, VM_SHORT));
  RESULT(core, w2c_qm_virtualMemoryStep(instance, memory));
}

int qm_virtual_memory_background(qm_core* core, qm_virtual_memory memory) {
  REQUIRE(core, QM_VIRTUAL_MEMORY, memory);
  RESULT(core, w2c_qm_virtualMemoryBackground(instance, memory));
}

int qm_virtual_memory_share(qm_core* core, qm_virtual_memory memory, uint32_t from, uint32_t to, uint32_t tokens) {
  REQUIRE(core, QM_VIRTUAL_MEMORY, memory);
  RESULT(core, w2c_qm_virtualMemoryShare(instance, memory, from, to, tokens));
}

int qm_virtual_memory_trim(qm_core* core, qm_virtual_memory memory) {
  REQUIRE(core, QM_VIRTUAL_MEMORY, memory);
  RESULT(core, w2c_qm_virtualMemoryTrim(instance, memory));
}

int qm_virtual_memory_take(qm_core* core, qm_virtual_memory memory, qm_page_change* changes, uint32_t capacity) {
  REQUIRE(core, QM_VIRTUAL_MEMORY, memory);
  if (core->poisoned) return QM_POISONED;
  if (changes == NULL && capacity > 0) return QM_INVALID_ARGUMENT;
  const uint32_t ring = vm_word(core, memory, VM_RING), mask = vm_word(core, memory, VM_RING_MASK);
  uint32_t taken = vm_word(core, memory, VM_TAKEN);
  const uint32_t count = least(capacity, vm_word(core, memory, VM_MADE) - taken);
  for (uint32_t i = 0; i < count; i++, taken++)
    memcpy(changes + i, at(core, ring) + sizeof *changes * (taken & mask), sizeof *changes);
  memcpy(at(core, memory + 4 * VM_TAKEN), &taken, sizeof taken);
  return (int)count;
}

int qm_virtual_memory_pages(qm_core* core, qm_virtual_memory memory, uint32_t slot, const uint32_t** blocks) {
  REQUIRE(core, QM_VIRTUAL_MEMORY, memory);
  if (core->poisoned) return QM_POISONED;
  if (blocks == NULL || slot >= vm_word(core, memory, VM_SLOT_COUNT)) return QM_INVALID_ARGUMENT;
  const uint32_t row = 4 * slot * vm_word(core, memory, VM_SLOT_PAGES);
  *blocks = (const uint32_t*)at(core, vm_word(core, memory, VM_TABLE) + row);
  return (int)word(core, vm_word(core, memory, VM_SLOTS) + slot * VM_SLOT_BYTES + 4 * VM_SLOT_MAPPED);
}

int qm_virtual_memory_available(qm_core* core, qm_virtual_memory memory) {
  REQUIRE(core, QM_VIRTUAL_MEMORY, memory);
  RESULT(core, w2c_qm_virtualMemoryAvailable(instance, memory));
}
