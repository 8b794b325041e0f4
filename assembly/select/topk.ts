/**
 * The best k of many scores: radix select over order-preserving keys, O(n), no sort.
 *
 * One *narrowing* looks at the open candidates' keys byte by byte from the highest: a histogram finds the byte value
 * at which the k-th key lies; candidates above it stay, those below go, those on it remain open for the next byte.
 * What is still open after the fourth byte has equal keys, and is narrowed by the tie plane if there is one, then by
 * position: **the larger position survives**, in every method of this library. Equal positions of two pooled lanes go
 * to the lower lane.
 *
 * Order-preserving float keys and most-significant-digit radix select are folklore; protections, minimum and pooling:
 * "Ada-KV: Optimizing KV Cache Eviction by Adaptive Budget Allocation for Efficient LLM Inference" (arXiv 2407.11550).
 */
import { INVALID_ARGUMENT } from "../memory/status";
import { ScoreKind, writeKeys } from "./keys";
import { KEPT, Selection } from "./layout";

// @ts-ignore: decorator
@inline
function at(plane: usize, id: u32): usize {
  return plane + ((<usize>id) << 2);
}

/**
 * Gives every slot of a segment whose position is below `low` or not below `high` the key KEPT; returns how many.
 * `positions` 0: a slot is its own position.
 */
function protect(keys: usize, positions: usize, count: u32, low: u32, high: u32): u32 {
  if (positions == 0) {
    const head = min(low, count);
    const tail = max(head, min(high, count));
    memory.fill(keys, 0xff, (<usize>head) << 2);
    memory.fill(at(keys, tail), 0xff, (<usize>(count - tail)) << 2);
    return head + count - tail;
  }
  if (low == 0 && high == u32.MAX_VALUE) return 0;
  let kept: u32 = 0;
  for (let i: u32 = 0; i < count; i++) {
    const position = load<u32>(at(positions, i));
    if (position >= low && position < high) continue;
    store<u32>(at(keys, i), KEPT);
    kept += 1;
  }
  return kept;
}

/** Lists the slots of a segment that have not been chosen yet, from `list` on; returns how many. */
function listOpen(list: usize, keys: usize, first: u32, count: u32): u32 {
  let open: u32 = 0;
  for (let id = first; id < first + count; id++) {
    store<u32>(at(list, open), id);
    open += u32(load<u32>(at(keys, id)) != KEPT);
  }
  return open;
}

function keepFrom(keys: usize, list: usize, from: u32, to: u32): void {
  for (let i = from; i < to; i++) store<u32>(at(keys, load<u32>(at(list, i))), KEPT);
}

/** The byte value that the `need`-th largest byte has; `above` candidates have a larger one. */
// @ts-ignore: decorator
@inline
function boundary(histogram: usize, need: u32): u32 {
  let digit: u32 = 255;
  let above: u32 = 0;
  while (true) {
    above += load<u32>(at(histogram, digit));
    if (above >= need) return digit;
    digit -= 1;
  }
}

/**
 * One narrowing of the open candidates by `plane`. Those that stay for certain get the key KEPT; `open` and `need`
 * are afterwards the candidates with equal values, and how many of them stay.
 */
function narrow(selection: Selection, plane: usize): void {
  const histogram = <usize>selection.histogram;
  const list = <usize>selection.list;
  const keys = <usize>selection.keys;
  let open = selection.open;
  let need = selection.need;
  for (let shift: u32 = 32; shift != 0 && need != 0 && need != open;) {
    shift -= 8;
    memory.fill(histogram, 0, 1024);
    for (let i: u32 = 0; i < open; i++) {
      const digit = (load<u32>(at(plane, load<u32>(at(list, i)))) >> shift) & 255;
      store<u32>(at(histogram, digit), load<u32>(at(histogram, digit)) + 1);
    }
    const edge = boundary(histogram, need);
    let still: u32 = 0;
    // No branch on the data: a byte of a score is as good as random.
    for (let i: u32 = 0; i < open; i++) {
      const id = load<u32>(at(list, i));
      const digit = (load<u32>(at(plane, id)) >> shift) & 255;
      const key = load<u32>(at(keys, id));
      const chosen = u32(digit > edge);
      store<u32>(at(keys, id), select<u32>(KEPT, key, chosen != 0));
      store<u32>(at(list, still), id);
      still += u32(digit == edge);
      need -= chosen;
    }
    open = still;
  }
  if (need == open) {
    keepFrom(keys, list, 0, open);
    open = 0;
    need = 0;
  }
  selection.open = need == 0 ? 0 : open;
  selection.need = need;
}

/** Narrows the listed candidates until `selection.need` of them have been chosen. */
function choose(selection: Selection, ties: usize, positions: usize, stride: u32, pooled: bool): void {
  narrow(selection, selection.keys);
  if (selection.need != 0 && ties != 0) narrow(selection, ties);
  if (selection.need == 0) return;
  const list = <usize>selection.list;
  if (positions == 0 && !pooled) {
    // The list is ascending, and so are positions.
    keepFrom(selection.keys, list, selection.open - selection.need, selection.open);
    return;
  }
  if (positions == 0) {
    positions = selection.positions;
    for (let i: u32 = 0; i < selection.open; i++) {
      const id = load<u32>(at(list, i));
      store<u32>(at(positions, id), id % stride);
    }
  }
  narrow(selection, positions);
  keepFrom(selection.keys, list, 0, selection.need);
}

/** Writes bitmap and slots of one segment; returns how many slots stay. */
function writeChosen(keys: usize, count: u32, bitmap: usize, slots: usize): u32 {
  let kept: u32 = 0;
  for (let from: u32 = 0; from < count; from += 32) {
    let word: u32 = 0;
    const to = min(from + 32, count);
    let i = from;
    if (ASC_FEATURE_SIMD) {
      const all = i32x4.splat(KEPT);
      for (; i + 4 <= to; i += 4)
        word |= (<u32>v128.bitmask<i32>(v128.eq<i32>(v128.load(at(keys, i)), all))) << (i - from);
    }
    for (; i < to; i++) word |= u32(load<u32>(at(keys, i)) == KEPT) << (i - from);
    store<u32>(bitmap + ((<usize>from) >> 3), word);
    for (; word != 0; word &= word - 1) {
      store<u32>(at(slots, kept), from + ctz(word));
      kept += 1;
    }
  }
  return kept;
}

/**
 * Chooses `k` slots of `segments` lanes that compete with one another: first the protected ones, then each lane's best
 * until it has `minimum` (or all it has), then the best of what is left. Outputs: bitmap, slots and counts; returns how
 * many slots stay, which is the smaller of `k` and all.
 *
 * @param ties      larger value survives among equal scores, u32; 0 = none
 * @param positions u32, distinct within a lane; 0 = a slot is its own position
 * @param lengths   u32[segments], each <= stride
 * @param low       positions below it, and from `high` on, are protected
 * INVALID_ARGUMENT when protected slots and minima are more than `k`.
 */
export function selectPooled(
  selection: Selection,
  scores: usize,
  kind: ScoreKind,
  ties: usize,
  positions: usize,
  stride: u32,
  lengths: usize,
  segments: u32,
  k: u32,
  minimum: u32,
  low: u32,
  high: u32,
): i32 {
  const keys = <usize>selection.keys;
  const counts = <usize>selection.counts;
  let certain: u32 = 0;
  let total: u32 = 0;
  for (let s: u32 = 0; s < segments; s++) {
    const first = s * stride;
    const count = load<u32>(at(lengths, s));
    selection.nans += writeKeys(at(scores, first), kind, count, at(keys, first));
    const kept = protect(at(keys, first), positions == 0 ? 0 : at(positions, first), count, low, high);
    store<u32>(at(counts, s), kept);
    certain += max(kept, min(minimum, count));
    total += count;
  }
  const wanted = min(k, total);
  if (certain > wanted) return INVALID_ARGUMENT;
  const pooled = segments > 1;
  if (pooled && minimum != 0) {
    for (let s: u32 = 0; s < segments; s++) {
      const count = load<u32>(at(lengths, s));
      const kept = load<u32>(at(counts, s));
      const least = min(minimum, count);
      if (least <= kept) continue;
      selection.open = listOpen(selection.list, keys, s * stride, count);
      selection.need = least - kept;
      choose(selection, ties, positions, stride, true);
    }
  }
  let open: u32 = 0;
  for (let s: u32 = 0; s < segments; s++)
    open += listOpen(at(selection.list, open), keys, s * stride, load<u32>(at(lengths, s)));
  selection.open = open;
  selection.need = wanted - (total - open);
  choose(selection, ties, positions, stride, pooled);
  let written: u32 = 0;
  const words = (stride + 31) >> 5;
  for (let s: u32 = 0; s < segments; s++) {
    const kept = writeChosen(
      at(keys, s * stride),
      load<u32>(at(lengths, s)),
      at(selection.bitmap, s * words),
      at(selection.slots, written),
    );
    store<u32>(at(counts, s), kept);
    written += kept;
  }
  return <i32>wanted;
}
