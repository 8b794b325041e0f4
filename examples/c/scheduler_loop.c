/*
 * A scheduler loop in C: eight requests that share a prompt, on a pool that is too small for all of them at once, and
 * two more that come when those are long done. The "engine" answers each token with its successor; a real one would run
 * its kernels over the plan's slots and tables.
 *
 *   cc scheduler_loop.c $(pkg-config --cflags --libs quartermaster)
 */
#include <quartermaster.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { REQUESTS = 10, LATE = 8, PROMPT = 40, NEW_TOKENS = 12, VOCABULARY = 1000, MAX_ROWS = 256 };

/* When the late ones come, in us. */
static const double LATER = 1e6;

static int checked(int result, const char* what) {
  if (result >= 0) return result;
  fprintf(stderr, "%s: %s\n", what, qm_status_name(result));
  exit(1);
}

/* What the engine would compute: here, one token up. */
static void run(const qm_plan* plan, uint32_t* sampled) {
  uint32_t samples = 0;
  for (uint32_t row = 0; row < plan->rows; row++) {
    if (plan->phases[row] == 0) continue; /* a prompt's chunk that is not the last: nothing to sample */
    sampled[samples++] = (plan->tokens[plan->token_start[row + 1] - 1] + 1) % VOCABULARY;
  }
}

int main(void) {
  qm_core* core;
  qm_cache cache;
  qm_scheduler scheduler;
  checked(qm_core_create(7, 0, &core), "core");
  checked(qm_cache_create(core, &(qm_cache_options){.blocks = 18, .block_size = 8}, &cache), "cache");
  checked(qm_scheduler_create(core, cache,
                              &(qm_scheduler_options){.vocab_size = VOCABULARY, .max_batch_tokens = 64,
                                                      .max_running = 8, .max_requests = 64},
                              &scheduler),
          "scheduler");

  uint32_t prompt[PROMPT];
  for (uint32_t request = 0; request < REQUESTS; request++) {
    for (uint32_t i = 0; i < PROMPT; i++) prompt[i] = i < PROMPT - 8 ? i : 100 * request + i;
    checked(qm_submit(core, scheduler,
                      &(qm_request){.id = request + 1, .tokens = prompt, .token_count = PROMPT,
                                    .max_new_tokens = NEW_TOKENS,
                                    .arrival_us = 100.0 * request + (request < LATE ? 0 : LATER)}),
            "submit");
  }

  uint32_t sampled[MAX_ROWS], finished = 0, cached = 0, preemptions = 0, steps = 0, sleeps = 0;
  double now = 0;
  while (finished < REQUESTS) {
    qm_plan plan;
    checked(qm_step(core, scheduler, now, &plan), "step");
    run(&plan, sampled);
    if (plan.rows > 0) now += 500;
    /* An empty plan is committed as well: it would be in flight for ever. */
    checked(qm_commit(core, scheduler, plan.step_id, now, sampled, NULL), "commit");

    const uint32_t* outcomes;
    const int count = checked(qm_outcomes(core, scheduler, &outcomes), "outcomes");
    for (int i = 0; i < count; i++) {
      const uint32_t* outcome = outcomes + 8 * i;
      if (outcome[1] != 1) continue;
      finished += 1;
      cached += outcome[4];
      preemptions += outcome[5];
    }
    if (plan.rows > 0) steps += 1;
    if (plan.rows > 0 || count > 0) continue;
    /* Nothing to run: a real loop would sleep until then, or until something is submitted. */
    const double wake = qm_next_wake_us(core, scheduler);
    if (isinf(wake)) break;
    if (wake > now) now = wake;
    sleeps += 1;
  }
  checked(qm_core_validate(core), "validate");
  printf("%u of %u requests finished in %u steps, idle %u times; %u prompt tokens came from the cache, %u preemptions\n",
         finished, (unsigned)REQUESTS, steps, sleeps, cached, preemptions);
  qm_core_free(core);
  return finished == REQUESTS && sleeps > 0 ? 0 : 1;
}
