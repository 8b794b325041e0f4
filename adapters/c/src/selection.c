/* Selection of quartermaster_lanes.h: what eviction policies share. */
#include "quartermaster_lanes.h"

#include <math.h>

#include "core_calls.h"

/* Words of the header: docs/abi.md. */
enum {
  CAPACITY = 0,
  FLOATS = 1,
  BITMAP = 5,
  SLOTS = 6,
  COUNTS = 7,
  LENGTHS = 8,
  SCORES = 9,
  TIES = 10,
  POSITIONS = 11,
  ROWS = 12,
  NANS = 13,
  MAX_STRIDE = 1 << 26,
  MAX_GROUP = 1 << 16
};

static uint32_t room_word(const qm_core* core, qm_selection selection, uint32_t index) {
  return word(core, selection + 4 * index);
}

int qm_selection_create(qm_core* core, uint32_t capacity, uint32_t floats, qm_selection* selection) {
  double bytes = 0;
  if (core == NULL || selection == NULL || capacity == 0 || capacity > MAX_STRIDE) return QM_INVALID_ARGUMENT;
  const uint32_t whole = (capacity + 31) & ~31u;
  QM_CALL(core, bytes, w2c_qm_selectionBytes(instance, whole, floats));
  int status = qm_make_room(core, bytes);
  if (status == QM_OK) QM_CALL(core, status, (int)w2c_qm_selectionCreate(instance, whole, floats));
  return status < 0 ? status : qm_last_region(core, selection);
}

int qm_selection_view(qm_core* core, qm_selection selection, qm_selection_room* room) {
  REQUIRE(core, QM_SELECTION, selection);
  if (room == NULL) return QM_INVALID_ARGUMENT;
  *room = (qm_selection_room){.capacity = room_word(core, selection, CAPACITY),
                              .floats = room_word(core, selection, FLOATS),
                              .scores = (float*)at(core, room_word(core, selection, SCORES)),
                              .rows = (float*)at(core, room_word(core, selection, ROWS)),
                              .bitmap = (const uint32_t*)at(core, room_word(core, selection, BITMAP)),
                              .nans = room_word(core, selection, NANS)};
  return QM_OK;
}

/* Address of `words` words that lie in the core; 0 for what does not. */
static uint32_t address_of(const qm_core* core, const void* array, uint64_t words) {
  const uintptr_t base = (uintptr_t)core->memory.data, from = (uintptr_t)array;
  if (from < base || from - base >= core->memory.size || 4 * words > core->memory.size - (from - base)) return 0;
  return (uint32_t)(from - base);
}

/* Address of an argument: its own when it lies in the core, else that of a copy in a section with room for so many words. */
static int place(qm_core* core, const void* array, uint64_t words, uint32_t section, uint32_t room, uint32_t* address) {
  *address = address_of(core, array, words);
  if (*address != 0) return QM_OK;
  if (array == NULL || words > room) return QM_INVALID_ARGUMENT;
  *address = section;
  memcpy(at(core, section), array, 4 * words);
  return QM_OK;
}

/* Address of a plane that is written to. */
static int place_plane(qm_core* core, const void* plane, uint32_t lanes, uint32_t stride, uint32_t* address) {
  if (stride == 0 || stride > MAX_STRIDE) return QM_INVALID_ARGUMENT;
  *address = address_of(core, plane, (uint64_t)lanes * stride);
  return *address == 0 ? QM_INVALID_ARGUMENT : QM_OK;
}

static int put_lengths(qm_core* core, qm_selection selection, const uint32_t* lengths, uint32_t lanes, uint32_t most,
                       uint32_t* address) {
  if (lengths == NULL || lanes == 0 || lanes > room_word(core, selection, CAPACITY) / 4) return QM_INVALID_ARGUMENT;
  for (uint32_t lane = 0; lane < lanes; lane++)
    if (lengths[lane] > most) return QM_INVALID_ARGUMENT;
  *address = room_word(core, selection, LENGTHS);
  memmove(at(core, *address), lengths, 4ull * lanes);
  return QM_OK;
}

typedef struct {
  uint32_t scores, kind, ties, positions, lengths;
} placed_scores;

static int place_scores(qm_core* core, qm_selection selection, const qm_scores* of, placed_scores* placed) {
  const uint32_t room = room_word(core, selection, CAPACITY);
  const uint64_t words = (uint64_t)of->lanes * of->stride;
  *placed = (placed_scores){.kind = of->stamps != NULL};
  if ((of->scores == NULL) == (of->stamps == NULL) || words > room) return QM_INVALID_ARGUMENT;
  const void* const scores = of->stamps != NULL ? (const void*)of->stamps : of->scores;
  int status = put_lengths(core, selection, of->lengths, of->lanes, of->stride, &placed->lengths);
  if (status == QM_OK)
    status = place(core, scores, words, room_word(core, selection, SCORES), room, &placed->scores);
  if (status == QM_OK && of->ties != NULL)
    status = place(core, of->ties, words, room_word(core, selection, TIES), room, &placed->ties);
  if (status == QM_OK && of->positions != NULL)
    status = place(core, of->positions, words, room_word(core, selection, POSITIONS), room, &placed->positions);
  return status;
}

int qm_select_topk(qm_core* core, qm_selection selection, const qm_scores* of, uint32_t k, const uint32_t** slots,
                   const uint32_t** counts) {
  REQUIRE(core, QM_SELECTION, selection);
  placed_scores p;
  if (of == NULL || slots == NULL || counts == NULL) return QM_INVALID_ARGUMENT;
  const int status = place_scores(core, selection, of, &p);
  if (status != QM_OK) return status;
  *slots = (const uint32_t*)at(core, room_word(core, selection, SLOTS));
  *counts = (const uint32_t*)at(core, room_word(core, selection, COUNTS));
  RESULT(core, w2c_qm_selectTopk(instance, selection, p.scores, p.kind, p.ties, p.positions, of->stride, p.lengths,
                                 of->lanes, k, of->minimum, of->sinks, of->recent_from));
}

int qm_select_argmin(qm_core* core, qm_selection selection, const qm_scores* of) {
  REQUIRE(core, QM_SELECTION, selection);
  placed_scores p;
  if (of == NULL || of->lanes != 1) return QM_INVALID_ARGUMENT;
  const int status = place_scores(core, selection, of, &p);
  if (status != QM_OK) return status;
  RESULT(core, w2c_qm_selectArgmin(instance, p.scores, p.kind, p.positions, of->lengths[0], of->sinks, of->recent_from));
}

typedef struct {
  uint32_t rows, lengths, group;
} placed_rows;

static int place_rows(qm_core* core, qm_selection selection, uint32_t plane_stride, const qm_head_rows* of,
                      placed_rows* placed) {
  if (of == NULL || of->lanes == 0 || of->stride == 0 || of->stride > MAX_STRIDE) return QM_INVALID_ARGUMENT;
  placed->group = of->heads / of->lanes;
  if (placed->group == 0 || placed->group > MAX_GROUP || of->heads % of->lanes != 0 || (uint32_t)of->aggregate > QM_MAX)
    return QM_INVALID_ARGUMENT;
  const int status =
      put_lengths(core, selection, of->lengths, of->lanes, least(of->stride, plane_stride), &placed->lengths);
  if (status != QM_OK) return status;
  return place(core, of->rows, (uint64_t)of->heads * of->stride, room_word(core, selection, ROWS),
               room_word(core, selection, FLOATS), &placed->rows);
}

int qm_select_accumulate(qm_core* core, qm_selection selection, float* plane, uint32_t plane_stride,
                         const qm_head_rows* rows, float limit) {
  REQUIRE(core, QM_SELECTION, selection);
  placed_rows p;
  uint32_t to = 0;
  if (!(limit > 0)) return QM_INVALID_ARGUMENT;
  int status = place_rows(core, selection, plane_stride, rows, &p);
  if (status == QM_OK) status = place_plane(core, plane, rows->lanes, plane_stride, &to);
  if (status != QM_OK) return status;
  RESULT(core, w2c_qm_selectAccumulate(instance, to, plane_stride, p.rows, rows->stride, p.group, p.lengths, rows->lanes,
                                       rows->aggregate, limit));
}

int qm_select_track(qm_core* core, qm_selection selection, uint32_t* last_important, uint32_t* interval,
                    uint32_t plane_stride, const qm_head_rows* rows, float threshold, uint32_t now) {
  REQUIRE(core, QM_SELECTION, selection);
  placed_rows p;
  uint32_t last = 0, longest = 0;
  if (!(threshold > 0 && threshold <= 1)) return QM_INVALID_ARGUMENT;
  int status = place_rows(core, selection, plane_stride, rows, &p);
  if (status == QM_OK) status = place_plane(core, last_important, rows->lanes, plane_stride, &last);
  if (status == QM_OK) status = place_plane(core, interval, rows->lanes, plane_stride, &longest);
  if (status != QM_OK) return status;
  RESULT(core, w2c_qm_selectTrack(instance, last, longest, plane_stride, p.rows, rows->stride, p.group, p.lengths,
                                  rows->lanes, rows->aggregate, threshold, now));
}

int qm_select_scale_above(qm_core* core, qm_selection selection, float* plane, uint32_t plane_stride,
                          const uint32_t* lengths, uint32_t lanes, float limit, float factor) {
  REQUIRE(core, QM_SELECTION, selection);
  uint32_t to = 0, list = 0;
  int status = put_lengths(core, selection, lengths, lanes, plane_stride, &list);
  if (status == QM_OK) status = place_plane(core, plane, lanes, plane_stride, &to);
  if (status != QM_OK) return status;
  RESULT(core, w2c_qm_selectScaleAbove(instance, to, plane_stride, list, lanes, limit, factor));
}

int qm_select_pool(qm_core* core, qm_selection selection, const float* source, float* target, uint32_t stride,
                   const uint32_t* lengths, uint32_t rows, uint32_t kernel, int maximum) {
  REQUIRE(core, QM_SELECTION, selection);
  uint32_t from = 0, to = 0, list = 0;
  int status = put_lengths(core, selection, lengths, rows, stride, &list);
  if (status == QM_OK) status = place_plane(core, target, rows, stride, &to);
  if (status == QM_OK)
    status = place(core, source, (uint64_t)rows * stride, room_word(core, selection, ROWS),
                   room_word(core, selection, FLOATS), &from);
  if (status != QM_OK) return status;
  RESULT(core, w2c_qm_selectPool(instance, from, stride, to, stride, list, rows, kernel, maximum != 0));
}

enum { MAX_ENTRIES = 1024, WORK_BYTES = 16 };

/* Bounds of the entries, or `without`; none of them is above what fits an i32. */
static int put_bounds(qm_core* core, uint32_t address, const uint32_t* bounds, uint32_t without, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) {
    const uint32_t bound = bounds == NULL ? without : bounds[i];
    if (bound > INT32_MAX) return QM_INVALID_ARGUMENT;
    memcpy(at(core, address + 4 * i), &bound, sizeof bound);
  }
  return QM_OK;
}

int qm_apportion(qm_core* core, qm_apportion_strategy strategy, const double* weights, uint32_t count, uint32_t total,
                 const uint32_t* minimum, const uint32_t* maximum, double beta, uint32_t* out) {
  if (core == NULL || weights == NULL || out == NULL || count == 0 || count > MAX_ENTRIES) return QM_INVALID_ARGUMENT;
  if (total > INT32_MAX || (uint32_t)strategy > QM_PYRAMID_STEPS || !(beta > 0 && isfinite(beta))) return QM_INVALID_ARGUMENT;
  uint64_t minima = 0;
  for (uint32_t i = 0; i < count; i++) {
    if (!(weights[i] >= 0 && isfinite(weights[i]))) return QM_INVALID_ARGUMENT;
    if (minimum != NULL && minimum[i] > (maximum == NULL ? INT32_MAX : maximum[i])) return QM_INVALID_ARGUMENT;
    minima += minimum == NULL ? 0 : minimum[i];
  }
  if (minima > INT32_MAX) return QM_INVALID_ARGUMENT;
  const uint32_t shares = core->scratch, work = shares + 8 * count, low = work + WORK_BYTES * count;
  const uint32_t high = low + 4 * count, to = high + 4 * count;
  int status = put_bounds(core, low, minimum, 0, count);
  if (status == QM_OK) status = put_bounds(core, high, maximum, INT32_MAX, count);
  if (status != QM_OK) return status;
  memcpy(at(core, shares), weights, 8ull * count);
  QM_CALL(core, status,
          (int)w2c_qm_selectApportion(instance, (uint32_t)strategy, shares, count, total, low, high, beta, to, work));
  if (status == QM_OK) memcpy(out, at(core, to), 4ull * count);
  return status;
}
