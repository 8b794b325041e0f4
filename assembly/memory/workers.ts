/**
 * Workers: the instances that share one memory, and how one of them waits for another.
 *
 * Every instance has an id, 0 to 63; the core's creator is 0. The bitmap of taken ids and the poison word lie
 * in the arena's header, so all instances see them. The id itself is a global, which wasm keeps per instance.
 */
import { ARENA } from "./arena";
import { INVALID_ARGUMENT, OK, OUT_OF_WORKERS, POISONED, Status } from "./status";

// @ts-ignore: decorator
@inline export const MAX_WORKERS: u32 = 64;
/** Offsets in the arena's header. */
// @ts-ignore: decorator
@inline const POISON: usize = 48;
// @ts-ignore: decorator
@inline const TAKEN: usize = 56;
/** Turns a waiting worker spins before it asks the host to park it. */
// @ts-ignore: decorator
@inline const SPINS: u32 = 64;
// @ts-ignore: decorator
@inline const PARK_US: f64 = 200;
/** Locks are held for microseconds; a wait this long means that the holder is gone. */
// @ts-ignore: decorator
@inline const LOST_US: u32 = 5_000_000;
/** Most that one parking counts for: a waiter that was itself suspended has not watched the lock meanwhile. */
// @ts-ignore: decorator
@inline const COUNTED_US: f64 = 2_000;

/** Id of this instance. */
let worker: u32 = 0;
/** Whether this host may reorder loads, so that a fence has to stand between reading and validating. */
let fences: bool = true;

/**
 * Blocks until the 32-bit word at `address` is no longer `expected`, at most `timeoutUs`: Atomics.wait in a
 * worker, a short spin where blocking is forbidden. Returns the microseconds that have passed.
 */
// @ts-ignore: decorator
@external("env", "park")
declare function park(address: usize, expected: i32, timeoutUs: f64): f64;

// @ts-ignore: decorator
@inline
export function workerId(): u32 {
  return ASC_FEATURE_THREADS ? worker : 0;
}

/** Takes the lowest free id for this instance; OUT_OF_WORKERS when all are in use. */
export function attachWorker(strongOrder: bool): i32 {
  if (ASC_FEATURE_THREADS) {
    fences = !strongOrder;
    for (;;) {
      const taken = atomic.load<u64>(ARENA + TAKEN);
      const id = <u32>ctz(~taken);
      if (id >= MAX_WORKERS) return OUT_OF_WORKERS;
      if (atomic.cmpxchg<u64>(ARENA + TAKEN, taken, taken | ((<u64>1) << id)) == taken) {
        worker = id;
        return <i32>id;
      }
    }
  }
  return 0;
}

/** Gives an id back. Its worker makes no further call. */
export function detachWorker(id: u32): Status {
  if (ASC_FEATURE_THREADS) {
    if (id >= MAX_WORKERS) return INVALID_ARGUMENT;
    const bit = (<u64>1) << id;
    if ((atomic.and<u64>(ARENA + TAKEN, ~bit) & bit) == 0) return INVALID_ARGUMENT;
  }
  return OK;
}

/** Forgets the workers of another life of this memory: a snapshot carries none. */
export function resetWorkers(): void {
  store<u64>(ARENA + TAKEN, 0);
  store<u32>(ARENA + POISON, 0);
}

/** Makes every worker that waits stop, and the bindings refuse later calls: a lock may be held for ever. */
export function poison(): void {
  if (ASC_FEATURE_THREADS) atomic.store<u32>(ARENA + POISON, 1);
}

export function poisonStatus(): Status {
  if (ASC_FEATURE_THREADS) return atomic.load<u32>(ARENA + POISON) != 0 ? POISONED : OK;
  return OK;
}

/**
 * One turn of waiting while the lock word at `word` reads `seen`. Returns the wait so far, 0 at first: turns
 * spun, then microseconds parked on top. Traps when the core is poisoned, and poisons it when the wait has been
 * too long: what is waited for will not come.
 */
export function waitTurn(word: usize, seen: u64, waited: u32): u32 {
  if (ASC_FEATURE_THREADS) {
    if (waited < SPINS) return waited + 1;
    if (waited >= SPINS + LOST_US) poison();
    if (atomic.load<u32>(ARENA + POISON) != 0) unreachable();
    const parked = park(word, <i32>(<u32>seen), PARK_US);
    // A host without a clock may return anything.
    return waited + (parked > 0 ? <u32>min<f64>(parked, COUNTED_US) : 0);
  }
  return waited;
}

/** Stands between plain loads and the atomic load that validates them. */
// @ts-ignore: decorator
@inline
export function loadFence(): void {
  if (ASC_FEATURE_THREADS) if (fences) atomic.fence();
}

/** Stands between a plain store and stores that no other thread may see before it. */
// @ts-ignore: decorator
@inline
export function storeFence(): void {
  if (ASC_FEATURE_THREADS) if (fences) atomic.fence();
}
