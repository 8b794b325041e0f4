/*
 * A core of quartermaster.h: creation, snapshots, and its structures. The calls on a structure are in a file for each kind:
 * cache.c, cache_add_ons.c, content.c, scheduler.c, lanes.c, selection.c, page_set.c, index.c, keyed_pool.c, virtual_memory.c.
 * Memory and traps of the translated core are runtime.c's.
 */
#include "core_calls.h"
#include "quartermaster_lanes.h"

#include <math.h>
#include <stdlib.h>

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

qm_lane_arena qm_lane_arena_at(qm_core* core, uint32_t position) {
  return core == NULL ? 0 : none_if_refused(structure_at(core, QM_LANES, position));
}

qm_selection qm_selection_at(qm_core* core, uint32_t position) {
  return core == NULL ? 0 : none_if_refused(structure_at(core, QM_SELECTION, position));
}

qm_virtual_memory qm_virtual_memory_at(qm_core* core, uint32_t position) {
  return core == NULL ? 0 : none_if_refused(structure_at(core, QM_VIRTUAL_MEMORY, position));
}

/* Full search: the calls' fast path is in core_calls.h. */
int qm_find_structure(qm_core* core, uint32_t kind, uint32_t pointer) {
  if (core == NULL || pointer == 0) return QM_INVALID_ARGUMENT;
  if (core->poisoned) return QM_POISONED;
  for (uint32_t position = 0; position < MAX_REGIONS; position++) {
    const uint32_t found = none_if_refused(structure_at(core, kind, position));
    if (found == 0) return QM_INVALID_ARGUMENT;
    if (found == pointer) {
      core->known[kind] = pointer;
      return QM_OK;
    }
  }
  return QM_INVALID_ARGUMENT;
}

/* Grows the memory until a region of `bytes` fits. */
int qm_make_room(qm_core* core, double bytes) {
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

int qm_last_region(qm_core* core, uint32_t* pointer) {
  QM_CALL(core, *pointer, w2c_qm_coreRegionPointer(instance, w2c_qm_coreRegions(instance) - 1));
  return QM_OK;
}

/* Writes token ids to the cache's input region. */
int qm_put_tokens(qm_core* core, qm_cache cache, const uint32_t* tokens, uint32_t count) {
  uint32_t input = 0;
  if (count == 0) return QM_OK;
  if (tokens == NULL) return QM_INVALID_ARGUMENT;
  if (count > word(core, cache + QM_CACHE_MAX_SEQUENCE_TOKENS)) return QM_TOO_LONG;
  QM_CALL(core, input, w2c_qm_kvInput(instance, cache));
  memcpy(at(core, input), tokens, (size_t)count * sizeof *tokens);
  return QM_OK;
}

static int created(qm_core* core, uint64_t seed) {
  int status = QM_OK;
  QM_CALL(core, status, (int)w2c_qm_coreCreate(instance, seed));
  if (status == QM_OK) QM_CALL(core, status, (int)w2c_qm_coreAttach(instance, 1));
  if (status >= 0) status = qm_make_room(core, QM_SCRATCH_BYTES);
  if (status == QM_OK) QM_CALL(core, status, (int)w2c_qm_scratchCreate(instance, QM_SCRATCH_BYTES));
  return status == QM_OK ? qm_last_region(core, &core->scratch) : status;
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
