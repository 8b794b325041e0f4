/*
 * Random calls of the headers, right and wrong: robustness SEED ROUNDS. Each answers a documented status, a refused one has left
 * the core's memory as it was, and after every thousand the core is sound. Compiled with the library's sources, so that what they
 * are allowed to touch can be checked (test/adapters/c-robustness.test.ts). Prints what was answered; exits with 1 otherwise.
 */
#include <quartermaster.h>
#include <quartermaster_lanes.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "core_calls.h"

#ifndef EVERY
#define EVERY 1000
#endif
enum { LONGEST = 64, BUFFER = 4096, MOST = 48, HANDLES = 10, CHECKED_EVERY = EVERY, LAST_STATUS = -QM_OUT_OF_SCOPES };

/* ---- arguments ---------------------------------------------------------------------------------------------------------- */

static uint64_t state;

static uint32_t next(void) {
  state ^= state << 13, state ^= state >> 7, state ^= state << 17;
  return (uint32_t)(state >> 32);
}

static uint32_t below(uint32_t bound) { return (uint32_t)(((uint64_t)next() * bound) >> 32); }
static int one_in(uint32_t chance) { return below(chance) == 0; }

/* Handles that calls have given, the last few of each kind: sequences of the caches, then the others. */
enum { REQUESTS = 3, LANES, PINS, TRANSFERS, KINDS };
static uint32_t handles[KINDS][HANDLES];
/* Which cache the call is about. */
static uint32_t chosen;

/* One of a kind; now and then another's, one that has ended, or what is none. */
static uint32_t handle_of(uint32_t kind) {
  if (!one_in(10)) return handles[kind][below(HANDLES)];
  const uint32_t wrong[] = {0, 1, UINT32_MAX, 1u << 20, next(), handles[below(KINDS)][below(HANDLES)]};
  return wrong[below(6)];
}

static uint32_t sequence(void) { return handle_of(chosen); }
static uint32_t request(void) { return handle_of(REQUESTS); }
static uint32_t lanes(void) { return handle_of(LANES); }

/* Keeps what a call has given. */
static int kept(uint32_t kind, int result) {
  if (result > 0) handles[kind][below(HANDLES)] = (uint32_t)result;
  return result;
}

/* A number for which most calls have a use; now and then one out of every range. */
static uint32_t number(void) {
  if (!one_in(12)) return below(one_in(3) ? 70 : 9);
  const uint32_t wrong[] = {UINT32_MAX, 1u << 31, INT32_MAX, 1u << 24, 1u << 27, next()};
  return wrong[below(6)];
}

/* So many of something that the caller holds: no call may read or write more. */
static uint32_t count(void) { return one_in(6) ? 0 : below(MOST); }
/* So many tokens: calls refuse what is longer than the longest sequence before they read it. */
static uint32_t length(void) { return one_in(15) ? number() + LONGEST + 1 : below(LONGEST / 2); }

static double real(void) {
  const double wrong[] = {NAN, INFINITY, -1, -INFINITY, 1e300, 0};
  return one_in(8) ? wrong[below(6)] : below(2000);
}

static uint32_t words[8][BUFFER];
static uint64_t wide[2][BUFFER];
static double reals[BUFFER];
static float floats[BUFFER];
static uint8_t bytes[2][BUFFER * 4];

static const uint32_t* list(void) {
  if (one_in(12)) return NULL;
  uint32_t* const filled = words[below(8)];
  const uint32_t bound = one_in(6) ? UINT32_MAX : 9;
  for (uint32_t i = 0; i < MOST; i++) filled[i] = below(bound);
  return filled;
}

static const uint64_t* wide_list(void) {
  if (one_in(12)) return NULL;
  uint64_t* const filled = wide[below(2)];
  for (uint32_t i = 0; i < MOST; i++) filled[i] = one_in(90) ? 0 : 1 + below(200);
  return filled;
}

/* A pointer that a call needs, or NULL. */
#define OR_NULL(pointer) (one_in(15) ? NULL : (pointer))

/* ---- the core and its structures --------------------------------------------------------------------------------------- */

static qm_core* core;
static qm_cache caches[3];
static qm_scheduler scheduler;
static qm_lane_arena arena;
static qm_selection selection;
static qm_page_set pages;
static qm_index index_;
static qm_keyed_pool pool;
static qm_virtual_memory memory;
static double now;
static uint32_t step;
static float* plane;

static qm_core* c(void) { return one_in(60) ? NULL : core; }

/* The structure that a call wants, or something else. */
static uint32_t of(uint32_t structure) {
  if (!one_in(30)) return structure;
  const uint32_t others[] = {0, 1, UINT32_MAX, caches[0], scheduler, arena, selection, pages, index_, pool, memory, next()};
  return others[below(12)];
}

static qm_cache cache(void) { return of(caches[chosen]); }

static void must(int status, const char* what) {
  if (status >= 0) return;
  printf("%s: %s\n", what, qm_status_name(status));
  exit(1);
}

/* A cache with tenants, marks, pins and runs, under a scheduler with drafts and a host tier; one with groups, content keys and events;
 * one by priority and time, whose sequences drop tokens. */
static void make(uint64_t seed) {
  const qm_cache_options shape = {.blocks = 40, .block_size = 4, .max_sequences = 12, .max_sequence_tokens = LONGEST};
  must(qm_core_create(seed, 64u << 20, &core), "core");
  for (int i = 0; i < 3; i++) must(qm_cache_create(core, &shape, caches + i), "cache");
  must(qm_cache_set_runs(core, caches[0], 8), "runs");
  must(qm_cache_set_marks(core, caches[0], 16), "marks");
  must(qm_cache_set_pins(core, caches[0], 4, 6), "pins");
  must(qm_cache_set_tenants(core, caches[0], 3), "tenants");
  must(qm_cache_set_content_keys(core, caches[1], 4, bytes[0], bytes[1]), "content keys");
  must(qm_cache_set_events(core, caches[1], 32, 0, 0), "events");
  must(qm_cache_set_groups(core, caches[1], (qm_group[]){{1, 8, 4}, {0, 0, 8}}, 2), "groups");
  must(qm_cache_set_order(core, caches[2], QM_BY_PRIORITY, 0, 1, 0), "order");
  const qm_scheduler_options options = {.vocab_size = 9, .max_requests = 12, .max_running = 5, .max_batch_tokens = 24,
                                        .token_capacity = 4096, .policy = QM_PRIORITY, .tenants = 3};
  must(qm_scheduler_create(core, caches[0], &options, &scheduler), "scheduler");
  must(qm_scheduler_set_drafts(core, scheduler, 4), "drafts");
  must(qm_scheduler_add_host_tier(core, scheduler, &(qm_host_tier_options){.blocks = 16, .copies = 6, .swap_in = 1}),
       "host tier");
  const qm_lane_options lanes = {.layers = 2, .kv_heads = 2, .capacity = 60, .planes = 15, .sequences = 6, .move_capacity = 3};
  must(qm_lane_arena_create(core, caches[2], &lanes, &arena), "lanes");
  must(qm_selection_create(core, 256, 512, &selection), "selection");
  must(qm_page_set_create(core, QM_MARK0, 5, 20, 8, &pages), "pages");
  must(qm_index_create(core, 400, &index_), "index");
  must(qm_keyed_pool_create(core, 20, 32, 12, &pool), "keyed pool");
  const qm_virtual_memory_options vm = {.slots = 4, .max_tokens = 64, .token_bytes = 512, .page_bytes = 4096, .blocks = 20,
                                        .eager_steps = 2, .eager_blocks = 2, .eager_reclaim = 1};
  must(qm_virtual_memory_create(core, &vm, &memory), "virtual memory");
  qm_selection_room room;
  must(qm_selection_view(core, selection, &room), "selection");
  plane = room.scores;
}

/* ---- what a refused call may have written ------------------------------------------------------------------------------- */

enum { MAX_RANGES = 80 };
static struct {
  uint32_t from, bytes;
} loose[MAX_RANGES];
static int loose_count;

static void loosen(uint32_t from, uint32_t size) {
  if (loose_count == MAX_RANGES) exit(2);
  loose[loose_count].from = from;
  loose[loose_count++].bytes = size;
}

/* Of a cache: where tokens and marks come in, the hash that keys go through and what ends its message. */
static int find_inputs_of(qm_cache of) {
  uint32_t input = 0, marks = 0, content = 0, size = 0;
  QM_CALL(core, input, w2c_qm_kvInput(instance, of));
  QM_CALL(core, marks, w2c_qm_kvMarksInput(instance, of));
  QM_CALL(core, content, w2c_qm_kvContent(instance, of));
  QM_CALL(core, size, w2c_qm_hasherBytes(instance));
  loosen(input, 4 * LONGEST);
  if (marks != 0) {
    /* Marks of a refused list have been entered and left again: what is in places that nobody uses. */
    const uint32_t header = word(core, of + 4 * 53), nodes = word(core, header + 16);
    loosen(marks, 256 * sizeof(qm_mark));
    loosen(nodes, word(core, header + 20) - nodes);
  }
  if (content == 0) return QM_OK;
  loosen(word(core, content + 84), size);
  loosen(content + 88, 8);
  return QM_OK;
}

static int find_inputs(void) {
  uint32_t at = 0, drafts = 0;
  loose_count = 0;
  loosen(88, 8); /* where the memory ends: it may have grown for a structure that was then refused */
  loosen(core->scratch, QM_SCRATCH_BYTES);
  for (int i = 0; i < 3; i++) find_inputs_of(caches[i]);
  QM_CALL(core, at, w2c_qm_schedulerResults(instance, scheduler));
  loosen(at, 8 * 5);
  QM_CALL(core, drafts, w2c_qm_schedulerDrafts(instance, scheduler));
  loosen(word(core, drafts + 4 * 3), 4 * 5);
  loosen(arena + 4 * 18, 4); /* a plan that is gone with its sequence is forgotten when it is asked for */
  /* Lanes: what stays, and moves, to their end; and in each lane's head what was last planned. */
  for (uint32_t slab = 0; slab < 6; slab++)
    for (uint32_t lane = 0; lane < 4; lane++)
      loosen(word(core, arena + 4 * 9) + slab * word(core, arena + 4 * 8) + 64 + 32 * lane + 12, 4);
  loosen(word(core, arena + 4 * 12), word(core, arena + 4 * 16) - word(core, arena + 4 * 12) + 3 * 32);
  loosen(selection, pages - selection); /* nobody's between two calls; the page set was made next */
  qm_keyed_view view;
  must(qm_keyed_pool_view(core, pool, &view), "view");
  loosen((uint32_t)((uint8_t*)view.ids - core->memory.data), 4 * 20);
  loosen((uint32_t)(view.input - core->memory.data), 12 * 32);
  loosen(word(core, memory + 4 * 15), 4 * 4);
  for (uint32_t slot = 0; slot < 4; slot++) loosen(word(core, memory + 4 * 11) + 16 * slot + 12, 4);
  return QM_OK;
}

/* A reservation under quotas may have taken soft pins and cached blocks, and is counted, when it is refused in the end. */
static int excused(int result) {
  uint32_t tenants = 0;
  if (result != QM_QUOTA_EXCEEDED && result != QM_OUT_OF_BLOCKS) return 0;
  QM_CALL(core, tenants, w2c_qm_kvTenants(instance, caches[chosen]));
  return tenants != 0;
}

static uint8_t* shadow;
static uint64_t shadow_bytes;

static void remember(void) {
  if (find_inputs() != QM_OK) exit(2);
  if (shadow_bytes != core->memory.size) shadow = realloc(shadow, shadow_bytes = core->memory.size);
  if (shadow == NULL) exit(2);
  memcpy(shadow, core->memory.data, shadow_bytes);
}

/* Place of the first byte that has changed; -1: none has. */
static int64_t changed(void) {
  for (int i = 0; i < loose_count; i++) memcpy(shadow + loose[i].from, core->memory.data + loose[i].from, loose[i].bytes);
  if (memcmp(shadow, core->memory.data, shadow_bytes) == 0) return -1;
  for (uint64_t i = 0; i < shadow_bytes; i++)
    if (shadow[i] != core->memory.data[i]) return (int64_t)i;
  return -1;
}

/* ---- calls ------------------------------------------------------------------------------------------------------------------ */

static qm_lane_keep keep;
static qm_scores scores;
static qm_head_rows rows;

/* Of lanes: most of them short. */
static const uint32_t* lengths(void) { return one_in(3) ? list() : words[5]; }

static const qm_lane_keep* any_keep(void) {
  uint32_t *const counts = words[0], *const victims = words[1];
  for (int lane = 0; lane < 4; lane++) {
    counts[lane] = one_in(3) ? QM_NONE : below(one_in(20) ? UINT32_MAX : 7);
    victims[lane] = one_in(4) ? below(9) : QM_NONE;
  }
  for (uint32_t i = 0; i < BUFFER; i++) words[2][i] = i % 7 + below(2);
  keep = (qm_lane_keep){.counts = OR_NULL(counts), .slots = OR_NULL(words[2]), .victims = one_in(2) ? victims : NULL,
                        .successors = one_in(4) ? victims + 4 : NULL, .private_from = one_in(3) ? below(9) : QM_NONE};
  return OR_NULL(&keep);
}

/* A sequence and its lanes get so many tokens, as an engine would give them; a sequence without lanes gets some first. */
static int grow(void) {
  const uint32_t some = below(9), own = handles[LANES][below(HANDLES)];
  qm_lane lane;
  if (qm_lane_view(core, arena, own, 0, 0, &lane) != QM_OK) {
    const int opened = qm_sequence_open_lossy(core, caches[2], 0, NULL, 0);
    return opened < 0 ? 0 : (kept(2, opened), kept(LANES, qm_lanes_open(core, arena, (uint32_t)opened, one_in(4))), 0);
  }
  /* The slab's word that says whose they are. */
  const uint32_t slab = word(core, arena + 4 * 9) + (own & 0xfffff) * word(core, arena + 4 * 8), whose = word(core, slab + 8);
  if (qm_sequence_reserve(core, caches[2], whose, some) < 0) return 0;
  qm_cache_settle_copies(core, caches[2]);
  if (qm_sequence_append(core, caches[2], whose, words[7], some) == QM_OK) qm_lanes_append(core, arena, own, some);
  return 0;
}

/* A fork of a sequence with lanes, and lanes for it. */
static int twins(void) {
  const uint32_t own = handles[LANES][below(HANDLES)];
  const uint32_t slab = word(core, arena + 4 * 9) + (own & 0xfffff) * word(core, arena + 4 * 8);
  if (qm_lanes_at(core, arena, own & 0xfffff) != (int)own) return 0;
  const int twin = kept(2, qm_sequence_fork(core, caches[2], word(core, slab + 8)));
  if (twin > 0) kept(LANES, qm_lanes_fork(core, arena, own, (uint32_t)twin));
  return 0;
}

/* A plan that is right, unless another is there or its sequence has had tokens of its own. */
static int drop(void) {
  const uint32_t own = handles[LANES][below(HANDLES)];
  uint32_t *const counts = words[0], *const slots = words[2], total = 0;
  for (uint32_t index = 0; index < 4; index++) {
    qm_lane lane;
    if (qm_lane_view(core, arena, own, index / 2, index % 2, &lane) != QM_OK) return 0;
    const uint32_t before = total;
    for (uint32_t slot = 0; slot < lane.length; slot++)
      if (slot != lane.hole && !one_in(3)) slots[total++] = slot;
    counts[index] = total == before ? QM_NONE : total - before;
  }
  keep = (qm_lane_keep){.counts = counts, .slots = slots, .private_from = QM_NONE};
  return qm_lanes_plan(core, arena, own, &keep);
}

static const qm_scores* any_scores(void) {
  for (uint32_t i = 0; i < BUFFER; i++) floats[i] = below(9), words[3][i] = below(9);
  scores = (qm_scores){.scores = one_in(3) ? NULL : floats, .stamps = one_in(3) ? words[3] : NULL,
                       .ties = one_in(3) ? words[4] : NULL, .positions = one_in(3) ? words[5] : NULL, .lengths = lengths(),
                       .lanes = number(), .stride = number(), .minimum = number(), .sinks = number(),
                       .recent_from = one_in(2) ? QM_NONE : number()};
  return OR_NULL(&scores);
}

static const qm_head_rows* any_rows(void) {
  rows = (qm_head_rows){.rows = OR_NULL(floats), .heads = number(), .stride = number(), .lengths = lengths(), .lanes = 1 + below(3),
                        .aggregate = (qm_aggregate)number()};
  return OR_NULL(&rows);
}

/* A plane that holds so much, if there is one; or what is none. */
static float* any_plane(uint32_t lanes, uint32_t stride) {
  return (uint64_t)lanes * stride > 256 || one_in(10) ? one_in(2) ? floats : NULL : plane;
}

static int accumulate(void) {
  const uint32_t stride = number();
  const qm_head_rows* const from = any_rows();
  return qm_select_accumulate(c(), of(selection), any_plane(rows.lanes, stride), stride, from, (float)real());
}

static int track(void) {
  const uint32_t stride = number();
  const qm_head_rows* const from = any_rows();
  uint32_t* const last = (uint32_t*)any_plane(rows.lanes, stride);
  uint32_t* const longest = (uint32_t*)any_plane(rows.lanes, stride);
  return qm_select_track(c(), of(selection), last, longest, stride, from, (float)(real() / 2000), number());
}

static int scale_above(void) {
  const uint32_t stride = number(), lanes = number();
  return qm_select_scale_above(c(), of(selection), any_plane(lanes, stride), stride, list(), lanes, (float)real(), (float)real());
}

static int pool_rows(void) {
  const uint32_t stride = number(), lanes = number();
  float* const target = any_plane(lanes, stride);
  return qm_select_pool(c(), of(selection), OR_NULL(floats), target, stride, list(), lanes, number(), one_in(2));
}

static int submit(void) {
  const qm_request request = {.id = below(40), .tokens = list(), .token_count = length() % (MOST + 40), .max_new_tokens = number(),
                              .name_space = number(), .priority = number(), .arrival_us = one_in(2) ? 0 : now + real(),
                              .deadline_us = one_in(4) ? real() : 0, .tenant = below(4), .max_chunk_tokens = number(),
                              .peak_slots = one_in(3) ? number() : 0, .last_chunk = below(4)};
  if (request.token_count > MOST && request.token_count <= LONGEST) return 0; /* more than the list has */
  return kept(REQUESTS, qm_submit(c(), of(scheduler), OR_NULL(&request)));
}

static int plan_step(void) {
  qm_plan plan = {0};
  if (!one_in(8)) now += below(40);
  const int status = qm_step(c(), of(scheduler), one_in(20) ? real() : now, OR_NULL(&plan));
  if (status == QM_OK) step = plan.step_id;
  for (uint32_t i = 0; status == QM_OK && i < plan.transfer_count; i++)
    if (plan.transfers[8 * i] != 0) kept(TRANSFERS, (int)plan.transfers[8 * i + 7]);
  return status;
}

/* Lists of marks are counted: a list is let go of as often as it has been made, no more. */
static struct {
  qm_cache of;
  uint32_t marks;
} held[MOST];
static uint32_t held_count;

static uint32_t some_marks(void) { return held_count == 0 || one_in(4) ? below(3) * number() : held[below(held_count)].marks; }

static int release_marks(void) {
  if (held_count == 0 || one_in(9)) return qm_marks_release(c(), cache(), number() | 1u << 30);
  const uint32_t which = below(held_count);
  const int status = qm_marks_release(core, held[which].of, held[which].marks);
  held[which] = held[--held_count];
  return status;
}

static int mark_list(void) {
  qm_mark marks[MOST];
  const uint32_t some = one_in(9) ? number() : below(4);
  for (int i = 0; i < MOST; i++)
    marks[i] = (qm_mark){.position = (uint32_t)i * 3, .kind = one_in(8) ? number() : 2 + below(2), .length = one_in(8)};
  if ((some > MOST && some <= 256) || held_count == MOST) return 0;
  const qm_cache in = cache();
  const int list = qm_marks(c(), in, OR_NULL(marks), some);
  if (list <= 0) return list;
  held[held_count].of = in;
  held[held_count++].marks = (uint32_t)list;
  return list;
}

/* Of every slot of virtual memory that has a sequence, and 0 of the others; or anything. */
static const uint32_t* slot_lengths(void) {
  if (one_in(4)) return list();
  for (uint32_t slot = 0; slot < 4; slot++)
    words[4][slot] = word(core, word(core, memory + 4 * 11) + 16 * slot) == 0 ? 0 : 1 + below(LONGEST);
  return words[4];
}

static int group_cached(void) {
  return qm_sequence_group_cached(c(), cache(), sequence(), number(), number(), OR_NULL(words[6]), count());
}

static const char* performed = "";

/* Calls by number. Each OP is one more. */
#define OP(...)                  \
  case __COUNTER__ - FIRST:      \
    performed = #__VA_ARGS__;    \
    return __VA_ARGS__
enum { FIRST = __COUNTER__ + 1 };

static int perform(uint32_t which) {
  const uint32_t* out = NULL;
  uint32_t structure = 0;
  switch (which) {
    OP(kept(chosen, qm_sequence_open(c(), cache(), below(3), list(), length() % MOST, one_in(5))));
    OP(kept(chosen, qm_sequence_open(c(), cache(), number(), list(), LONGEST + 1 + number() % 100, one_in(5))));
    OP(kept(chosen, qm_sequence_open_as(c(), cache(), below(3), list(), below(MOST), one_in(5), below(5))));
    OP(kept(chosen, qm_sequence_open_lossy(c(), cache(), below(3), list(), below(MOST))));
    OP(kept(chosen, qm_sequence_open_marked(c(), cache(), below(3), list(), below(MOST), below(5), some_marks())));
    OP(qm_cache_match(c(), cache(), number(), list(), below(MOST)));
    OP(qm_cache_match_marked(c(), cache(), number(), list(), below(MOST), some_marks()));
    OP(qm_sequence_reserve(c(), cache(), sequence(), number()));
    OP(qm_sequence_reserve(core, caches[chosen], sequence(), below(9)));
    OP(qm_sequence_append(c(), cache(), sequence(), list(), below(9)));
    OP(qm_sequence_append_loaded(c(), cache(), sequence(), list(), below(9), number()));
    OP(qm_sequence_truncate(c(), cache(), sequence(), number()));
    OP(kept(chosen, qm_sequence_fork(c(), cache(), sequence())));
    OP(qm_sequence_close(c(), cache(), sequence()));
    OP(qm_sequence_length(c(), cache(), sequence()));
    OP(qm_sequence_slots(c(), cache(), sequence()));
    OP(qm_sequence_table(c(), cache(), sequence(), OR_NULL(&out)));
    OP(qm_sequence_group_table(c(), cache(), sequence(), number(), OR_NULL(&out)));
    OP(group_cached());
    OP(qm_cache_group_figures(c(), cache(), number(), OR_NULL(&(qm_group_figures){0})));
    OP(qm_cache_copies(c(), cache(), OR_NULL(&out)));
    OP(qm_cache_settle_copies(c(), cache()));
    OP(qm_cache_revert_copies(c(), cache()));
    OP(qm_cache_available(c(), cache()));
    OP(qm_block_references(c(), cache(), number()));
    OP(qm_cache_forget(c(), cache()));
    OP(qm_cache_get_statistics(c(), cache(), OR_NULL(&(qm_cache_statistics){0})));
    OP(qm_cache_reuse_parts(c(), cache(), number()));
    OP(qm_cache_set_groups(c(), cache(), OR_NULL((const qm_group*)words[6]), number()));
    OP(qm_cache_set_runs(c(), cache(), number()));
    OP(qm_cache_run_figures(c(), cache(), OR_NULL(&(qm_run_figures){0})));
    OP(qm_cache_free_runs(c(), cache(), number(), OR_NULL((qm_run*)words[6]), count()));
    OP(qm_sequence_tail(c(), cache(), sequence(), OR_NULL(&(qm_run){0})));
    OP(qm_cache_set_tenants(c(), cache(), number()));
    OP(qm_cache_set_quota(c(), cache(), below(5), number(), number(), number()));
    OP(qm_tenant_blocks(c(), cache(), number()));
    OP(qm_tenant_account(c(), cache(), number(), OR_NULL(&(qm_account){0})));
    OP(qm_tenant_available(c(), cache(), number()));
    OP(qm_cache_set_pins(c(), cache(), number(), number()));
    OP(kept(PINS, qm_sequence_pin(c(), cache(), sequence(), one_in(2), number(), real())));
    OP(kept(PINS, qm_sequence_pin(core, caches[0], handle_of(0), one_in(2), below(101), one_in(2) ? HUGE_VAL : now + 99)));
    OP(qm_unpin(c(), cache(), handle_of(PINS)));
    OP(qm_cache_pin_figures(c(), cache(), OR_NULL(&(qm_pin_figures){0})));
    OP(qm_cache_set_marks(c(), cache(), number()));
    OP(mark_list());
    OP(release_marks());
    OP(qm_marks_read(c(), cache(), some_marks(), OR_NULL((const qm_mark**)&out)));
    OP(qm_cache_set_order(c(), cache(), (qm_order)number(), number(), real(), real()));
    OP(qm_cache_retain(c(), cache(), one_in(4) ? number() : 40));
    OP(qm_sequence_prioritize(c(), cache(), sequence(), number(), real(), real()));
    OP(qm_sequence_advise(c(), cache(), sequence(), number()));
    OP(qm_sequence_score(c(), cache(), sequence(), number(), OR_NULL(reals), count()));
    OP(qm_cache_advance(c(), cache(), real()));
    OP(qm_keyed_hash(c(), OR_NULL(bytes[0]), OR_NULL(bytes[1]), below(BUFFER), OR_NULL(bytes[0])));
    OP(qm_cache_set_content_keys(c(), cache(), number(), OR_NULL(bytes[0]), OR_NULL(bytes[1])));
    OP(qm_cache_set_scope(c(), cache(), number(), OR_NULL(bytes[0]), count()));
    OP(qm_sequence_content_keys(c(), cache(), sequence(), number(), count(), OR_NULL(bytes[0])));
    OP(qm_prompt_content_keys(c(), cache(), number(), list(), below(MOST), some_marks(), OR_NULL(bytes[0]), count()));
    OP(qm_prompt_content_keys(c(), cache(), below(3), list(), below(MOST), 0, OR_NULL(bytes[0]), count()));
    OP(qm_block_content_key(c(), cache(), number(), OR_NULL(bytes[0])));
    OP(qm_chunk_content_key(c(), cache(), list(), below(MOST), OR_NULL(bytes[1]), count(), OR_NULL(bytes[0])));
    OP(qm_cache_set_events(c(), cache(), number(), number(), number()));
    OP(qm_cache_read_events(c(), cache(), number(), OR_NULL((const qm_event**)&out)));
    OP(qm_cache_snapshot_events(c(), cache(), one_in(2), OR_NULL((const qm_event**)&out)));
    OP(qm_cache_lose_events(c(), cache()));
    OP((qm_cache_next_deadline_us(c(), cache()), qm_cache_event_batches(c(), cache()), qm_next_wake_us(c(), of(scheduler)), 0));
    OP(submit());
    OP(submit());
    OP(plan_step());
    OP(plan_step());
    OP(plan_step());
    OP(qm_commit(c(), of(scheduler), one_in(6) ? number() : step, now, OR_NULL(words[7]), one_in(2) ? NULL : words[6]));
    OP(qm_commit(core, scheduler, step, now, words[7], NULL));
    OP(qm_commit_drafts(c(), of(scheduler), step, one_in(9) ? real() : now, OR_NULL(words[7]), NULL, OR_NULL(words[6])));
    OP(qm_abandon(c(), of(scheduler), one_in(3) ? number() : step));
    OP(qm_current_plan(c(), of(scheduler), OR_NULL(&(qm_plan){0})));
    OP(qm_outcomes(c(), of(scheduler), OR_NULL(&out)));
    OP(qm_abort(c(), of(scheduler), request()));
    OP(qm_request_marks(c(), of(scheduler), request(), some_marks()));
    OP(qm_request_pin(c(), of(scheduler), request(), one_in(2), number(), real()));
    OP(qm_request_lanes(c(), of(scheduler), request(), number(), one_in(2) ? 0 : handle_of(0), one_in(2) ? 0 : number()));
    OP(qm_request_state(c(), of(scheduler), request()));
    OP(qm_request_computed(c(), of(scheduler), request()));
    OP(qm_request_generated(c(), of(scheduler), request()));
    OP(qm_request_turns(c(), of(scheduler), request()));
    OP(qm_next_turn(c(), of(scheduler), request(), OR_NULL(&((qm_turn){list(), below(MOST), number(), one_in(3)}))));
    OP(qm_propose(c(), of(scheduler), request(), list(), below(MOST)));
    OP(qm_set_priority(c(), of(scheduler), request(), number()));
    OP(qm_set_prediction(c(), of(scheduler), request(), number()));
    OP(qm_set_preemptive(c(), of(scheduler), one_in(2)));
    OP(qm_transferred(c(), of(scheduler), handle_of(TRANSFERS), number(), real()));
    OP(qm_scheduler_set_drafts(c(), of(scheduler), number()));
    OP(qm_scheduler_add_host_tier(c(), of(scheduler), OR_NULL(&((qm_host_tier_options){.blocks = number(), .copies = number()}))));
    OP(qm_scheduler_get_figures(c(), of(scheduler), OR_NULL(&(qm_scheduler_figures){0})));
    OP(qm_scheduler_draft_figures(c(), of(scheduler), OR_NULL(&(qm_draft_figures){0})));
    OP(qm_scheduler_host_tier_figures(c(), of(scheduler), OR_NULL(&(qm_host_tier_figures){0})));
    OP((int)fmax(-1, fmin(qm_tenant_served(c(), of(scheduler), number()), 1)));
    OP(kept(LANES, qm_lanes_open(c(), of(arena), handle_of(2), one_in(3))));
    OP(grow());
    OP(grow());
    OP(twins());
    OP(qm_lanes_at(c(), of(arena), number()));
    OP(qm_lanes_append(c(), of(arena), lanes(), number()));
    OP(qm_lanes_append(core, arena, lanes(), below(9)));
    OP(qm_lanes_reset(c(), of(arena), lanes(), handle_of(2)));
    OP(kept(LANES, qm_lanes_fork(c(), of(arena), lanes(), handle_of(2))));
    OP(qm_lanes_close(c(), of(arena), lanes()));
    OP(qm_lane_view(c(), of(arena), lanes(), below(3), below(3), OR_NULL(&(qm_lane){0})));
    OP(qm_lanes_plan(c(), of(arena), lanes(), any_keep()));
    OP(drop());
    OP(drop());
    OP(qm_lanes_get_planned(c(), of(arena), OR_NULL(&(qm_lanes_planned){0})));
    OP(qm_lanes_moves(c(), of(arena), OR_NULL((const qm_move**)&out)));
    OP(qm_lanes_commit(c(), of(arena)));
    OP(qm_lanes_rollback(c(), of(arena)));
    OP(qm_lane_arena_figures(c(), of(arena), OR_NULL(&(qm_lane_figures){0})));
    OP(qm_selection_view(c(), of(selection), OR_NULL(&(qm_selection_room){0})));
    OP(qm_select_topk(c(), of(selection), any_scores(), number(), OR_NULL(&out), OR_NULL(&out)));
    OP((any_scores(), scores.lanes = 1, qm_select_argmin(c(), of(selection), &scores)));
    OP(accumulate());
    OP(track());
    OP(scale_above());
    OP(pool_rows());
    OP(qm_apportion(c(), (qm_apportion_strategy)number(), OR_NULL(reals), count(), number(), list(), list(), real(),
                    OR_NULL(words[6])));
    OP(qm_page_set_request(c(), of(pages), number(), below(4)));
    OP(qm_page_set_run(c(), of(pages), list(), one_in(2) ? NULL : bytes[1], count()));
    OP(qm_page_set_slot(c(), of(pages), number()));
    OP(one_in(40) ? qm_page_set_clear(c(), of(pages), next()) : 0);
    OP(qm_page_set_get_figures(c(), of(pages), OR_NULL(&(qm_page_set_figures){0})));
    OP(qm_page_set_create(c(), (qm_order)number(), number(), number(), number(), NULL));
    OP(qm_index_put(c(), of(index_), number(), next()));
    OP(qm_index_get(c(), of(index_), number(), OR_NULL(wide[0])));
    OP(qm_index_delete(c(), of(index_), number()));
    OP(qm_index_range(c(), of(index_), number(), number(), count(), OR_NULL(wide[0]), OR_NULL(wide[1])));
    OP(qm_index_size(c(), of(index_)));
    OP(qm_index_compare_exchange(c(), of(index_), number(), number(), number()));
    OP(qm_index_fetch_add(c(), of(index_), number(), number(), OR_NULL(wide[0])));
    OP(qm_index_get_many(c(), of(index_), wide_list(), count(), OR_NULL(wide[1]), OR_NULL(bytes[0])));
    OP(qm_index_put_many(c(), of(index_), wide_list(), OR_NULL(wide[1]), count()));
    OP(qm_index_delete_many(c(), of(index_), wide_list(), count()));
    OP(one_in(40) ? qm_index_clear(c(), of(index_)) : 0);
    OP(qm_index_get_figures(c(), of(index_), OR_NULL(&(qm_index_figures){0})));
    OP(qm_index_create(c(), one_in(2) ? 0 : UINT32_MAX, OR_NULL(&structure)));
    OP(qm_keyed_pool_fits(c(), of(pool), below(3), number()));
    OP(qm_keyed_pool_allocate(c(), of(pool), below(3), number()));
    OP(qm_keyed_pool_release(c(), of(pool), number()));
    OP(qm_keyed_pool_enter_keys(c(), of(pool), number(), number() * 8, number()));
    OP(qm_keyed_pool_find_keys(c(), of(pool), number(), number() * 8, number(), one_in(2)));
    OP(qm_keyed_pool_drop_keys(c(), of(pool), number()));
    OP(qm_keyed_pool_set_aside(c(), of(pool), number(), one_in(2)));
    OP(qm_keyed_pool_view(c(), of(pool), OR_NULL(&(qm_keyed_view){0})));
    OP(qm_virtual_memory_allocate(core, memory, 1 + below(LONGEST), below(4), 0));
    OP(qm_virtual_memory_allocate(c(), of(memory), number(), number(), number()));
    OP(qm_virtual_memory_free(c(), of(memory), number(), one_in(2)));
    OP(qm_virtual_memory_step(c(), of(memory), slot_lengths(), OR_NULL(&out)));
    OP(qm_virtual_memory_background(c(), of(memory)));
    OP(qm_virtual_memory_share(c(), of(memory), below(5), below(5), number()));
    OP(qm_virtual_memory_trim(c(), of(memory)));
    OP(qm_virtual_memory_take(c(), of(memory), OR_NULL((qm_page_change*)words[6]), count()));
    OP(qm_virtual_memory_pages(c(), of(memory), number(), OR_NULL(&out)));
    OP(qm_virtual_memory_available(c(), of(memory)));
    OP(qm_core_create(next(), 1 + number() % 65536, OR_NULL((qm_core**)&wide[0][BUFFER - 1])));
    OP(qm_core_restore(OR_NULL(bytes[0]), below(BUFFER), 0, (qm_core**)&wide[0][BUFFER - 1]));
    OP(qm_snapshot(c(), OR_NULL(bytes[0]), below(BUFFER)));
  }
  return 0;
}

enum { CALLS = __COUNTER__ - FIRST };

/* ---- rounds ------------------------------------------------------------------------------------------------------------------- */

static int wrong(uint64_t round, const char* what, int64_t detail) {
  printf("round %llu, %s: %s (%lld)\n", (unsigned long long)round, performed, what, (long long)detail);
  return 1;
}

int main(int argument_count, char** arguments) {
  if (argument_count != 3) return 2;
  const uint64_t seed = strtoull(arguments[1], NULL, 10), rounds = strtoull(arguments[2], NULL, 10);
  uint64_t answers[LAST_STATUS + 1] = {0};
  uint8_t right[CALLS] = {0};
  const char* names[CALLS] = {NULL};
  state = seed * 0x9e3779b97f4a7c15ull + 1;
  make(seed);
  for (uint64_t round = 0; round < rounds; round++) {
    for (int i = 0; i < MOST; i++) words[7][i] = one_in(60) ? next() : below(9), words[6][i] = one_in(20) ? next() : 0;
    remember();
    const uint32_t which = below(CALLS);
    chosen = below(3);
    const int result = perform(which);
    if (result >= 0) right[which] = 1;
    names[which] = performed;
    if (result < -LAST_STATUS) return wrong(round, "a status that there is not", result);
    if (result == QM_POISONED || result == QM_CORRUPT) return wrong(round, qm_status_name(result), result);
    answers[result < 0 ? -result : 0] += 1;
#ifdef CARELESS
    if (result < 0 && round > 500) core->memory.data[caches[0]] ^= 1; /* what the check below is there to find */
#endif
    const int64_t place = result < 0 && !excused(result) ? changed() : -1;
    if (place >= 0) return wrong(round, qm_status_name(result), place);
    if (round % CHECKED_EVERY == 0 && qm_core_validate(core) != QM_OK) return wrong(round, "the core is unsound", 0);
  }
  if (qm_core_validate(core) != QM_OK) return wrong(rounds, "the core is unsound", 0);
  for (int status = 0; status <= LAST_STATUS; status++)
    if (answers[status] > 0) printf("%s %llu\n", qm_status_name(-status), (unsigned long long)answers[status]);
  for (uint32_t which = 0; which < CALLS; which++)
    if (!right[which] && names[which] != NULL) printf("never %s\n", names[which]);
  free(shadow);
  qm_core_free(core);
  return 0;
}
