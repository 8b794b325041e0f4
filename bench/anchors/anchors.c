/*
 * The measured targets of the core in C: what bench/anchors/cases.ts does, over the core that wasm2c translated. Sizes and
 * prompts are the same. Prints one line of JSON. anchors [--quick] [--everything]
 */
#include <quartermaster.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BLOCK = 16, RESIDENT = 1000, OWN = 40, MAX_ROUNDS = 512 };
static const uint32_t MATCHED[] = {64, 512, 4096};
static const uint32_t CONTEXTS[] = {64, 128, 256, 512};

static int failed(const char* what, int status) {
  fprintf(stderr, "anchors: %s: %s\n", what, qm_status_name(status));
  exit(1);
}

static int must(int status, const char* what) { return status < 0 ? failed(what, status) : status; }

static void prompt(uint32_t* out, uint32_t seed, uint32_t tokens) {
  uint32_t state = seed * 2654435761u + 1;
  for (uint32_t i = 0; i < tokens; i++) {
    state = state * 1664525u + 1013904223u;
    out[i] = state % 32000;
  }
}

static double cpu_us(void) {
  struct timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static int by_value(const void* a, const void* b) {
  const double x = *(const double*)a, y = *(const double*)b;
  return (x > y) - (x < y);
}

static int printed;

static void figure(const char* name, double* times, int rounds, double scale, const char* unit) {
  qsort(times, (size_t)rounds, sizeof *times, by_value);
  printf("%s{\"case\":\"%s\",\"median\":%.6g,\"best\":%.6g,\"unit\":\"%s\"}", printed++ ? "," : "[", name,
         times[rounds / 2] * scale, times[0] * scale, unit);
}

/* Rounds that are not counted come first, with negative numbers. */
#define SAMPLE(times, rounds, prepare, ...)                                       \
  for (int round = -((rounds) + 2) / 3; round < (rounds); round++) {              \
    prepare;                                                                      \
    const double start = cpu_us();                                                \
    __VA_ARGS__;                                                                  \
    if (round >= 0) (times)[round] = cpu_us() - start;                            \
  }

static qm_core* new_core(void) {
  qm_core* core;
  must(qm_core_create(0, 0, &core), "core");
  return core;
}

/* Whether caches and schedulers have every add-on that goes together: not cache groups and runs of blocks. */
static int everything;

static void add_ons(qm_core* core, qm_cache cache, uint32_t blocks) {
  static const uint8_t domain_key[QM_KEY_BYTES] = {7}, fingerprint[QM_KEY_BYTES] = {9};
  must(qm_cache_set_order(core, cache, QM_S3_FIFO, blocks, 0, 0), "order");
  must(qm_cache_reuse_parts(core, cache, 8), "parts");
  must(qm_cache_set_tenants(core, cache, 4), "tenants");
  must(qm_cache_set_quota(core, cache, 1, 16, blocks, blocks), "quota");
  must(qm_cache_set_marks(core, cache, 1024), "marks");
  must(qm_cache_set_pins(core, cache, 64, 64), "pins");
  must(qm_cache_set_content_keys(core, cache, 64, domain_key, fingerprint), "content keys");
  must(qm_cache_set_events(core, cache, 4096, 0, 0), "events");
}

static qm_cache new_cache(qm_core* core, uint32_t blocks, uint32_t sequences, uint32_t longest) {
  qm_cache cache;
  const qm_cache_options options = {
      .blocks = blocks, .block_size = BLOCK, .max_sequences = sequences, .max_sequence_tokens = longest};
  must(qm_cache_create(core, &options, &cache), "cache");
  if (everything) add_ons(core, cache, blocks);
  return cache;
}

static qm_scheduler new_scheduler(qm_core* core, qm_cache cache, qm_scheduler_options options) {
  qm_scheduler scheduler;
  if (everything) options.tenants = 4;
  must(qm_scheduler_create(core, cache, &options, &scheduler), "scheduler");
  if (!everything) return scheduler;
  const qm_host_tier_options tier = {.blocks = 4096, .copies = options.max_requests};
  must(qm_scheduler_set_drafts(core, scheduler, 4), "drafts");
  must(qm_scheduler_add_host_tier(core, scheduler, &tier), "host tier");
  return scheduler;
}

static uint32_t add(qm_core* core, qm_cache cache, const uint32_t* tokens, uint32_t count) {
  const uint32_t sequence = (uint32_t)must(qm_sequence_open(core, cache, 0, tokens, count, 0), "open");
  must(qm_sequence_reserve(core, cache, sequence, count), "reserve");
  must(qm_sequence_append(core, cache, sequence, tokens, count), "append");
  return sequence;
}

static void match(int rounds) {
  static uint32_t tokens[4096 * BLOCK + 1];
  static double times[MAX_ROUNDS];
  qm_core* core = new_core();
  const qm_cache cache = new_cache(core, RESIDENT * 64 + 64 + 512 + 4096 + 64, RESIDENT + 8, 4097 * BLOCK);
  for (uint32_t i = 0; i < RESIDENT; i++) {
    prompt(tokens, i + 10000, 64 * BLOCK);
    add(core, cache, tokens, 64 * BLOCK);
  }
  for (int k = 0; k < 3; k++) {
    const uint32_t size = MATCHED[k], repeat = 8192 / size;
    char name[32];
    prompt(tokens, size, size * BLOCK + 1);
    add(core, cache, tokens, size * BLOCK);
    SAMPLE(times, rounds, , for (uint32_t i = 0; i < repeat; i++) {
      if (qm_cache_match(core, cache, 0, tokens, size * BLOCK + 1) != (int)(size * BLOCK)) failed("match", -1);
    })
    snprintf(name, sizeof name, "match %u blocks", size);
    figure(name, times, rounds, 1.0 / repeat, "us");
  }
  qm_core_free(core);
}

static void allocate_free(int rounds) {
  static double times[MAX_ROUNDS];
  qm_core* core = new_core();
  const qm_cache cache = new_cache(core, 65536, 64, 16384);
  SAMPLE(times, rounds, , for (int i = 0; i < 128; i++) {
    const uint32_t sequence = (uint32_t)must(qm_sequence_open(core, cache, 0, NULL, 0, 1), "open");
    must(qm_sequence_reserve(core, cache, sequence, 64 * BLOCK), "reserve");
    must(qm_sequence_close(core, cache, sequence), "close");
  })
  figure("allocate and free, a block", times, rounds, 1000.0 / (128 * 64), "ns");
  qm_core_free(core);
}

static uint32_t sampled[1024];

static uint32_t decode_step(qm_core* core, qm_scheduler scheduler, double* now) {
  qm_plan plan;
  must(qm_step(core, scheduler, *now, &plan), "step");
  *now += 1;
  must(qm_commit(core, scheduler, plan.step_id, *now, sampled, NULL), "commit");
  return plan.decode_rows;
}

static void decode(int rounds) {
  static double times[MAX_ROUNDS];
  static uint32_t tokens[1024];
  const uint32_t running = 1024, fresh = (uint32_t)rounds * 2 + 16, longest = 1024 + fresh;
  qm_core* core = new_core();
  const qm_cache cache = new_cache(core, running * ((longest + BLOCK - 1) / BLOCK), running, longest);
  const qm_scheduler_options options = {.vocab_size = 32000,
                                        .max_requests = running,
                                        .max_running = running,
                                        .max_batch_tokens = 1 << 16,
                                        .token_capacity = running * (longest + 256)};
  const qm_scheduler scheduler = new_scheduler(core, cache, options);
  for (uint32_t i = 0; i < running; i++) {
    prompt(tokens, i, 1024);
    const qm_request request = {.id = i + 1, .tokens = tokens, .token_count = 1024, .max_new_tokens = fresh};
    must(qm_submit(core, scheduler, &request), "submit");
  }
  for (uint32_t i = 0; i < running; i++) sampled[i] = 5;
  double now = 0;
  while (decode_step(core, scheduler, &now) < running) continue;
  SAMPLE(times, rounds, , decode_step(core, scheduler, &now))
  figure("decode step of 1,024", times, rounds, 1, "us");
  qm_core_free(core);
}

static void admit(int rounds) {
  static double times[MAX_ROUNDS];
  static uint32_t tokens[64 * BLOCK + 8];
  const uint32_t finish = 1;
  qm_core* core = new_core();
  const qm_cache cache = new_cache(core, 8192, 64, 2048);
  const qm_scheduler_options options = {.vocab_size = 32000, .max_requests = 64, .max_running = 64};
  const qm_scheduler scheduler = new_scheduler(core, cache, options);
  prompt(tokens, 3, 64 * BLOCK + 8);
  double now = 0;
  uint64_t id = 0;
  SAMPLE(times, rounds, , for (int i = 0; i < 50; i++) {
    qm_plan plan;
    const qm_request request = {
        .id = ++id, .tokens = tokens, .token_count = 64 * BLOCK + 8, .max_new_tokens = 4, .arrival_us = now};
    must(qm_submit(core, scheduler, &request), "submit");
    must(qm_step(core, scheduler, now, &plan), "step");
    now += 1;
    must(qm_commit(core, scheduler, plan.step_id, now, sampled, &finish), "commit");
  })
  figure("admit with 64 blocks cached", times, rounds, 1.0 / 50, "us");
  qm_core_free(core);
}

/* Nothing is cached and everybody stands in order of arrival; then the contexts are, and the next step orders all. */
static void order_anew(qm_core* core, qm_cache cache, qm_scheduler scheduler, double* now, uint32_t planned,
                       uint32_t contexts[4][512 * BLOCK]) {
  qm_plan plan;
  if (planned) must(qm_abandon(core, scheduler, planned), "abandon");
  must(qm_cache_forget(core, cache), "forget");
  must(qm_step(core, scheduler, *now, &plan), "step");
  *now += 1;
  must(qm_abandon(core, scheduler, plan.step_id), "abandon");
  for (int i = 0; i < 4; i++)
    must(qm_sequence_close(core, cache, add(core, cache, contexts[i], CONTEXTS[i] * BLOCK)), "close");
}

static void order(int rounds, uint32_t waiting) {
  static double times[MAX_ROUNDS];
  static uint32_t contexts[4][512 * BLOCK], tokens[512 * BLOCK + OWN];
  qm_core* core = new_core();
  const qm_cache cache = new_cache(core, 2048, 16, 8448);
  const qm_scheduler_options options = {.vocab_size = 32000,
                                        .max_requests = waiting,
                                        .max_running = 1,
                                        .max_batch_tokens = 8448,
                                        .token_capacity = waiting * 4096,
                                        .policy = QM_LONGEST_PREFIX};
  const qm_scheduler scheduler = new_scheduler(core, cache, options);
  for (uint32_t i = 0; i < 4; i++) prompt(contexts[i], i + 1, CONTEXTS[i] * BLOCK);
  for (uint32_t i = 0; i < waiting; i++) {
    const uint32_t shared = CONTEXTS[i % 4] * BLOCK;
    memcpy(tokens, contexts[i % 4], shared * sizeof *tokens);
    prompt(tokens + shared, i + 100, OWN);
    const qm_request request = {.id = i + 1, .tokens = tokens, .token_count = shared + OWN, .max_new_tokens = 1};
    must(qm_submit(core, scheduler, &request), "submit");
  }
  double now = 0;
  uint32_t planned = 0;
  SAMPLE(times, rounds, order_anew(core, cache, scheduler, &now, planned, contexts), {
    qm_plan plan;
    must(qm_step(core, scheduler, now, &plan), "step");
    now += 1;
    planned = plan.step_id;
  })
  figure(waiting == 4096 ? "order 4,096 waiting" : "order 256 waiting", times, rounds, 1, "us");
  qm_core_free(core);
}

/* Memory grows by pages of 64 KiB: a difference over almost 2^20 blocks is right to a tenth of a byte. */
static void bytes_per_block(void) {
  const uint32_t small = 1 << 16, large = 1 << 20;
  qm_core *a = new_core(), *b = new_core();
  new_cache(a, small, 64, 4096);
  new_cache(b, large, 64, 4096);
  double each = (double)(qm_core_bytes(b) - qm_core_bytes(a)) / (large - small) - 4 * BLOCK;
  figure("bytes a cached block", &each, 1, 1, "bytes");
  qm_core_free(a);
  qm_core_free(b);
}

int main(int argc, char** argv) {
  int quick = 0;
  for (int i = 1; i < argc; i++) {
    quick |= strcmp(argv[i], "--quick") == 0;
    everything |= strcmp(argv[i], "--everything") == 0;
  }
  const int rounds = quick ? 5 : 300;
  match(rounds);
  allocate_free(rounds);
  decode(quick ? 12 : 120);
  admit(rounds);
  order(quick ? 2 : 10, quick ? 256 : 4096);
  bytes_per_block();
  printf("]\n");
  return 0;
}
