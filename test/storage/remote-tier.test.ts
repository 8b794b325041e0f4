/** Tiers in memory and behind a channel: equal to a plain list, and what cannot be reached is not there. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { test } from "node:test";
import { MessageChannel, type MessagePort } from "node:worker_threads";
import fc from "fast-check";
import { MemoryTier, RemoteTier, serveTier, type TierBackend } from "../../native-host/executor/main.js";

const key = (name: number): Uint8Array => new Uint8Array(32).fill(name);
const CAPACITY = 100;

/** Blocks in order of use, the least recent first. */
class ListTier {
  readonly blocks: { name: number; bytes: number; lossy: boolean }[] = [];

  put(name: number, bytes: number, lossy: boolean): boolean {
    if (this.blocks.some((block) => block.name === name) || bytes > CAPACITY) return false;
    while (this.held + bytes > CAPACITY) this.blocks.shift();
    this.blocks.push({ name, bytes, lossy });
    return true;
  }

  get held(): number {
    return this.blocks.reduce((sum, { bytes }) => sum + bytes, 0);
  }

  use(name: number): number | undefined {
    const at = this.blocks.findIndex((block) => block.name === name);
    if (at < 0) return undefined;
    const [block] = this.blocks.splice(at, 1);
    this.blocks.push(block);
    return block.bytes;
  }

  del(name: number): boolean {
    const at = this.blocks.findIndex((block) => block.name === name);
    if (at >= 0) this.blocks.splice(at, 1);
    return at >= 0;
  }

  match(names: number[]): number {
    let found = 0;
    while (this.blocks.some(({ name, lossy }) => name === names[found] && !lossy)) found += 1;
    for (let i = found - 1; i >= 0; i--) this.use(names[i]);
    return found;
  }
}

const name = fc.integer({ min: 0, max: 11 });
const operation = fc.oneof(
  fc.record({
    call: fc.constant("put" as const),
    name,
    bytes: fc.integer({ min: 0, max: 110 }),
    lossy: fc.boolean(),
  }),
  fc.record({ call: fc.constant("get" as const), name }),
  fc.record({ call: fc.constant("del" as const), name }),
  fc.record({ call: fc.constant("match" as const), names: fc.uniqueArray(name, { maxLength: 5 }) }),
);

type Operation = typeof operation extends fc.Arbitrary<infer Value> ? Value : never;

async function equalsTheList(tier: TierBackend, operations: Operation[]): Promise<void> {
  const list = new ListTier();
  for (const step of operations) {
    if (step.call === "put") {
      const payload = new Uint8Array(step.bytes).fill(step.name);
      const stored = await tier.put(key(step.name), payload, { lossy: step.lossy });
      assert.equal(stored, list.put(step.name, step.bytes, step.lossy));
      payload.fill(99);
    } else if (step.call === "get") {
      const block = await tier.get(key(step.name));
      assert.equal(block?.payload.length, list.use(step.name));
      assert.ok(block?.payload.every((byte) => byte === step.name) ?? true);
    } else if (step.call === "del") {
      assert.equal(await tier.del(key(step.name)), list.del(step.name));
    } else {
      assert.equal(await tier.match(step.names.map(key)), list.match(step.names));
    }
    const { blocks, liveBytes } = await tier.stat();
    assert.deepEqual([blocks, liveBytes], [list.blocks.length, list.held]);
  }
}

test("in memory: random operations equal a list in order of use", () =>
  fc.assert(
    fc.asyncProperty(fc.array(operation, { maxLength: 60 }), (operations) =>
      equalsTheList(new MemoryTier({ capacityBytes: CAPACITY }), operations),
    ),
    { numRuns: 300 },
  ));

test("behind a channel: the same", () =>
  fc.assert(
    fc.asyncProperty(fc.array(operation, { maxLength: 40 }), async (operations) => {
      const { port1, port2 } = new MessageChannel();
      serveTier(port1, new MemoryTier({ capacityBytes: CAPACITY }));
      try {
        await equalsTheList(new RemoteTier(port2), operations);
      } finally {
        port1.close();
      }
    }),
    { numRuns: 40 },
  ));

test("a chain without its beginning is an orphan, over the channel too", async () => {
  const tier = new MemoryTier({ capacityBytes: 1000 });
  await tier.put(key(1), randomBytes(8));
  await tier.put(key(2), randomBytes(8), { parent: key(1), tenant: 3, fingerprint: 7 });
  const { port1, port2 } = new MessageChannel();
  serveTier(port1, tier);
  const remote = new RemoteTier(port2);
  const { payload, parent, ...rest } = (await remote.get(key(2)))!;
  assert.deepEqual(rest, { tenant: 3, fingerprint: 7, group: 0, lossy: false, orphan: false });
  assert.deepEqual([payload.length, parent], [8, key(1)]);
  await remote.del(key(1));
  assert.equal((await remote.get(key(2)))!.orphan, true);
  port1.close();
});

async function reachesNothing(remote: RemoteTier): Promise<void> {
  assert.equal(await remote.get(key(1)), undefined);
  assert.equal(await remote.match([key(1)]), 0);
  await assert.rejects(remote.put(key(1), new Uint8Array(1)), { code: "UNREACHABLE" });
  await assert.rejects(remote.del(key(1)), { code: "UNREACHABLE" });
  await assert.rejects(remote.stat(), { code: "UNREACHABLE" });
  assert.equal(remote.unanswered, 5);
}

test("nobody answers: nothing is found, writes are refused, none hangs", async () => {
  const { port1, port2 } = new MessageChannel();
  await reachesNothing(new RemoteTier(port2, { timeoutMs: 5 }));
  port1.close();
});

test("the channel is closed: calls under way end at once, later ones too", async () => {
  const { port1, port2 } = new MessageChannel();
  const remote = new RemoteTier(port2, { timeoutMs: 2 ** 31 - 1 });
  const waits = remote.get(key(1));
  port1.close();
  assert.equal(await waits, undefined);
  const closed = new RemoteTier(new MessageChannel().port1, { timeoutMs: 2 ** 31 - 1 });
  closed.close();
  closed.close();
  await reachesNothing(closed);
});

test("a tier that fails says so over the channel, and messages of others are not answered", async () => {
  const { port1, port2 } = new MessageChannel();
  const tier = new MemoryTier({ capacityBytes: 10 });
  tier.put = () => Promise.reject(Object.assign(new Error("full"), { code: "DISK_FULL" }));
  serveTier(port1, tier);
  const remote = new RemoteTier(port2);
  for (const foreign of [null, 5, "text", { tierCall: "one" }, { tierAnswer: 99 }]) {
    port2.postMessage(foreign);
    port1.postMessage(foreign);
  }
  await assert.rejects(remote.put(key(1), new Uint8Array(1)), { message: "full" });
  assert.equal(await remote.match([]), 0);
  port1.close();
});

test("bad arguments are refused by name", async () => {
  const port = {} as MessagePort;
  assert.throws(() => new RemoteTier(port), { code: "INVALID_ARGUMENT", argument: "channel" });
  const { port1 } = new MessageChannel();
  assert.throws(() => new RemoteTier(port1, { timeoutMs: 0 }), { argument: "timeoutMs" });
  assert.throws(() => new MemoryTier({ capacityBytes: 0 }), { argument: "capacityBytes" });
  await assert.rejects(new RemoteTier(port1).get(new Uint8Array(3)), { argument: "key" });
  assert.throws(() => new MemoryTier({ capacityBytes: 1 }).match([new Uint8Array(31)]), {
    argument: "keys[0]",
  });
  port1.close();
});
