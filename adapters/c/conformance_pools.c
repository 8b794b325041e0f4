/* Conformance calls about structures beside the KV cache: the keyed pool and virtual memory. */
#include "conformance.h"

static qm_keyed_pool pool;
static qm_keyed_view view;
static qm_virtual_memory memory;

static const uint32_t LOST_KEY = 1u << 31;

void find_pools(void) {
  pool = qm_keyed_pool_at(core, 0);
  if (pool != 0) qm_keyed_pool_view(core, pool, &view);
  memory = qm_virtual_memory_at(core, 0);
}

static uint32_t put_ids(const call* c, int list) {
  memcpy(view.ids, c->lists[list], c->list_lengths[list] * sizeof(uint32_t));
  return c->list_lengths[list];
}

/* Keys of `length` words each. Returns how many. */
static uint32_t put_keys(const call* c, int list, uint32_t length) {
  memcpy(view.input, c->lists[list], c->list_lengths[list] * sizeof(uint32_t));
  return c->list_lengths[list] / length;
}

static void put_taken(int lost, uint32_t count) {
  put(lost);
  if (lost < 0) return;
  for (uint32_t i = 0; i < count; i++) put(view.ids[i] & ~LOST_KEY);
}

static void put_lost(uint32_t count) {
  for (uint32_t i = 0; i < count; i++)
    if (view.ids[i] >= LOST_KEY) put(view.ids[i] - LOST_KEY);
}

int answer_keyed_pool(const call* c) {
  if (is(c, "keyed")) {
    int status = qm_keyed_pool_create(core, u(c, 0), u(c, 1), u(c, 2), &pool);
    if (status == QM_OK) status = qm_keyed_pool_view(core, pool, &view);
    put(status);
  } else if (is(c, "keyed-fits")) put(qm_keyed_pool_fits(core, pool, put_ids(c, 0), u(c, 0)) == QM_OK);
  else if (is(c, "keyed-take")) {
    const int lost = qm_keyed_pool_allocate(core, pool, put_ids(c, 0), u(c, 0));
    put_taken(lost, u(c, 0));
    if (lost > 0) put_lost(u(c, 0));
  } else if (is(c, "keyed-release")) put(qm_keyed_pool_release(core, pool, put_ids(c, 0)));
  else if (is(c, "keyed-enter")) {
    const uint32_t count = put_ids(c, 0), length = c->list_lengths[1] / count;
    put_keys(c, 1, length);
    put(qm_keyed_pool_enter_keys(core, pool, u(c, 0), 4 * length, count));
  } else if (is(c, "keyed-find")) {
    const uint32_t count = put_keys(c, 0, u(c, 2));
    const int found = qm_keyed_pool_find_keys(core, pool, u(c, 0), 4 * u(c, 2), count, u(c, 1) != 0);
    put_records(found < 0 || u(c, 1) == 0 ? found : (int)count, view.ids, 1);
  } else if (is(c, "keyed-drop")) {
    const uint32_t count = put_ids(c, 0);
    const int lost = qm_keyed_pool_drop_keys(core, pool, count);
    put(lost);
    if (lost > 0) put_lost(count);
  } else if (is(c, "keyed-aside")) put(qm_keyed_pool_set_aside(core, pool, u(c, 0), u(c, 1) != 0));
  else if (is(c, "keyed-counts")) {
    put(QM_OK);
    /* Free, held, with a key, different keys: docs/abi.md. */
    put(view.header[4]);
    put_words(view.header + 7, 3);
  } else return 0;
  return 1;
}

enum { MOST_CHANGES = 1024 };

static void put_changes(void) {
  qm_page_change changes[MOST_CHANGES];
  const int found = qm_virtual_memory_take(core, memory, changes, MOST_CHANGES);
  if (found == MOST_CHANGES) fail("too many changes");
  put_records(found, (const uint32_t*)changes, sizeof *changes / sizeof(uint32_t));
}

int answer_virtual_memory(const call* c) {
  const uint32_t* words = NULL;
  if (is(c, "virtual")) {
    const qm_virtual_memory_options options = {
        .slots = u(c, 0),      .max_tokens = u(c, 1),   .token_bytes = u(c, 2),
        .tensors = u(c, 3),    .page_bytes = u(c, 4),   .blocks = u(c, 5),
        .eager_steps = u(c, 6), .eager_blocks = u(c, 7), .eager_reclaim = u(c, 8) != 0};
    put(qm_virtual_memory_create(core, &options, &memory));
  } else if (is(c, "virtual-allocate")) put(qm_virtual_memory_allocate(core, memory, u(c, 0), u(c, 1), u(c, 2)));
  else if (is(c, "virtual-free")) put(qm_virtual_memory_free(core, memory, u(c, 0), u(c, 1) != 0));
  else if (is(c, "virtual-step")) {
    const int refused = qm_virtual_memory_step(core, memory, c->lists[0], &words);
    put_records(refused, words, 1);
  } else if (is(c, "virtual-ahead")) put(qm_virtual_memory_background(core, memory));
  else if (is(c, "virtual-share")) put(qm_virtual_memory_share(core, memory, u(c, 0), u(c, 1), u(c, 2)));
  else if (is(c, "virtual-trim")) put(qm_virtual_memory_trim(core, memory));
  else if (is(c, "virtual-changes")) put_changes();
  else if (is(c, "virtual-pages")) {
    const int pages = qm_virtual_memory_pages(core, memory, u(c, 0), &words);
    put_records(pages, words, 1);
  } else if (is(c, "virtual-available")) put(qm_virtual_memory_available(core, memory));
  else return 0;
  return 1;
}
