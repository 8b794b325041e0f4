/** The arena, hashes and the seeded generator, inside wasm. */
import {
  arenaAdopt,
  arenaCost,
  arenaCreate,
  arenaExtend,
  arenaRegionKind,
  arenaRegionPointer,
  arenaRegions,
  arenaSeed,
  arenaTake,
  arenaTop,
  arenaValidate,
  RegionKind,
} from "../../assembly/memory/arena";
import { chainKey, digestTokens, rootKey } from "../../assembly/memory/hash";
import { nextRandom } from "../../assembly/memory/rng";
import { BAD_SNAPSHOT, CORRUPT, OK, OUT_OF_MEMORY } from "../../assembly/memory/status";

// Memory above everything that the test harness itself allocates.
const BASE: usize = 8 << 20;
const END: u64 = 12 << 20;

describe("arena", () => {
  beforeEach(() => {
    memory.fill(BASE, 0, 1 << 20);
    expect(arenaCreate(BASE, END, 7)).toBe(OK);
  });

  it("hands out regions on cache lines, one behind the other", () => {
    const first = arenaTake(BASE, RegionKind.Scratch, 100);
    const second = arenaTake(BASE, RegionKind.KvCache, 64);
    expect(first & 63).toBe(0);
    expect(second).toBe(first + <usize>arenaCost(100));
    expect(arenaRegions(BASE)).toBe(2);
    expect(arenaRegionKind(BASE, 1)).toBe(<u32>RegionKind.KvCache);
    expect(arenaRegionPointer(BASE, 1)).toBe(second);
    expect(arenaValidate(BASE)).toBe(OK);
  });

  it("refuses what does not fit and stays as it was", () => {
    const top = arenaTop(BASE);
    expect(arenaTake(BASE, RegionKind.Scratch, END)).toBe(0);
    expect(arenaTake(BASE, RegionKind.Scratch, u64.MAX_VALUE - 3)).toBe(0);
    expect(arenaTop(BASE)).toBe(top);
    expect(arenaExtend(BASE, 1)).not.toBe(OK);
    expect(arenaCreate(BASE, 100, 7)).toBe(OUT_OF_MEMORY);
  });

  it("notices a structure that wrote past its end", () => {
    const region = arenaTake(BASE, RegionKind.Scratch, 56);
    expect(arenaValidate(BASE)).toBe(OK);
    store<u64>(region + 56, 1);
    expect(arenaValidate(BASE)).toBe(CORRUPT);
    expect(arenaAdopt(BASE, END)).toBe(BAD_SNAPSHOT);
  });

  it("derives the same seeds from the same seed, and different ones each time", () => {
    const first = arenaSeed(BASE);
    const second = arenaSeed(BASE);
    expect(first).not.toBe(second);
    arenaCreate(BASE, END, 7);
    expect(arenaSeed(BASE)).toBe(first);
    arenaCreate(BASE, END, 8);
    expect(arenaSeed(BASE)).not.toBe(first);
  });
});

describe("hashes", () => {
  it("change with every token, its place, the seed, the namespace and the parent", () => {
    for (let i: u32 = 0; i < 16; i++) store<u32>(BASE + ((<usize>i) << 2), i * 77);
    const digest = digestTokens(BASE, 16, 3);
    for (let i: u32 = 0; i < 16; i++) {
      store<u32>(BASE + ((<usize>i) << 2), i * 77 + 1);
      expect(digestTokens(BASE, 16, 3)).not.toBe(digest);
      store<u32>(BASE + ((<usize>i) << 2), i * 77);
    }
    store<u32>(BASE, 77);
    store<u32>(BASE + 4, 0);
    expect(digestTokens(BASE, 16, 3)).not.toBe(digest);
    expect(digestTokens(BASE, 16, 4)).not.toBe(digest);
    expect(rootKey(3, 0)).not.toBe(rootKey(3, 1));
    expect(rootKey(3, 0)).not.toBe(rootKey(4, 0));
    expect(chainKey(1, digest)).not.toBe(chainKey(2, digest));
  });

  it("spread consecutive prompts over the low bits", () => {
    let buckets: u64 = 0;
    for (let i: u32 = 0; i < 640; i++) {
      store<u32>(BASE, i);
      buckets |= (<u64>1) << (chainKey(rootKey(1, 0), digestTokens(BASE, 1, 1)) & 63);
    }
    expect(popcnt(buckets)).toBeGreaterThan(60);
  });
});

describe("rng", () => {
  it("repeats from its state and averages to the middle", () => {
    store<u64>(BASE, 5);
    const first = nextRandom(BASE);
    let sum: f64 = 0;
    for (let i = 0; i < 10000; i++) sum += <f64>(nextRandom(BASE) >> 11) / <f64>((<u64>1) << 53);
    expect(Math.abs(sum / 10000 - 0.5)).toBeLessThan(0.02);
    store<u64>(BASE, 5);
    expect(nextRandom(BASE)).toBe(first);
  });
});
