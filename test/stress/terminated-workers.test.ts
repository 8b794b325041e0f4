/**
 * Workers that are terminated. Between two calls one leaves nothing behind but its id, which another thread gives
 * back; inside a call that holds a lock it takes the core with it, and everybody is told.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { test, type TestContext } from "node:test";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import { Core, type IndexMode, type OrderedIndex, QuartermasterError } from "../../bindings/main.js";
import { instantiateRaw } from "../../bindings/module.js";
import { long } from "../support/long.js";
import { KEYS, type Order, type Role } from "./mortal-plan.js";

const WORKER = fileURLToPath(new URL("mortal-worker.js", import.meta.url));
const MODES: readonly IndexMode[] = ["locked", "optimistic"];
const ROLES: readonly Role[] = ["reader", "writer"];
/** Terminations at any moment, for each mode and role. */
const DEATHS = long ? 200 : 4;

/** A core with one index of keys 1 to KEYS in small nodes, and how often this thread has had to wait. */
class Ground {
  waits = 0;
  core!: Core;
  index!: OrderedIndex;
  readonly #workers: Worker[] = [];

  static async make(t: TestContext, mode: IndexMode, workers = 8): Promise<Ground> {
    const ground = new Ground();
    // A clock that runs fast: a lost lock is given up after turns, not seconds.
    const park = (): number => ((ground.waits += 1), 2000);
    ground.core = await Core.create({
      build: "core-threads",
      seed: 3,
      workers,
      instantiate: (module, { env }) => instantiateRaw(module, { env: { ...env, park } }),
    });
    ground.index = ground.core.orderedIndex({ capacity: 200, nodeBytes: 128, mode });
    ground.fill();
    t.after(() => Promise.all(ground.#workers.map((worker) => worker.terminate())));
    return ground;
  }

  fill(): void {
    for (let key = 1n; key <= KEYS; key++) this.index.set(key, key);
  }

  async start(): Promise<{ worker: Worker; id: number }> {
    const worker = new Worker(WORKER, { workerData: this.core.share() });
    this.#workers.push(worker);
    const [id] = (await once(worker, "message")) as [number];
    return { worker, id };
  }

  /** Every kind of change on every key; none has to wait. */
  changeEverything(): void {
    const { index } = this;
    const before = this.waits;
    this.fill();
    for (let key = 1n; key <= KEYS; key++) assert.equal(index.fetchAdd(key, 1n), key);
    assert.equal(index.deleteMany(BigUint64Array.from({ length: KEYS }, (_, i) => BigInt(i + 1))), KEYS);
    assert.equal(index.size, 0);
    this.fill();
    index.validate();
    assert.equal(this.waits, before, "nobody is in the way");
  }

  /** First leaf of the index, where key 1 is: as if a writer were in it, or no more. */
  holdFirstLeaf(held: boolean): void {
    const leaf = new DataView(this.core.memory.buffer).getUint32(this.index.pointer, true);
    const word = new BigUint64Array(this.core.memory.buffer, leaf, 1);
    word[0] = held ? word[0] | 1n : word[0] & ~1n;
  }

  /** A worker that died in a call, waiting for the first leaf with locks on the way there. */
  async diesInside(role: Role): Promise<number> {
    const { worker, id } = await this.start();
    this.holdFirstLeaf(true);
    assert.equal(await told(worker, { what: "get stuck", role }), "stuck");
    await worker.terminate();
    this.holdFirstLeaf(false);
    return id;
  }
}

async function told(worker: Worker, order: Order): Promise<unknown> {
  const answered = once(worker, "message");
  worker.postMessage(order);
  return ((await answered) as [unknown])[0];
}

const poisoned = (error: unknown): boolean =>
  error instanceof QuartermasterError && error.code === "POISONED";

for (const mode of MODES) {
  for (const role of ROLES) {
    test(`a ${role} terminated between two calls stops nobody, ${mode}`, async (t) => {
      const ground = await Ground.make(t, mode);
      const { worker, id } = await ground.start();
      await told(worker, { what: "work", role });
      await worker.terminate();
      ground.changeEverything();
      ground.core.detachWorker(id);
      ground.changeEverything();
    });

    test(`a ${role} terminated at any moment: all is well or all are told, ${mode}`, async (t) => {
      const outcomes = { well: 0, told: 0 };
      for (let death = 0; death < DEATHS; death++) {
        const ground = await Ground.make(t, mode);
        const { worker, id } = await ground.start();
        const calls = new Int32Array(new SharedArrayBuffer(4));
        worker.postMessage({ what: "work on", role, calls } satisfies Order);
        while (Atomics.load(calls, 0) < 100 + 37 * death) await new Promise(setImmediate);
        await worker.terminate();
        try {
          ground.core.detachWorker(id);
        } catch (error) {
          assert.ok(poisoned(error));
          assert.throws(() => ground.index.get(1n), poisoned);
          outcomes.told += 1;
          continue;
        }
        ground.changeEverything();
        outcomes.well += 1;
      }
      t.diagnostic(JSON.stringify(outcomes));
      // Without writers an optimistic read takes no lock.
      if (role === "reader" && mode === "optimistic") assert.equal(outcomes.told, 0);
    });

    test(`a ${role} terminated while it holds a lock: detaching it poisons the core, ${mode}`, async (t) => {
      const ground = await Ground.make(t, mode);
      const { worker: other } = await ground.start();
      const dead = await ground.diesInside(role);
      assert.equal(await told(other, { what: "detach", worker: dead }), "POISONED");
      assert.throws(() => ground.index.get(1n), poisoned);
      assert.throws(() => ground.index.set(1n, 1n), poisoned);
      assert.throws(() => ground.core.snapshot(), poisoned);
      assert.equal(ground.waits, 0, "nobody has to run into the lock");
    });

    test(`a ${role} terminated while it holds a lock, not detached: who waits for it is told, ${mode}`, async (t) => {
      const ground = await Ground.make(t, mode);
      await ground.diesInside(role);
      // What needs no more than to read past the lock goes on.
      for (let key = 1n; key <= KEYS; key++) assert.equal(ground.index.get(key), key);
      assert.throws(() => ground.changeEverything(), poisoned);
      assert.ok(ground.waits >= 1000, "after a long wait");
      const waits = ground.waits;
      assert.throws(() => ground.index.get(1n), poisoned);
      assert.equal(ground.waits, waits, "from here on at once");
    });
  }
}

test("the id of a dead worker is given back by any thread, once, and taken again", async (t) => {
  const ground = await Ground.make(t, "optimistic", 4);
  const [first, second, third] = [await ground.start(), await ground.start(), await ground.start()];
  assert.deepEqual([first.id, second.id, third.id], [1, 2, 3]);
  await told(first.worker, { what: "work", role: "writer" });
  const { size } = ground.index;
  await first.worker.terminate();
  await assert.rejects(Core.attach(ground.core.share()), { code: "OUT_OF_WORKERS" });

  assert.equal(await told(second.worker, { what: "detach", worker: first.id }), "detached");
  assert.equal(await told(third.worker, { what: "detach", worker: first.id }), "INVALID_ARGUMENT");
  const heir = await ground.start();
  assert.equal(heir.id, first.id);
  assert.equal(ground.index.size, size, "what the dead worker entered counts");
  await told(heir.worker, { what: "work", role: "writer" });
  await told(second.worker, { what: "work", role: "writer" });
  ground.index.validate();
  assert.equal(ground.index.size, [...ground.index].length);
});

test("a worker cannot be detached by itself, nor one that never was", async (t) => {
  const { core } = await Ground.make(t, "locked");
  for (const worker of [core.worker, 5, 64, -1, 0.5])
    assert.throws(() => core.detachWorker(worker), { code: "INVALID_ARGUMENT" }, `worker ${worker}`);
});
