/*
 * Copies of whole blocks between a device's KV pool and host memory, in batches, on threads of their own
 * ("FastSwitch", arXiv 2411.18424, 4.3): the caller hands over an array and goes on.
 *
 * Tiers     0 the device's pool, 1 host memory; both an array of blocks of block_bytes. All copies of a batch go
 *           the same way: swap-outs from 0 to 1, swap-ins from 1 to 0.
 * Order     A batch waits for exactly those handed over before it, in either direction, that share a block with it
 *           on either side: copies of one block happen one after the other. Other batches overtake each other.
 * Promise   A block may be given to another owner once every batch that reads or writes it is done, not before:
 *           what else reads and writes the pool is not known here.
 * Cost      8 bytes a block of either tier; a batch is handed over in O(its blocks), whatever is in flight.
 * Errors    As in quartermaster_host.h. A refused batch has copied nothing, and is not reported done.
 * Threads   One thread at a time calls in. `done` is called on a thread of the copier and must not call back.
 * Ownership Memory that is passed in stays the caller's and outlives the copier.
 */
#ifndef QUARTERMASTER_COPY_H
#define QUARTERMASTER_COPY_H

#include "quartermaster_host.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Who carries bytes. A device's back end is one more file beside memcpy_backend.cc and a name here. */
typedef enum qmh_copy_backend { QMH_COPY_MEMCPY } qmh_copy_backend;

typedef struct qmh_copier_config {
  qmh_copy_backend backend;
  void* device;
  void* host; /* NULL: the copier's own, as the back end likes it (pages taken when first written) */
  uint64_t device_blocks, host_blocks, block_bytes; /* >= 1 */
  uint32_t out_threads, in_threads;                 /* batches at a time in each direction, 1 to 16 */
  /* For tests: each run of blocks is copied up to so many microseconds late, by `seed`; and batches that share
   * blocks are not kept in order. */
  uint32_t delay_us, seed, unordered;
} qmh_copier_config;

/* `blocks` blocks from `source` on to those from `target` on; 20 bytes. */
typedef struct qmh_copy {
  uint32_t source_tier, source, target_tier, target, blocks;
} qmh_copy;

/* A batch has ended: its first `blocks` blocks, in the order of its copies, have arrived. */
typedef void (*qmh_copy_done)(void* context, uint64_t blocks);

typedef struct qmh_copier qmh_copier;

/* *copier is the caller's, to be given to qmh_copier_free. */
QMH_API int qmh_copier_create(const qmh_copier_config* config, qmh_copier** copier);
/* Batches that have begun are finished; of the others nothing is copied. All are reported done. NULL is allowed. */
QMH_API void qmh_copier_free(qmh_copier* copier);
/* Host memory, [host_blocks][block_bytes]. */
QMH_API void* qmh_copier_host(const qmh_copier* copier);
/* Hands a batch over. The copies are read during the call. */
QMH_API int qmh_copy_batch(qmh_copier* copier, const qmh_copy* copies, size_t count, qmh_copy_done done,
                           void* context);

#ifdef __cplusplus
}
#endif

#endif /* QUARTERMASTER_COPY_H */
