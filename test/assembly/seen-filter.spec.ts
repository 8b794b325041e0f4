/** The seen filter: no key that it should remember is missed, few are taken for seen, and it forgets. */
import { nextRandom } from "../../assembly/memory/rng";
import { isSeen, see, seenFilterBytes, seenFilterCreate } from "../../assembly/orders/seen-filter";

// Memory above everything that the test harness itself allocates.
const FILTER: usize = 8 << 20;
const STATE: usize = 15 << 20;
const CAPACITY: u32 = 4096;

function key(n: u32): u64 {
  store<u64>(STATE, (<u64>n) << 20);
  return nextRandom(STATE);
}

function full(): void {
  memory.fill(FILTER, 0, <usize>seenFilterBytes(CAPACITY));
  seenFilterCreate(FILTER, CAPACITY);
}

describe("the seen filter", () => {
  beforeEach(() => {
    full();
  });

  it("takes 4 bytes a key", () => {
    expect(seenFilterBytes(CAPACITY)).toBeLessThanOrEqual(<u64>CAPACITY * 4 + 64);
    expect(seenFilterBytes(0)).toBe(0);
  });

  it("remembers the last `capacity` keys at least, and none that came before twice as many", () => {
    for (let n: u32 = 0; n < 5 * CAPACITY; n++) see(FILTER, key(n));
    let missed: u32 = 0;
    for (let n: u32 = 4 * CAPACITY; n < 5 * CAPACITY; n++) missed += u32(!isSeen(FILTER, key(n)));
    expect(missed).toBe(0);
    let known: u32 = 0;
    for (let n: u32 = 0; n < 2 * CAPACITY; n++) known += u32(isSeen(FILTER, key(n)));
    expect(known).toBeLessThan((2 * CAPACITY) / 66);
  });

  it("takes fewer than one in 66 for seen that were not when it is full", () => {
    for (let n: u32 = 0; n < 2 * CAPACITY - 1; n++) see(FILTER, key(n));
    let wrong: u32 = 0;
    for (let n: u32 = 0; n < 100_000; n++) wrong += u32(isSeen(FILTER, key(1_000_000 + n)));
    expect(wrong).toBeLessThan(1500);
  });

  it("a key met again and again is taken once", () => {
    see(FILTER, key(7));
    for (let n: u32 = 0; n < 10 * CAPACITY; n++) see(FILTER, key(3));
    expect(isSeen(FILTER, key(7))).toBe(true);
  });
});
