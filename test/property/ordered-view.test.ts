/** Ordered views against a list sorted by (order, when it was set). */
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  type Build,
  Core,
  type EvictionPlace,
  type ExpiryOrder,
  MAX_ORDER,
  type OrderedView,
  type ViewOrder,
} from "../../bindings/main.js";
import { Random } from "../support/random.js";
import { codeOf } from "../support/code-of.js";

const BUILDS: readonly Build[] = ["core", "core-threads", "core-scalar", "debug"];

/** Sorted by order, equals by when they were set. */
class NaiveView {
  readonly entries: { id: number; order: bigint }[] = [];

  set(id: number, order: bigint): boolean {
    const at = this.entries.findIndex((entry) => entry.id === id);
    if (at >= 0 && this.entries[at].order === order) return false;
    if (at >= 0) this.entries.splice(at, 1);
    const behind = this.entries.findIndex((entry) => entry.order > order);
    this.entries.splice(behind < 0 ? this.entries.length : behind, 0, { id, order });
    return at < 0;
  }

  remove(id: number): boolean {
    const at = this.entries.findIndex((entry) => entry.id === id);
    if (at >= 0) this.entries.splice(at, 1);
    return at >= 0;
  }

  pop(): number | undefined {
    return this.entries.shift()?.id;
  }

  popUpTo(order: bigint): number[] {
    const ids: number[] = [];
    while (this.entries.length > 0 && this.entries[0].order <= order) ids.push(this.pop()!);
    return ids;
  }

  ids(): number[] {
    return this.entries.map(({ id }) => id);
  }
}

const ORDERS: Readonly<Record<string, (random: Random, i: number) => bigint>> = {
  "few distinct orders": (random) => BigInt(random.below(5)),
  "many distinct orders": (random) => (BigInt(random.next()) << 31n) | BigInt(random.next()),
  "rising orders": (random, i) => BigInt(i >> random.below(4)),
  "the ends of the range": (random) =>
    random.below(2) === 0 ? BigInt(random.below(3)) : MAX_ORDER - BigInt(random.below(3)),
};

function step(view: ViewOrder, naive: NaiveView, random: Random, order: bigint): void {
  const id = random.below(view.capacity);
  switch (random.below(8)) {
    case 0:
      assert.equal(view.remove(id), naive.remove(id));
      break;
    case 1:
      assert.equal(view.pop(), naive.pop());
      break;
    case 2: {
      const entry = naive.entries.find((candidate) => candidate.id === id);
      assert.equal(view.has(id), entry !== undefined);
      assert.equal(view.orderOf(id), entry?.order);
      break;
    }
    default:
      assert.equal(view.set(id, order), naive.set(id, order));
  }
  assert.equal(view.first(), naive.entries[0]?.id);
  assert.equal(view.size, naive.entries.length);
}

function check(view: OrderedView, naive: NaiveView): void {
  view.validate();
  assert.deepEqual([...view.list()], naive.ids());
}

for (const [name, next] of Object.entries(ORDERS)) {
  test(`100,000 random sets, removals and pops equal a sorted list: ${name}`, async () => {
    const core = await Core.create({ seed: 3 });
    const random = new Random(4);
    const view = core.viewOrder({ capacity: 200 });
    const naive = new NaiveView();
    for (let i = 0; i < 100_000; i++) {
      step(view, naive, random, next(random, i));
      if (i % 20 === 0) check(view, naive);
    }
    check(view, naive);
    view.clear();
    assert.equal(view.size, 0);
    check(view, new NaiveView());
  });
}

for (const build of BUILDS) {
  test(`each operation keeps every invariant: ${build}`, async () => {
    const core = await Core.create({ build, seed: 8 });
    const random = new Random(9);
    const view = core.viewOrder({ capacity: 40 });
    const naive = new NaiveView();
    for (let i = 0; i < 5000; i++) {
      step(view, naive, random, BigInt(random.below(20)));
      check(view, naive);
    }
  });
}

test("a view of many ids keeps them all, in order, and hands them all out", async () => {
  const core = await Core.create({ seed: 1 });
  const capacity = 30_000;
  const view = core.viewOrder({ capacity });
  const random = new Random(2);
  const orders = Array.from({ length: capacity }, () => BigInt(random.below(capacity)));
  orders.forEach((order, id) => view.set(id, order));
  view.validate();
  const expected = orders.map((_, id) => id).sort((a, b) => Number(orders[a] - orders[b]) || a - b);
  assert.deepEqual([...view.list()], expected);
  assert.deepEqual([...view.list(5000)], expected.slice(0, 5000));
  assert.deepEqual(
    expected.map(() => view.pop()),
    expected,
  );
  assert.equal(view.pop(), undefined);
  view.validate();
});

test("nothing is handed out before it is due, and everything due is: 100,000 operations", async () => {
  const core = await Core.create({ seed: 12 });
  const random = new Random(13);
  const view: ExpiryOrder = core.expiryOrder({ capacity: 500 });
  const deadlines = new Map<number, number>();
  const turn = new Map<number, number>();
  // A clock of today in microseconds: steps of less than one are lost in it, others are not.
  let nowUs = 1.76e15;
  for (let i = 0; i < 100_000; i++) {
    const id = random.below(500);
    if (random.below(4) > 0) {
      const deadlineUs = nowUs + random.below(2000) / 4;
      assert.equal(view.set(id, deadlineUs), !deadlines.has(id));
      if (deadlines.get(id) !== deadlineUs) turn.set(id, i);
      deadlines.set(id, deadlineUs);
    } else if (random.below(4) > 0) {
      assert.equal(view.remove(id), deadlines.delete(id));
    } else {
      nowUs += random.below(200) / 4;
      const due = [...deadlines]
        .filter(([, deadlineUs]) => deadlineUs <= nowUs)
        .sort(([a, x], [b, y]) => x - y || turn.get(a)! - turn.get(b)!)
        .map(([due]) => due);
      assert.deepEqual(view.popDue(nowUs), due);
      for (const gone of due) deadlines.delete(gone);
      view.validate();
    }
    if (i % 100 === 0) assert.equal(view.nextUs, Math.min(...deadlines.values()));
  }
  assert.equal(view.size, deadlines.size);
});

/** A score as the order rounds it: an f32 with its lowest bits cut off towards minus infinity. */
function rounded(score: number, bits: number): number {
  const word = new Uint32Array(new Float32Array([score + 0]).buffer)[0];
  const ordered = word >>> 31 ? ~word >>> 0 : (word | 0x80000000) >>> 0;
  return ordered >>> (32 - bits);
}

const SCORES = [0, -0, 1, -1, 0.5, 1.0001, 1e-40, -1e-40, 1e30, -1e30, Infinity, -Infinity];

function randomPlace(random: Random, maxClass: number, few: boolean): Required<EvictionPlace> {
  return {
    class: random.below(maxClass + 1),
    score: random.below(3) === 0 ? SCORES[random.below(SCORES.length)] : random.below(2000) / 1000 - 1,
    lastUse: random.below(few ? 4 : 2 ** 24),
    depth: random.below(few ? 4 : 8192),
  };
}

/** An id with its place and the turn it got it in: what decides, first to last. */
class Placed {
  readonly ranks: readonly number[];
  constructor(
    readonly id: number,
    turn: number,
    { class: klass, score, lastUse, depth }: Required<EvictionPlace>,
    scoreBits: number,
    readonly tenant = 0,
  ) {
    this.ranks = [tenant, klass, rounded(score, scoreBits), lastUse, -depth, turn];
  }

  compare(other: Placed): number {
    const at = this.ranks.findIndex((rank, i) => rank !== other.ranks[i]);
    return at < 0 ? 0 : this.ranks[at] - other.ranks[at];
  }

  /** Whether both have the same place, whenever they got it. */
  equals(other: Placed): boolean {
    return this.ranks.slice(0, -1).every((rank, i) => rank === other.ranks[i]);
  }
}

function inOrder(placed: Iterable<Placed>): Placed[] {
  return [...placed].sort((a, b) => a.compare(b));
}

test("victims come by class, score, last use, deepest first, then in the order they were placed", async () => {
  for (const few of [true, false]) {
    const core = await Core.create({ seed: 14 });
    const random = new Random(15);
    const view = core.evictionOrder({ capacity: 100 });
    const placed = new Map<number, Placed>();
    for (let i = 0; i < 50_000; i++) {
      const id = random.below(100);
      if (random.below(10) > 0) {
        const place = randomPlace(random, 15, few);
        view.set(id, place);
        const entry = new Placed(id, i, place, 18);
        if (!placed.get(id)?.equals(entry)) placed.set(id, entry);
      } else {
        const victim = inOrder(placed.values())[0]?.id;
        assert.equal(view.pop(), victim);
        placed.delete(victim);
      }
      if (i % 200 === 0) {
        const ids = inOrder(placed.values()).map((entry) => entry.id);
        assert.deepEqual([...view.list()], ids);
        view.validate();
      }
    }
  }
});

test("scores keep their order, and tell numbers apart that differ in 10 bits", async () => {
  const core = await Core.create();
  const view = core.evictionOrder({ capacity: 2 });
  const random = new Random(16);
  for (let i = 0; i < 20_000; i++) {
    const [a, b] = [0, 1].map(
      () => (random.below(2) ? 1 : -1) * random.next() * 2 ** (random.below(200) - 120),
    );
    view.clear();
    // Placed first, id 1 wins every tie.
    view.set(1, { score: b, lastUse: 0 });
    view.set(0, { score: a, lastUse: 0 });
    if (a < b && Math.abs(a - b) > Math.max(Math.abs(a), Math.abs(b)) * 2 ** -9)
      assert.equal(view.first(), 0);
    if (a >= b) assert.equal(view.first(), 1);
  }
});

test("the victim of one tenant is its first whatever the others hold: 100,000 operations", async () => {
  const core = await Core.create({ seed: 17 });
  const random = new Random(18);
  const view = core.tenantOrder({ capacity: 300 });
  const tenants = [0, 1, 2, 511, 1022, 1023];
  const placed = new Map<number, Placed>();
  const ofTenant = (tenant: number): number[] =>
    inOrder([...placed.values()].filter((entry) => entry.tenant === tenant)).map(({ id }) => id);
  for (let i = 0; i < 100_000; i++) {
    const id = random.below(300);
    const tenant = tenants[random.below(tenants.length)];
    const kind = random.below(20);
    if (kind < 16) {
      const place = randomPlace(random, 3, random.below(2) === 0);
      view.set(id, { tenant, ...place });
      const entry = new Placed(id, i, place, 15, tenant);
      if (!placed.get(id)?.equals(entry)) placed.set(id, entry);
    } else if (kind < 18) {
      const [victim] = ofTenant(tenant);
      assert.equal(view.firstOfTenant(tenant), victim);
      assert.equal(view.popOfTenant(tenant), victim);
      placed.delete(victim);
    } else {
      assert.equal(view.remove(id), placed.delete(id));
    }
    if (i % 500 === 0) {
      for (const each of tenants) assert.deepEqual([...view.listOfTenant(each)], ofTenant(each));
      assert.deepEqual([...view.list()], tenants.flatMap(ofTenant));
      assert.equal(view.firstOfTenant(700), undefined);
      view.validate();
    }
  }
});

test("refused calls change nothing", async () => {
  const core = await Core.create();
  const [order, expiry, eviction, tenant] = [
    core.viewOrder({ capacity: 10 }),
    core.expiryOrder({ capacity: 10 }),
    core.evictionOrder({ capacity: 10 }),
    core.tenantOrder({ capacity: 10 }),
  ];
  order.set(1, 5n);
  expiry.set(1, 5);
  eviction.set(1, { lastUse: 5 });
  tenant.set(1, { tenant: 3, lastUse: 5 });
  const refused: readonly (readonly [code: string, run: () => unknown])[] = [
    ["INVALID_ARGUMENT", () => order.set(10, 0n)],
    ["INVALID_ARGUMENT", () => order.set(-1, 0n)],
    ["INVALID_ARGUMENT", () => order.set(0, -1n)],
    ["INVALID_ARGUMENT", () => order.set(0, MAX_ORDER + 1n)],
    ["INVALID_ARGUMENT", () => order.set(0, 7 as never)],
    ["INVALID_ARGUMENT", () => order.remove(10)],
    ["INVALID_ARGUMENT", () => order.has(0.5)],
    ["INVALID_ARGUMENT", () => order.list(11)],
    ["INVALID_ARGUMENT", () => core.viewOrder({ capacity: 0 })],
    ["INVALID_ARGUMENT", () => core.expiryOrder({ capacity: 2 ** 24 + 1 })],
    ["INVALID_TIME", () => expiry.set(0, -1)],
    ["INVALID_TIME", () => expiry.set(0, NaN)],
    ["INVALID_TIME", () => expiry.set(0, Infinity)],
    ["INVALID_TIME", () => expiry.popDue(NaN)],
    ["INVALID_ARGUMENT", () => eviction.set(0, { lastUse: 2 ** 28 })],
    ["INVALID_ARGUMENT", () => eviction.set(0, { lastUse: 0, class: 16 })],
    ["INVALID_ARGUMENT", () => eviction.set(0, { lastUse: 0, depth: 16384 })],
    ["INVALID_ARGUMENT", () => eviction.set(0, { lastUse: 0, score: NaN })],
    ["INVALID_ARGUMENT", () => eviction.set(0, undefined as never)],
    ["INVALID_ARGUMENT", () => tenant.set(0, { tenant: 1024, lastUse: 0 })],
    ["INVALID_ARGUMENT", () => tenant.set(0, { tenant: 0, lastUse: 2 ** 24 })],
    ["INVALID_ARGUMENT", () => tenant.set(0, { tenant: 0, lastUse: 0, class: 4 })],
    ["INVALID_ARGUMENT", () => tenant.set(0, { tenant: 0, lastUse: 0, depth: 8192 })],
    ["INVALID_ARGUMENT", () => tenant.popOfTenant(1024)],
  ];
  for (const [code, run] of refused) {
    const before = core.snapshot();
    assert.equal(codeOf(run), code);
    assert.deepEqual(core.snapshot(), before);
    core.validate();
  }
  const { exports } = core;
  assert.equal(exports.orderedViewSet(order.pointer, 10, 0n), -1);
  assert.equal(exports.orderedViewSet(order.pointer, 0, -1n), -1);
  assert.equal(exports.orderedViewSetEviction(eviction.pointer, 0, 0, NaN, 0, 0), -1);
  assert.equal(exports.orderedViewSetTenant(tenant.pointer, 0, 1024, 0, 0, 0, 0), -1);
  assert.equal(exports.orderedViewNext(order.pointer, 0), -1);
  assert.equal(exports.orderedViewList(order.pointer, 0, -1n, 1, 0), -1);
  core.validate();
});

/** Header word 3: the index; it keeps its count of free nodes at byte 72. */
test("without nodes a place is refused, and what has one keeps it", async () => {
  const core = await Core.create();
  const view = core.viewOrder({ capacity: 100 });
  view.set(3, 30n);
  const words = new Uint32Array(core.memory.buffer);
  const freeCount = (words[view.pointer / 4 + 3] + 72) / 4;
  const free = words[freeCount];
  words[freeCount] = 1;
  const before = core.snapshot();
  assert.equal(
    codeOf(() => view.set(3, 31n)),
    "OUT_OF_MEMORY",
  );
  assert.equal(
    codeOf(() => view.set(4, 31n)),
    "OUT_OF_MEMORY",
  );
  assert.deepEqual(core.snapshot(), before);
  words[freeCount] = free;
  assert.equal(view.orderOf(3), 30n);
  view.validate();
});

test("a restored core has the same views and goes on alike in every build", async () => {
  const core = await Core.create({ seed: 19 });
  const random = new Random(20);
  core.evictionOrder({ capacity: 10 });
  const order = core.viewOrder({ capacity: 100 });
  core.expiryOrder({ capacity: 10 }).set(7, 123.25);
  core.tenantOrder({ capacity: 10 }).set(4, { tenant: 9, lastUse: 1 });
  const naive = new NaiveView();
  for (let i = 0; i < 2000; i++) step(order, naive, random, BigInt(random.below(30)));
  const bytes = core.snapshot();
  const later = async (build: Build): Promise<Uint8Array> => {
    const restored = await Core.restore(bytes, { build });
    assert.deepEqual(
      restored.orderedViews.map((view) => view.constructor.name),
      ["EvictionOrder", "ViewOrder", "ExpiryOrder", "TenantOrder"],
    );
    const view = restored.orderedViews[1] as ViewOrder;
    const again = new Random(21);
    const model = new NaiveView();
    model.entries.push(...naive.entries.map((entry) => ({ ...entry })));
    for (let i = 0; i < 2000; i++) step(view, model, again, BigInt(again.below(30)));
    check(view, model);
    assert.equal((restored.orderedViews[2] as ExpiryOrder).nextUs, 123.25);
    return restored.snapshot();
  };
  const expected = await later("core");
  for (const build of BUILDS) assert.deepEqual(await later(build), expected, build);
});

test("validate notices a broken ring and a lost entry", async () => {
  const core = await Core.create();
  const view = core.viewOrder({ capacity: 8 });
  for (let id = 0; id < 4; id++) view.set(id, 1n);
  const words = new Uint32Array(core.memory.buffer);
  const entries = words[view.pointer / 4 + 2] / 4;
  // Entries are 4 words: key, key, next, previous.
  for (const word of [0, 2, 3, 4 * 2 + 2, 4 * 6]) {
    const kept = words[entries + word];
    words[entries + word] = 5;
    assert.equal(
      codeOf(() => view.validate()),
      "CORRUPT",
    );
    words[entries + word] = kept;
    view.validate();
  }
});
