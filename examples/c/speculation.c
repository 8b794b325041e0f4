/*
 * Speculation in C: the same request with and without drafts. The "engine" answers each token with its successor, but goes back
 * to 0 after 9; whoever drafts guesses successors only, so every tenth guess is wrong.
 *
 *   cc speculation.c $(pkg-config --cflags --libs quartermaster)
 */
#include <quartermaster.h>

#include <stdio.h>
#include <stdlib.h>

enum { PROMPT = 12, NEW_TOKENS = 64, VOCABULARY = 100, DRAFTS = 4 };

static int checked(int result, const char* what) {
  if (result >= 0) return result;
  fprintf(stderr, "%s: %s\n", what, qm_status_name(result));
  exit(1);
}

static uint32_t next_token(uint32_t token) { return token % 10 == 9 ? 0 : token + 1; }

/* Serves one request; returns the steps that it took. */
static uint32_t serve(qm_core* core, qm_scheduler scheduler, uint64_t id, int drafts) {
  uint32_t prompt[PROMPT];
  for (uint32_t i = 0; i < PROMPT; i++) prompt[i] = i;
  const qm_request request = {.id = id, .tokens = prompt, .token_count = PROMPT, .max_new_tokens = NEW_TOKENS};
  const uint32_t handle = (uint32_t)checked(qm_submit(core, scheduler, &request), "submit");
  uint32_t steps = 0;
  while (qm_request_state(core, scheduler, handle) != 0) {
    qm_plan plan;
    checked(qm_step(core, scheduler, steps, &plan), "step");
    /* One row: its known tokens, and behind them the drafts. A token is picked after each. */
    const uint32_t* fed = plan.tokens;
    const uint32_t guesses = plan.decode_rows == 0 ? 0 : plan.total_tokens - 1;
    const uint32_t known = plan.total_tokens - guesses;
    uint32_t right = 0;
    while (right < guesses && fed[known + right] == next_token(fed[known + right - 1])) right += 1;
    const uint32_t sampled = next_token(fed[known + right - 1]);
    checked(qm_commit_drafts(core, scheduler, plan.step_id, steps, &sampled, NULL, &right), "commit");
    steps += 1;
    if (!drafts || qm_request_state(core, scheduler, handle) == 0) continue;
    uint32_t guess[DRAFTS];
    for (uint32_t i = 0; i < DRAFTS; i++) guess[i] = (sampled + 1 + i) % VOCABULARY;
    checked(qm_propose(core, scheduler, handle, guess, DRAFTS), "propose");
  }
  return steps;
}

int main(void) {
  qm_core* core;
  qm_cache cache;
  qm_scheduler scheduler;
  checked(qm_core_create(7, 0, &core), "core");
  checked(qm_cache_create(core, &(qm_cache_options){.blocks = 32, .block_size = 8}, &cache), "cache");
  checked(qm_scheduler_create(core, cache, &(qm_scheduler_options){.vocab_size = VOCABULARY, .max_requests = 8}, &scheduler),
          "scheduler");
  checked(qm_scheduler_set_drafts(core, scheduler, DRAFTS), "drafts");
  const uint32_t plain = serve(core, scheduler, 1, 0), drafted = serve(core, scheduler, 2, 1);
  checked(qm_core_validate(core), "validate");
  printf("%d tokens in %u steps, with drafts in %u\n", NEW_TOKENS, plain, drafted);
  qm_core_free(core);
  return drafted < plain ? 0 : 1;
}
