/*
 * Virtually contiguous KV memory: dense ranges of addresses, one for every (slot, tensor), with physical memory mapped
 * behind them page-group by page-group, as the map plans of the quartermaster core say (docs/virtual-memory.md).
 *
 * Layout    base + ((slot * tensors + tensor) * slot_pages + page) * page_bytes. A page-group without memory behind it
 *           faults when touched.
 * Physical  An anonymous file of blocks * tensors page-groups; the ones of a KV block, one a tensor, come and go
 *           together. Page-groups mapped in two places are the same bytes.
 * Errors    As in quartermaster_host.h. A plan that fails half-way leaves the ranges undefined: free the memory.
 * Threads   One call at a time: a second gets QMH_BUSY. Kernels may run meanwhile on what the plan does not touch.
 */
#ifndef QUARTERMASTER_VIRTUAL_H
#define QUARTERMASTER_VIRTUAL_H

#include "quartermaster_host.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct qmh_virtual_shape {
  uint32_t slots, slot_pages, tensors;
  uint32_t blocks;     /* KV blocks of physical memory */
  uint64_t page_bytes; /* a multiple of the system's page */
} qmh_virtual_shape;

/* What the execution of a plan took. */
typedef struct qmh_map_cost {
  uint64_t calls; /* into the system */
  double us;      /* microseconds in them */
} qmh_map_cost;

typedef struct qmh_virtual qmh_virtual;

/* Reserves the ranges and the file; memory is taken when first written. QMH_UNSUPPORTED where the system has no
 * anonymous files. *memory is the caller's, to be given to qmh_virtual_free. */
QMH_API int qmh_virtual_create(const qmh_virtual_shape* shape, qmh_virtual** memory);
/* REQUIRES: no call in flight. NULL is allowed. */
QMH_API void qmh_virtual_free(qmh_virtual* memory);
QMH_API void* qmh_virtual_base(const qmh_virtual* memory);
/* Executes changes, [count][4] u32: op (0 unmap, 1 map), slot, page, KV block. Checked before the first. */
QMH_API int qmh_virtual_execute(qmh_virtual* memory, const uint32_t* changes, size_t count,
                                qmh_map_cost* cost);
/* Gives the memory of KV blocks that are mapped nowhere back to the system; their bytes read 0 afterwards. */
QMH_API int qmh_virtual_trim(qmh_virtual* memory, const uint32_t* blocks, size_t count);
/* Bytes of physical memory in use. */
QMH_API int qmh_virtual_resident(const qmh_virtual* memory, uint64_t* bytes);

#ifdef __cplusplus
}
#endif

#endif /* QUARTERMASTER_VIRTUAL_H */
