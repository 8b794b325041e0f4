/**
 * Seen filter: which keys have been met lately, in 4 bytes a key: two Bloom filters, of which one takes the keys and the
 * other still has those before. When the first has taken `capacity` keys they change places and it begins empty, so a
 * key is remembered for `capacity` to twice as many keys that follow it. The same calls give the same answers.
 *
 *   header (SeenFilter) | current [words] u64 | previous [words] u64     words = 2^k >= capacity / 4
 *
 * A key sets 4 bits of one word, so a question costs a line of memory a filter. When both are full, one key in 90 (with 4
 * keys a word) to 600 (with 2) that was not met is taken for one that was.
 */
import { finalize64 } from "../memory/hash";

/** Keys that a word of 64 bits is meant for at most. */
// @ts-ignore: decorator
@inline const KEYS_OF_A_WORD: u32 = 4;


@unmanaged
class SeenFilter {
  current: u32;
  previous: u32;
  mask: u32;
  capacity: u32;
  /** Keys in the current filter. */
  taken: u32;
  unused: u32;
}

// @ts-ignore: decorator
@inline
function wordsFor(capacity: u32): u32 {
  const words = (capacity + KEYS_OF_A_WORD - 1) / KEYS_OF_A_WORD;
  return words <= 1 ? 1 : 1 << (32 - clz(words - 1));
}

export function seenFilterBytes(capacity: u32): u64 {
  return capacity == 0 ? 0 : offsetof<SeenFilter>() + <u64>wordsFor(capacity) * 16;
}

/** An empty filter in a zeroed region of `seenFilterBytes` bytes; capacity >= 1. */
export function seenFilterCreate(at: usize, capacity: u32): void {
  const filter = changetype<SeenFilter>(at);
  filter.mask = wordsFor(capacity) - 1;
  filter.capacity = capacity;
  filter.current = <u32>(at + offsetof<SeenFilter>());
  filter.previous = filter.current + (wordsFor(capacity) << 3);
}

/** Four bits of a word, drawn from the upper half of a hash. */
// @ts-ignore: decorator
@inline
function pattern(hash: u64): u64 {
  const one: u64 = 1;
  return (one << (hash >> 58)) | (one << (hash >> 52)) | (one << (hash >> 46)) | (one << (hash >> 40));
}

/** Whether a key has been met. */
export function isSeen(at: usize, key: u64): bool {
  const filter = changetype<SeenFilter>(at);
  const hash = finalize64(key);
  const bits = pattern(hash);
  const offset = (<usize>((<u32>hash) & filter.mask)) << 3;
  return (
    (load<u64>(<usize>filter.current + offset) & bits) == bits ||
    (load<u64>(<usize>filter.previous + offset) & bits) == bits
  );
}

/** A key is met. */
export function see(at: usize, key: u64): void {
  const filter = changetype<SeenFilter>(at);
  const hash = finalize64(key);
  const bits = pattern(hash);
  const word = <usize>filter.current + ((<usize>((<u32>hash) & filter.mask)) << 3);
  if ((load<u64>(word) & bits) == bits) return;
  store<u64>(word, load<u64>(word) | bits);
  filter.taken += 1;
  if (filter.taken < filter.capacity) return;
  const full = filter.current;
  filter.current = filter.previous;
  filter.previous = full;
  filter.taken = 0;
  memory.fill(filter.current, 0, (<usize>filter.mask + 1) << 3);
}
