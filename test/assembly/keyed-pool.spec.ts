/** Keyed pool, inside wasm: the bytes it states, and what its checks notice. */
import { ALREADY_FREE, CORRUPT, OK, OUT_OF_BLOCKS } from "../../assembly/memory/status";
import { keyedIndexValid } from "../../assembly/paging/keyed-index";
import {
  keyedBlock,
  KeyedPool,
  keyedPoolBytesFor,
  keyedPoolLayOut,
  putId,
} from "../../assembly/paging/keyed-layout";
import {
  poolAllocate,
  poolCheck,
  poolDropKeys,
  poolEnterKeys,
  poolFindKeys,
  poolRelease,
} from "../../assembly/paging/keyed-pool";

const BASE: usize = 8 << 20;
const BLOCKS: u32 = 21;
const KEY: u32 = 24;
const GUARD: u64 = 0x1234;

function pool(): KeyedPool {
  return changetype<KeyedPool>(BASE);
}

function name(first: u32, second: u32): void {
  putId(pool(), 0, first);
  putId(pool(), 1, second);
}

/** The same key twice at `input`. */
function writeKeys(word: u64): void {
  for (let i: usize = 0; i < 6; i++) store<u64>(<usize>pool().input + i * 8, word);
}

describe("a keyed pool", () => {
  beforeEach(() => {
    const bytes = <usize>keyedPoolBytesFor(BLOCKS, KEY, 2);
    memory.fill(BASE, 0x55, bytes);
    store<u64>(BASE + bytes, GUARD);
    keyedPoolLayOut(BASE, BLOCKS, KEY, 2, 9);
  });

  afterEach(() => {
    expect(load<u64>(BASE + <usize>keyedPoolBytesFor(BLOCKS, KEY, 2))).toBe(GUARD);
  });

  it("fits the bytes it states when everything in it is used", () => {
    expect(poolAllocate(pool(), 0, BLOCKS)).toBe(0);
    expect(poolAllocate(pool(), 0, 1)).toBe(OUT_OF_BLOCKS);
    for (let id: u32 = 0; id < BLOCKS; id++) {
      putId(pool(), 0, id);
      writeKeys(id % 5);
      expect(poolEnterKeys(pool(), 0, KEY, 1)).toBe(OK);
    }
    expect(pool().distinct).toBe(5);
    expect(poolCheck(pool())).toBe(OK);
    expect(keyedIndexValid(pool())).toBe(true);
  });

  it("gives the oldest block with a key, then the next one", () => {
    poolAllocate(pool(), 0, 3);
    name(2, 1);
    writeKeys(7);
    poolEnterKeys(pool(), 4, KEY, 2);
    expect(poolFindKeys(pool(), 4, KEY, 1, false)).toBe(1);
    expect(load<u32>(pool().ids)).toBe(2);
    expect(poolDropKeys(pool(), 1)).toBe(1);
    poolFindKeys(pool(), 4, KEY, 1, false);
    expect(load<u32>(pool().ids)).toBe(1);
    expect(poolFindKeys(pool(), 5, KEY, 1, false)).toBe(0);
    expect(poolFindKeys(pool(), 4, KEY - 8, 1, false)).toBe(0);
  });

  it("is as it was when a release is refused in the middle", () => {
    poolAllocate(pool(), 0, 2);
    name(0, 0);
    expect(poolRelease(pool(), 2)).toBe(ALREADY_FREE);
    expect(pool().freeTail).toBe(BLOCKS - 1);
    expect(keyedBlock(pool(), 0).refs).toBe(1);
    expect(poolCheck(pool())).toBe(OK);
  });

  it("has a check that notices a broken list, a broken count and a broken chain", () => {
    keyedBlock(pool(), 5).next = 7;
    expect(poolCheck(pool())).toBe(CORRUPT);
    keyedBlock(pool(), 5).next = 6;
    keyedBlock(pool(), 5).refs = 1;
    expect(poolCheck(pool())).toBe(CORRUPT);
    keyedBlock(pool(), 5).refs = 0;
    expect(poolCheck(pool())).toBe(OK);
    name(0, 1);
    writeKeys(3);
    poolEnterKeys(pool(), 0, KEY, 2);
    keyedBlock(pool(), 1).older = 1;
    expect(keyedIndexValid(pool())).toBe(false);
  });
});
