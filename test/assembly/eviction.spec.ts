/** Selection and lanes, inside wasm. */
import { lanesCommit, lanesMoves, lanesPlan, lanesRollback } from "../../assembly/eviction/compact";
import { lanesAppend, lanesClose, lanesFork, lanesOpen, lanesValidate } from "../../assembly/eviction/lanes";
import {
  ALL,
  headOf,
  LaneArena,
  laneArenaBytes,
  laneArenaCreate,
  planeOf,
  setWordAt,
  slabOf,
  wordAt,
} from "../../assembly/eviction/layout";
import { INVALID_ARGUMENT, OK, OUT_OF_SEQUENCES } from "../../assembly/memory/status";
import { kvCreate } from "../../assembly/paging/cache";
import { kvBytes, KvCache, LOSSY, NONE, PRIVATE, sequenceOf } from "../../assembly/paging/layout";
import { append, reserve } from "../../assembly/paging/growth";
import { close, open } from "../../assembly/paging/sequences";
import { kvValidate } from "../../assembly/paging/validate";
import { argminMasked } from "../../assembly/select/argmin";
import { ScoreKind } from "../../assembly/select/keys";
import { KEPT, Selection, selectionBytes, selectionCreate } from "../../assembly/select/layout";
import { PoolKind, poolRows } from "../../assembly/select/pooling";
import { selectPooled } from "../../assembly/select/topk";

const ROOM: usize = 6 << 20;
const SCORES: usize = 7 << 20;
const LENGTHS: usize = SCORES + 65536;
const OUT: usize = LENGTHS + 1024;

function score(i: u32, value: f32): void {
  store<f32>(SCORES + ((<usize>i) << 2), value);
}

function chosen(selection: Selection, i: u32): u32 {
  return load<u32>(<usize>selection.slots + ((<usize>i) << 2));
}

describe("selection", () => {
  beforeEach(() => {
    memory.fill(ROOM, 0, <usize>selectionBytes(64, 0));
    selectionCreate(changetype<Selection>(ROOM), 64, 0);
  });

  it("keeps the best, the later of equal ones, protected ones whatever their score, and no NaN", () => {
    const selection = changetype<Selection>(ROOM);
    for (let i: u32 = 0; i < 10; i++) score(i, 1);
    score(4, 9);
    score(0, -5);
    score(7, NaN);
    store<u32>(LENGTHS, 10);
    // Position 0 is protected; two places are left: 9, and the last of the equal ones.
    expect(
      selectPooled(selection, SCORES, ScoreKind.Float, 0, 0, 32, LENGTHS, 1, 3, 0, 1, u32.MAX_VALUE),
    ).toBe(3);
    expect(chosen(selection, 0)).toBe(0);
    expect(chosen(selection, 1)).toBe(4);
    expect(chosen(selection, 2)).toBe(9);
    expect(selection.nans).toBe(1);
  });

  it("lets lanes compete, each keeping its minimum", () => {
    const selection = changetype<Selection>(ROOM);
    for (let i: u32 = 0; i < 8; i++) score(i, <f32>(i + 100));
    for (let i: u32 = 0; i < 8; i++) score(32 + i, <f32>i);
    store<u32>(LENGTHS, 8);
    store<u32>(LENGTHS, 8, 4);
    expect(
      selectPooled(selection, SCORES, ScoreKind.Float, 0, 0, 32, LENGTHS, 2, 6, 2, 0, u32.MAX_VALUE),
    ).toBe(6);
    expect(load<u32>(<usize>selection.counts)).toBe(4);
    expect(load<u32>(<usize>selection.counts, 4)).toBe(2);
    expect(
      selectPooled(selection, SCORES, ScoreKind.Float, 0, 0, 32, LENGTHS, 2, 3, 2, 0, u32.MAX_VALUE),
    ).toBe(INVALID_ARGUMENT);
  });

  it("finds the smallest that is not protected", () => {
    for (let i: u32 = 0; i < 20; i++) score(i, 20 - <f32>i);
    expect(argminMasked(SCORES, ScoreKind.Float, 0, 20, 2, 18)).toBe(17);
    score(5, NaN);
    expect(argminMasked(SCORES, ScoreKind.Float, 0, 20, 2, 18)).toBe(5);
    expect(argminMasked(SCORES, ScoreKind.Float, 0, 20, 20, 20)).toBe(KEPT);
  });

  it("pools over neighbours: zeros outside an average, nothing outside a maximum", () => {
    for (let i: u32 = 0; i < 6; i++) score(i, <f32>i);
    store<u32>(LENGTHS, 6);
    poolRows(SCORES, 8, OUT, 8, LENGTHS, 1, 3, PoolKind.Average);
    expect(load<f32>(OUT)).toBe(<f32>1 / 3);
    expect(load<f32>(OUT, 8)).toBe(2);
    poolRows(SCORES, 8, OUT, 8, LENGTHS, 1, 3, PoolKind.Maximum);
    expect(load<f32>(OUT, 20)).toBe(5);
    expect(load<f32>(OUT)).toBe(1);
  });
});

const CACHE: usize = 8 << 20;
const ARENA: usize = 10 << 20;
const TOKENS: usize = 15 << 20;

/** Two layers of one head, 40 slots, one plane, two slabs; a sequence of `count` tokens with lanes. */
function sequenceWith(count: u32): u32 {
  const kv = changetype<KvCache>(CACHE);
  const arena = changetype<LaneArena>(ARENA);
  const sequence = <u32>open(kv, 0, TOKENS, 0, LOSSY | PRIVATE, 0);
  reserve(kv, sequence, count);
  append(kv, sequence, TOKENS, count);
  const lanes = <u32>lanesOpen(arena, sequence);
  lanesAppend(arena, lanes, count);
  return lanes;
}

/** Asks lane `lane` to keep every `step`-th slot of `length`. */
function keepEvery(lane: u32, step: u32, length: u32): void {
  const arena = changetype<LaneArena>(ARENA);
  let count: u32 = 0;
  for (let slot: u32 = 0; slot < length; slot += step)
    setWordAt(<usize>arena.keep + ((<usize>lane * <usize>arena.stride) << 2), count++, slot);
  setWordAt(arena.counts, lane, count);
}

describe("lanes", () => {
  beforeEach(() => {
    memory.fill(CACHE, 0, 2 << 20);
    kvCreate(changetype<KvCache>(CACHE), 32, 4, 8, 64, 1, 64, 7);
    memory.fill(ARENA, 0, <usize>laneArenaBytes(2, 40, 1, 2, 16));
    laneArenaCreate(changetype<LaneArena>(ARENA), changetype<KvCache>(CACHE), 2, 1, 40, 1, 2, 16);
    const arena = changetype<LaneArena>(ARENA);
    for (let lane: u32 = 0; lane < 2; lane++) {
      setWordAt(arena.counts, lane, ALL);
      setWordAt(arena.victims, lane, NONE);
      setWordAt(arena.successors, lane, NONE);
    }
  });

  it("packs survivors, keeps their positions and frees the blocks that no lane reaches", () => {
    const kv = changetype<KvCache>(CACHE);
    const arena = changetype<LaneArena>(ARENA);
    const lanes = sequenceWith(24);
    const free = kv.freeCount;
    keepEvery(0, 3, 24);
    keepEvery(1, 2, 24);
    expect(lanesPlan(arena, lanes, NONE)).toBe(OK);
    let moves: u32 = 0;
    for (let count = lanesMoves(arena); count > 0; count = lanesMoves(arena)) moves += count;
    expect(moves).toBeGreaterThan(10);
    expect(lanesCommit(arena)).toBe(OK);
    const slab = slabOf(arena, lanes);
    expect(headOf(slab, 0).length).toBe(8);
    expect(headOf(slab, 1).length).toBe(12);
    expect(wordAt(planeOf(arena, slab, 0, 0), 5)).toBe(15);
    expect(wordAt(planeOf(arena, slab, 0, 1), 11)).toBe(22);
    expect(kv.freeCount).toBe(free + 3);
    expect(sequenceOf(kv, slab.sequence).slots).toBe(12);
    expect(lanesValidate(arena)).toBe(OK);
    expect(kvValidate(kv)).toBe(OK);
  });

  it("changes nothing when a plan is rolled back, or refused", () => {
    const kv = changetype<KvCache>(CACHE);
    const arena = changetype<LaneArena>(ARENA);
    const lanes = sequenceWith(20);
    const free = kv.freeCount;
    keepEvery(0, 2, 20);
    expect(lanesPlan(arena, lanes, NONE)).toBe(OK);
    expect(lanesRollback(arena)).toBe(OK);
    setWordAt(arena.keep, 1, 0); // 0, 0: not ascending
    expect(lanesPlan(arena, lanes, NONE)).toBe(INVALID_ARGUMENT);
    expect(headOf(slabOf(arena, lanes), 0).length).toBe(20);
    expect(kv.freeCount).toBe(free);
    expect(lanesValidate(arena)).toBe(OK);
  });

  it("gives a dropped token's slot to the next one, and a list closes it", () => {
    const kv = changetype<KvCache>(CACHE);
    const arena = changetype<LaneArena>(ARENA);
    const lanes = sequenceWith(10);
    const slab = slabOf(arena, lanes);
    for (let lane: u32 = 0; lane < 2; lane++) setWordAt(arena.victims, lane, 3 + lane);
    expect(lanesPlan(arena, lanes, NONE)).toBe(OK);
    lanesCommit(arena);
    expect(headOf(slab, 0).hole).toBe(3);
    reserve(kv, slab.sequence, 1);
    append(kv, slab.sequence, TOKENS, 1);
    lanesAppend(arena, lanes, 1);
    expect(headOf(slab, 0).length).toBe(10);
    expect(wordAt(planeOf(arena, slab, 0, 1), 4)).toBe(10);
    expect(lanesPlan(arena, lanes, NONE)).toBe(OK);
    lanesCommit(arena);
    for (let lane: u32 = 0; lane < 2; lane++) {
      setWordAt(arena.victims, lane, NONE);
      let count: u32 = 0;
      for (let slot: u32 = 0; slot < 10; slot++)
        if (slot != 3 + lane)
          setWordAt(<usize>arena.keep + ((<usize>lane * <usize>arena.stride) << 2), count++, slot);
      setWordAt(arena.counts, lane, count);
    }
    expect(lanesPlan(arena, lanes, NONE)).toBe(OK);
    lanesCommit(arena);
    expect(headOf(slab, 0).hole).toBe(NONE);
    expect(headOf(slab, 1).length).toBe(9);
    expect(lanesValidate(arena)).toBe(OK);
  });

  it("copies lanes for a fork, and slabs are given back", () => {
    const kv = changetype<KvCache>(CACHE);
    const arena = changetype<LaneArena>(ARENA);
    const lanes = sequenceWith(9);
    setWordAt(planeOf(arena, slabOf(arena, lanes), 1, 1), 4, 1234);
    const other = <u32>open(kv, 0, TOKENS, 0, LOSSY | PRIVATE, 0);
    const twin = <u32>lanesFork(arena, lanes, other);
    expect(wordAt(planeOf(arena, slabOf(arena, twin), 1, 1), 4)).toBe(1234);
    expect(lanesOpen(arena, other)).toBe(OUT_OF_SEQUENCES);
    expect(lanesClose(arena, twin)).toBe(OK);
    expect(lanesClose(arena, twin)).toBe(INVALID_ARGUMENT);
    close(kv, other);
    expect(arena.openSlabs).toBe(1);
  });
});
