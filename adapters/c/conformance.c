/*
 * Runs conformance scripts (docs/conformance.md) against quartermaster.h: conformance FILE.json ...
 * Prints the first step whose answer differs, and exits with 1. With --restore FILE in front, the scripts go on from the
 * state there, in place of making a core; with --snapshot FILE, writes the core's state after the last script there.
 */
#include "conformance.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { MAX_NUMBERS = 65536 };

/* ---- reading: just the JSON that scripts are made of -------------------------------------------------------- */

typedef struct {
  const char* at;
  const char* end;
} reader;

void fail(const char* what) {
  fprintf(stderr, "conformance: %s\n", what);
  exit(2);
}

static char peek(reader* r) {
  while (r->at < r->end && strchr(" \n\t\r", *r->at) != NULL) r->at++;
  if (r->at == r->end) fail("the script ends too early");
  return *r->at;
}

static void expect(reader* r, char c) {
  if (peek(r) != c) fail("not a conformance script");
  r->at++;
}

static int take(reader* r, char c) {
  if (peek(r) != c) return 0;
  r->at++;
  return 1;
}

static void read_string(reader* r, char* out, size_t size) {
  size_t length = 0;
  expect(r, '"');
  while (r->at < r->end && *r->at != '"') {
    if (length + 1 == size) fail("a name is too long");
    out[length++] = *r->at++;
  }
  out[length] = 0;
  expect(r, '"');
}

static double read_number(reader* r) {
  char* after;
  peek(r);
  const double value = strtod(r->at, &after);
  if (after == r->at) fail("a number was expected");
  r->at = after;
  return value;
}

/* ---- one call ------------------------------------------------------------------------------------------------- */

static void read_call(reader* r, call* c) {
  c->number_count = c->list_count = 0;
  memset(c->numbers, 0, sizeof c->numbers); /* what a script leaves out is 0 */
  expect(r, '[');
  read_string(r, c->operation, sizeof c->operation);
  while (take(r, ',')) {
    if (!take(r, '[')) {
      if (c->number_count == 16) fail("too many arguments");
      c->numbers[c->number_count++] = read_number(r);
      continue;
    }
    if (c->list_count == MAX_LISTS) fail("too many lists");
    uint32_t length = 0;
    while (!take(r, ']')) {
      if (length > 0) expect(r, ',');
      if (length == MAX_LIST) fail("a list is too long");
      c->lists[c->list_count][length++] = (uint32_t)read_number(r);
    }
    c->list_lengths[c->list_count++] = length;
  }
  expect(r, ']');
}

static double answer[MAX_NUMBERS];
static int answered;

void put(double value) {
  if (answered == MAX_NUMBERS) fail("an answer is too long");
  answer[answered++] = value;
}

void put_words(const uint32_t* words, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) put(words[i]);
}

void put_records(int found, const uint32_t* words, uint32_t size) {
  put(found);
  if (found > 0) put_words(words, (uint32_t)found * size);
}

/* ---- the host under test ---------------------------------------------------------------------------------- */

qm_core* core;
qm_cache cache;
qm_scheduler scheduler;
static qm_index index_;
static qm_page_set pages_;
static qm_plan plan;

static void put_outcomes(void) {
  const uint32_t* words;
  const int count = qm_outcomes(core, scheduler, &words);
  put(count);
  for (int i = 0; i < count; i++) {
    put(words[8 * i]);
    put(words[8 * i + 1]);
    put((int32_t)words[8 * i + 2]);
    put_words(words + 8 * i + 3, 3);
  }
}

static void put_plan(void) {
  const uint32_t counts[] = {plan.step_id,        plan.rows,    plan.decode_rows, plan.sampling_rows,
                             plan.total_tokens,   plan.transfer_count, plan.running, plan.waiting,
                             plan.free_blocks,    plan.evictable_blocks};
  put_words(counts, 10);
  put_words(plan.requests, plan.rows);
  put_words(plan.phases, plan.rows);
  put_words(plan.new_tokens, plan.rows);
  put_words(plan.computed_before, plan.rows);
  put_words(plan.tokens, plan.total_tokens);
  put_words(plan.slots, plan.total_tokens);
  for (uint32_t row = 0; row < plan.rows; row++) {
    put(plan.table_count[row]);
    put_words(plan.tables + plan.table_start[row], plan.table_count[row]);
  }
  put_words(plan.transfers, 8 * plan.transfer_count);
  put_outcomes();
}

static void answer_statistics(void) {
  qm_cache_statistics s;
  const int status = qm_cache_get_statistics(core, cache, &s);
  put(status);
  if (status != QM_OK) return;
  put_words((const uint32_t[]){s.blocks, s.block_size, s.free, s.evictable, s.cached, s.open_sequences}, 6);
  const uint64_t wide[] = {s.queried_tokens, s.hit_tokens, s.copied_tokens, s.evictions, s.duplicates};
  for (int i = 0; i < 5; i++) put((double)wide[i]);
}

static int answer_cache(const call* c) {
  const uint32_t* tokens = c->lists[0];
  const uint32_t count = c->list_count > 0 ? c->list_lengths[0] : 0;
  const uint32_t* words = NULL;
  if (is(c, "cache"))
    put(qm_cache_create(core,
                        &(qm_cache_options){.blocks = u(c, 0), .block_size = u(c, 1), .max_sequences = u(c, 2),
                                            .max_sequence_tokens = u(c, 3), .no_prefix_cache = u(c, 4) == 0},
                        &cache));
  else if (is(c, "open")) put(qm_sequence_open(core, cache, u(c, 0), tokens, count, u(c, 1) != 0));
  else if (is(c, "match")) put(qm_cache_match(core, cache, u(c, 0), tokens, count));
  else if (is(c, "reserve")) put(qm_sequence_reserve(core, cache, u(c, 0), u(c, 1)));
  else if (is(c, "append")) put(qm_sequence_append(core, cache, u(c, 0), tokens, count));
  else if (is(c, "truncate")) put(qm_sequence_truncate(core, cache, u(c, 0), u(c, 1)));
  else if (is(c, "fork")) put(qm_sequence_fork(core, cache, u(c, 0)));
  else if (is(c, "close")) put(qm_sequence_close(core, cache, u(c, 0)));
  else if (is(c, "length")) put(qm_sequence_length(core, cache, u(c, 0)));
  else if (is(c, "settle")) put(qm_cache_settle_copies(core, cache));
  else if (is(c, "revert")) put(qm_cache_revert_copies(core, cache));
  else if (is(c, "ordered")) {
    int status = qm_cache_create(core,
                                 &(qm_cache_options){.blocks = u(c, 0), .block_size = u(c, 1), .max_sequences = u(c, 2),
                                                     .max_sequence_tokens = u(c, 3)},
                                 &cache);
    const int costs = u(c, 4) == QM_GDSF;
    if (status == QM_OK)
      status = qm_cache_set_order(core, cache, (qm_order)u(c, 4), u(c, 5), costs ? u(c, 7) / 4.0 : 1, costs ? u(c, 8) / 4.0 : 0);
    put(status == QM_OK ? qm_cache_retain(core, cache, u(c, 6)) : status);
  }
  else if (is(c, "score")) {
    static double scores[4096];
    for (uint32_t i = 0; i < count; i++) scores[i] = tokens[i];
    put(qm_sequence_score(core, cache, u(c, 0), u(c, 1), scores, count));
  }
  else if (is(c, "advise")) put(qm_sequence_advise(core, cache, u(c, 0), u(c, 1)));
  else if (is(c, "prioritize")) put(qm_sequence_prioritize(core, cache, u(c, 0), u(c, 1), u(c, 2), u(c, 3)));
  else if (is(c, "advance")) put(qm_cache_advance(core, cache, u(c, 0)));
  else if (is(c, "forget")) put(qm_cache_forget(core, cache));
  else if (is(c, "statistics")) answer_statistics();
  else if (is(c, "available")) put(qm_cache_available(core, cache));
  else if (is(c, "references")) put(qm_block_references(core, cache, u(c, 0)));
  else if (is(c, "table") || is(c, "copies")) {
    const int found = is(c, "table") ? qm_sequence_table(core, cache, u(c, 0), &words)
                                     : qm_cache_copies(core, cache, &words);
    put_records(found, words, is(c, "table") ? 1 : 8);
  } else return 0;
  return 1;
}

/* Bytes of a key, as 8 numbers. */
static void put_key(const uint8_t* key) {
  uint32_t words[8];
  memcpy(words, key, sizeof words);
  put_words(words, 8);
}

static void put_events(int found, const qm_event* events, uint32_t block_size) {
  put(found);
  for (int i = 0; i < found; i++) {
    const qm_event* e = events + i;
    const uint32_t words[] = {e->kind, e->block, e->parent, e->name_space, e->tier, e->group};
    put_words(words, 6);
    put_key(e->key);
    put_key(e->parent_key);
    if (e->kind == QM_STORED) put_words(qm_event_tokens(core, e), block_size);
  }
}

static uint32_t block_size_of(qm_cache of) {
  qm_cache_statistics statistics = {0};
  qm_cache_get_statistics(core, of, &statistics);
  return statistics.block_size;
}

static int answer_outside(const call* c) {
  uint8_t bytes[64], keys[64 * 32], list[256];
  const qm_event* events = NULL;
  if (is(c, "named")) {
    for (int i = 0; i < 64; i++) bytes[i] = (uint8_t)i;
    int status = qm_cache_create(core,
                                 &(qm_cache_options){.blocks = u(c, 0), .block_size = u(c, 1), .max_sequences = u(c, 2),
                                                     .max_sequence_tokens = u(c, 3)},
                                 &cache);
    if (status == QM_OK) status = qm_cache_set_content_keys(core, cache, 4, bytes, bytes + 32);
    put(status == QM_OK ? qm_cache_set_events(core, cache, u(c, 4), 5, 6) : status);
  } else if (is(c, "scope") || is(c, "chunk")) {
    const int last = c->list_count - 1;
    if (c->list_lengths[last] > sizeof list) fail("a list is too long");
    for (uint32_t i = 0; i < c->list_lengths[last]; i++) list[i] = (uint8_t)c->lists[last][i];
    if (is(c, "scope")) put(qm_cache_set_scope(core, cache, u(c, 0), list, c->list_lengths[0]));
    else {
      put(qm_chunk_content_key(core, cache, c->lists[0], c->list_lengths[0], list, c->list_lengths[1], keys));
      put_key(keys);
    }
  } else if (is(c, "keys")) {
    const int found = qm_sequence_content_keys(core, cache, u(c, 0), 0, 64, keys);
    put(found);
    for (int i = 0; i < found; i++) put_key(keys + 32 * i);
  } else if (is(c, "key")) {
    const int status = qm_block_content_key(core, cache, u(c, 0), keys);
    put(status);
    if (status == QM_OK) put_key(keys);
  } else if (is(c, "events")) {
    const int found = qm_cache_read_events(core, cache, u(c, 0), &events);
    put_events(found, events, block_size_of(cache));
    put(qm_cache_event_batches(core, cache));
  } else if (is(c, "picture")) {
    const int found = qm_cache_snapshot_events(core, cache, 1, &events);
    put_events(found, events, block_size_of(cache));
  } else if (is(c, "lose")) put(qm_cache_lose_events(core, cache));
  else return 0;
  return 1;
}

static int answer_scheduler(const call* c) {
  if (is(c, "scheduler"))
    put(qm_scheduler_create(
        core, cache,
        &(qm_scheduler_options){.vocab_size = u(c, 0), .max_requests = u(c, 1), .max_running = u(c, 2),
                                .max_batch_tokens = u(c, 3), .max_chunk_tokens = u(c, 4),
                                .watermark_blocks = u(c, 5), .token_capacity = u(c, 6),
                                .policy = (qm_policy)u(c, 7), .queue_timeout_us = c->numbers[8],
                                .aging_tokens = u(c, 9), .tenants = u(c, 10), .input_weight = u(c, 11),
                                .output_weight = u(c, 12)},
        &scheduler));
  else if (is(c, "submit"))
    put(qm_submit(core, scheduler,
                  &(qm_request){.id = (uint64_t)c->numbers[0], .name_space = u(c, 1), .priority = u(c, 2),
                                .arrival_us = c->numbers[3], .max_new_tokens = u(c, 4), .tenant = u(c, 5),
                                .deadline_us = c->numbers[6], .max_chunk_tokens = u(c, 7), .tokens = c->lists[0],
                                .token_count = c->list_lengths[0]}));
  else if (is(c, "wake")) {
    const double wake = qm_next_wake_us(core, scheduler);
    put(isinf(wake) ? -1 : wake);
  }
  else if (is(c, "served")) put(qm_tenant_served(core, scheduler, u(c, 0)));
  else if (is(c, "abort")) put(qm_abort(core, scheduler, u(c, 0)));
  else if (is(c, "state")) put(qm_request_state(core, scheduler, u(c, 0)));
  else if (is(c, "abandon")) put(qm_abandon(core, scheduler, u(c, 0)));
  else if (is(c, "step")) {
    const int status = qm_step(core, scheduler, c->numbers[0], &plan);
    put(status);
    if (status >= 0) put_plan();
  } else if (is(c, "commit")) {
    const int status = qm_commit(core, scheduler, u(c, 0), c->numbers[1], c->lists[0], c->lists[1]);
    put(status);
    if (status >= 0) put_outcomes();
  } else return 0;
  return 1;
}

static void answer_page_run(const call* c) {
  uint8_t advice[MAX_LIST];
  for (uint32_t i = 0; i < c->list_lengths[1]; i++) advice[i] = (uint8_t)c->lists[1][i];
  put(qm_page_set_run(core, pages_, c->lists[0], c->list_lengths[1] > 0 ? advice : NULL, c->list_lengths[0]));
}

static void answer_page_figures(void) {
  qm_page_set_figures f;
  put(qm_page_set_get_figures(core, pages_, &f));
  put(f.slots), put(f.pages), put((double)f.requests), put((double)f.faults);
}

static int answer_pages(const call* c) {
  if (is(c, "pages-eager"))
    put(qm_page_set_create_eager(core, (qm_order)u(c, 0), u(c, 1), u(c, 2), u(c, 3), &pages_));
  else if (is(c, "page-run")) answer_page_run(c);
  else if (is(c, "page-clear")) put(qm_page_set_clear(core, pages_, u(c, 0)));
  else if (is(c, "page-figures")) answer_page_figures();
  else if (is(c, "pages")) put(qm_page_set_create(core, (qm_order)u(c, 0), u(c, 1), u(c, 2), u(c, 3), &pages_));
  else if (is(c, "request")) put(qm_page_set_request(core, pages_, u(c, 0), u(c, 1)));
  else if (is(c, "slot")) put(qm_page_set_slot(core, pages_, u(c, 0)));
  else return 0;
  return 1;
}

/* Keys and, if there are any, values of a batch. */
static void answer_batch(const call* c) {
  static uint64_t keys[MAX_LIST], values[MAX_LIST];
  static uint8_t found[MAX_LIST];
  const uint32_t count = c->list_lengths[0];
  for (uint32_t i = 0; i < count; i++) keys[i] = c->lists[0][i];
  for (uint32_t i = 0; c->list_count > 1 && i < count; i++) values[i] = c->lists[1][i];
  if (is(c, "put-many")) put(qm_index_put_many(core, index_, keys, values, count));
  else if (is(c, "delete-many")) put(qm_index_delete_many(core, index_, keys, count));
  else {
    const int hits = qm_index_get_many(core, index_, keys, count, values, found);
    put(hits);
    for (uint32_t i = 0; hits >= 0 && i < count; i++) put(found[i]), put((double)values[i]);
  }
}

static void answer_index_figures(void) {
  qm_index_figures f;
  put(qm_index_get_figures(core, index_, &f));
  put_words((const uint32_t[]){f.entries, f.levels, f.nodes, f.free_nodes, f.node_bytes, f.leaf_capacity}, 6);
}

static int answer_exchanges(const call* c) {
  if (is(c, "exchange"))
    put(qm_index_compare_exchange(core, index_, (uint64_t)c->numbers[0], (uint64_t)c->numbers[1],
                                  (uint64_t)c->numbers[2]));
  else if (is(c, "add")) {
    uint64_t before = 0;
    const int status = qm_index_fetch_add(core, index_, (uint64_t)c->numbers[0], (uint64_t)c->numbers[1], &before);
    put(status);
    if (status == QM_OK) put((double)before);
  } else if (is(c, "put-many") || is(c, "get-many") || is(c, "delete-many")) answer_batch(c);
  else if (is(c, "index-figures")) answer_index_figures();
  else if (is(c, "index-clear")) put(qm_index_clear(core, index_));
  else return 0;
  return 1;
}

static int answer_index(const call* c) {
  uint64_t keys[1024], values[1024];
  if (answer_exchanges(c)) return 1;
  if (is(c, "index")) put(qm_index_create(core, u(c, 0), &index_));
  else if (is(c, "put")) put(qm_index_put(core, index_, (uint64_t)c->numbers[0], (uint64_t)c->numbers[1]));
  else if (is(c, "delete")) put(qm_index_delete(core, index_, (uint64_t)c->numbers[0]));
  else if (is(c, "size")) put(qm_index_size(core, index_));
  else if (is(c, "get")) {
    const int found = qm_index_get(core, index_, (uint64_t)c->numbers[0], values);
    put(found);
    if (found == 1) put((double)values[0]);
  } else if (is(c, "range")) {
    if (u(c, 2) > 1024) fail("a range is too long");
    const int found = qm_index_range(core, index_, (uint64_t)c->numbers[0], (uint64_t)c->numbers[1], u(c, 2),
                                     keys, values);
    put(found);
    for (int i = 0; i < found; i++) {
      put((double)keys[i]);
      put((double)values[i]);
    }
  } else return 0;
  return 1;
}

static void answer_call(const call* c) {
  answered = 0;
  if (is(c, "core")) {
    qm_core_free(core);
    core = NULL;
    put(qm_core_create((uint64_t)c->numbers[0], 0, &core));
  } else if (is(c, "validate")) {
    put(qm_core_validate(core));
  } else if (!answer_cache(c) && !answer_outside(c) && !answer_cache_add_ons(c) && !answer_scheduler(c) &&
             !answer_scheduler_add_ons(c) && !answer_pages(c) && !answer_index(c) && !answer_keyed_pool(c) &&
             !answer_virtual_memory(c) && !answer_lanes(c) && !answer_selection(c)) {
    fprintf(stderr, "conformance: unknown operation %s\n", c->operation);
    exit(2);
  }
}

/* ---- a script ----------------------------------------------------------------------------------------------- */

static char* read_file(const char* path, size_t* size) {
  FILE* file = fopen(path, "rb");
  if (file == NULL) fail("cannot open the script");
  fseek(file, 0, SEEK_END);
  *size = (size_t)ftell(file);
  rewind(file);
  char* text = malloc(*size + 1);
  if (text == NULL || fread(text, 1, *size, file) != *size) fail("cannot read the script");
  text[*size] = 0; /* strtod stops here at the latest */
  fclose(file);
  return text;
}

/* Reads the expected answer; returns the place of the first difference, -1 when there is none. */
static int difference(reader* r) {
  int at = 0, first = -1;
  expect(r, '[');
  while (!take(r, ']')) {
    if (at > 0) expect(r, ',');
    const double expected = read_number(r);
    if (first < 0 && (at >= answered || answer[at] != expected)) first = at;
    at += 1;
  }
  return first < 0 && at != answered ? at : first;
}

static int run_script(const char* path) {
  static call c;
  char key[MAX_NAME], name[MAX_NAME];
  size_t size;
  char* text = read_file(path, &size);
  reader r = {text, text + size};
  expect(&r, '{');
  read_string(&r, key, sizeof key);
  expect(&r, ':');
  if (strcmp(key, "format") != 0 || read_number(&r) != 1) fail("a script of format 1 was expected");
  expect(&r, ',');
  read_string(&r, key, sizeof key);
  expect(&r, ':');
  read_string(&r, name, sizeof name);
  expect(&r, ',');
  read_string(&r, key, sizeof key);
  expect(&r, ':');
  expect(&r, '[');
  int steps = 0, failed = 0;
  do {
    const char* start = (peek(&r), r.at);
    expect(&r, '[');
    read_call(&r, &c);
    expect(&r, ',');
    answer_call(&c);
    const int at = difference(&r);
    expect(&r, ']');
    if (at >= 0) {
      printf("%s: step %d differs at number %d of the answer\n  %.*s\n  got ", name, steps, at,
             (int)(r.at - start), start);
      for (int i = 0; i < answered; i++) printf("%s%.17g", i > 0 ? "," : "[", answer[i]);
      printf("]\n");
      failed = 1;
    }
    steps += 1;
  } while (!failed && take(&r, ','));
  if (!failed) printf("%s: %d answers as expected\n", name, steps);
  free(text);
  return failed;
}

static void write_snapshot(const char* path) {
  const uint64_t bytes = qm_snapshot_bytes(core);
  void* state = malloc(bytes);
  FILE* file = fopen(path, "wb");
  if (state == NULL || file == NULL || qm_snapshot(core, state, bytes) != QM_OK ||
      fwrite(state, 1, bytes, file) != bytes || fclose(file) != 0)
    fail("cannot write the snapshot");
  free(state);
}

/* Goes on from a state that this or another host has written. */
static void restore(const char* path) {
  size_t bytes;
  char* state = read_file(path, &bytes);
  if (qm_core_restore(state, bytes, 0, &core) != QM_OK) fail("cannot restore the snapshot");
  free(state);
  cache = qm_cache_at(core, 0);
  scheduler = qm_scheduler_at(core, 0);
  index_ = qm_index_at(core, 0);
  pages_ = qm_page_set_at(core, 0);
  find_pools();
  find_lanes();
}

int main(int count, char** arguments) {
  const char *restored = NULL, *snapshot = NULL;
  int first = 1, failed = 0;
  for (; count > first + 1; first += 2) {
    if (strcmp(arguments[first], "--restore") == 0) restored = arguments[first + 1];
    else if (strcmp(arguments[first], "--snapshot") == 0) snapshot = arguments[first + 1];
    else break;
  }
  if (count <= first) {
    fprintf(stderr, "usage: conformance [--restore FILE] [--snapshot FILE] SCRIPT.json ...\n");
    return 2;
  }
  if (restored != NULL) restore(restored);
  for (int i = first; i < count; i++) failed |= run_script(arguments[i]);
  if (snapshot != NULL) write_snapshot(snapshot);
  qm_core_free(core);
  return failed;
}
