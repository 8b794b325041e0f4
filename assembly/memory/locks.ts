/**
 * Lock words: reader-writer locks with a version, one i64 each.
 *
 *   bit 0 writer | bits 2..15 readers | bits 16..63 version
 *
 * The version counts the changes made under the lock, so a reader may also do without the lock: read the
 * version, read plainly, and believe what it read only if the version is still the same. Readers and writers
 * enter by compare-and-swap alone; nobody changes the word while a writer holds it, so leaving is one
 * exchange. (Entering by an unconditional add and backing out, as in the paper's code, would lose the
 * reader's count when the writer leaves by a store.)
 *
 * No fairness: waiting is spinning, then parking with a timeout. A wait of seconds poisons the core: a holder that
 * died never lets go.
 */
import { loadFence, waitTurn } from "./workers";

// @ts-ignore: decorator
@inline export const WRITER: u64 = 1;
// @ts-ignore: decorator
@inline const READER: u64 = 4;
// @ts-ignore: decorator
@inline const READERS: u64 = 0xfffc;
// @ts-ignore: decorator
@inline const VERSION_SHIFT: u64 = 16;
// @ts-ignore: decorator
@inline const VERSION: u64 = ~(<u64>0xffff);

/** Never a version of an unlocked word. */
// @ts-ignore: decorator
@inline export const NO_VERSION: u64 = WRITER;
/** Turns an optimistic reader waits for a writer before it starts again from the top. */
// @ts-ignore: decorator
@inline const READ_SPINS: u32 = 64;

export function lockShared(word: usize): void {
  if (ASC_FEATURE_THREADS) {
    let waited: u32 = 0;
    for (;;) {
      const seen = atomic.load<u64>(word);
      if ((seen & WRITER) == 0) {
        if (atomic.cmpxchg<u64>(word, seen, seen + READER) == seen) return;
      } else {
        waited = waitTurn(word, seen, waited);
      }
    }
  }
}

// @ts-ignore: decorator
@inline
export function unlockShared(word: usize): void {
  if (ASC_FEATURE_THREADS) atomic.sub<u64>(word, READER);
}

/** Keeps new readers and writers out, then waits until the readers that are in have left. */
export function lockExclusive(word: usize): void {
  if (ASC_FEATURE_THREADS) {
    let waited: u32 = 0;
    for (;;) {
      const seen = atomic.load<u64>(word);
      if ((seen & WRITER) == 0) {
        if (atomic.cmpxchg<u64>(word, seen, seen | WRITER) == seen) {
          if ((seen & READERS) != 0) drainReaders(word);
          return;
        }
      } else {
        waited = waitTurn(word, seen, waited);
      }
    }
  }
}

function drainReaders(word: usize): void {
  if (ASC_FEATURE_THREADS) {
    let waited: u32 = 0;
    for (;;) {
      const seen = atomic.load<u64>(word);
      if ((seen & READERS) == 0) return;
      waited = waitTurn(word, seen, waited);
    }
  }
}

/** Leaves after a change: the version moves on. */
// @ts-ignore: decorator
@inline
export function unlockExclusive(word: usize): void {
  if (ASC_FEATURE_THREADS) atomic.store<u64>(word, ((load<u64>(word) >> VERSION_SHIFT) + 1) << VERSION_SHIFT);
}

/** Leaves without a change: the version stays, and optimistic readers need not start again. */
// @ts-ignore: decorator
@inline
export function releaseExclusive(word: usize): void {
  if (ASC_FEATURE_THREADS) atomic.store<u64>(word, load<u64>(word) & VERSION);
}

/** Takes the lock of a node that nobody can reach yet. */
// @ts-ignore: decorator
@inline
export function lockPrivate(word: usize): void {
  if (ASC_FEATURE_THREADS) atomic.store<u64>(word, load<u64>(word) | WRITER);
}

/** Version of an unlocked word, or NO_VERSION when a writer has held it for long. */
// @ts-ignore: decorator
@inline
export function readVersion(word: usize): u64 {
  if (ASC_FEATURE_THREADS) {
    const seen = atomic.load<u64>(word);
    return (seen & WRITER) == 0 ? seen & VERSION : awaitVersion(word);
  }
  return 0;
}

function awaitVersion(word: usize): u64 {
  if (ASC_FEATURE_THREADS) {
    for (let turns: u32 = 0; turns < READ_SPINS; turns++) {
      const seen = atomic.load<u64>(word);
      if ((seen & WRITER) == 0) return seen & VERSION;
    }
  }
  return NO_VERSION;
}

/** Whether everything read since `readVersion` gave `version` was unchanged. */
// @ts-ignore: decorator
@inline
export function unchanged(word: usize, version: u64): bool {
  if (ASC_FEATURE_THREADS) {
    loadFence();
    return (atomic.load<u64>(word) & (VERSION | WRITER)) == version;
  }
  return true;
}

/** Takes the lock if the version is still `version` and no reader is in. */
// @ts-ignore: decorator
@inline
export function tryUpgrade(word: usize, version: u64): bool {
  if (ASC_FEATURE_THREADS) return atomic.cmpxchg<u64>(word, version, version | WRITER) == version;
  return true;
}
