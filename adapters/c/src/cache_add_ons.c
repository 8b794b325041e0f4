/* What a KV cache of quartermaster.h may have besides: groups, runs of blocks, accounts, pins, marks, an eviction order. */
#include "core_calls.h"

#include <math.h>

/* Groups that a cache can have beside its own tables; words of a spec, of the header and of a group's record: docs/abi.md. */
enum {
  MAX_GROUPS = 7,
  GROUP_SPEC_WORDS = 3,
  GROUPS_COUNT = 0,
  GROUPS_HEADER_WORDS = 8,
  GROUP_WORDS = 12,
  GROUP_KIND = 0,
  GROUP_REACH = 1,
  GROUP_SHIFT = 2,
  GROUP_TWINS = 7,
  GROUP_HELD = 8,
  GROUP_CACHED = 9,
  GROUP_EVICTIONS = 10,
  KIND_WINDOW = 1
};

int qm_cache_set_groups(qm_core* core, qm_cache cache, const qm_group* groups, uint32_t count) {
  REQUIRE(core, QM_KV_CACHE, cache);
  const uint32_t bytes = count * GROUP_SPEC_WORDS * 4;
  double needed = 0;
  if (groups == NULL || count == 0 || count > MAX_GROUPS) return QM_INVALID_ARGUMENT;
  memcpy(at(core, core->scratch), groups, bytes);
  QM_CALL(core, needed,
          w2c_qm_kvGroupsBytes(instance, word(core, cache + QM_CACHE_BLOCKS), word(core, cache + QM_CACHE_BLOCK_SIZE),
                               word(core, cache + QM_CACHE_MAX_SEQUENCES),
                               word(core, cache + QM_CACHE_MAX_SEQUENCE_TOKENS), core->scratch, count));
  const int status = qm_make_room(core, needed);
  if (status != QM_OK) return status;
  RESULT(core, w2c_qm_kvGroupsCreate(instance, cache, core->scratch, count));
}

/* Address of the record of a group, 1 for the first. */
static int group_of(qm_core* core, qm_cache cache, uint32_t group, uint32_t* record) {
  uint32_t groups = 0;
  QM_CALL(core, groups, w2c_qm_kvGroups(instance, cache));
  if (groups == 0 || group == 0 || group > word(core, groups + 4 * GROUPS_COUNT)) return QM_INVALID_ARGUMENT;
  *record = groups + 4 * (GROUPS_HEADER_WORDS + (group - 1) * GROUP_WORDS);
  return QM_OK;
}

int qm_sequence_group_table(qm_core* core, qm_cache cache, uint32_t sequence, uint32_t group, const uint32_t** table) {
  REQUIRE(core, QM_KV_CACHE, cache);
  int count = 0;
  uint32_t record = 0, address = 0;
  if (table == NULL) return QM_INVALID_ARGUMENT;
  const int status = group_of(core, cache, group, &record);
  if (status != QM_OK) return status;
  QM_CALL(core, count, (int)w2c_qm_kvGroupTableCount(instance, cache, sequence, group - 1));
  if (count < 0) return QM_UNKNOWN_SEQUENCE;
  QM_CALL(core, address, w2c_qm_kvGroupTable(instance, cache, sequence, group - 1));
  *table = (const uint32_t*)at(core, address);
  return count;
}

int qm_cache_group_figures(qm_core* core, qm_cache cache, uint32_t group, qm_group_figures* figures) {
  REQUIRE(core, QM_KV_CACHE, cache);
  uint32_t record = 0;
  if (figures == NULL) return QM_INVALID_ARGUMENT;
  const int status = group_of(core, cache, group, &record);
  if (status != QM_OK) return status;
  const uint32_t kind = word(core, record + 4 * GROUP_KIND);
  *figures = (qm_group_figures){.kind = kind,
                                .window = kind == KIND_WINDOW ? word(core, record + 4 * GROUP_REACH) + 1 : 0,
                                .block_size = 1u << word(core, record + 4 * GROUP_SHIFT),
                                .held = word(core, record + 4 * GROUP_HELD),
                                .cached = word(core, record + 4 * GROUP_CACHED),
                                .evictions = wide_word(core, record + 4 * GROUP_EVICTIONS)};
  return QM_OK;
}

int qm_sequence_group_cached(qm_core* core, qm_cache cache, uint32_t sequence, uint32_t group, uint32_t from,
                             uint32_t* blocks, uint32_t limit) {
  REQUIRE(core, QM_KV_CACHE, cache);
  const uint32_t* table = NULL;
  uint32_t record = 0;
  if (blocks == NULL && limit > 0) return QM_INVALID_ARGUMENT;
  int status = group_of(core, cache, group, &record);
  if (status == QM_OK) status = qm_sequence_table(core, cache, sequence, &table);
  if (status < 0) return status;
  const int length = qm_sequence_length(core, cache, sequence);
  if (length < 0) return length;
  const uint32_t shift = word(core, record + 4 * GROUP_SHIFT), twins = word(core, record + 4 * GROUP_TWINS);
  const uint32_t whole = (uint32_t)length >> shift;
  const uint32_t ratio = (1u << shift) / word(core, cache + QM_CACHE_BLOCK_SIZE);
  const uint32_t count = from < whole ? least(limit, whole - from) : 0;
  /* A group's block is known by the cache's own block that ends where it ends. */
  for (uint32_t i = 0; i < count; i++) blocks[i] = word(core, twins + 4 * table[(from + i + 1) * ratio - 1]);
  return (int)count;
}

/* Words of the header of runs, blocks reserved at a time by default, and the slot in a sequence's handle: docs/abi.md. */
enum {
  RUNS_EXTENTS = 0,
  RUNS_TAILS = 1,
  RUNS_RESERVED = 2,
  RUNS_GROUP = 3,
  RUNS_SPLITS = 7,
  RUNS_RESERVE = 60,
  SLOT_MASK = 0xfffff
};

int qm_cache_set_runs(qm_core* core, qm_cache cache, uint32_t reserve) {
  REQUIRE(core, QM_KV_CACHE, cache);
  const uint32_t blocks = word(core, cache + QM_CACHE_BLOCKS), quarter = blocks < 4 ? 1 : blocks / 4;
  double bytes = 0;
  if (reserve == 0) reserve = quarter < RUNS_RESERVE ? quarter : RUNS_RESERVE;
  QM_CALL(core, bytes, w2c_qm_kvRunsBytes(instance, blocks, word(core, cache + QM_CACHE_MAX_SEQUENCES)));
  const int status = qm_make_room(core, bytes);
  if (status != QM_OK) return status;
  RESULT(core, w2c_qm_kvRunsCreate(instance, cache, reserve));
}

/* Address of a cache's runs. */
static int runs_of(qm_core* core, qm_cache cache, uint32_t* runs) {
  QM_CALL(core, *runs, w2c_qm_kvRuns(instance, cache));
  return *runs == 0 ? QM_NOT_FOUND : QM_OK;
}

int qm_cache_run_figures(qm_core* core, qm_cache cache, qm_run_figures* figures) {
  REQUIRE(core, QM_KV_CACHE, cache);
  uint32_t runs = 0;
  if (figures == NULL) return QM_INVALID_ARGUMENT;
  const int status = runs_of(core, cache, &runs);
  if (status != QM_OK) return status;
  *figures = (qm_run_figures){.group = word(core, runs + 4 * RUNS_GROUP),
                              .reserved = word(core, runs + 4 * RUNS_RESERVED),
                              .splits = word(core, runs + 4 * RUNS_SPLITS)};
  return QM_OK;
}

/* Runs go through the core's scratch, as many at a time as fit there. */
int qm_cache_free_runs(qm_core* core, qm_cache cache, uint32_t from, qm_run* runs, uint32_t limit) {
  REQUIRE(core, QM_KV_CACHE, cache);
  const uint32_t batch = QM_SCRATCH_BYTES / sizeof *runs;
  uint32_t header = 0, total = 0;
  if (runs == NULL && limit > 0) return QM_INVALID_ARGUMENT;
  const int status = runs_of(core, cache, &header);
  if (status != QM_OK) return status;
  const uint32_t extents = word(core, header + 4 * RUNS_EXTENTS);
  while (total < limit) {
    const uint32_t wanted = limit - total < batch ? limit - total : batch;
    uint32_t found = 0;
    QM_CALL(core, found, w2c_qm_freeExtentsList(instance, extents, from, wanted, core->scratch));
    memcpy(runs + total, at(core, core->scratch), found * sizeof *runs);
    total += found;
    if (found < wanted) break;
    from = runs[total - 1].start + 1;
  }
  return (int)total;
}

int qm_sequence_tail(qm_core* core, qm_cache cache, uint32_t sequence, qm_run* tail) {
  uint32_t runs = 0;
  if (tail == NULL) return QM_INVALID_ARGUMENT;
  int status = qm_sequence_length(core, cache, sequence);
  if (status >= 0) status = runs_of(core, cache, &runs);
  if (status != QM_OK) return status;
  memcpy(tail, at(core, word(core, runs + 4 * RUNS_TAILS) + (sequence & SLOT_MASK) * sizeof *tail), sizeof *tail);
  return QM_OK;
}

int qm_cache_set_tenants(qm_core* core, qm_cache cache, uint32_t tenants) {
  REQUIRE(core, QM_KV_CACHE, cache);
  double bytes = 0;
  QM_CALL(core, bytes, w2c_qm_kvAccountsBytes(instance, word(core, cache + QM_CACHE_BLOCKS), tenants));
  const int status = qm_make_room(core, bytes);
  if (status != QM_OK) return status;
  RESULT(core, w2c_qm_kvAccountsCreate(instance, cache, tenants));
}

int qm_cache_set_pins(qm_core* core, qm_cache cache, uint32_t capacity, uint32_t limit) {
  REQUIRE(core, QM_KV_CACHE, cache);
  double bytes = 0;
  QM_CALL(core, bytes, w2c_qm_kvPinsBytes(instance, word(core, cache + QM_CACHE_BLOCKS), capacity));
  const int status = qm_make_room(core, bytes);
  if (status != QM_OK) return status;
  RESULT(core, w2c_qm_kvPinsCreate(instance, cache, capacity, limit));
}

int qm_sequence_pin(qm_core* core, qm_cache cache, uint32_t sequence, int hard, uint32_t priority, double until_us) {
  REQUIRE(core, QM_KV_CACHE, cache);
  RESULT(core, w2c_qm_kvPin(instance, cache, sequence, hard != 0, priority, until_us));
}

int qm_unpin(qm_core* core, qm_cache cache, uint32_t pin) {
  REQUIRE(core, QM_KV_CACHE, cache);
  RESULT(core, w2c_qm_kvUnpin(instance, cache, pin));
}

static int pin_figure(qm_core* core, qm_cache cache, uint32_t figure, uint32_t* value) {
  QM_CALL(core, *value, w2c_qm_kvPinFigure(instance, cache, figure));
  return QM_OK;
}

int qm_cache_pin_figures(qm_core* core, qm_cache cache, qm_pin_figures* figures) {
  REQUIRE(core, QM_KV_CACHE, cache);
  qm_pin_figures found;
  if (figures == NULL) return QM_INVALID_ARGUMENT;
  /* Figures 0 to 3, in the struct's order: docs/abi.md. */
  uint32_t* const words[] = {&found.hard_blocks, &found.soft_blocks, &found.pins, &found.gave_way};
  for (uint32_t figure = 0; figure < 4; figure++) {
    const int status = pin_figure(core, cache, figure, words[figure]);
    if (status != QM_OK) return status;
  }
  *figures = found;
  return QM_OK;
}

int qm_cache_set_marks(qm_core* core, qm_cache cache, uint32_t capacity) {
  REQUIRE(core, QM_KV_CACHE, cache);
  double bytes = 0;
  QM_CALL(core, bytes, w2c_qm_kvMarksBytes(instance, word(core, cache + QM_CACHE_BLOCKS), capacity));
  const int status = qm_make_room(core, bytes);
  if (status != QM_OK) return status;
  RESULT(core, w2c_qm_kvMarksCreate(instance, cache, capacity));
}

int qm_marks(qm_core* core, qm_cache cache, const qm_mark* marks, uint32_t count) {
  REQUIRE(core, QM_KV_CACHE, cache);
  uint32_t input = 0;
  QM_CALL(core, input, w2c_qm_kvMarksInput(instance, cache));
  if (input == 0 || count > 256 || (count != 0 && marks == NULL)) return QM_INVALID_ARGUMENT;
  if (count != 0) memcpy(at(core, input), marks, (size_t)count * sizeof *marks);
  RESULT(core, w2c_qm_kvMarks(instance, cache, count));
}

int qm_marks_release(qm_core* core, qm_cache cache, uint32_t marks) {
  REQUIRE(core, QM_KV_CACHE, cache);
  RESULT(core, w2c_qm_kvMarksRelease(instance, cache, marks));
}

int qm_marks_read(qm_core* core, qm_cache cache, uint32_t marks, const qm_mark** out) {
  REQUIRE(core, QM_KV_CACHE, cache);
  uint32_t input = 0;
  QM_CALL(core, input, w2c_qm_kvMarksInput(instance, cache));
  if (input == 0 || out == NULL) return QM_INVALID_ARGUMENT;
  *out = (const qm_mark*)at(core, input);
  RESULT(core, w2c_qm_kvMarksRead(instance, cache, marks));
}

int qm_sequence_open_marked(qm_core* core, qm_cache cache, uint32_t name_space, const uint32_t* tokens, uint32_t count,
                            uint32_t tenant, uint32_t marks) {
  REQUIRE(core, QM_KV_CACHE, cache);
  const int status = qm_put_tokens(core, cache, tokens, count);
  if (status != QM_OK) return status;
  RESULT(core, w2c_qm_kvOpenAs(instance, cache, name_space, count, 0, tenant, marks));
}

int qm_cache_match_marked(qm_core* core, qm_cache cache, uint32_t name_space, const uint32_t* tokens, uint32_t count,
                          uint32_t marks) {
  REQUIRE(core, QM_KV_CACHE, cache);
  const int status = qm_put_tokens(core, cache, tokens, count);
  if (status != QM_OK) return status;
  RESULT(core, w2c_qm_kvMatchAs(instance, cache, name_space, count, marks));
}

int qm_cache_set_quota(qm_core* core, qm_cache cache, uint32_t tenant, uint32_t floor, uint32_t watermark,
                       uint32_t ceiling) {
  REQUIRE(core, QM_KV_CACHE, cache);
  RESULT(core, w2c_qm_kvSetQuota(instance, cache, tenant, floor, watermark, ceiling));
}

int qm_sequence_open_as(qm_core* core, qm_cache cache, uint32_t name_space, const uint32_t* tokens, uint32_t count,
                        int is_private, uint32_t tenant) {
  REQUIRE(core, QM_KV_CACHE, cache);
  const int status = qm_put_tokens(core, cache, tokens, count);
  if (status != QM_OK) return status;
  RESULT(core, w2c_qm_kvOpenAs(instance, cache, name_space, count, is_private != 0, tenant, 0));
}

/* Words of an account: docs/abi.md. */
enum {
  ACCOUNT_FLOOR = 0,
  ACCOUNT_WATERMARK = 1,
  ACCOUNT_CEILING = 2,
  ACCOUNT_USED = 3,
  ACCOUNT_EVICTABLE = 4,
  ACCOUNT_EVICTED_OWN = 9,
  ACCOUNT_EVICTED_BY_OTHERS = 11,
  ACCOUNT_REFUSED = 13
};

/* Address of a tenant's account; of a tenant that has none, refused. */
static int account_of(qm_core* core, qm_cache cache, uint32_t tenant, uint32_t* account) {
  REQUIRE(core, QM_KV_CACHE, cache);
  QM_CALL(core, *account, w2c_qm_kvAccount(instance, cache, tenant));
  return *account == 0 ? QM_INVALID_ARGUMENT : QM_OK;
}

int qm_tenant_blocks(qm_core* core, qm_cache cache, uint32_t tenant) {
  uint32_t account = 0;
  const int status = account_of(core, cache, tenant, &account);
  return status == QM_OK ? (int)word(core, account + 4 * ACCOUNT_USED) : status;
}

int qm_tenant_account(qm_core* core, qm_cache cache, uint32_t tenant, qm_account* account) {
  uint32_t at = 0;
  if (account == NULL) return QM_INVALID_ARGUMENT;
  const int status = account_of(core, cache, tenant, &at);
  if (status != QM_OK) return status;
  *account = (qm_account){
      .floor = word(core, at + 4 * ACCOUNT_FLOOR),
      .watermark = word(core, at + 4 * ACCOUNT_WATERMARK),
      .ceiling = word(core, at + 4 * ACCOUNT_CEILING),
      .used = word(core, at + 4 * ACCOUNT_USED),
      .evictable = word(core, at + 4 * ACCOUNT_EVICTABLE),
      .evicted_own = wide_word(core, at + 4 * ACCOUNT_EVICTED_OWN),
      .evicted_by_others = wide_word(core, at + 4 * ACCOUNT_EVICTED_BY_OTHERS),
      .refused = wide_word(core, at + 4 * ACCOUNT_REFUSED),
  };
  return QM_OK;
}

int qm_tenant_available(qm_core* core, qm_cache cache, uint32_t tenant) {
  uint32_t account = 0;
  const int status = account_of(core, cache, tenant, &account);
  if (status != QM_OK) return status;
  RESULT(core, w2c_qm_kvTenantAvailable(instance, cache, tenant));
}

int qm_cache_set_order(qm_core* core, qm_cache cache, qm_order order, uint32_t history, double base_cost,
                       double depth_cost) {
  REQUIRE(core, QM_KV_CACHE, cache);
  double bytes = 0;
  if (order == QM_LRU) return QM_OK;
  QM_CALL(core, bytes, w2c_qm_kvOrderBytes(instance, word(core, cache + QM_CACHE_BLOCKS), (uint32_t)order, history));
  const int status = qm_make_room(core, bytes);
  if (status != QM_OK) return status;
  RESULT(core, w2c_qm_kvOrderCreate(instance, cache, (uint32_t)order, history, base_cost, depth_cost));
}

int qm_cache_retain(qm_core* core, qm_cache cache, uint32_t blocks) {
  REQUIRE(core, QM_KV_CACHE, cache);
  RESULT(core, w2c_qm_kvRetain(instance, cache, blocks));
}

int qm_sequence_prioritize(qm_core* core, qm_cache cache, uint32_t sequence, uint32_t priority,
                           double priority_until_us, double live_until_us) {
  REQUIRE(core, QM_KV_CACHE, cache);
  RESULT(core, w2c_qm_kvPrioritize(instance, cache, sequence, priority, priority_until_us, live_until_us));
}

int qm_sequence_advise(qm_core* core, qm_cache cache, uint32_t sequence, uint32_t discard) {
  REQUIRE(core, QM_KV_CACHE, cache);
  RESULT(core, w2c_qm_kvAdvise(instance, cache, sequence, discard));
}

int qm_sequence_score(qm_core* core, qm_cache cache, uint32_t sequence, uint32_t from, const double* scores,
                      uint32_t count) {
  REQUIRE(core, QM_KV_CACHE, cache);
  const uint32_t batch = QM_SCRATCH_BYTES / 8;
  int scored = 0;
  if (scores == NULL && count > 0) return QM_INVALID_ARGUMENT;
  for (uint32_t i = 0; i < count; i++)
    if (isnan(scores[i])) return QM_INVALID_ARGUMENT;
  do {
    const uint32_t some = count < batch ? count : batch;
    int result = QM_OK;
    if (some > 0) memcpy(at(core, core->scratch), scores, 8ull * some);
    QM_CALL(core, result, (int)w2c_qm_kvScore(instance, cache, sequence, from, some, core->scratch));
    if (result < 0) return result;
    scored += result;
    scores += some;
    from += some;
    count -= some;
  } while (count > 0);
  return scored;
}
