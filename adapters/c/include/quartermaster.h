/*
 * quartermaster: KV-cache paging, prefix caching and batch scheduling for LLM inference engines, as a C library.
 *
 * What       The WebAssembly core, translated to C: the same code, the same decisions, the same bytes. It plans;
 *            your engine computes. Records and rules: docs/abi.md.
 * Errors     Functions return QM_OK, a result >= 0, or a negative qm_status. A refused call has changed nothing.
 *            A broken invariant (a trap in the core) gives QM_POISONED for this call and every later one: free the
 *            core and restore a snapshot.
 * Threads    Distinct cores are independent. One core is used by one thread at a time.
 * Memory     A core reserves 8 GiB of address space and touches what its structures need. Structures are made once
 *            and live as long as their core. Pointers handed out stay valid until the core is freed; what they point
 *            to changes as each function says.
 * Ownership  Every pointer passed in stays the caller's and is read during the call only.
 */
#ifndef QUARTERMASTER_H
#define QUARTERMASTER_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define QM_API __attribute__((visibility("default")))
#else
#define QM_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum qm_status {
  QM_OK = 0,
  QM_INVALID_ARGUMENT = -1,
  QM_OUT_OF_MEMORY = -2,
  QM_OUT_OF_BLOCKS = -3,
  QM_OUT_OF_SEQUENCES = -4,
  QM_OUT_OF_REQUESTS = -5,
  QM_OUT_OF_TOKENS = -6,
  QM_UNKNOWN_SEQUENCE = -7,
  QM_UNKNOWN_REQUEST = -8,
  QM_DUPLICATE_ID = -9,
  QM_EMPTY_PROMPT = -10,
  QM_TOO_LONG = -11,
  QM_POOL_TOO_SMALL = -12,
  QM_INVALID_TIME = -13,
  QM_INVALID_TOKEN = -14,
  QM_UNKNOWN_STEP = -15,
  QM_STEP_IN_FLIGHT = -16,
  QM_NOT_RESERVED = -17,
  QM_SEQUENCE_OWNED = -18,
  QM_NOT_FOUND = -19,
  QM_QUEUE_TIMEOUT = -20,
  QM_BAD_SNAPSHOT = -21,
  QM_CORRUPT = -22,
  QM_COPIES_PENDING = -23,
  QM_OUT_OF_WORKERS = -24,
  QM_POISONED = -25,
  QM_ALREADY_FREE = -26,
  QM_LANES_SHARED = -27,
  QM_COMPACTION_PENDING = -28,
  QM_LOSSY_SEQUENCE = -29,
  QM_QUOTA_EXCEEDED = -30,
  QM_PIN_LIMIT = -31,
  QM_OUT_OF_SCOPES = -32
} qm_status;

/* "OUT_OF_BLOCKS" for QM_OUT_OF_BLOCKS, and so on; "UNKNOWN_STATUS" for anything else. Static. */
QM_API const char* qm_status_name(int status);
/* Version of the core's records; equal to abiVersion() of the module it was translated from. */
QM_API uint32_t qm_abi_version(void);

/* ---- core ------------------------------------------------------------------------------------------------- */

typedef struct qm_core qm_core;

/* seed: of every hash in the core; take a random one where users choose the prompts. maximum_bytes: most memory the
 * core may use, 64 KiB to 4 GiB; 0 means 4 GiB. */
QM_API int qm_core_create(uint64_t seed, uint64_t maximum_bytes, qm_core** core);
/* NULL is allowed. */
QM_API void qm_core_free(qm_core* core);
/* Full check of every structure; QM_OK or QM_CORRUPT. O(everything). */
QM_API int qm_core_validate(qm_core* core);
/* Bytes of memory in use. */
QM_API uint64_t qm_core_bytes(const qm_core* core);

/* The whole state as bytes. Continues in qm_core_restore, in any build, in C, Node, Deno or a browser. */
QM_API uint64_t qm_snapshot_bytes(qm_core* core);
/* bytes: as qm_snapshot_bytes says. */
QM_API int qm_snapshot(qm_core* core, void* out, uint64_t bytes);
QM_API int qm_core_restore(const void* snapshot, uint64_t bytes, uint64_t maximum_bytes, qm_core** core);

/* What a structure of a core is called in calls: its address in the core. 0 is none. */
typedef uint32_t qm_cache;
typedef uint32_t qm_scheduler;
typedef uint32_t qm_index;
/* Structures in order of creation, for a restored core: the `position`-th of its kind, 0 when there are fewer. */
QM_API qm_cache qm_cache_at(qm_core* core, uint32_t position);
QM_API qm_scheduler qm_scheduler_at(qm_core* core, uint32_t position);
QM_API qm_index qm_index_at(qm_core* core, uint32_t position);

/* ---- KV cache: block pool, prefix index, block tables --------------------------------------------------------- */

typedef struct qm_cache_options {
  uint32_t blocks;              /* 1 to 2^27 */
  uint32_t block_size;          /* tokens, a power of two from 1 to 256; 0: 16 */
  uint32_t max_sequences;       /* open at a time, 1 to 2^20; 0: 1024 */
  uint32_t max_sequence_tokens; /* 1 to 2^24; 0: 8192 */
  int no_prefix_cache;          /* not 0: blocks are never shared by content */
} qm_cache_options;

QM_API int qm_cache_create(qm_core* core, const qm_cache_options* options, qm_cache* cache);
/* Opens a sequence on the longest cached prefix; the last token is always left to compute. name_space: 0 to
 * 2^31 - 2; sequences of different ones never share. is_private: neither takes nor leaves cached blocks. Returns a
 * handle > 0. */
QM_API int qm_sequence_open(qm_core* core, qm_cache cache, uint32_t name_space, const uint32_t* tokens,
                            uint32_t count, int is_private);
/* Tokens that qm_sequence_open would find cached now. Changes nothing. */
QM_API int qm_cache_match(qm_core* core, qm_cache cache, uint32_t name_space, const uint32_t* tokens,
                          uint32_t count);

typedef struct qm_cache_statistics {
  uint32_t blocks, block_size;
  uint32_t free;      /* blocks with no content worth keeping */
  uint32_t evictable; /* cached blocks that no sequence holds: forgotten when room is needed */
  uint32_t cached;    /* blocks in the prefix index, held or not */
  uint32_t open_sequences;
  uint64_t queried_tokens, hit_tokens; /* of prompts: looked up, and found, since creation */
  uint64_t copied_tokens;              /* those of them found inside blocks (qm_cache_reuse_parts) */
  uint64_t evictions;
  uint64_t duplicates; /* blocks that were filled twice and merged into one */
} qm_cache_statistics;
QM_API int qm_cache_get_statistics(qm_core* core, qm_cache cache, qm_cache_statistics* statistics);
/* Makes room for `count` tokens, all or nothing. Returns the blocks added. */
QM_API int qm_sequence_reserve(qm_core* core, qm_cache cache, uint32_t sequence, uint32_t count);
/* Records tokens whose K and V have been written to the reserved slots. */
QM_API int qm_sequence_append(qm_core* core, qm_cache cache, uint32_t sequence, const uint32_t* tokens,
                              uint32_t count);
/* As qm_sequence_append, for tokens whose blocks were copied from elsewhere (a connector's), in one call or more: of the cache's
 * groups only what the next token of a sequence of `whole` tokens needs has been written. What its windows have left behind by then is
 * not cached. Close the sequence, or go on until it has `whole` tokens. whole: length + count to max_sequence_tokens. */
QM_API int qm_sequence_append_loaded(qm_core* core, qm_cache cache, uint32_t sequence, const uint32_t* tokens,
                                     uint32_t count, uint32_t whole);
QM_API int qm_sequence_truncate(qm_core* core, qm_cache cache, uint32_t sequence, uint32_t length);
/* Returns the handle of a second sequence over the same blocks. */
QM_API int qm_sequence_fork(qm_core* core, qm_cache cache, uint32_t sequence);
QM_API int qm_sequence_close(qm_core* core, qm_cache cache, uint32_t sequence);
/* Tokens of a sequence. */
QM_API int qm_sequence_length(qm_core* core, qm_cache cache, uint32_t sequence);
/* Slots of its longest lane; as many as its tokens unless it drops some (quartermaster_lanes.h). QM_UNKNOWN_SEQUENCE. */
QM_API int qm_sequence_slots(qm_core* core, qm_cache cache, uint32_t sequence);
/* Block ids of a sequence: *table lasts until its next reserve, append, truncate or close. Returns their number. */
QM_API int qm_sequence_table(qm_core* core, qm_cache cache, uint32_t sequence, const uint32_t** table);
/* Copies to run before their targets are written, 8 words each (docs/abi.md); then settle, or revert if they were
 * not run. Returns their number. */
QM_API int qm_cache_copies(qm_core* core, qm_cache cache, const uint32_t** records);
QM_API int qm_cache_settle_copies(qm_core* core, qm_cache cache);
QM_API int qm_cache_revert_copies(qm_core* core, qm_cache cache);
/* Blocks that a reservation could take now. */
QM_API int qm_cache_available(qm_core* core, qm_cache cache);
/* Sequences (and unsettled copies) that hold a block. */
QM_API int qm_block_references(qm_core* core, qm_cache cache, uint32_t block);
/* Forgets every cached block that nobody holds. Returns their number. */
QM_API int qm_cache_forget(qm_core* core, qm_cache cache);

/* Lets a new cache reuse the beginning of a block by copy, from `threshold` tokens on, 1 to the block size. */
QM_API int qm_cache_reuse_parts(qm_core* core, qm_cache cache, uint32_t threshold);

/* Layers that keep their tokens in another way than the cache's own tables do, in the same blocks (docs/guide.md, "Cache
 * groups"). kind: 0 every token, 1 those that a sliding window of `window` tokens sees, 2 a recurrent state. block_size: tokens
 * a block, the cache's times a power of two; of a state, from one checkpoint to the next. */
typedef struct qm_group {
  uint32_t kind, window, block_size;
} qm_group;
/* Gives a new cache without parts up to 7 groups, before accounts, marks and pins; its own tables are group 0. */
QM_API int qm_cache_set_groups(qm_core* core, qm_cache cache, const qm_group* groups, uint32_t count);
/* As qm_sequence_table, in group 1, 2, ...: 2^32 - 1 where a window has let go of a block. */
QM_API int qm_sequence_group_table(qm_core* core, qm_cache cache, uint32_t sequence, uint32_t group,
                                   const uint32_t** table);
typedef struct qm_group_figures {
  uint32_t kind, window, block_size; /* window: 0 unless it is one */
  uint32_t held;                     /* blocks in tables of open sequences, one that several share counted for each */
  uint32_t cached;                   /* blocks that can be found again, held or not */
  uint64_t evictions;
} qm_group_figures;
/* Group 1, 2, ...; QM_INVALID_ARGUMENT for another. */
QM_API int qm_cache_group_figures(qm_core* core, qm_cache cache, uint32_t group, qm_group_figures* figures);
/* Blocks of a group that are cached along a sequence's cached prefix, one for each whole block of its length from block `from` on, at
 * most `limit`; those that a window has left behind, too. 2^32 - 1 where there is none. Returns how many. */
QM_API int qm_sequence_group_cached(qm_core* core, qm_cache cache, uint32_t sequence, uint32_t group, uint32_t from,
                                    uint32_t* blocks, uint32_t limit);

/* Blocks of a sequence side by side, so that its K and V move in few copies (docs/abi.md, "Runs of blocks"). */
typedef struct qm_run {
  uint32_t start, length; /* blocks `start` to `start` + `length` - 1 */
} qm_run;
typedef struct qm_run_figures {
  uint32_t group;    /* blocks reserved at a time now */
  uint32_t reserved; /* free blocks that their sequences take first */
  uint32_t splits;   /* reservations split for others, since creation */
} qm_run_figures;
/* For a new cache without groups, of up to 2^24 blocks. reserve: most blocks that a sequence is given at a time with those that it
 * does not need yet, 1 to the blocks; 0: 60, or a quarter of a smaller pool. QM_INVALID_ARGUMENT, QM_OUT_OF_MEMORY. */
QM_API int qm_cache_set_runs(qm_core* core, qm_cache cache, uint32_t reserve);
/* QM_NOT_FOUND for a cache without runs, as the two calls after it. */
QM_API int qm_cache_run_figures(qm_core* core, qm_cache cache, qm_run_figures* figures);
/* Up to `limit` free runs that nobody has reserved, in order, of those that start at block `from` or behind it. Returns how
 * many. */
QM_API int qm_cache_free_runs(qm_core* core, qm_cache cache, uint32_t from, qm_run* runs, uint32_t limit);
/* The free blocks that a sequence takes next; none: length 0. QM_UNKNOWN_SEQUENCE. */
QM_API int qm_sequence_tail(qm_core* core, qm_cache cache, uint32_t sequence, qm_run* tail);

/* Accounts of tenants, for a new cache before it has a scheduler (docs/guide.md, "Quotas"). */
QM_API int qm_cache_set_tenants(qm_core* core, qm_cache cache, uint32_t tenants);
/* In blocks, floor <= watermark <= ceiling. tenant: a number below the tenants', or their number for the common account. A reservation
 * that is refused with QM_QUOTA_EXCEEDED or QM_OUT_OF_BLOCKS may have taken soft pins and cached blocks first. */
QM_API int qm_cache_set_quota(qm_core* core, qm_cache cache, uint32_t tenant, uint32_t floor, uint32_t watermark,
                              uint32_t ceiling);
/* As qm_sequence_open, paid by a tenant. */
QM_API int qm_sequence_open_as(qm_core* core, qm_cache cache, uint32_t name_space, const uint32_t* tokens,
                               uint32_t count, int is_private, uint32_t tenant);
/* Blocks that a tenant holds or has cached; QM_INVALID_ARGUMENT without accounts, as the two calls after it. */
QM_API int qm_tenant_blocks(qm_core* core, qm_cache cache, uint32_t tenant);
typedef struct qm_account {
  uint32_t floor, watermark, ceiling;
  uint32_t used;      /* blocks that it holds or has cached */
  uint32_t evictable; /* those that no sequence holds */
  uint64_t evicted_own, evicted_by_others; /* its cached blocks forgotten for itself, and for others, since creation */
  uint64_t refused;                        /* reservations refused with QM_QUOTA_EXCEEDED, since creation */
} qm_account;
QM_API int qm_tenant_account(qm_core* core, qm_cache cache, uint32_t tenant, qm_account* account);
/* Blocks that a tenant could take now, its ceiling apart: what is available less what others' floors keep. */
QM_API int qm_tenant_available(qm_core* core, qm_cache cache, uint32_t tenant);

/* Pins of cached prefixes, for a new cache; hard ones keep `limit` blocks at most. Times in us, HUGE_VAL for ever. */
QM_API int qm_cache_set_pins(qm_core* core, qm_cache cache, uint32_t capacity, uint32_t limit);
/* Returns a handle > 0. priority: of a soft pin, 0 to 100. qm_cache_advance and qm_step end those whose time has come. */
QM_API int qm_sequence_pin(qm_core* core, qm_cache cache, uint32_t sequence, int hard, uint32_t priority,
                           double until_us);
QM_API int qm_unpin(qm_core* core, qm_cache cache, uint32_t pin);
typedef struct qm_pin_figures {
  uint32_t hard_blocks, soft_blocks; /* kept by hard pins; by nothing but soft ones */
  uint32_t pins, gave_way;           /* pins; soft ones that have given way, since creation */
} qm_pin_figures;
/* All 0 for a cache without pins. */
QM_API int qm_cache_pin_figures(qm_core* core, qm_cache cache, qm_pin_figures* figures);

/* What a prompt's cache depends on besides its tokens (docs/abi.md, "Marks"), by position. kind: 1 public, 2 group, 3
 * tenant, 4 adapter, 5 item; length: an item's tokens, else 0. */
typedef struct qm_mark {
  uint32_t position, kind, length, reserved;
  uint64_t content[2];
} qm_mark;
/* Room for so many marks, for a new cache. */
QM_API int qm_cache_set_marks(qm_core* core, qm_cache cache, uint32_t capacity);
/* The list of up to 256 marks, yours until qm_marks_release; 0 is the empty one. */
QM_API int qm_marks(qm_core* core, qm_cache cache, const qm_mark* marks, uint32_t count);
QM_API int qm_marks_release(qm_core* core, qm_cache cache, uint32_t marks);
/* The marks of a list, by position; returns how many. *out lasts until the next call with marks. */
QM_API int qm_marks_read(qm_core* core, qm_cache cache, uint32_t marks, const qm_mark** out);
QM_API int qm_sequence_open_marked(qm_core* core, qm_cache cache, uint32_t name_space, const uint32_t* tokens,
                                   uint32_t count, uint32_t tenant, uint32_t marks);
/* As qm_cache_match, of a prompt with marks. */
QM_API int qm_cache_match_marked(qm_core* core, qm_cache cache, uint32_t name_space, const uint32_t* tokens,
                                 uint32_t count, uint32_t marks);

/* Which unheld cached block goes first when room is needed (docs/abi.md, "Eviction orders"). */
typedef enum qm_order {
  QM_LRU = 0, QM_FIFO = 1, QM_LFU = 2, QM_S3_FIFO = 3, QM_GDSF = 4, QM_SCORED = 5, QM_GITTINS = 6,
  QM_MARKER = 7, QM_FLUSH_ALL_0S = 8, QM_MARK0 = 9, QM_MARK_AND_PREDICT = 10, QM_BY_PRIORITY = 11,
  QM_SEEN_TWICE = 12
} qm_order;
/* Gives a cache an order while it is new; QM_LRU is what it has. history: blocks remembered after they have left, 0 to
 * 2^26. base_cost, depth_cost: QM_GDSF only, >= 0. */
QM_API int qm_cache_set_order(qm_core* core, qm_cache cache, qm_order order, uint32_t history, double base_cost,
                              double depth_cost);
/* Unheld cached blocks to keep at most. */
QM_API int qm_cache_retain(qm_core* core, qm_cache cache, uint32_t blocks);
/* What an order is told of a sequence's cached blocks; returns their number, QM_INVALID_ARGUMENT under another order.
 * QM_BY_PRIORITY: priority 0 to 100 until a time, and a time to live; times in us, HUGE_VAL for ever. */
QM_API int qm_sequence_prioritize(qm_core* core, qm_cache cache, uint32_t sequence, uint32_t priority,
                                  double priority_until_us, double live_until_us);
/* QM_FLUSH_ALL_0S, QM_MARK0, QM_MARK_AND_PREDICT: 1 discard, 0 keep. */
QM_API int qm_sequence_advise(qm_core* core, qm_cache cache, uint32_t sequence, uint32_t discard);
/* QM_SCORED: a score each for the blocks from table entry `from` on, any numbers but NaN; the lowest goes first. */
QM_API int qm_sequence_score(qm_core* core, qm_cache cache, uint32_t sequence, uint32_t from, const double* scores,
                             uint32_t count);
/* The clock has come to now_us, finite, >= 0: pins end and, under QM_BY_PRIORITY, priorities and times to live do. A step says it as
 * well. QM_INVALID_TIME. */
QM_API int qm_cache_advance(qm_core* core, qm_cache cache, double now_us);
/* Earliest time at which qm_cache_advance changes something; infinity when there is none. */
QM_API double qm_cache_next_deadline_us(qm_core* core, qm_cache cache);

/* ---- content keys and events: what the outside knows of a cache ---------------------------------------------------- */

enum { QM_KEY_BYTES = 32 };

/* BLAKE3 in keyed mode: 32 bytes of `bytes` bytes under a key of 32. */
QM_API int qm_keyed_hash(qm_core* core, const uint8_t* key, const void* input, uint64_t bytes, uint8_t* out);
/* Gives a cache names for its cached blocks that are the same in every process with this domain key and model (32 bytes each;
 * docs/abi.md, "Content keys"). scopes: namespaces that can be given a scope. */
QM_API int qm_cache_set_content_keys(qm_core* core, qm_cache cache, uint32_t scopes, const uint8_t* domain_key,
                                     const uint8_t* fingerprint);
/* What a namespace stands for outside: a list of { type u8, bytes u32, content }. Before it is used. */
QM_API int qm_cache_set_scope(qm_core* core, qm_cache cache, uint32_t name_space, const uint8_t* list, uint32_t bytes);
/* Keys of a sequence's cached blocks from table entry `from` on, at most `count`: [n][32]. Returns how many. */
QM_API int qm_sequence_content_keys(qm_core* core, qm_cache cache, uint32_t sequence, uint32_t from, uint32_t count,
                                    uint8_t* out);
/* Keys of the whole blocks of a prompt with a list of marks (0: none), cached or not, at most `limit`: [n][32]; those that the blocks
 * of a sequence have which was opened so. What a connector or a router is asked for before anything is cached. Returns how many. */
QM_API int qm_prompt_content_keys(qm_core* core, qm_cache cache, uint32_t name_space, const uint32_t* tokens,
                                  uint32_t count, uint32_t marks, uint8_t* out, uint32_t limit);
/* QM_NOT_FOUND when the block is not cached. */
QM_API int qm_block_content_key(qm_core* core, qm_cache cache, uint32_t block, uint8_t* out);
/* Key of tokens by themselves, with a list of extras. */
QM_API int qm_chunk_content_key(qm_core* core, qm_cache cache, const uint32_t* tokens, uint32_t count,
                                const uint8_t* extras, uint32_t bytes, uint8_t* out);

typedef enum qm_event_kind { QM_STORED = 1, QM_REMOVED = 2, QM_CLEARED = 3, QM_GAP = 4 } qm_event_kind;
/* docs/abi.md, "KV events". Stored: parent is the block before it, or 2^31 + name_space, and then parent_key is zero. A block
 * of a cache's group has that group's number behind `group`, and the key of the own block that it ends with. `marks`: the
 * list before its end, for qm_marks_read as long as nothing else is called. */
typedef struct qm_event {
  uint32_t kind, block, parent, name_space, tokens, tier, group, marks;
  uint8_t key[32], parent_key[32];
} qm_event;
/* Gives a new cache with content keys events; the core keeps `ring` of them between two reads. */
QM_API int qm_cache_set_events(qm_core* core, qm_cache cache, uint32_t ring, uint32_t tier, uint32_t group);
/* What has happened since the last call, up to 682 events: a batch, with `others` events of yours. *events lasts until the next
 * call on this core. Returns how many; 0 when there are none left. */
QM_API int qm_cache_read_events(qm_core* core, qm_cache cache, uint32_t others, const qm_event** events);
/* Batches read: the number of the next. */
QM_API double qm_cache_event_batches(qm_core* core, qm_cache cache);
/* All cached blocks as stored events, ancestors first: begin 1, then 0, until it returns 0. Read everything before. */
QM_API int qm_cache_snapshot_events(qm_core* core, qm_cache cache, int begin, const qm_event** events);
/* The next read begins with a gap: after restoring a core, for whom another history had been told. */
QM_API int qm_cache_lose_events(qm_core* core, qm_cache cache);
/* Token ids of a stored event's block, as many as a block has; as long as nothing else is called. */
QM_API const uint32_t* qm_event_tokens(const qm_core* core, const qm_event* event);

/* ---- scheduler ------------------------------------------------------------------------------------------------ */

typedef enum qm_policy { QM_FCFS = 0, QM_PRIORITY = 1, QM_SHORTEST_FIRST = 2, QM_LONGEST_PREFIX = 3, QM_FAIR = 4, QM_EARLIEST_DEADLINE = 5 } qm_policy;

typedef struct qm_scheduler_options {
  uint32_t vocab_size;       /* token ids are below it, >= 1 */
  uint32_t max_requests;     /* live at a time, waiting or running; 0: 4096 */
  uint32_t max_running;      /* rows of a batch; 0: the least of 256, the cache's sequences and the budget */
  uint32_t max_batch_tokens; /* tokens of a step; 0: 2048 */
  uint32_t max_chunk_tokens; /* tokens of one prefill chunk; 0: max_batch_tokens */
  uint32_t watermark_blocks; /* kept available at admission */
  uint32_t token_capacity;   /* prompt and new tokens of all live requests, in pages of 256 a request; 0: max_requests times 1024 */
  qm_policy policy;
  double queue_timeout_us; /* rejects what has waited so long without ever running; 0: none */
  uint32_t aging_tokens;   /* longest prefix first: tokens more that a later arrival needs a place; 0: 1, at most 256 */
  uint32_t tenants;        /* that requests name; 0: 1, at most 4096 */
  double input_weight;     /* fair: what a prompt token and a generated one count; both 0: 1 and 2 */
  double output_weight;
} qm_scheduler_options;

QM_API int qm_scheduler_create(qm_core* core, qm_cache cache, const qm_scheduler_options* options,
                               qm_scheduler* scheduler);

typedef struct qm_request {
  uint64_t id;            /* yours, unique among live requests */
  const uint32_t* tokens; /* prompt */
  uint32_t token_count, max_new_tokens;
  uint32_t name_space;
  uint32_t priority; /* smaller is more urgent */
  double arrival_us; /* on the clock of qm_step */
  double deadline_us; /* 0: none; if it still waits then, it expires */
  uint32_t tenant; /* below the scheduler's tenants */
  uint32_t max_chunk_tokens; /* of the prompt in one step; 0: as many as the scheduler allows */
  uint32_t peak_slots; /* of a request that drops tokens (quartermaster_lanes.h): the most slots of its longest lane once its prompt is
                          computed; 0: it keeps all. Not in caches with groups */
  uint32_t last_chunk; /* fewest tokens of its prompt's last chunk, where the token budget allows it; 0: no matter */
} qm_request;

/* Returns a handle > 0. Refusals: QM_EMPTY_PROMPT; QM_TOO_LONG and QM_POOL_TOO_SMALL, token_count + max_new_tokens for the cache's
 * sequences and blocks; QM_QUOTA_EXCEEDED, for the tenant's ceiling; QM_INVALID_TOKEN; QM_INVALID_TIME; QM_DUPLICATE_ID;
 * QM_OUT_OF_REQUESTS, max_requests are live; QM_OUT_OF_TOKENS, token_count + max_new_tokens are more than live requests leave of
 * the scheduler's token_capacity. The last two pass when a request ends. */
QM_API int qm_submit(qm_core* core, qm_scheduler scheduler, const qm_request* request);
/* For a request that has not been admitted yet: the marks of its prompt; whether to pin it with its first token. */
QM_API int qm_request_marks(qm_core* core, qm_scheduler scheduler, uint32_t request, uint32_t marks);
QM_API int qm_request_pin(qm_core* core, qm_scheduler scheduler, uint32_t request, int hard, uint32_t priority,
                          double for_us);
QM_API int qm_abort(qm_core* core, qm_scheduler scheduler, uint32_t request);
/* State of a request: 1 arriving, 2 waiting, 3 running, 4 being read back from the host tier, 5 idle until its next turn, 0
 * ended. */
QM_API int qm_request_state(qm_core* core, qm_scheduler scheduler, uint32_t request);
/* Of a live request: tokens whose K and V exist, tokens generated. QM_UNKNOWN_REQUEST when it has ended. */
QM_API int qm_request_computed(qm_core* core, qm_scheduler scheduler, uint32_t request);
QM_API int qm_request_generated(qm_core* core, qm_scheduler scheduler, uint32_t request);

/* A live request stays, idle, when its answer is complete: a conversation. Its outcome is "finished" as ever; it holds no blocks, what
 * has been computed for it goes to the host tier if there is one, and qm_abort ends it. QM_UNKNOWN_REQUEST; QM_INVALID_ARGUMENT for
 * one that drops tokens. */
QM_API int qm_request_turns(qm_core* core, qm_scheduler scheduler, uint32_t request);
typedef struct qm_turn {
  const uint32_t* tokens; /* what is said, behind all tokens that the request has; at least one */
  uint32_t token_count, max_new_tokens;
  int last; /* not 0: the request ends with this turn's answer */
} qm_turn;
/* The next turn of an idle request: it waits for its place as a new one does. QM_UNKNOWN_REQUEST, QM_INVALID_ARGUMENT for one that is
 * not idle, and whatever qm_submit would refuse all its tokens with; when refused it stays idle. */
QM_API int qm_next_turn(qm_core* core, qm_scheduler scheduler, uint32_t request, const qm_turn* turn);

/* A step's decisions: the words of StepPlan in docs/abi.md, sections as pointers into the core, valid until the next
 * qm_step. Decode rows come first. */
typedef struct qm_plan {
  uint32_t step_id, rows, decode_rows, sampling_rows, total_tokens, transfer_count, outcome_count, table_words;
  uint32_t running, waiting, free_blocks, evictable_blocks;
  const uint32_t* requests;        /* [rows] */
  const uint32_t* sequences;       /* [rows] */
  const uint32_t* phases;          /* [rows] 0 prefill chunk, 1 decode, 2 last chunk; 1 and 2 sample a token */
  const uint32_t* new_tokens;      /* [rows] */
  const uint32_t* computed_before; /* [rows] */
  const uint32_t* token_start;     /* [rows + 1] */
  const uint32_t* tokens;          /* [total_tokens] */
  const uint32_t* slots;           /* [total_tokens] block * block_size + offset */
  const uint32_t* table_start;     /* [rows] index into tables */
  const uint32_t* table_count;     /* [rows] */
  const uint32_t* tables;          /* [table_words] block ids */
  const uint32_t* transfers;       /* [transfer_count][8] */
  const uint32_t* outcomes;        /* [outcome_count][8]; qm_commit adds to them: see qm_outcomes */
} qm_plan;

/* Plans a step at now_us (>= every earlier time). Every plan, an empty one too, is in flight until qm_commit or qm_abandon:
 * another step before that is refused with QM_STEP_IN_FLIGHT. Behind an empty one without transfers and outcomes nothing
 * changes before qm_next_wake_us, unless something is submitted. Returns QM_OK. */
QM_API int qm_step(qm_core* core, qm_scheduler scheduler, double now_us, qm_plan* plan);
/* The last step's plan, once more: in a restored core the one that is in flight. */
QM_API int qm_current_plan(qm_core* core, qm_scheduler scheduler, qm_plan* plan);
/* tokens, [sampling_rows]: what was sampled, in row order. finish, [sampling_rows] or NULL: not 0 ends the request
 * after this token. */
QM_API int qm_commit(qm_core* core, qm_scheduler scheduler, uint32_t step_id, double now_us,
                     const uint32_t* tokens, const uint32_t* finish);
/* Room for up to `most` draft tokens of a request in one step, 1 to 256, for a new scheduler (docs/guide.md, "Speculation"). */
QM_API int qm_scheduler_set_drafts(qm_core* core, qm_scheduler scheduler, uint32_t most);
/* What a request may generate next, in place of what was proposed before: a decode row then feeds these tokens behind its last
 * one. Returns how many the request can make use of. */
QM_API int qm_propose(qm_core* core, qm_scheduler scheduler, uint32_t request, const uint32_t* tokens, uint32_t count);
/* As qm_commit. accepted, [sampling_rows] or NULL: how many of a row's drafts were right; its sampled token comes behind them. */
QM_API int qm_commit_drafts(qm_core* core, qm_scheduler scheduler, uint32_t step_id, double now_us,
                            const uint32_t* tokens, const uint32_t* finish, const uint32_t* accepted);
/* The plan was not executed: takes it back. */
QM_API int qm_abandon(qm_core* core, qm_scheduler scheduler, uint32_t step_id);
/* Outcomes of the last step and its commit, 8 words each: request, kind (1 finished, 2 preempted, 3 rejected, 4 expired), code,
 * tokens generated, prompt tokens cached, preemptions, blocks of its tenant's own forgotten for it, tokens in the host tier (preempted)
 * or the handle of its prompt's pin (a refusal, or 0). Returns their number. */
QM_API int qm_outcomes(qm_core* core, qm_scheduler scheduler, const uint32_t** records);
/* Another priority for a live request, 0 to 255, from the next step on. */
QM_API int qm_set_priority(qm_core* core, qm_scheduler scheduler, uint32_t request, uint32_t priority);
/* Tokens, at most 2^24, that a live request is expected to generate yet: QM_SHORTEST_FIRST goes by them and by what is known. */
QM_API int qm_set_prediction(qm_core* core, qm_scheduler scheduler, uint32_t request, uint32_t tokens);
/* QM_PRIORITY: running requests make room for more urgent ones that wait. */
QM_API int qm_set_preemptive(qm_core* core, qm_scheduler scheduler, int preemptive);

typedef struct qm_host_tier_options {
  uint32_t blocks; /* that it holds, 1 to 2^24 */
  uint32_t copies; /* requests that have something there at a time; at most max_requests */
  int by_cost;     /* not 0: swap only when that costs less than computing again */
  int blocking;    /* not 0: every transfer is complete before the batch of its step */
  int no_reuse;    /* not 0: forget what a request has there once it runs again */
  double out_us, in_us; /* a block sent, a block read back, until transfers have been measured; >= 0 */
  double prefill_us;    /* a token computed */
  int swap_in; /* a request that is read back joins: 0 the step after its blocks have arrived; 1 the one that reads them, whose batch
                  waits; 2 as 1 when nobody else could run or reading is expected to take at most half of a step, else as 0 */
} qm_host_tier_options;
/* Host memory for preempted requests: the plan's transfers then hold swaps (docs/abi.md, "Host tier"). */
QM_API int qm_scheduler_add_host_tier(qm_core* core, qm_scheduler scheduler, const qm_host_tier_options* options);
/* A transfer has been carried out or given up: its first `blocks` blocks have arrived, in us microseconds (0: unknown). 1: the batch
 * in flight was to read others of them, and can only be abandoned. */
QM_API int qm_transferred(qm_core* core, qm_scheduler scheduler, uint32_t transfer, uint32_t blocks, double us);
/* Time of the next arrival, deadline or queue time-out; infinity when there is none. 0: the next plan has transfers of a turn that
 * has ended. */
QM_API double qm_next_wake_us(qm_core* core, qm_scheduler scheduler);

typedef struct qm_scheduler_figures {
  uint32_t running, waiting, arriving;    /* requests */
  uint32_t step_in_flight;                /* 1: a plan has yet to be committed or abandoned */
  uint32_t token_pages, free_token_pages; /* of the token store, 256 tokens each */
} qm_scheduler_figures;
QM_API int qm_scheduler_get_figures(qm_core* core, qm_scheduler scheduler, qm_scheduler_figures* figures);

typedef struct qm_draft_figures {
  uint32_t most;       /* drafts of a request in one step */
  uint64_t fed, right; /* drafts fed to the engine, and found right, since creation */
} qm_draft_figures;
/* QM_NOT_FOUND for a scheduler without drafts. */
QM_API int qm_scheduler_draft_figures(qm_core* core, qm_scheduler scheduler, qm_draft_figures* figures);

typedef struct qm_host_tier_figures {
  uint32_t blocks, free;
  uint32_t in_flight;           /* transfers */
  uint32_t pending_blocks;      /* of the device, free once the swap-outs in flight are complete */
  uint64_t swap_outs, swap_ins; /* preemptions and admissions that have begun a transfer, since creation, as all that follows */
  uint64_t joins;               /* swap-ins that the batch of their step has waited for */
  uint64_t sent_blocks, kept_blocks, loaded_blocks; /* blocks sent; those that were there already; blocks read back */
  uint64_t failures;        /* transfers of which not everything arrived */
  uint64_t conflicts;       /* swap-outs whose blocks were needed before they were complete */
  double out_us, in_us;     /* averages: a block sent, a block read back */
  double step_us;           /* of steps with rows that began no load which might have joined; 0 before the first */
} qm_host_tier_figures;
/* QM_NOT_FOUND for a scheduler without a host tier. */
QM_API int qm_scheduler_host_tier_figures(qm_core* core, qm_scheduler scheduler, qm_host_tier_figures* figures);

/* Weighted tokens that a tenant has been served (QM_FAIR); negative for a tenant that there is not. */
QM_API double qm_tenant_served(qm_core* core, qm_scheduler scheduler, uint32_t tenant);

/* ---- page set: which of `pages` pages are in `slots` slots ------------------------------------------------------ */

typedef uint32_t qm_page_set;
/* Any order but QM_SCORED and QM_BY_PRIORITY. history: pages remembered after they have left. */
QM_API int qm_page_set_create(qm_core* core, qm_order order, uint32_t slots, uint32_t pages, uint32_t history,
                              qm_page_set* set);
/* As qm_page_set_create; what an order by advice throws out goes at once instead of when its room is needed: more faults, never fewer;
 * for comparisons with the literature. */
QM_API int qm_page_set_create_eager(qm_core* core, qm_order order, uint32_t slots, uint32_t pages, uint32_t history,
                                    qm_page_set* set);
QM_API qm_page_set qm_page_set_at(qm_core* core, uint32_t position);
/* Makes a page present: 1 when it was, 0 when it had to be fetched. advice: 0 keep, 1 discard, 2 none. */
QM_API int qm_page_set_request(qm_core* core, qm_page_set set, uint32_t page, uint32_t advice);
/* So many requests in turn. advice: a byte each, or NULL: none. Returns how many were faults. QM_INVALID_ARGUMENT, before any of them,
 * when a page or an advice is out of range. */
QM_API int qm_page_set_run(qm_core* core, qm_page_set set, const uint32_t* pages, const uint8_t* advice,
                           uint32_t count);
/* Slot of a page, or QM_NOT_FOUND. */
QM_API int qm_page_set_slot(qm_core* core, qm_page_set set, uint32_t page);
/* Takes every page out and forgets the past, figures too; random draws start from `seed`. */
QM_API int qm_page_set_clear(qm_core* core, qm_page_set set, uint32_t seed);
typedef struct qm_page_set_figures {
  uint32_t slots, pages;
  uint64_t requests, faults; /* since creation, or the last clear */
} qm_page_set_figures;
QM_API int qm_page_set_get_figures(qm_core* core, qm_page_set set, qm_page_set_figures* figures);

/* ---- ordered index -------------------------------------------------------------------------------------------- */

/* A map from u64 keys (1 to 2^64 - 2) to u64 values, in key order, for up to `capacity` entries. */
QM_API int qm_index_create(qm_core* core, uint32_t capacity, qm_index* index);
/* 1 entered, 0 overwritten. */
QM_API int qm_index_put(qm_core* core, qm_index index, uint64_t key, uint64_t value);
/* 1 and *value, or 0. */
QM_API int qm_index_get(qm_core* core, qm_index index, uint64_t key, uint64_t* value);
/* 1 removed, 0 not there. */
QM_API int qm_index_delete(qm_core* core, qm_index index, uint64_t key);
/* Up to `limit` entries with lowest <= key <= highest, in order. Returns how many. */
QM_API int qm_index_range(qm_core* core, qm_index index, uint64_t lowest, uint64_t highest, uint32_t limit,
                          uint64_t* keys, uint64_t* values);
QM_API int qm_index_size(qm_core* core, qm_index index);
/* 1 the key's value was `expected` and is `value` now, 0 it is another. QM_NOT_FOUND. */
QM_API int qm_index_compare_exchange(qm_core* core, qm_index index, uint64_t key, uint64_t expected, uint64_t value);
/* Adds to the value of a key, modulo 2^64; *before is what it was. QM_NOT_FOUND. */
QM_API int qm_index_fetch_add(qm_core* core, qm_index index, uint64_t key, uint64_t delta, uint64_t* before);
/* Many keys in one call, up to 2^31 - 1; QM_INVALID_ARGUMENT, before any of them, for one that is no key. Their number found: values,
 * [count], 0 for those that are not; found, [count] bytes, 1 or 0. Entered: fewer when there is no room for one, and then none
 * behind it. Removed: those that were there. */
QM_API int qm_index_get_many(qm_core* core, qm_index index, const uint64_t* keys, uint32_t count, uint64_t* values,
                             uint8_t* found);
QM_API int qm_index_put_many(qm_core* core, qm_index index, const uint64_t* keys, const uint64_t* values,
                             uint32_t count);
QM_API int qm_index_delete_many(qm_core* core, qm_index index, const uint64_t* keys, uint32_t count);
QM_API int qm_index_clear(qm_core* core, qm_index index);
typedef struct qm_index_figures {
  uint32_t entries, levels, nodes, free_nodes, node_bytes;
  uint32_t leaf_capacity; /* entries of a leaf */
} qm_index_figures;
QM_API int qm_index_get_figures(qm_core* core, qm_index index, qm_index_figures* figures);

/* ---- keyed pool ------------------------------------------------------------------------------------------------ */

/* A block pool for engines that hash blocks themselves and keep their own block tables: blocks go out in id order, then
 * the one released longest ago; a block keeps its key until it is taken; of several blocks with one key the oldest is
 * found; keys are compared whole. */
typedef uint32_t qm_keyed_pool;
/* blocks: 1 to 2^27, all free. key_bytes: of the longest key, 8 to 1024, a multiple of 8. batch: keys of one call, 1 to
 * blocks. */
QM_API int qm_keyed_pool_create(qm_core* core, uint32_t blocks, uint32_t key_bytes, uint32_t batch,
                                qm_keyed_pool* pool);
QM_API qm_keyed_pool qm_keyed_pool_at(qm_core* core, uint32_t position);

/* Where a pool lies; valid as long as the core. Words of header and blocks: docs/abi.md, "Keyed pool". */
typedef struct qm_keyed_view {
  const uint32_t* header;
  const uint8_t* blocks; /* [header[0]] of `stride` bytes each */
  uint32_t stride;
  uint32_t* ids;  /* [header[0]] block ids in, and out; bit 31: the block has lost a key by the call */
  uint8_t* input; /* [batch][key_bytes] keys in */
} qm_keyed_view;
QM_API int qm_keyed_pool_view(qm_core* core, qm_keyed_pool pool, qm_keyed_view* view);

/* QM_OK when `needed` blocks would be free beside the first `touched` ids, else QM_OUT_OF_BLOCKS. */
QM_API int qm_keyed_pool_fits(qm_core* core, qm_keyed_pool pool, uint32_t touched, uint32_t needed);
/* References the first `touched` ids, and takes `taken` blocks into ids; or neither. Returns how many lost a key. */
QM_API int qm_keyed_pool_allocate(qm_core* core, qm_keyed_pool pool, uint32_t touched, uint32_t taken);
/* One reference less for each of `count` ids, in order of eviction. */
QM_API int qm_keyed_pool_release(qm_core* core, qm_keyed_pool pool, uint32_t count);
/* Gives `count` ids the keys at input, `length` bytes each. */
QM_API int qm_keyed_pool_enter_keys(qm_core* core, qm_keyed_pool pool, uint32_t group, uint32_t length,
                                    uint32_t count);
/* The oldest block of each of `count` keys at input, into ids: up to the first that none has, or, with `all`, 2^32 - 1
 * for it. Returns how many were found. */
QM_API int qm_keyed_pool_find_keys(qm_core* core, qm_keyed_pool pool, uint32_t group, uint32_t length,
                                   uint32_t count, int all);
/* Takes the keys of `count` ids away; returns how many had one, and marks them. */
QM_API int qm_keyed_pool_drop_keys(qm_core* core, qm_keyed_pool pool, uint32_t count);
/* Takes a free block out of circulation (aside not 0), or puts such a block back. */
QM_API int qm_keyed_pool_set_aside(qm_core* core, qm_keyed_pool pool, uint32_t block, int aside);

/* ---- virtual memory ---------------------------------------------------------------------------------------------- */

/* Which physical memory lies behind which tokens of a cache that is contiguous in virtual memory (docs/virtual-memory.md): your
 * engine maps what the changes say. */
typedef uint32_t qm_virtual_memory;

typedef struct qm_virtual_memory_options {
  uint32_t slots;       /* sequences at a time, 1 to 4096 */
  uint32_t max_tokens;  /* of the longest, 1 to 2^24 */
  uint32_t token_bytes; /* of one token in one tensor, 1 to 2^24 */
  uint32_t tensors;     /* that grow alike; 0: 1. Yours, kept for you */
  uint32_t page_bytes;  /* of a page-group, a power of two from 4096 to 2^30; 0: 65536 */
  uint32_t blocks;      /* KV blocks of physical memory, a page-group in each tensor; 1 to 2^24 */
  uint32_t eager_steps; /* tokens that qm_virtual_memory_background looks ahead; 0: it plans nothing */
  uint32_t eager_blocks; /* KV blocks that looking beyond the next token may map in one step */
  int eager_reclaim;    /* not 0: it takes a block from an idle slot when it has nothing else to do */
} qm_virtual_memory_options;

/* One change: a KV block comes behind a page of a slot in every tensor (op 1), or leaves it (op 0). */
typedef struct qm_page_change {
  uint32_t op, slot, page, block;
} qm_page_change;

QM_API int qm_virtual_memory_create(qm_core* core, const qm_virtual_memory_options* options, qm_virtual_memory* memory);
QM_API qm_virtual_memory qm_virtual_memory_at(qm_core* core, uint32_t position);
/* Gives a slot to a sequence of `tokens` tokens, of which it reads the first `prefix` where slot `from` has them. Returns it. */
QM_API int qm_virtual_memory_allocate(qm_core* core, qm_virtual_memory memory, uint32_t tokens, uint32_t from,
                                      uint32_t prefix);
/* Ends a slot's sequence; its pages stay mapped unless `unmap`. */
QM_API int qm_virtual_memory_free(qm_core* core, qm_virtual_memory memory, uint32_t slot, int unmap);
/* lengths: tokens of every slot once the coming iteration has run, 0 exactly for those without a sequence. Returns how many
 * slots there was no memory for: *refused lists them until the next step; they keep their length. */
QM_API int qm_virtual_memory_step(qm_core* core, qm_virtual_memory memory, const uint32_t* lengths,
                                  const uint32_t** refused);
/* Plans what the next steps will need: changes to carry out while the kernels run. */
QM_API int qm_virtual_memory_background(qm_core* core, qm_virtual_memory memory);
/* Lets slot `to` read the first pages of `from`, as far as `tokens` tokens of both; returns how many tokens that is. */
QM_API int qm_virtual_memory_share(qm_core* core, qm_virtual_memory memory, uint32_t from, uint32_t to, uint32_t tokens);
/* Unmaps all that no token lies in. */
QM_API int qm_virtual_memory_trim(qm_core* core, qm_virtual_memory memory);
/* The oldest changes that have not been taken, at most `capacity`: carry them out in order. Returns how many; 0: none is left. */
QM_API int qm_virtual_memory_take(qm_core* core, qm_virtual_memory memory, qm_page_change* changes, uint32_t capacity);
/* KV blocks behind a slot's mapped pages: *blocks lasts until the next call. Returns their number. */
QM_API int qm_virtual_memory_pages(qm_core* core, qm_virtual_memory memory, uint32_t slot, const uint32_t** blocks);
/* KV blocks that can be had. */
QM_API int qm_virtual_memory_available(qm_core* core, qm_virtual_memory memory);

#ifdef __cplusplus
}
#endif

#endif /* QUARTERMASTER_H */
