/**
 * Lifetimes: how long after it was let go of an id of a class is used again, learned from all ids, cached or not.
 *
 *   header     (64 B)
 *   lives      [2^bits] u8                        ring: class of the life that began at this clock, or ENDED
 *   returns    [CLASSES][buckets] f64             lives that ended by a use at an age in the bucket
 *   reached    [CLASSES][buckets] f64             lives that reached the bucket's lowest age
 *   indices    [CLASSES][buckets] f64             what the order goes by
 *
 * Age is counted in lives begun since. Bucket 0 is age 0, bucket b ages 2^(b-1) to 2^b - 1. returns / reached is the
 * hazard of a bucket by Kaplan and Meier, so lives that have not ended yet count as far as they have come, and what
 * is learned does not depend on how long this cache could keep anything.
 *
 * The index of a class at an age is the greatest rate, over all times to give up, of uses expected per unit of time
 * kept: Gittins' index of the stopping problem ("Bandit processes and dynamic allocation indices", J. Royal Stat.
 * Soc. B 41, 1979; as a cache order compare "LHD: improving cache hit rate by maximizing hit density", NSDI 2018).
 * It is computed anew after 256, 512, 1024, ... and then every 16,384 lives; old counts then weigh half.
 */

// @ts-ignore: decorator
@inline export const CLASSES: u32 = 16;
/** Set for a life that has ended, or whose id was held again without a use. */
// @ts-ignore: decorator
@inline const ENDED: u32 = 0x80;
/** Shortest memory of lives: reuse that comes later is not learned. */
// @ts-ignore: decorator
@inline const LEAST_BITS: u32 = 17;
// @ts-ignore: decorator
@inline const FIRST_LESSON: u64 = 256;
// @ts-ignore: decorator
@inline const LESSON: u64 = 16384;
/** Lives of all classes together that a class starts with: they matter while it has few of its own. */
// @ts-ignore: decorator
@inline const PRIOR_LIVES: f64 = 1;
// @ts-ignore: decorator
@inline const HEADER_BYTES: usize = 64;


@unmanaged
class Lifetimes {
  clock: u64;
  nextLesson: u64;
  bits: u32;
  buckets: u32;
  lives: u32;
  returns: u32;
  reached: u32;
  indices: u32;
}

function bitsFor(capacity: u32): u32 {
  return max(LEAST_BITS, 34 - clz(capacity));
}

// @ts-ignore: decorator
@inline
function tableBytes(bits: u32): usize {
  return (<usize>(CLASSES * (bits + 1))) << 3;
}

export function lifetimesBytes(capacity: u32): u64 {
  const bits = bitsFor(capacity);
  return <u64>HEADER_BYTES + ((<u64>1) << bits) + 3 * <u64>tableBytes(bits);
}

/** Nothing learned, in a zeroed region of `lifetimesBytes` bytes: all indices are equal. */
export function lifetimesCreate(ptr: usize, capacity: u32): void {
  const l = changetype<Lifetimes>(ptr);
  l.bits = bitsFor(capacity);
  l.buckets = l.bits + 1;
  l.nextLesson = FIRST_LESSON;
  l.lives = <u32>(ptr + HEADER_BYTES);
  l.returns = l.lives + (1 << l.bits);
  l.reached = l.returns + <u32>tableBytes(l.bits);
  l.indices = l.reached + <u32>tableBytes(l.bits);
}

// @ts-ignore: decorator
@inline
function lifePtr(l: Lifetimes, stamp: u64): usize {
  return <usize>l.lives + ((<usize>stamp) & (((<usize>1) << l.bits) - 1));
}

// @ts-ignore: decorator
@inline
function cell(table: u32, l: Lifetimes, klass: u32, bucket: u32): usize {
  return <usize>table + ((<usize>(klass * l.buckets + bucket)) << 3);
}

// @ts-ignore: decorator
@inline
function add(ptr: usize): void {
  store<f64>(ptr, load<f64>(ptr) + 1);
}

/** Lowest age of a bucket. */
// @ts-ignore: decorator
@inline
function lowest(bucket: u32): u64 {
  return bucket == 0 ? 0 : (<u64>1) << (bucket - 1);
}

// @ts-ignore: decorator
@inline
function bucketOf(l: Lifetimes, age: u64): u32 {
  return min(<u32>(64 - clz(age)), l.bits);
}

// @ts-ignore: decorator
@inline
function remembered(l: Lifetimes, stamp: u64): bool {
  return (l.clock - stamp) >> l.bits == 0;
}

/** A life of this class begins; returns its stamp. */
export function lifeBegin(ptr: usize, klass: u32): u64 {
  const l = changetype<Lifetimes>(ptr);
  const stamp = l.clock;
  store<u8>(lifePtr(l, stamp), klass);
  add(cell(l.reached, l, klass, 0));
  for (let bucket: u32 = 1; bucket < l.buckets; bucket++) {
    const age = lowest(bucket);
    if (age > stamp) break;
    const life = <u32>load<u8>(lifePtr(l, stamp - age));
    if (life < ENDED) add(cell(l.reached, l, life, bucket));
  }
  l.clock = stamp + 1;
  if (l.clock == l.nextLesson) {
    l.nextLesson += min(l.clock, LESSON);
    learn(l);
  }
  return stamp;
}

/** A life ends; `used`: by a use. Returns whether it was still remembered. */
export function lifeEnd(ptr: usize, stamp: u64, klass: u32, used: bool): bool {
  const l = changetype<Lifetimes>(ptr);
  if (!remembered(l, stamp)) return false;
  store<u8>(lifePtr(l, stamp), ENDED);
  if (used) add(cell(l.returns, l, klass, bucketOf(l, l.clock - stamp)));
  return true;
}

/** Index of a life that goes on. */
// @ts-ignore: decorator
@inline
export function lifeIndex(ptr: usize, stamp: u64, klass: u32): f64 {
  const l = changetype<Lifetimes>(ptr);
  return load<f64>(cell(l.indices, l, klass, bucketOf(l, l.clock - stamp)));
}

/** Hazard of a bucket over all classes. */
function sharedHazard(l: Lifetimes, bucket: u32): f64 {
  let returns: f64 = 0;
  let reached: f64 = 0;
  for (let klass: u32 = 0; klass < CLASSES; klass++) {
    returns += load<f64>(cell(l.returns, l, klass, bucket));
    reached += load<f64>(cell(l.reached, l, klass, bucket));
  }
  return min<f64>(1, returns / max<f64>(1, reached));
}

function learn(l: Lifetimes): void {
  // Every class's column of hazards first, in place of its indices; then the indices, the youngest age first: an index
  // looks only at hazards of its own age and older.
  for (let bucket: u32 = 0; bucket < l.buckets; bucket++) {
    const shared = sharedHazard(l, bucket);
    for (let klass: u32 = 0; klass < CLASSES; klass++) {
      const returns = cell(l.returns, l, klass, bucket);
      const reached = cell(l.reached, l, klass, bucket);
      const hazard = (load<f64>(returns) + PRIOR_LIVES * shared) / (load<f64>(reached) + PRIOR_LIVES);
      store<f64>(cell(l.indices, l, klass, bucket), min<f64>(1, hazard));
      store<f64>(returns, load<f64>(returns) / 2);
      store<f64>(reached, load<f64>(reached) / 2);
    }
  }
  for (let klass: u32 = 0; klass < CLASSES; klass++) {
    for (let bucket: u32 = 0; bucket < l.buckets; bucket++)
      store<f64>(cell(l.indices, l, klass, bucket), bestRate(l, klass, bucket));
  }
}

/** Uses for a unit of time kept, from the start of a bucket on, when given up at the best time. */
function bestRate(l: Lifetimes, klass: u32, from: u32): f64 {
  let alive: f64 = 1;
  let uses: f64 = 0;
  let time: f64 = 0;
  let best: f64 = 0;
  for (let bucket = from; bucket < l.buckets; bucket++) {
    const hazard = load<f64>(cell(l.indices, l, klass, bucket));
    const width = <f64>(lowest(bucket + 1) - lowest(bucket));
    uses += alive * hazard;
    time += alive * width * (1 - hazard / 2);
    alive *= 1 - hazard;
    best = max(best, uses / time);
  }
  return best;
}

/** Whether the tables are numbers that counts can be. */
export function lifetimesValid(ptr: usize): bool {
  const l = changetype<Lifetimes>(ptr);
  if (l.nextLesson <= l.clock) return false;
  for (let at: u32 = 0; at < CLASSES * l.buckets; at++) {
    const offset = (<usize>at) << 3;
    if (!(load<f64>(<usize>l.returns + offset) >= 0 && load<f64>(<usize>l.reached + offset) >= 0))
      return false;
    if (!(load<f64>(<usize>l.indices + offset) >= 0)) return false;
  }
  return true;
}
