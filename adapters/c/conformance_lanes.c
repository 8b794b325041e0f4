/* Conformance calls about sequences that drop tokens: their lanes, compactions, requests for them, and selection. */
#include "conformance.h"

#include <quartermaster_lanes.h>

static qm_lane_arena arena;
static qm_selection selection;

void find_lanes(void) {
  arena = qm_lane_arena_at(core, 0);
  selection = qm_selection_at(core, 0);
}

/* A list of a call; NULL for an empty one. */
static const uint32_t* list_of(const call* c, int list) { return c->list_lengths[list] > 0 ? c->lists[list] : NULL; }

static void answer_plan(const call* c) {
  const qm_lane_keep keep = {.counts = list_of(c, 0),
                             .slots = c->lists[1],
                             .victims = list_of(c, 2),
                             .successors = list_of(c, 3),
                             .private_from = u(c, 1)};
  qm_lanes_planned planned;
  const int status = qm_lanes_plan(core, arena, u(c, 0), &keep);
  put(status);
  if (status != QM_OK) return;
  if (qm_lanes_get_planned(core, arena, &planned) != QM_OK) fail("a plan has no figures");
  put_words((const uint32_t[]){planned.blocks_before, planned.blocks_after, planned.fresh}, 3);
}

static void put_floats(const float* values, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) put(values[i]);
}

static void answer_lane(const call* c) {
  qm_lane lane;
  const int status = qm_lane_view(core, arena, u(c, 0), u(c, 1), u(c, 2), &lane);
  put(status);
  if (status != QM_OK) return;
  if (is(c, "lane-score")) {
    for (uint32_t i = 0; i < c->list_lengths[0]; i++) lane.score[i] = (float)c->lists[0][i];
    return;
  }
  put_words((const uint32_t[]){lane.length, lane.hole, lane.evicted}, 3);
  put_words(lane.positions, lane.length);
  put_floats(lane.score, lane.length);
}

static void answer_lane_figures(void) {
  qm_lane_figures figures;
  put(qm_lane_arena_figures(core, arena, &figures));
  put(figures.open), put((double)figures.evicted), put((double)figures.moved);
}

static int submit_lossy(const call* c) {
  const uint32_t* n = c->lists[0];
  const qm_request request = {.id = n[0],         .name_space = n[1], .priority = n[2],   .arrival_us = n[3],
                              .max_new_tokens = n[4], .peak_slots = n[5], .last_chunk = n[6], .tokens = c->lists[1],
                              .token_count = c->list_lengths[1]};
  return qm_submit(core, scheduler, &request);
}

/* Sequences of the rows of the plan in flight: the words of the plan are the core's. */
static void answer_row_sequences(void) {
  qm_plan plan;
  const int status = qm_current_plan(core, scheduler, &plan);
  if (status != QM_OK) fail("there is no plan");
  put(plan.rows);
  put_words(plan.sequences, plan.rows);
}

int answer_lanes(const call* c) {
  if (is(c, "lane-arena")) {
    const qm_lane_options options = {.layers = u(c, 0), .kv_heads = u(c, 1),  .capacity = u(c, 2),
                                     .planes = u(c, 3), .sequences = u(c, 4), .move_capacity = u(c, 5)};
    put(qm_lane_arena_create(core, cache, &options, &arena));
  } else if (is(c, "open-lossy")) put(qm_sequence_open_lossy(core, cache, u(c, 0), c->lists[0], c->list_lengths[0]));
  else if (is(c, "lanes-open")) put(qm_lanes_open(core, arena, u(c, 0), u(c, 1) != 0));
  else if (is(c, "lanes-append")) put(qm_lanes_append(core, arena, u(c, 0), u(c, 1)));
  else if (is(c, "lanes-reset")) put(qm_lanes_reset(core, arena, u(c, 0), u(c, 1)));
  else if (is(c, "lanes-fork")) put(qm_lanes_fork(core, arena, u(c, 0), u(c, 1)));
  else if (is(c, "lanes-close")) put(qm_lanes_close(core, arena, u(c, 0)));
  else if (is(c, "lanes-plan")) answer_plan(c);
  else if (is(c, "lanes-moves")) {
    const qm_move* moves = NULL;
    const int count = qm_lanes_moves(core, arena, &moves);
    put_records(count, (const uint32_t*)moves, sizeof *moves / 4);
  } else if (is(c, "lanes-commit")) put(qm_lanes_commit(core, arena));
  else if (is(c, "lanes-rollback")) put(qm_lanes_rollback(core, arena));
  else if (is(c, "lane") || is(c, "lane-score")) answer_lane(c);
  else if (is(c, "lane-figures")) answer_lane_figures();
  else if (is(c, "submit-lossy")) put(submit_lossy(c));
  else if (is(c, "request-lanes")) put(qm_request_lanes(core, scheduler, u(c, 0), u(c, 1), u(c, 2), u(c, 3)));
  else if (is(c, "row-sequences")) answer_row_sequences();
  else return 0;
  return 1;
}

/* Fractions come as eighths. */
static const float* eighths(const call* c, int list) {
  static float values[MAX_LIST];
  for (uint32_t i = 0; i < c->list_lengths[list]; i++) values[i] = (float)c->lists[list][i] / 8;
  return values;
}

static qm_selection_room room_of(void) {
  qm_selection_room room = {0};
  if (qm_selection_view(core, selection, &room) != QM_OK) fail("there is no selection");
  return room;
}

/* What the lanes of a plane hold, lane behind lane. */
static void put_plane(const void* plane, int real, uint32_t stride, const call* c, int lengths) {
  for (uint32_t lane = 0; lane < c->list_lengths[lengths]; lane++) {
    const uint32_t length = c->lists[lengths][lane], from = lane * stride;
    if (real) put_floats((const float*)plane + from, length);
    else put_words((const uint32_t*)plane + from, length);
  }
}

static void answer_topk(const call* c) {
  const uint32_t lanes = c->list_lengths[0];
  const uint32_t *slots = NULL, *counts = NULL;
  qm_scores of = {.ties = list_of(c, 2), .positions = list_of(c, 3), .lengths = c->lists[0], .lanes = lanes,
                  .stride = u(c, 2), .minimum = u(c, 3), .sinks = u(c, 4), .recent_from = u(c, 5)};
  if (u(c, 0) == 0) of.scores = eighths(c, 1);
  else of.stamps = c->lists[1];
  const int found = qm_select_topk(core, selection, &of, u(c, 1), &slots, &counts);
  put(found);
  if (found < 0) return;
  put_words(slots, (uint32_t)found);
  put_words(counts, lanes);
  put(room_of().nans);
}

static void answer_argmin(const call* c) {
  qm_scores of = {.positions = list_of(c, 1), .lengths = &c->list_lengths[0], .lanes = 1, .stride = c->list_lengths[0],
                  .sinks = u(c, 1), .recent_from = u(c, 2)};
  if (u(c, 0) == 0) of.scores = eighths(c, 0);
  else of.stamps = c->lists[0];
  put(qm_select_argmin(core, selection, &of));
}

static void answer_statistics(const call* c) {
  const qm_selection_room room = room_of();
  const uint32_t stride = u(c, 0);
  const qm_head_rows rows = {.rows = eighths(c, 1), .stride = u(c, 1), .heads = u(c, 2), .lengths = c->lists[0],
                             .lanes = c->list_lengths[0], .aggregate = (qm_aggregate)u(c, 3)};
  if (is(c, "accumulate")) {
    const int wrong = qm_select_accumulate(core, selection, room.scores, stride, &rows, (float)c->numbers[4] / 8);
    put(wrong);
    if (wrong >= 0) put_plane(room.scores, 1, stride, c, 0);
    return;
  }
  uint32_t* const last = (uint32_t*)room.scores;
  uint32_t* const longest = last + room.capacity / 2;
  const int important =
      qm_select_track(core, selection, last, longest, stride, &rows, (float)c->numbers[4] / 8, u(c, 5));
  put(important);
  if (important >= 0) put_plane(last, 0, stride, c, 0), put_plane(longest, 0, stride, c, 0);
}

static void answer_scale_above(const call* c) {
  const qm_selection_room room = room_of();
  memcpy(room.scores, eighths(c, 1), c->list_lengths[1] * sizeof *room.scores);
  put(qm_select_scale_above(core, selection, room.scores, u(c, 0), c->lists[0], c->list_lengths[0],
                            (float)c->numbers[1] / 8, (float)c->numbers[2] / 8));
  put_plane(room.scores, 1, u(c, 0), c, 0);
}

static void answer_pool(const call* c) {
  const qm_selection_room room = room_of();
  const int status = qm_select_pool(core, selection, eighths(c, 1), room.scores, u(c, 0), c->lists[0],
                                    c->list_lengths[0], u(c, 1), u(c, 2) != 0);
  put(status);
  if (status == QM_OK) put_plane(room.scores, 1, u(c, 0), c, 0);
}

static void answer_apportion(const call* c) {
  static double weights[MAX_LIST];
  static uint32_t parts[MAX_LIST];
  const uint32_t count = c->list_lengths[0];
  for (uint32_t i = 0; i < count; i++) weights[i] = c->lists[0][i];
  /* Strategy 3 is told shares that are alike: the TypeScript API makes its weights from an exponent. */
  for (uint32_t i = 0; u(c, 0) == QM_FLOORS && i < count; i++) weights[i] = 1;
  const int status = qm_apportion(core, (qm_apportion_strategy)u(c, 0), weights, count, u(c, 1), c->lists[1],
                                  c->lists[2], c->numbers[2], parts);
  put(status);
  if (status == QM_OK) put_words(parts, count);
}

int answer_selection(const call* c) {
  if (is(c, "selection")) put(qm_selection_create(core, u(c, 0), u(c, 1), &selection));
  else if (is(c, "topk")) answer_topk(c);
  else if (is(c, "argmin")) answer_argmin(c);
  else if (is(c, "accumulate") || is(c, "track")) answer_statistics(c);
  else if (is(c, "scale-above")) answer_scale_above(c);
  else if (is(c, "pool")) answer_pool(c);
  else if (is(c, "apportion")) answer_apportion(c);
  else return 0;
  return 1;
}
