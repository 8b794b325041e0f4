/* Schedulers, requests and steps of quartermaster.h. */
#include "core_calls.h"

#include <math.h>

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
  int status = qm_make_room(core, bytes);
  if (status != QM_OK) return status;
  QM_CALL(core, status,
          (int)w2c_qm_schedulerRegionCreate(instance, cache, o.max_requests, o.max_running, o.max_batch_tokens,
                                            o.max_chunk_tokens, o.watermark_blocks, o.vocab_size, o.policy,
                                            o.token_capacity, o.queue_timeout_us, o.aging_tokens, o.tenants,
                                            o.input_weight, o.output_weight));
  return status < 0 ? status : qm_last_region(core, scheduler);
}

int qm_submit(qm_core* core, qm_scheduler scheduler, const qm_request* request) {
  REQUIRE(core, QM_SCHEDULER, scheduler);
  if (request == NULL) return QM_INVALID_ARGUMENT;
  uint32_t cache = 0;
  QM_CALL(core, cache, w2c_qm_schedulerCache(instance, scheduler));
  const int status = qm_put_tokens(core, cache, request->tokens, request->token_count);
  if (status != QM_OK) return status;
  RESULT(core, w2c_qm_requestSubmit(instance, scheduler, (uint32_t)request->id, (uint32_t)(request->id >> 32),
                                    request->token_count, request->max_new_tokens, request->name_space, request->tenant,
                                    request->priority, request->arrival_us, request->deadline_us, request->peak_slots,
                                    request->last_chunk, request->max_chunk_tokens));
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

int qm_abort(qm_core* core, qm_scheduler scheduler, uint32_t request) {
  REQUIRE(core, QM_SCHEDULER, scheduler);
  RESULT(core, w2c_qm_requestAbort(instance, scheduler, request));
}

int qm_request_state(qm_core* core, qm_scheduler scheduler, uint32_t request) {
  REQUIRE(core, QM_SCHEDULER, scheduler);
  RESULT(core, w2c_qm_requestState(instance, scheduler, request));
}

int qm_request_computed(qm_core* core, qm_scheduler scheduler, uint32_t request) {
  REQUIRE(core, QM_SCHEDULER, scheduler);
  int tokens = 0;
  QM_CALL(core, tokens, (int)w2c_qm_requestComputed(instance, scheduler, request));
  return tokens < 0 ? QM_UNKNOWN_REQUEST : tokens;
}

int qm_request_generated(qm_core* core, qm_scheduler scheduler, uint32_t request) {
  REQUIRE(core, QM_SCHEDULER, scheduler);
  int tokens = 0;
  QM_CALL(core, tokens, (int)w2c_qm_requestGenerated(instance, scheduler, request));
  return tokens < 0 ? QM_UNKNOWN_REQUEST : tokens;
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
  const int status = qm_put_tokens(core, cache, turn->tokens, turn->token_count);
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
  QM_CALL(core, step, (int)w2c_qm_schedulerStep(instance, scheduler, now_us));
  return step < 0 ? step : qm_current_plan(core, scheduler, plan);
}

int qm_current_plan(qm_core* core, qm_scheduler scheduler, qm_plan* plan) {
  REQUIRE(core, QM_SCHEDULER, scheduler);
  uint32_t address = 0;
  if (plan == NULL) return QM_INVALID_ARGUMENT;
  QM_CALL(core, address, w2c_qm_schedulerPlan(instance, scheduler));
  read_plan(core, address, plan);
  return QM_OK;
}

int qm_scheduler_set_drafts(qm_core* core, qm_scheduler scheduler, uint32_t most) {
  REQUIRE(core, QM_SCHEDULER, scheduler);
  double bytes = 0;
  QM_CALL(core, bytes, w2c_qm_schedulerDraftsBytes(instance, scheduler, most));
  const int status = qm_make_room(core, bytes);
  if (status != QM_OK) return status;
  RESULT(core, w2c_qm_schedulerDraftsCreate(instance, scheduler, most));
}

int qm_propose(qm_core* core, qm_scheduler scheduler, uint32_t request, const uint32_t* tokens, uint32_t count) {
  REQUIRE(core, QM_SCHEDULER, scheduler);
  uint32_t cache = 0;
  QM_CALL(core, cache, w2c_qm_schedulerCache(instance, scheduler));
  const int status = qm_put_tokens(core, cache, tokens, count);
  if (status != QM_OK) return status;
  RESULT(core, w2c_qm_requestPropose(instance, scheduler, request, count));
}

int qm_commit(qm_core* core, qm_scheduler scheduler, uint32_t step_id, double now_us, const uint32_t* tokens,
              const uint32_t* finish) {
  return qm_commit_drafts(core, scheduler, step_id, now_us, tokens, finish, NULL);
}

/* Words of the drafts' header: the most of a request, the address of the counts of right ones, figures. */
enum { DRAFTS_MOST = 0, DRAFTS_ACCEPTED = 3, DRAFTS_FED = 4, DRAFTS_RIGHT = 6 };

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
  const int status = qm_make_room(core, bytes);
  if (status != QM_OK) return status;
  RESULT(core, w2c_qm_hostTierCreate(instance, scheduler, o->blocks, o->copies, o->by_cost ? 2 : 1, o->blocking != 0,
                                     o->no_reuse == 0, o->out_us, o->in_us, o->prefill_us, (uint32_t)o->swap_in));
}

int qm_transferred(qm_core* core, qm_scheduler scheduler, uint32_t transfer, uint32_t blocks, double us) {
  REQUIRE(core, QM_SCHEDULER, scheduler);
  RESULT(core, w2c_qm_schedulerTransferred(instance, scheduler, transfer, blocks, us));
}

double qm_next_wake_us(qm_core* core, qm_scheduler scheduler) {
  return is_a(core, QM_SCHEDULER, scheduler) && !core->poisoned ? next_wake(core, scheduler) : INFINITY;
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

/* Words of a scheduler that docs/abi.md says: pages of its token store, and how many are free. */
enum { SCHEDULER_TOKEN_PAGES = 9, SCHEDULER_FREE_TOKEN_PAGES = 22 };

int qm_scheduler_get_figures(qm_core* core, qm_scheduler scheduler, qm_scheduler_figures* figures) {
  REQUIRE(core, QM_SCHEDULER, scheduler);
  qm_scheduler_figures found = {.token_pages = word(core, scheduler + 4 * SCHEDULER_TOKEN_PAGES),
                                .free_token_pages = word(core, scheduler + 4 * SCHEDULER_FREE_TOKEN_PAGES)};
  if (figures == NULL) return QM_INVALID_ARGUMENT;
  QM_CALL(core, found.running, w2c_qm_schedulerRunning(instance, scheduler));
  QM_CALL(core, found.waiting, w2c_qm_schedulerWaiting(instance, scheduler));
  QM_CALL(core, found.arriving, w2c_qm_schedulerArriving(instance, scheduler));
  QM_CALL(core, found.step_in_flight, w2c_qm_schedulerStepInFlight(instance, scheduler));
  *figures = found;
  return QM_OK;
}

int qm_scheduler_draft_figures(qm_core* core, qm_scheduler scheduler, qm_draft_figures* figures) {
  REQUIRE(core, QM_SCHEDULER, scheduler);
  uint32_t drafts = 0;
  if (figures == NULL) return QM_INVALID_ARGUMENT;
  QM_CALL(core, drafts, w2c_qm_schedulerDrafts(instance, scheduler));
  if (drafts == 0) return QM_NOT_FOUND;
  *figures = (qm_draft_figures){.most = word(core, drafts + 4 * DRAFTS_MOST),
                                .fed = wide_word(core, drafts + 4 * DRAFTS_FED),
                                .right = wide_word(core, drafts + 4 * DRAFTS_RIGHT)};
  return QM_OK;
}

/* Words of the tier's header, and of its free extents: docs/abi.md. */
enum {
  TIER_BLOCKS = 1,
  TIER_EXTENTS = 4,
  TIER_IN_FLIGHT = 11,
  TIER_PENDING_BLOCKS = 13,
  TIER_OUT_US = 18,
  TIER_IN_US = 20,
  TIER_SENT_BLOCKS = 24,
  TIER_KEPT_BLOCKS = 26,
  TIER_LOADED_BLOCKS = 28,
  TIER_FAILURES = 30,
  TIER_SWAP_OUTS = 32,
  TIER_SWAP_INS = 34,
  TIER_CONFLICTS = 36,
  TIER_JOINS = 42,
  TIER_STEP_US = 44,
  EXTENTS_FREE = 1
};

int qm_scheduler_host_tier_figures(qm_core* core, qm_scheduler scheduler, qm_host_tier_figures* figures) {
  REQUIRE(core, QM_SCHEDULER, scheduler);
  uint32_t tier = 0;
  if (figures == NULL) return QM_INVALID_ARGUMENT;
  QM_CALL(core, tier, w2c_qm_schedulerTier(instance, scheduler));
  if (tier == 0) return QM_NOT_FOUND;
  *figures = (qm_host_tier_figures){
      .blocks = word(core, tier + 4 * TIER_BLOCKS),
      .free = word(core, word(core, tier + 4 * TIER_EXTENTS) + 4 * EXTENTS_FREE),
      .in_flight = word(core, tier + 4 * TIER_IN_FLIGHT),
      .pending_blocks = word(core, tier + 4 * TIER_PENDING_BLOCKS),
      .swap_outs = wide_word(core, tier + 4 * TIER_SWAP_OUTS),
      .swap_ins = wide_word(core, tier + 4 * TIER_SWAP_INS),
      .joins = wide_word(core, tier + 4 * TIER_JOINS),
      .sent_blocks = wide_word(core, tier + 4 * TIER_SENT_BLOCKS),
      .kept_blocks = wide_word(core, tier + 4 * TIER_KEPT_BLOCKS),
      .loaded_blocks = wide_word(core, tier + 4 * TIER_LOADED_BLOCKS),
      .failures = wide_word(core, tier + 4 * TIER_FAILURES),
      .conflicts = wide_word(core, tier + 4 * TIER_CONFLICTS),
      .out_us = real_word(core, tier + 4 * TIER_OUT_US),
      .in_us = real_word(core, tier + 4 * TIER_IN_US),
      .step_us = real_word(core, tier + 4 * TIER_STEP_US),
  };
  return QM_OK;
}
