/** What orders remember of keys that have left is the last of them, and S3-FIFO outlives its clock. */
import { finalize64 } from "../../assembly/memory/hash";
import { nextRandom } from "../../assembly/memory/rng";
import { OK } from "../../assembly/memory/status";
import {
  historyAdd,
  historyBytes,
  historyCreate,
  historyTake,
  historyValid,
} from "../../assembly/orders/history";
import { Order, OrderKind } from "../../assembly/orders/layout";
import {
  NO_ADVICE,
  PageSet,
  pageSetBytesFor,
  pageSetCheck,
  pageSetLayOut,
  requestPage,
  slotOfPage,
} from "../../assembly/orders/page-set";

// Memory above everything that the test harness itself allocates.
const HISTORY: usize = 8 << 20;
const SETS: usize = 9 << 20;
const SET_BYTES: usize = 1 << 20;
const STATE: usize = 15 << 20;
const SLOTS: u32 = 50;
const PAGES: u32 = 200;

function below(limit: u32): u32 {
  return <u32>((nextRandom(STATE) >> 32) % limit);
}

function set(number: u32): PageSet {
  return changetype<PageSet>(SETS + <usize>number * SET_BYTES);
}

function orderOfSet(number: u32): Order {
  return changetype<Order>(<usize>set(number).order);
}

describe("the history of keys", () => {
  beforeEach(() => {
    store<u64>(STATE, 7);
  });

  it("has exactly the last keys that were not taken, each with what was noted of it last, at every capacity", () => {
    for (let capacity: u32 = 1; capacity <= 33; capacity++) {
      memory.fill(HISTORY, 0, <usize>historyBytes(capacity, 4));
      historyCreate(HISTORY, capacity, 4);
      // The model: keys in order of addition, 0 where one was taken.
      const keys: u32[] = [];
      let right = true;
      for (let step: u32 = 1; step < 600; step++) {
        const key = 1 + below(2 * capacity);
        if (below(2) == 0) {
          store<u32>(historyAdd(HISTORY, finalize64(key)), step);
          keys.push((step << 10) | key);
        } else {
          const noted = historyTake(HISTORY, finalize64(key));
          let at = keys.length - 1;
          const end = max(0, keys.length - <i32>capacity);
          while (at >= end && (keys[at] & 1023) != key) at -= 1;
          if (at < end) right = right && noted == 0;
          else {
            right = right && noted != 0 && load<u32>(noted) == keys[at] >> 10;
            keys[at] = 0;
          }
        }
        right = right && historyValid(HISTORY);
      }
      expect(right).toBe(true);
    }
  });

  it("takes 10 to 12 bytes a key, and what is noted", () => {
    expect(historyBytes(4096, 0)).toBe(32 + 10 * 4096);
    expect(historyBytes(4097, 0)).toBeLessThanOrEqual(32 + 12 * 4097);
    expect(historyBytes(4096, 12)).toBe(32 + 22 * 4096);
    expect(historyBytes(0, 4)).toBe(0);
  });
});

describe("S3-FIFO", () => {
  beforeEach(() => {
    store<u64>(STATE, 11);
    const bytes = pageSetBytesFor(OrderKind.S3Fifo, SLOTS, PAGES, SLOTS);
    for (let number: u32 = 0; number < 2; number++) {
      memory.fill(SETS + <usize>number * SET_BYTES, 0, <usize>bytes);
      pageSetLayOut(SETS + <usize>number * SET_BYTES, OrderKind.S3Fifo, SLOTS, PAGES, SLOTS, 0, 1);
    }
  });

  it("decides as before when its clock runs out", () => {
    orderOfSet(1).clock = u32.MAX_VALUE - 700;
    let equal = true;
    for (let step: u32 = 0; step < 3000; step++) {
      const page = below(1 + below(PAGES));
      equal = equal && requestPage(set(0), page, NO_ADVICE) == requestPage(set(1), page, NO_ADVICE);
      equal = equal && pageSetCheck(set(1)) == OK;
      for (let other: u32 = 0; other < PAGES; other++)
        equal = equal && slotOfPage(set(0), other) == slotOfPage(set(1), other);
    }
    expect(orderOfSet(1).clock).toBeLessThan(u32.MAX_VALUE - 700);
    expect(set(1).faults).toBeGreaterThan(1000);
    expect(equal).toBe(true);
  });

  it("stays sound when all that it has is older than half its clock", () => {
    for (let page: u32 = 0; page < SLOTS; page++) requestPage(set(0), page, NO_ADVICE);
    let sound = true;
    for (let turn: u32 = 0; turn < 3; turn++) {
      orderOfSet(0).clock = u32.MAX_VALUE - 20;
      for (let step: u32 = 0; step < 300; step++) {
        requestPage(set(0), below(PAGES), NO_ADVICE);
        sound = sound && pageSetCheck(set(0)) == OK;
      }
    }
    expect(sound).toBe(true);
  });
});
