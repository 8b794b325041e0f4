/** A keyed pool against a naive model: a list of free ids, a count and a key a block, searched from the front. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { type Build, Core, type KeyedPool, QuartermasterError } from "../../bindings/main.js";
import { Random } from "../support/random.js";

const BUILDS: readonly Build[] = ["core", "core-threads", "core-scalar", "debug"];
const LENGTHS = [8, 16, 32];

/** One key: its group, then its bytes. */
type Key = readonly [group: number, text: string];

class NaivePool {
  readonly free: number[];
  readonly refs: number[];
  readonly keys: (Key | undefined)[];
  /** Blocks in the order in which they got their key. */
  entered: number[] = [];
  readonly aside = new Set<number>();

  constructor(blocks: number) {
    this.free = Array.from({ length: blocks }, (_, id) => id);
    this.refs = this.free.map(() => 0);
    this.keys = this.free.map(() => undefined);
  }

  allocate(count: number, touch: readonly number[]): { blocks: number[]; lost: number[] } | undefined {
    const leaving = touch.filter((id) => this.free.includes(id)).length;
    if (count + leaving > this.free.length) return undefined;
    for (const id of touch) {
      if (this.aside.has(id)) continue;
      if (this.refs[id]++ === 0) this.free.splice(this.free.indexOf(id), 1);
    }
    const blocks = this.free.splice(0, count);
    for (const id of blocks) this.refs[id] = 1;
    return { blocks, lost: blocks.filter((id) => this.drop(id)) };
  }

  release(ids: readonly number[]): boolean {
    const left = [...this.refs];
    for (const id of ids) if (!this.aside.has(id) && left[id]-- === 0) return false;
    for (const id of ids) if (!this.aside.has(id) && --this.refs[id] === 0) this.free.push(id);
    return true;
  }

  enter(ids: readonly number[], keys: readonly Key[]): boolean {
    if (ids.some((id) => !this.aside.has(id) && this.keys[id])) return false;
    ids.forEach((id, i) => {
      if (this.aside.has(id) || this.keys[id]) return;
      this.keys[id] = keys[i];
      this.entered.push(id);
    });
    return true;
  }

  find([group, text]: Key): number | undefined {
    return this.entered.find((id) => this.keys[id]![0] === group && this.keys[id]![1] === text);
  }

  drop(id: number): boolean {
    if (!this.keys[id]) return false;
    this.keys[id] = undefined;
    this.entered = this.entered.filter((other) => other !== id);
    return true;
  }
}

function bytesOf(keys: readonly Key[], length: number): Uint8Array {
  const bytes = new Uint8Array(keys.length * length);
  keys.forEach(([, text], i) => bytes.set(new TextEncoder().encode(text.padEnd(length, "-")), i * length));
  return bytes;
}

class Harness {
  readonly model: NaivePool;
  constructor(
    readonly pool: KeyedPool,
    readonly random: Random,
  ) {
    this.model = new NaivePool(pool.blocks);
  }

  #ids(longest: number): number[] {
    const { random, pool } = this;
    return Array.from({ length: random.below(longest + 1) }, () => random.below(pool.blocks));
  }

  #different(longest: number): number[] {
    return [...new Set(this.#ids(longest))];
  }

  /** Few texts, so that blocks share keys; a length each, as keys of different length are different. */
  #keys(count: number): { keys: Key[]; bytes: Uint8Array; length: number; group: number } {
    const { random } = this;
    const length = random.pick(LENGTHS);
    const group = random.pick([0, 1, 0xffffffff]);
    const keys = Array.from({ length: count }, (): Key => [group, `${length}:${random.below(9)}`]);
    return { keys, bytes: bytesOf(keys, length), length, group };
  }

  step(): void {
    const { pool, model, random } = this;
    switch (random.below(9)) {
      case 0:
      case 1: {
        const touch = this.#different(4);
        const count = random.below(5);
        assert.equal(pool.fits(count, touch), this.#wouldFit(count, touch));
        const expected = model.allocate(count, touch);
        if (!expected) {
          assert.throws(() => pool.allocate(count, touch), { code: "OUT_OF_BLOCKS" });
          return;
        }
        const { blocks, lost } = pool.allocate(count, touch);
        assert.deepEqual({ blocks: [...blocks], lost: [...lost] }, expected);
        return;
      }
      case 2:
      case 3: {
        const held = [...model.refs.keys()].filter((id) => model.refs[id] > 0 || random.below(20) === 0);
        const ids = Array.from({ length: random.below(6) }, () => random.pick(held)).filter(
          (id) => id !== undefined,
        );
        if (model.release(ids)) pool.release(ids);
        else assert.throws(() => pool.release(ids), { code: "ALREADY_FREE" });
        return;
      }
      case 4:
      case 5: {
        const bare = [...model.keys.keys()].filter((id) => !model.keys[id] || random.below(20) === 0);
        const ids = Array.from({ length: random.below(pool.batch + 1) }, () => random.pick(bare)).filter(
          (id) => id !== undefined,
        );
        const { keys, bytes, group } = this.#keys(ids.length);
        if (model.enter(ids, keys)) pool.enterKeys(group, ids, bytes);
        else assert.throws(() => pool.enterKeys(group, ids, bytes), { code: "INVALID_ARGUMENT" });
        return;
      }
      case 6: {
        const { keys, bytes, length, group } = this.#keys(random.below(3 * pool.batch));
        const all = keys.map((key) => model.find(key) ?? 0xffffffff);
        const miss = all.indexOf(0xffffffff);
        assert.deepEqual([...pool.findAll(group, bytes, length)], all);
        assert.deepEqual([...pool.find(group, bytes, length)], miss < 0 ? all : all.slice(0, miss));
        return;
      }
      case 7: {
        const ids = this.#ids(3);
        assert.deepEqual(
          [...pool.dropKeys(ids)],
          ids.filter((id) => model.drop(id)),
        );
        return;
      }
      default:
        return this.#aside(random.below(pool.blocks));
    }
  }

  #wouldFit(count: number, touch: readonly number[]): boolean {
    const { free } = this.model;
    return count + touch.filter((id) => free.includes(id)).length <= free.length;
  }

  #aside(id: number): void {
    const { pool, model } = this;
    const at = model.free.indexOf(id);
    if (model.aside.has(id)) {
      pool.putBack(id);
      model.aside.delete(id);
      model.free.push(id);
    } else if (at < 0) {
      assert.throws(() => pool.setAside(id), { code: "INVALID_ARGUMENT" });
      assert.throws(() => pool.putBack(id), { code: "INVALID_ARGUMENT" });
    } else if (model.aside.size < 2) {
      pool.setAside(id);
      model.free.splice(at, 1);
      model.aside.add(id);
    }
  }

  check(): void {
    const { pool, model } = this;
    assert.deepEqual([...pool.freeBlocks()], model.free);
    assert.equal(pool.free, model.free.length);
    assert.equal(pool.held, model.refs.filter((refs) => refs > 0).length);
    const different = new Set(model.entered.map((id) => model.keys[id]!.join("/")));
    assert.deepEqual(pool.keys, { different: different.size, blocks: model.entered.length });
    for (let id = 0; id < pool.blocks; id++) {
      assert.equal(pool.references(id), model.refs[id]);
      const { group, key } = pool.key(id) ?? {};
      const text = key && new TextDecoder().decode(key).replace(/-+$/, "");
      assert.deepEqual(group === undefined ? undefined : [group, text], model.keys[id]);
    }
    pool.validate();
  }
}

for (const build of BUILDS) {
  test(`a keyed pool gives what lists searched from the front give (${build})`, async () => {
    await fc.assert(
      fc.asyncProperty(fc.nat(), fc.integer({ min: 6, max: 40 }), async (seed, blocks) => {
        const core = await Core.create({ build, seed: BigInt(seed) });
        const pool = core.keyedPool({ blocks, batch: 5 });
        const harness = new Harness(pool, new Random(seed));
        for (let i = 0; i < 300; i++) {
          harness.step();
          if (i % 30 === 0) harness.check();
        }
        harness.check();
        const held = pool.held;
        assert.equal(pool.forget(), held === 0);
        if (held === 0) assert.deepEqual(pool.keys, { different: 0, blocks: 0 });
      }),
      { numRuns: build === "core" ? 60 : 15 },
    );
  });
}

test("a restored core goes on where its keyed pool was", async () => {
  const core = await Core.create({ seed: 7n });
  const pool = core.keyedPool({ blocks: 8 });
  const keys = new Uint8Array(64).map((_, i) => i);
  pool.enterKeys(3, pool.allocate(2).blocks, keys);
  pool.release([1, 0]);
  const [twin] = (await Core.restore(core.snapshot())).keyedPools;
  assert.deepEqual([...twin.find(3, keys)], [0, 1]);
  assert.deepEqual(twin.allocate(8), pool.allocate(8));
  assert.deepEqual(core.snapshot(), twin.core.snapshot());
});

test("a keyed pool names what is wrong with an argument, and is as it was", async () => {
  const core = await Core.create();
  const pool = core.keyedPool({ blocks: 4 });
  pool.allocate(2);
  const before = core.snapshot();
  const refused: readonly [() => unknown, RegExp][] = [
    [() => core.keyedPool({ blocks: 0 }), /blocks/],
    [() => core.keyedPool({ blocks: 4, keyBytes: 12 }), /keyBytes/],
    [() => core.keyedPool({ blocks: 4, batch: 5 }), /batch/],
    [() => pool.allocate(-1), /count/],
    [() => pool.allocate(1, [4]), /touch\[0\]/],
    [() => pool.release([0, 1.5]), /blocks\[1\]/],
    [() => pool.release([0, 1, 2, 3, 0]), /blocks\.length/],
    [() => pool.enterKeys(-1, [0], new Uint8Array(8)), /group/],
    [() => pool.enterKeys(0, [0], new Uint8Array(12)), /key length/],
    [() => pool.find(0, new Uint8Array(40), 32), /keys/],
    [() => pool.find(0, "abcdefgh" as never), /keys/],
    [() => pool.references(4), /block/],
  ];
  for (const [run, what] of refused)
    assert.throws(run, (error: unknown) => {
      assert.ok(error instanceof QuartermasterError && error.code === "INVALID_ARGUMENT");
      assert.match(error.message, what);
      return true;
    });
  assert.deepEqual(core.snapshot(), before);
});
