/*
 * How the library calls into the translated core: a trap comes back as a status, and poisons the core. And what its files share:
 * words of the core's memory, the structures in it, arguments on their way in.
 */
#ifndef QM_CORE_CALLS_H
#define QM_CORE_CALLS_H

#include <setjmp.h>
#include <string.h>

#include "core.h"
#include "quartermaster.h"
#include "wasm-rt.h"

typedef struct {
  jmp_buf registers;
  wasm_rt_trap_t code;
} qm_trap_frame;

/* The call into a core that this thread is in. */
extern _Thread_local qm_trap_frame* qm_innermost_frame;

/* Kinds of regions, as in docs/abi.md. */
enum { QM_SCRATCH = 1, QM_ORDERED_INDEX = 2, QM_KV_CACHE = 3, QM_SCHEDULER = 4, QM_VIEW = 5, QM_EXTENTS = 6, QM_SELECTION = 7, QM_ORDER = 8, QM_LANES = 9, QM_PAGE_SET = 10, QM_KEYED_POOL = 13, QM_VIRTUAL_MEMORY = 16, QM_KINDS = 17 };

/* What the library knows of the core's records (docs/abi.md). */
enum {
  QM_WORKERS_AT = 112, /* who is attached: bytes that a snapshot leaves zero */
  QM_WORKERS_BYTES = 16,
  QM_CACHE_BLOCKS = 0,
  QM_CACHE_BLOCK_SIZE = 4,
  QM_CACHE_MAX_SEQUENCES = 3 * 4,
  QM_CACHE_MAX_SEQUENCE_TOKENS = 4 * 4,
  QM_CACHE_FREE = 22 * 4,
  QM_CACHE_EVICTABLE = 25 * 4,
  QM_CACHE_CACHED = 26 * 4,
  QM_CACHE_OPEN_SEQUENCES = 29 * 4,
  QM_CACHE_QUERIED_TOKENS = 30 * 4,
  QM_CACHE_HIT_TOKENS = 32 * 4,
  QM_CACHE_EVICTIONS = 34 * 4,
  QM_CACHE_DUPLICATES = 36 * 4,
  QM_CACHE_ORDER = 40 * 4,
  QM_SCRATCH_BYTES = 65536,
  QM_DEFAULT_NODE_BYTES = 1024
};

struct qm_core {
  w2c_qm instance;
  wasm_rt_memory_t memory;
  int poisoned;
  uint32_t scratch;
  /* The structure of each kind that was used last: found right without a search. */
  uint32_t known[QM_KINDS];
};

/* Evaluates `expression`, of type i32 or f64, with `instance` in scope; QM_POISONED when it traps. The frame lives
 * in the function that uses the macro, so nothing that changes after setjmp is read again behind a trap. */
#define QM_CALL(core, result, expression)              \
  do {                                                 \
    qm_trap_frame qm_frame;                            \
    w2c_qm* const instance = &(core)->instance;        \
    if ((core)->poisoned) return QM_POISONED;          \
    qm_innermost_frame = &qm_frame;                    \
    if (_setjmp(qm_frame.registers) == 0) {            \
      (result) = (expression);                         \
      qm_innermost_frame = NULL;                       \
    } else {                                           \
      qm_innermost_frame = NULL;                       \
      (core)->poisoned = 1;                            \
      return QM_POISONED;                              \
    }                                                  \
  } while (0)

/* A call that returns a result >= 0 or a status. */
#define RESULT(core, expression)                        \
  do {                                                  \
    int qm_result = QM_OK;                              \
    QM_CALL(core, qm_result, (int)(expression));        \
    return qm_result;                                   \
  } while (0)

static inline uint8_t* at(const qm_core* core, uint32_t address) { return core->memory.data + address; }

static inline uint32_t word(const qm_core* core, uint32_t address) {
  uint32_t value;
  memcpy(&value, at(core, address), sizeof value);
  return value;
}

static inline uint64_t wide_word(const qm_core* core, uint32_t address) {
  return word(core, address) | (uint64_t)word(core, address + 4) << 32;
}

static inline double real_word(const qm_core* core, uint32_t address) {
  double value;
  memcpy(&value, at(core, address), sizeof value);
  return value;
}

static inline uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }

/* Looks among all structures of the core and remembers the one that it finds. QM_INVALID_ARGUMENT, QM_POISONED. */
int qm_find_structure(qm_core* core, uint32_t kind, uint32_t pointer);

/* QM_OK when `pointer` names a structure of this kind, without a search for the one that was used last. */
static inline int find_structure(qm_core* core, uint32_t kind, uint32_t pointer) {
  if (core != NULL && pointer != 0 && core->known[kind] == pointer) return QM_OK;
  return qm_find_structure(core, kind, pointer);
}

static inline int is_a(qm_core* core, uint32_t kind, uint32_t pointer) {
  return find_structure(core, kind, pointer) == QM_OK;
}

/* Ends a call on anything else than a structure of this kind. */
#define REQUIRE(core, kind, pointer)                                \
  do {                                                              \
    const int qm_required = find_structure(core, kind, pointer);    \
    if (qm_required != QM_OK) return qm_required;                   \
  } while (0)

/* Grows the memory until a region of `bytes` fits; a negative number is a status, and returned. */
int qm_make_room(qm_core* core, double bytes);
/* Address of the region that was made last. */
int qm_last_region(qm_core* core, uint32_t* pointer);
/* Writes token ids to the cache's input region. QM_TOO_LONG, QM_INVALID_ARGUMENT for none at NULL. */
int qm_put_tokens(qm_core* core, qm_cache cache, const uint32_t* tokens, uint32_t count);

#endif
