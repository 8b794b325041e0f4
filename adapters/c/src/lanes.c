/* Lanes of quartermaster_lanes.h: sequences that drop tokens, and requests for them. */
#include "quartermaster_lanes.h"

#include "core_calls.h"

/* Words of the arena's header, of a slab and of a lane's head in it: docs/abi.md. */
enum {
  ARENA_CACHE = 0,
  ARENA_LAYERS = 1,
  ARENA_KV_HEADS = 2,
  ARENA_LANES = 3,
  ARENA_STRIDE = 5,
  ARENA_PLANES = 6,
  ARENA_SLAB_COUNT = 7,
  ARENA_SLAB_BYTES = 8,
  ARENA_SLABS = 9,
  ARENA_OPEN = 11,
  ARENA_KEEP = 12,
  ARENA_COUNTS = 13,
  ARENA_VICTIMS = 14,
  ARENA_SUCCESSORS = 15,
  ARENA_RECORDS = 16,
  ARENA_EVICTED = 26,
  ARENA_MOVED = 28,
  ARENA_FOLDED = 30,
  SLAB_SEQUENCE = 2,
  SLAB_BY_SLOT = 6,
  SLAB_BYTES = 64,
  HEAD_LENGTH = 0,
  HEAD_HOLE = 1,
  HEAD_EVICTED = 2,
  HEAD_BYTES = 32,
  ALL_PLANES = 15,
  SLOT_MASK = 0xfffff
};

/* Words of a cache that are its planned compaction's. */
enum { CACHE_STAGED_SEQUENCE = 43, CACHE_STAGED_COUNT = 44, CACHE_STAGED_FRESH = 45 };

static uint32_t arena_word(const qm_core* core, qm_lane_arena arena, uint32_t index) {
  return word(core, arena + 4 * index);
}

int qm_lane_arena_create(qm_core* core, qm_cache cache, const qm_lane_options* options, qm_lane_arena* arena) {
  REQUIRE(core, QM_KV_CACHE, cache);
  if (options == NULL || arena == NULL || options->planes > ALL_PLANES) return QM_INVALID_ARGUMENT;
  const qm_lane_options o = *options;
  const uint32_t sequences = o.sequences ? o.sequences : 16, moves = o.move_capacity ? o.move_capacity : 4096;
  double bytes = 0;
  QM_CALL(core, bytes, w2c_qm_lanesBytes(instance, o.layers, o.kv_heads, o.capacity, o.planes, sequences, moves));
  int status = qm_make_room(core, bytes);
  if (status == QM_OK)
    QM_CALL(core, status,
            (int)w2c_qm_lanesCreate(instance, cache, o.layers, o.kv_heads, o.capacity, o.planes, sequences, moves));
  return status < 0 ? status : qm_last_region(core, arena);
}

int qm_sequence_open_lossy(qm_core* core, qm_cache cache, uint32_t name_space, const uint32_t* tokens, uint32_t count) {
  REQUIRE(core, QM_KV_CACHE, cache);
  const uint32_t lossy = 4;
  const int status = qm_put_tokens(core, cache, tokens, count);
  if (status != QM_OK) return status;
  RESULT(core, w2c_qm_kvOpen(instance, cache, name_space, count, lossy));
}

static uint32_t slab_of(const qm_core* core, qm_lane_arena arena, uint32_t lanes) {
  return arena_word(core, arena, ARENA_SLABS) + (lanes & SLOT_MASK) * arena_word(core, arena, ARENA_SLAB_BYTES);
}

int qm_lanes_at(qm_core* core, qm_lane_arena arena, uint32_t index) {
  REQUIRE(core, QM_LANES, arena);
  RESULT(core, w2c_qm_lanesAt(instance, arena, index));
}

/* QM_OK for lanes that are open. */
static int require_lanes(qm_core* core, qm_lane_arena arena, uint32_t lanes) {
  const int found = qm_lanes_at(core, arena, lanes & SLOT_MASK);
  if (found == QM_POISONED) return found;
  return found >= 0 && (uint32_t)found == lanes ? QM_OK : QM_INVALID_ARGUMENT;
}

/* What the core takes on trust: a sequence has one set of lanes, and they begin with what it has: nothing that was dropped, or as
 * much as the sequence that it was forked from (0: it was not). */
static int may_have_lanes(qm_core* core, qm_lane_arena arena, uint32_t sequence, uint32_t forked_from) {
  const uint32_t cache = arena_word(core, arena, ARENA_CACHE);
  const int length = qm_sequence_length(core, cache, sequence), slots = qm_sequence_slots(core, cache, sequence);
  if (length < 0) return length;
  for (uint32_t i = 0; i < arena_word(core, arena, ARENA_SLAB_COUNT); i++) {
    const int other = qm_lanes_at(core, arena, i);
    if (other >= 0 && word(core, slab_of(core, arena, i) + 4 * SLAB_SEQUENCE) == sequence) return QM_INVALID_ARGUMENT;
  }
  if (forked_from == 0) return slots == length ? QM_OK : QM_LOSSY_SEQUENCE;
  const int same = qm_sequence_length(core, cache, forked_from) == length &&
                   qm_sequence_slots(core, cache, forked_from) == slots;
  return same ? QM_OK : QM_INVALID_ARGUMENT;
}

int qm_lanes_open(qm_core* core, qm_lane_arena arena, uint32_t sequence, int by_slot) {
  REQUIRE(core, QM_LANES, arena);
  int lanes = 0;
  const uint32_t one = 1;
  if (by_slot && arena_word(core, arena, ARENA_FOLDED) != 0) return QM_INVALID_ARGUMENT;
  const int status = may_have_lanes(core, arena, sequence, 0);
  if (status != QM_OK) return status;
  QM_CALL(core, lanes, (int)w2c_qm_lanesOpen(instance, arena, sequence));
  if (lanes >= 0 && by_slot) memcpy(at(core, slab_of(core, arena, (uint32_t)lanes) + 4 * SLAB_BY_SLOT), &one, sizeof one);
  return lanes;
}

int qm_lanes_append(qm_core* core, qm_lane_arena arena, uint32_t lanes, uint32_t count) {
  REQUIRE(core, QM_LANES, arena);
  RESULT(core, w2c_qm_lanesAppend(instance, arena, lanes, count));
}

int qm_lanes_reset(qm_core* core, qm_lane_arena arena, uint32_t lanes, uint32_t sequence) {
  REQUIRE(core, QM_LANES, arena);
  int status = require_lanes(core, arena, lanes);
  if (status == QM_OK && word(core, slab_of(core, arena, lanes) + 4 * SLAB_SEQUENCE) != sequence)
    status = may_have_lanes(core, arena, sequence, 0);
  if (status != QM_OK) return status;
  RESULT(core, w2c_qm_lanesReset(instance, arena, lanes, sequence));
}

int qm_lanes_fork(qm_core* core, qm_lane_arena arena, uint32_t lanes, uint32_t sequence) {
  REQUIRE(core, QM_LANES, arena);
  int status = require_lanes(core, arena, lanes);
  if (status == QM_OK)
    status = may_have_lanes(core, arena, sequence, word(core, slab_of(core, arena, lanes) + 4 * SLAB_SEQUENCE));
  if (status != QM_OK) return status;
  RESULT(core, w2c_qm_lanesFork(instance, arena, lanes, sequence));
}

int qm_lanes_close(qm_core* core, qm_lane_arena arena, uint32_t lanes) {
  REQUIRE(core, QM_LANES, arena);
  RESULT(core, w2c_qm_lanesClose(instance, arena, lanes));
}

/* Sections of a slab begin on cache lines. */
static uint32_t line_up(uint32_t bytes) { return (bytes + 63) & ~63u; }

/* The next plane of a lane if the arena has it. */
static void* next_plane(const qm_core* core, uint32_t planes, uint32_t bit, uint32_t plane_bytes, uint32_t* address) {
  if ((planes & bit) == 0) return NULL;
  *address += plane_bytes;
  return at(core, *address);
}

int qm_lane_view(qm_core* core, qm_lane_arena arena, uint32_t lanes, uint32_t layer, uint32_t kv_head, qm_lane* lane) {
  const int status = require_lanes(core, arena, lanes);
  if (status != QM_OK) return status;
  if (lane == NULL) return QM_INVALID_ARGUMENT;
  if (layer >= arena_word(core, arena, ARENA_LAYERS) || kv_head >= arena_word(core, arena, ARENA_KV_HEADS))
    return QM_INVALID_ARGUMENT;
  const uint32_t slab = slab_of(core, arena, lanes), all = arena_word(core, arena, ARENA_LANES);
  const uint32_t index = layer * arena_word(core, arena, ARENA_KV_HEADS) + kv_head;
  const uint32_t stride = arena_word(core, arena, ARENA_STRIDE), planes = arena_word(core, arena, ARENA_PLANES);
  const uint32_t head = slab + SLAB_BYTES + index * HEAD_BYTES, plane_bytes = line_up(4 * all * stride);
  uint32_t address = slab + SLAB_BYTES + line_up(all * HEAD_BYTES) + 4 * index * stride;
  *lane = (qm_lane){.length = word(core, head + 4 * HEAD_LENGTH),
                    .hole = word(core, head + 4 * HEAD_HOLE),
                    .evicted = word(core, head + 4 * HEAD_EVICTED),
                    .stride = stride,
                    .positions = (const uint32_t*)at(core, address)};
  lane->score = next_plane(core, planes, QM_PLANE_SCORE, plane_bytes, &address);
  lane->last_important = next_plane(core, planes, QM_PLANE_LAST_IMPORTANT, plane_bytes, &address);
  lane->interval = next_plane(core, planes, QM_PLANE_INTERVAL, plane_bytes, &address);
  lane->aux = next_plane(core, planes, QM_PLANE_AUX, plane_bytes, &address);
  return QM_OK;
}

/* A list of a word for each lane, or none. */
static void put_lane_list(qm_core* core, uint32_t address, const uint32_t* list, uint32_t lanes) {
  if (list == NULL) memset(at(core, address), 0xff, 4ull * lanes);
  else memcpy(at(core, address), list, 4ull * lanes);
}

/* Writes what stays where the core reads it; the slots that it keeps are checked there. */
static int put_keep(qm_core* core, qm_lane_arena arena, const qm_lane_keep* keep) {
  const uint32_t lanes = arena_word(core, arena, ARENA_LANES), stride = arena_word(core, arena, ARENA_STRIDE);
  const uint32_t* slots = keep->slots;
  for (uint32_t lane = 0; keep->counts != NULL && lane < lanes; lane++)
    if (keep->counts[lane] != QM_NONE && (keep->counts[lane] > stride || slots == NULL)) return QM_INVALID_ARGUMENT;
  put_lane_list(core, arena_word(core, arena, ARENA_COUNTS), keep->counts, lanes);
  put_lane_list(core, arena_word(core, arena, ARENA_VICTIMS), keep->victims, lanes);
  put_lane_list(core, arena_word(core, arena, ARENA_SUCCESSORS), keep->successors, lanes);
  for (uint32_t lane = 0; keep->counts != NULL && lane < lanes; lane++) {
    const uint32_t count = keep->counts[lane];
    if (count == QM_NONE) continue;
    memcpy(at(core, arena_word(core, arena, ARENA_KEEP) + 4 * lane * stride), slots, 4ull * count);
    slots += count;
  }
  return QM_OK;
}

static int is_planned(const qm_core* core, qm_lane_arena arena) {
  return word(core, arena_word(core, arena, ARENA_CACHE) + 4 * CACHE_STAGED_SEQUENCE) != 0;
}

int qm_lanes_plan(qm_core* core, qm_lane_arena arena, uint32_t lanes, const qm_lane_keep* keep) {
  REQUIRE(core, QM_LANES, arena);
  if (keep == NULL || arena_word(core, arena, ARENA_FOLDED) != 0) return QM_INVALID_ARGUMENT;
  int status = require_lanes(core, arena, lanes);
  /* The plan that is there still reads its inputs. */
  if (status != QM_POISONED && is_planned(core, arena)) return QM_COMPACTION_PENDING;
  if (status == QM_OK) status = put_keep(core, arena, keep);
  if (status != QM_OK) return status;
  RESULT(core, w2c_qm_lanesPlan(instance, arena, lanes, keep->private_from));
}

int qm_lanes_get_planned(qm_core* core, qm_lane_arena arena, qm_lanes_planned* planned) {
  REQUIRE(core, QM_LANES, arena);
  if (planned == NULL) return QM_INVALID_ARGUMENT;
  if (!is_planned(core, arena)) return QM_NOT_FOUND;
  const uint32_t cache = arena_word(core, arena, ARENA_CACHE);
  uint32_t before = 0;
  QM_CALL(core, before, w2c_qm_kvTableCount(instance, cache, word(core, cache + 4 * CACHE_STAGED_SEQUENCE)));
  *planned = (qm_lanes_planned){.blocks_before = before,
                                .blocks_after = word(core, cache + 4 * CACHE_STAGED_COUNT),
                                .fresh = word(core, cache + 4 * CACHE_STAGED_FRESH)};
  return QM_OK;
}

int qm_lanes_moves(qm_core* core, qm_lane_arena arena, const qm_move** moves) {
  REQUIRE(core, QM_LANES, arena);
  if (moves == NULL) return QM_INVALID_ARGUMENT;
  *moves = (const qm_move*)at(core, arena_word(core, arena, ARENA_RECORDS));
  RESULT(core, w2c_qm_lanesMoves(instance, arena));
}

int qm_lanes_commit(qm_core* core, qm_lane_arena arena) {
  REQUIRE(core, QM_LANES, arena);
  RESULT(core, w2c_qm_lanesCommit(instance, arena));
}

int qm_lanes_rollback(qm_core* core, qm_lane_arena arena) {
  REQUIRE(core, QM_LANES, arena);
  RESULT(core, w2c_qm_lanesRollback(instance, arena));
}

int qm_lane_arena_figures(qm_core* core, qm_lane_arena arena, qm_lane_figures* figures) {
  REQUIRE(core, QM_LANES, arena);
  if (figures == NULL) return QM_INVALID_ARGUMENT;
  *figures = (qm_lane_figures){.open = arena_word(core, arena, ARENA_OPEN),
                               .evicted = wide_word(core, arena + 4 * ARENA_EVICTED),
                               .moved = wide_word(core, arena + 4 * ARENA_MOVED)};
  return QM_OK;
}

int qm_request_lanes(qm_core* core, qm_scheduler scheduler, uint32_t request, uint32_t flags, uint32_t sequence,
                     uint32_t prefill_blocks) {
  REQUIRE(core, QM_SCHEDULER, scheduler);
  RESULT(core, w2c_qm_requestLanes(instance, scheduler, request, flags, sequence, prefill_blocks));
}
