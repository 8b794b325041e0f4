/* Conformance calls about what a cache and a scheduler may have besides: quotas, marks, pins, groups, runs, drafts, a host tier, turns. */
#include "conformance.h"

#include <math.h>
#include <stdlib.h>

enum { MARK_WORDS = sizeof(qm_mark) / 4, MOST_MARKS = 64, GROUP_WORDS = sizeof(qm_group) / 4, MOST_GROUPS = 7, MOST_RUNS = 64, MOST_KEYS = 4096 };

/* Makes the cache of a call: blocks, block size, sequences, longest sequence. */
static int make_cache(const call* c) {
  const qm_cache_options options = {
      .blocks = u(c, 0), .block_size = u(c, 1), .max_sequences = u(c, 2), .max_sequence_tokens = u(c, 3)};
  return qm_cache_create(core, &options, &cache);
}

/* Gives the cache the groups of a call's list. */
static int set_groups(const call* c) {
  qm_group groups[MOST_GROUPS];
  const uint32_t count = c->list_lengths[0] / GROUP_WORDS;
  if (count > MOST_GROUPS) fail("too many groups");
  memcpy(groups, c->lists[0], count * sizeof *groups);
  return qm_cache_set_groups(core, cache, groups, count);
}

/* In the order in which the TypeScript API makes them, so that the bytes are the same. */
static int make_isolated(const call* c) {
  int status = make_cache(c);
  if (status == QM_OK && u(c, 8) > 0) status = qm_cache_reuse_parts(core, cache, u(c, 8));
  if (status == QM_OK && c->list_count > 0) status = set_groups(c);
  if (status == QM_OK && u(c, 5) > 0) status = qm_cache_set_marks(core, cache, u(c, 5));
  if (status == QM_OK && u(c, 6) > 0) status = qm_cache_set_pins(core, cache, u(c, 6), u(c, 7));
  if (status == QM_OK && u(c, 4) > 0) status = qm_cache_set_tenants(core, cache, u(c, 4));
  return status;
}

static int make_grouped(const call* c) {
  const int status = make_cache(c);
  return status == QM_OK ? set_groups(c) : status;
}

static int make_with_runs(const call* c) {
  int status = make_cache(c);
  if (status == QM_OK) status = qm_cache_set_runs(core, cache, u(c, 4));
  if (status == QM_OK && u(c, 5) > 0) status = qm_cache_set_tenants(core, cache, u(c, 5));
  return status;
}

static void answer_run_figures(void) {
  qm_run_figures figures;
  const int status = qm_cache_run_figures(core, cache, &figures);
  put(status);
  if (status == QM_OK) put_words((const uint32_t[]){figures.group, figures.reserved, figures.splits}, 3);
}

static void answer_tail(const call* c) {
  qm_run tail;
  const int status = qm_sequence_tail(core, cache, u(c, 0), &tail);
  put(status);
  if (status == QM_OK) put_words((const uint32_t[]){tail.start, tail.length}, 2);
}

static void answer_free_runs(const call* c) {
  qm_run runs[MOST_RUNS];
  if (u(c, 1) > MOST_RUNS) fail("too many runs");
  const int found = qm_cache_free_runs(core, cache, u(c, 0), runs, u(c, 1));
  put(found);
  for (int i = 0; i < found; i++) put_words((const uint32_t[]){runs[i].start, runs[i].length}, 2);
}

/* Free runs of a block each: two sequences take `blocks` in turn, the first one is closed. */
static void answer_comb(const call* c) {
  const uint32_t blocks = u(c, 0), limit = u(c, 1);
  const uint32_t first = (uint32_t)qm_sequence_open(core, cache, 0, NULL, 0, 1);
  const uint32_t second = (uint32_t)qm_sequence_open(core, cache, 0, NULL, 0, 1);
  for (uint32_t i = 1; i <= blocks; i++)
    if (qm_sequence_reserve(core, cache, first, i) < 0 || qm_sequence_reserve(core, cache, second, i) < 0)
      fail("no room for a comb");
  qm_sequence_close(core, cache, first);
  qm_run* runs = calloc(limit, sizeof *runs);
  const int found = qm_cache_free_runs(core, cache, 0, runs, limit);
  uint32_t starts = 0, lengths = 0;
  for (int i = 0; i < found; i++) starts += runs[i].start, lengths += runs[i].length;
  free(runs);
  put(found);
  put_words((const uint32_t[]){starts, lengths}, 2);
}

/* The marks in a list of a call; 0 for none. */
static int make_marks(const call* c, int list) {
  qm_mark marks[MOST_MARKS];
  const uint32_t count = c->list_lengths[list] / MARK_WORDS;
  if (count > MOST_MARKS) fail("too many marks");
  if (count == 0) return 0;
  memcpy(marks, c->lists[list], count * sizeof *marks);
  return qm_marks(core, cache, marks, count);
}

static int open_marked(const call* c) {
  const int marks = make_marks(c, 0);
  if (marks < 0) return marks;
  const int sequence =
      qm_sequence_open_marked(core, cache, u(c, 0), c->lists[1], c->list_lengths[1], u(c, 1), (uint32_t)marks);
  if (marks > 0) qm_marks_release(core, cache, (uint32_t)marks);
  return sequence;
}

static int match_marked(const call* c) {
  const int marks = make_marks(c, 0);
  if (marks < 0) return marks;
  const int found = qm_cache_match_marked(core, cache, u(c, 0), c->lists[1], c->list_lengths[1], (uint32_t)marks);
  if (marks > 0) qm_marks_release(core, cache, (uint32_t)marks);
  return found;
}

static void answer_account_figures(const call* c) {
  qm_account a;
  const int status = qm_tenant_account(core, cache, u(c, 0), &a);
  put(status);
  if (status != QM_OK) return;
  put_words((const uint32_t[]){a.floor, a.watermark, a.ceiling, a.used, a.evictable}, 5);
  const uint64_t wide[] = {a.evicted_own, a.evicted_by_others, a.refused};
  for (int i = 0; i < 3; i++) put((double)wide[i]);
}

static void answer_pin_figures(void) {
  qm_pin_figures figures;
  const int status = qm_cache_pin_figures(core, cache, &figures);
  put(status);
  if (status == QM_OK)
    put_words((const uint32_t[]){figures.hard_blocks, figures.soft_blocks, figures.pins, figures.gave_way}, 4);
}

/* A cache with the content keys of "named", then groups, then room for marks. */
static int make_connected(const call* c) {
  uint8_t bytes[2 * QM_KEY_BYTES];
  for (int i = 0; i < 2 * QM_KEY_BYTES; i++) bytes[i] = (uint8_t)i;
  int status = make_cache(c);
  if (status == QM_OK) status = qm_cache_set_content_keys(core, cache, 4, bytes, bytes + QM_KEY_BYTES);
  if (status == QM_OK && c->list_lengths[0] > 0) status = set_groups(c);
  if (status == QM_OK && u(c, 4) > 0) status = qm_cache_set_marks(core, cache, u(c, 4));
  return status;
}

static void answer_prompt_keys(const call* c) {
  static uint8_t keys[MOST_KEYS * QM_KEY_BYTES];
  const int marks = make_marks(c, 0);
  if (marks < 0) {
    put(marks);
    return;
  }
  const int found = qm_prompt_content_keys(core, cache, u(c, 0), c->lists[1], c->list_lengths[1], (uint32_t)marks, keys,
                                           MOST_KEYS);
  if (marks > 0) qm_marks_release(core, cache, (uint32_t)marks);
  uint32_t words[MOST_KEYS * QM_KEY_BYTES / 4];
  memcpy(words, keys, sizeof words);
  put_records(found, words, QM_KEY_BYTES / 4);
}

static void answer_group_figures(const call* c) {
  qm_group_figures f;
  const int status = qm_cache_group_figures(core, cache, u(c, 0), &f);
  put(status);
  if (status != QM_OK) return;
  put_words((const uint32_t[]){f.kind, f.window, f.block_size, f.held, f.cached}, 5);
  put((double)f.evictions);
}

static void answer_group_cached(const call* c) {
  uint32_t blocks[MOST_KEYS];
  put_records(qm_sequence_group_cached(core, cache, u(c, 0), u(c, 1), 0, blocks, MOST_KEYS), blocks, 1);
}

static int answer_connector(const call* c) {
  if (is(c, "connected")) put(make_connected(c));
  else if (is(c, "append-loaded"))
    put(qm_sequence_append_loaded(core, cache, u(c, 0), c->lists[0], c->list_lengths[0], u(c, 1)));
  else if (is(c, "prompt-keys")) answer_prompt_keys(c);
  else if (is(c, "slots")) put(qm_sequence_slots(core, cache, u(c, 0)));
  else if (is(c, "group-figures")) answer_group_figures(c);
  else if (is(c, "group-cached")) answer_group_cached(c);
  else if (is(c, "deadline")) {
    const double deadline = qm_cache_next_deadline_us(core, cache);
    put(isinf(deadline) ? -1 : deadline);
  } else return 0;
  return 1;
}

int answer_cache_add_ons(const call* c) {
  const uint32_t* words = NULL;
  if (answer_connector(c)) return 1;
  if (is(c, "isolated")) put(make_isolated(c));
  else if (is(c, "grouped")) put(make_grouped(c));
  else if (is(c, "runs")) put(make_with_runs(c));
  else if (is(c, "run-figures")) answer_run_figures();
  else if (is(c, "run-tail")) answer_tail(c);
  else if (is(c, "run-free")) answer_free_runs(c);
  else if (is(c, "comb")) answer_comb(c);
  else if (is(c, "quota")) put(qm_cache_set_quota(core, cache, u(c, 0), u(c, 1), u(c, 2), u(c, 3)));
  else if (is(c, "account")) put(qm_tenant_blocks(core, cache, u(c, 0)));
  else if (is(c, "account-figures")) answer_account_figures(c);
  else if (is(c, "available-to")) put(qm_tenant_available(core, cache, u(c, 0)));
  else if (is(c, "match-marked")) put(match_marked(c));
  else if (is(c, "pin-figures")) answer_pin_figures();
  else if (is(c, "open-as"))
    put(qm_sequence_open_as(core, cache, u(c, 0), c->lists[0], c->list_lengths[0], u(c, 1) != 0, u(c, 2)));
  else if (is(c, "open-marked")) put(open_marked(c));
  else if (is(c, "pin"))
    put(qm_sequence_pin(core, cache, u(c, 0), u(c, 1) != 0, u(c, 2), c->numbers[3] < 0 ? HUGE_VAL : c->numbers[3]));
  else if (is(c, "unpin")) put(qm_unpin(core, cache, u(c, 0)));
  else if (is(c, "group-table")) {
    const int found = qm_sequence_group_table(core, cache, u(c, 0), u(c, 1), &words);
    put_records(found, words, 1);
  } else return 0;
  return 1;
}

static int make_scheduler(const call* c) {
  const uint32_t* s = c->lists[0];
  const uint32_t* t = c->lists[1];
  const qm_scheduler_options options = {
      .vocab_size = s[0],       .max_requests = s[1],  .max_running = s[2],   .max_batch_tokens = s[3],
      .max_chunk_tokens = s[4], .watermark_blocks = s[5], .token_capacity = s[6], .policy = (qm_policy)s[7],
      .queue_timeout_us = s[8], .aging_tokens = s[9],  .tenants = s[10],      .input_weight = s[11],
      .output_weight = s[12]};
  int status = qm_scheduler_create(core, cache, &options, &scheduler);
  if (status == QM_OK && u(c, 0) > 0) status = qm_scheduler_set_drafts(core, scheduler, u(c, 0));
  if (status == QM_OK && c->list_lengths[1] > 0) {
    const qm_host_tier_options tier = {.blocks = t[0],   .copies = t[1], .by_cost = t[2] != 0, .blocking = t[3] != 0,
                                       .no_reuse = t[4] != 0, .out_us = t[5], .in_us = t[6],   .prefill_us = t[7],
                                       .swap_in = c->list_lengths[1] > 8 ? (int)t[8] : 0};
    status = qm_scheduler_add_host_tier(core, scheduler, &tier);
  }
  if (status == QM_OK && u(c, 1) != 0) status = qm_set_preemptive(core, scheduler, 1);
  return status;
}

static int submit_as(const call* c) {
  const uint32_t* n = c->lists[0];
  const int turns = c->list_lengths[0] > 9 && n[9] != 0;
  const int marks = make_marks(c, 1);
  if (marks < 0) return marks;
  const qm_request request = {.id = n[0],        .name_space = n[1],     .priority = n[2],       .arrival_us = n[3],
                              .max_new_tokens = n[4], .tenant = n[5],    .tokens = c->lists[2],
                              .token_count = c->list_lengths[2]};
  int handle = qm_submit(core, scheduler, &request), status = QM_OK;
  if (handle > 0 && marks > 0) status = qm_request_marks(core, scheduler, (uint32_t)handle, (uint32_t)marks);
  if (handle > 0 && status == QM_OK && turns) status = qm_request_turns(core, scheduler, (uint32_t)handle);
  if (handle > 0 && status == QM_OK && n[6] > 0)
    status = qm_request_pin(core, scheduler, (uint32_t)handle, n[6] == 2, n[7], n[8] == 0 ? HUGE_VAL : n[8]);
  if (marks > 0) qm_marks_release(core, cache, (uint32_t)marks);
  return status == QM_OK ? handle : status;
}

static int next_turn(const call* c) {
  const qm_turn turn = {.tokens = c->lists[0], .token_count = c->list_lengths[0], .max_new_tokens = u(c, 1),
                        .last = u(c, 2) != 0};
  return qm_next_turn(core, scheduler, u(c, 0), &turn);
}

static void answer_progress(const call* c) {
  const int computed = qm_request_computed(core, scheduler, u(c, 0));
  const int generated = qm_request_generated(core, scheduler, u(c, 0));
  put(computed < 0 ? computed : QM_OK);
  if (computed >= 0) put(computed), put(generated);
}

static void answer_scheduler_figures(void) {
  qm_scheduler_figures f;
  put(qm_scheduler_get_figures(core, scheduler, &f));
  put_words((const uint32_t[]){f.running, f.waiting, f.arriving, f.step_in_flight, f.token_pages, f.free_token_pages}, 6);
}

static void answer_draft_figures(void) {
  qm_draft_figures f;
  const int status = qm_scheduler_draft_figures(core, scheduler, &f);
  put(status);
  if (status == QM_OK) put((double)f.fed), put((double)f.right);
}

static void answer_tier_figures(void) {
  qm_host_tier_figures f;
  const int status = qm_scheduler_host_tier_figures(core, scheduler, &f);
  put(status);
  if (status != QM_OK) return;
  put_words((const uint32_t[]){f.blocks, f.free, f.in_flight, f.pending_blocks}, 4);
  const uint64_t since[] = {f.swap_outs, f.swap_ins, f.joins, f.sent_blocks, f.kept_blocks, f.loaded_blocks, f.failures, f.conflicts};
  for (int i = 0; i < 8; i++) put((double)since[i]);
  put(f.out_us), put(f.in_us), put(f.step_us);
}

static int answer_figures(const call* c) {
  if (is(c, "progress")) answer_progress(c);
  else if (is(c, "scheduler-figures")) answer_scheduler_figures();
  else if (is(c, "draft-figures")) answer_draft_figures();
  else if (is(c, "tier-figures")) answer_tier_figures();
  else return 0;
  return 1;
}

int answer_scheduler_add_ons(const call* c) {
  if (answer_figures(c)) return 1;
  if (is(c, "scheduler-as")) put(make_scheduler(c));
  else if (is(c, "submit-as")) put(submit_as(c));
  else if (is(c, "next-turn")) put(next_turn(c));
  else if (is(c, "propose")) put(qm_propose(core, scheduler, u(c, 0), c->lists[0], c->list_lengths[0]));
  else if (is(c, "commit-drafts"))
    put(qm_commit_drafts(core, scheduler, u(c, 0), c->numbers[1], c->lists[0], c->lists[1], c->lists[2]));
  else if (is(c, "outcomes")) {
    const uint32_t* words = NULL;
    const int count = qm_outcomes(core, scheduler, &words);
    put(count);
    /* Of the 8 words the code and the last one may be negative. */
    for (int i = 0; i < 8 * count; i++) put(i % 8 == 2 || i % 8 == 7 ? (int32_t)words[i] : (double)words[i]);
  } else if (is(c, "transferred")) put(qm_transferred(core, scheduler, u(c, 0), u(c, 1), c->numbers[2]));
  else if (is(c, "predict")) put(qm_set_prediction(core, scheduler, u(c, 0), u(c, 1)));
  else if (is(c, "reprioritize")) put(qm_set_priority(core, scheduler, u(c, 0), u(c, 1)));
  else return 0;
  return 1;
}
