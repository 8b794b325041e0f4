/* How the library calls into the translated core: a trap comes back as a status, and poisons the core. */
#ifndef QM_CORE_CALLS_H
#define QM_CORE_CALLS_H

#include <setjmp.h>

#include "core.h"
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

#endif
