/*
 * A connector in C: blocks that another process has computed are fetched by name instead of being computed again. Two caches stand
 * for two processes; a table from content keys to blocks' bytes stands for the store between them.
 *
 *   cc connector.c $(pkg-config --cflags --libs quartermaster)
 */
#include <quartermaster.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCKS = 32, BLOCK_SIZE = 8, PROMPT = 44, MOST = PROMPT / BLOCK_SIZE };

static int checked(int result, const char* what) {
  if (result >= 0) return result;
  fprintf(stderr, "%s: %s\n", what, qm_status_name(result));
  exit(1);
}

/* One process: its core, its cache, and K and V of its blocks; here a number a token. */
typedef struct {
  qm_core* core;
  qm_cache cache;
  uint32_t kv[BLOCKS * BLOCK_SIZE];
} process;

/* What all of them can read. */
static struct {
  uint8_t key[QM_KEY_BYTES];
  uint32_t kv[BLOCK_SIZE];
} store[BLOCKS];
static uint32_t stored;

static void start(process* p, uint64_t seed) {
  const uint8_t domain_key[QM_KEY_BYTES] = {1}, fingerprint[QM_KEY_BYTES] = {2}; /* the same in every process of a model */
  checked(qm_core_create(seed, 0, &p->core), "core");
  checked(qm_cache_create(p->core, &(qm_cache_options){.blocks = BLOCKS, .block_size = BLOCK_SIZE}, &p->cache), "cache");
  checked(qm_cache_set_content_keys(p->core, p->cache, 0, domain_key, fingerprint), "content keys");
}

/* Blocks from the store, as far as it has what the prompt needs next. Returns how many tokens that is. */
static uint32_t fetch(process* p, uint32_t sequence, const uint32_t* tokens, uint32_t length) {
  uint8_t keys[MOST][QM_KEY_BYTES];
  const uint32_t named = (uint32_t)checked(
      qm_prompt_content_keys(p->core, p->cache, 0, tokens, PROMPT - 1, 0, keys[0], MOST), "names");
  const uint32_t *table, from = length;
  checked(qm_sequence_table(p->core, p->cache, sequence, &table), "table");
  for (; length / BLOCK_SIZE < named; length += BLOCK_SIZE) {
    uint32_t entry = 0;
    while (entry < stored && memcmp(store[entry].key, keys[length / BLOCK_SIZE], QM_KEY_BYTES) != 0) entry++;
    if (entry == stored) break;
    memcpy(p->kv + table[length / BLOCK_SIZE] * BLOCK_SIZE, store[entry].kv, sizeof store[entry].kv);
  }
  /* They are cached from here on: others of this process find them without the store. */
  checked(qm_sequence_append_loaded(p->core, p->cache, sequence, tokens + from, length - from, length), "loaded");
  return length - from;
}

/* Puts a sequence's whole blocks where other processes find them. */
static void publish(const process* p, uint32_t sequence) {
  uint8_t keys[MOST][QM_KEY_BYTES];
  const uint32_t* table;
  const int cached = checked(qm_sequence_content_keys(p->core, p->cache, sequence, 0, MOST, keys[0]), "keys");
  checked(qm_sequence_table(p->core, p->cache, sequence, &table), "table");
  for (int i = 0; i < cached; i++, stored++) {
    memcpy(store[stored].key, keys[i], QM_KEY_BYTES);
    memcpy(store[stored].kv, p->kv + table[i] * BLOCK_SIZE, sizeof store[stored].kv);
  }
}

/* Serves a prompt: what is cached here, then what the store has, then what is computed. Returns how many tokens were fetched. */
static uint32_t serve(process* p, const uint32_t* tokens, int publishes) {
  const uint32_t sequence = (uint32_t)checked(qm_sequence_open(p->core, p->cache, 0, tokens, PROMPT, 0), "open");
  uint32_t length = (uint32_t)checked(qm_sequence_length(p->core, p->cache, sequence), "length");
  checked(qm_sequence_reserve(p->core, p->cache, sequence, PROMPT - length), "reserve");
  const uint32_t fetched = fetch(p, sequence, tokens, length);
  const uint32_t* table;
  length += fetched;
  checked(qm_sequence_table(p->core, p->cache, sequence, &table), "table");
  for (uint32_t i = length; i < PROMPT; i++) p->kv[table[i / BLOCK_SIZE] * BLOCK_SIZE + i % BLOCK_SIZE] = tokens[i] + 1;
  checked(qm_sequence_append(p->core, p->cache, sequence, tokens + length, PROMPT - length), "append");
  for (uint32_t i = 0; i < PROMPT; i++)
    if (p->kv[table[i / BLOCK_SIZE] * BLOCK_SIZE + i % BLOCK_SIZE] != tokens[i] + 1) exit(1);
  if (publishes) publish(p, sequence);
  checked(qm_sequence_close(p->core, p->cache, sequence), "close");
  return fetched;
}

int main(void) {
  static process first, second;
  uint32_t prompt[PROMPT];
  for (uint32_t i = 0; i < PROMPT; i++) prompt[i] = 7 * i % 50;
  start(&first, 1);
  start(&second, 2);
  const uint32_t computed = serve(&first, prompt, 1), fetched = serve(&second, prompt, 0), again = serve(&second, prompt, 0);
  printf("%u tokens fetched of %d by the first process, %u by the second, %u when it is asked again\n", computed, PROMPT, fetched,
         again);
  checked(qm_core_validate(second.core), "validate");
  qm_core_free(first.core);
  qm_core_free(second.core);
  return computed == 0 && fetched == MOST * BLOCK_SIZE && again == 0 ? 0 : 1;
}
