/**
 * A KvCache with groups and a GroupModel driven side by side by random calls, compared after each; with tenants, marks and
 * pins if they are asked for.
 */
import assert from "node:assert/strict";
import {
  type CacheGroup,
  type KvCache,
  NO_BLOCK,
  type PinId,
  type PromptMarks,
  QuartermasterError,
  type SequenceId,
} from "../../bindings/main.js";
import type { GroupModel, ModelBlock, ModelPin, ModelScope, ModelSequence } from "./group-model.js";
import { NaiveAccounts } from "./naive-accounts.js";
import type { Random } from "./random.js";

export const MOST_TOKENS = 64;

export interface Pair {
  readonly real: SequenceId;
  readonly model: ModelSequence;
}

function randomGroups(random: Random, blockSize: number): CacheGroup[] {
  return Array.from({ length: 1 + random.below(3) }, () => {
    const kind = random.pick(["full", "window", "window", "recurrent"] as const);
    const window = kind === "window" ? 1 + random.below(14) : 0;
    return { kind, window, blockSize: blockSize << random.below(3) };
  });
}

/** A small pool with random groups: the model's shape, and the cache's options, where only windows have a width. */
export function randomShape(random: Random) {
  const blockSize = 1 << random.below(3);
  const shape = {
    blocks: 16 + random.below(60),
    blockSize,
    maxSequences: 1 + random.below(6),
    groups: randomGroups(random, blockSize),
  };
  const groups = shape.groups.map(({ window, ...group }) =>
    group.kind === "window" ? { ...group, window } : group,
  );
  return { shape, options: { ...shape, groups, maxSequenceTokens: MOST_TOKENS } };
}

/** What the cache has beside groups. */
export interface Isolation {
  readonly tenants?: number;
  readonly marks?: boolean;
  /** Blocks that hard pins may hold. */
  readonly pins?: number;
}

export class GroupHarness {
  readonly pairs: Pair[] = [];
  readonly pins = new Map<ModelPin, PinId>();
  readonly refusals = new Map<string, number>();
  hits = 0;
  shortened = 0;

  constructor(
    readonly cache: KvCache,
    readonly model: GroupModel,
    readonly random: Random,
    readonly isolation: Isolation = {},
  ) {
    if (isolation.tenants) model.accounts = new NaiveAccounts(model, isolation.tenants);
  }

  /** A namespace and, if there are any, marks: few, at few places, so that prompts share what stands before them. */
  scope(): { scope: ModelScope; marks: PromptMarks } {
    const { random } = this;
    const namespace = random.below(2);
    if (!this.isolation.marks) return { scope: { namespace, marks: [] }, marks: {} };
    const ranges = Array.from({ length: random.below(2) }, () => {
      return { offset: 6 * random.below(4), scope: "tenant", salt: random.below(2) } as const;
    });
    const items = Array.from({ length: random.below(2) }, () => {
      return { offset: 5 * random.below(6), length: 3, hash: random.below(2) };
    });
    const marks = [
      ...ranges.map(({ offset, salt }) => ({ offset, text: `tenant ${salt}` })),
      ...items.map(({ offset, hash }) => ({ offset, text: `item ${hash}` })),
    ];
    marks.sort((a, b) => a.offset - b.offset);
    return { scope: { namespace, marks }, marks: { ranges, items } };
  }

  changeQuota(): void {
    const { random, cache, model } = this;
    const { quotas } = model.accounts!;
    const index = random.below(quotas.length);
    const floors = quotas.reduce((sum, { floor }, t) => sum + (t === index ? 0 : floor), 0);
    const ceiling = random.below(2) === 0 ? cache.blocks : random.below(cache.blocks + 1);
    const watermark = random.below(2) === 0 ? ceiling : random.below(ceiling + 1);
    const floor = Math.min(cache.blocks - floors, random.below(watermark + 1));
    model.accounts!.limit(index, { floor, watermark, ceiling });
    const tenant = index === quotas.length - 1 ? "common" : index;
    cache.setQuota({ tenant, floor, watermark, ceiling });
  }

  changePins(pair: Pair | undefined): void {
    const { random, cache, model, pins } = this;
    if (pair !== undefined && random.below(2) === 0) {
      const hard = random.below(2) === 0;
      const priority = random.below(3);
      const pin = model.pin(pair.model, hard, priority, this.isolation.pins!);
      if (typeof pin === "string") this.refused(() => cache.pin(pair.real, { hard, priority }), pin);
      else pins.set(pin, cache.pin(pair.real, { hard, priority }));
    } else if (pins.size > 0) {
      const [pin, real] = random.pick([...pins]);
      pins.delete(pin);
      if (!model.pins.has(pin)) return this.refused(() => cache.unpin(real), "NOT_FOUND");
      model.unpin(pin);
      cache.unpin(real);
    }
  }

  /** Few texts, so that prefixes meet; now and then one that leaves them. */
  tokens(count: number): number[] {
    const { random } = this;
    const twist = random.below(3) === 0 ? random.below(count + 1) : count;
    return Array.from({ length: count }, (_, i) => (i < twist ? i % 3 : (i + 1) % 3));
  }

  refused(run: () => unknown, code: string): void {
    this.refusals.set(code, (this.refusals.get(code) ?? 0) + 1);
    assert.throws(run, (error) => error instanceof QuartermasterError && error.code === code, code);
  }

  operate(): void {
    const { random, cache, model, pairs } = this;
    const pair = pairs.length > 0 ? random.pick(pairs) : undefined;
    const { tenants = 0, pins } = this.isolation;
    if (tenants > 0 && random.below(20) === 0) this.changeQuota();
    if (pins !== undefined && random.below(6) === 0) this.changePins(pair);
    const choice = random.below(12);
    if (choice < 2) {
      const tokens = this.tokens(random.below(MOST_TOKENS));
      const { scope, marks } = this.scope();
      const { namespace } = scope;
      const isPrivate = random.below(6) === 0;
      const tenant = tenants > 0 ? random.below(tenants) : 0;
      assert.equal(cache.match(tokens, namespace, marks), model.match(tokens, scope));
      const opened = model.open(tokens, scope, isPrivate, tenant);
      const options = { tokens, namespace, private: isPrivate, tenant, ...marks };
      if (opened === undefined) this.refused(() => cache.open(options), "OUT_OF_SEQUENCES");
      else pairs.push({ real: cache.open(options), model: opened });
      if (opened && opened.tokens.length > 0) this.hits += 1;
    } else if (pair === undefined) {
      return;
    } else if (choice < 5) {
      const count = Math.min(random.below(14), MOST_TOKENS - pair.model.tokens.length);
      const status = model.reserve(pair.model, count);
      if (status === "OK") cache.reserve(pair.real, count);
      else this.refused(() => cache.reserve(pair.real, count), status);
    } else if (choice < 8) {
      const length = pair.model.tokens.length;
      const count = Math.min(random.below(12), MOST_TOKENS - length);
      const tokens = this.tokens(length + count).slice(length);
      const status = model.append(pair.model, tokens);
      if (status === "OK") cache.append(pair.real, tokens);
      else this.refused(() => cache.append(pair.real, tokens), status);
    } else if (choice === 8) {
      const length = random.below(pair.model.tokens.length + 1);
      const left = model.truncate(pair.model, length);
      assert.equal(cache.truncate(pair.real, length), left);
      this.shortened += Number(left < length);
    } else if (choice === 9) {
      model.close(pair.model);
      cache.close(pair.real);
      pairs.splice(pairs.indexOf(pair), 1);
    } else if (choice === 10) {
      const twin = model.fork(pair.model);
      if (twin === undefined) this.refused(() => cache.fork(pair.real), "OUT_OF_SEQUENCES");
      else pairs.push({ real: cache.fork(pair.real), model: twin });
    } else {
      const what = random.below(6);
      if (what === 0) assert.equal(cache.forget(), model.forget());
      else if (what < 3) (cache.revertCopies(), model.revertCopies());
      else (cache.settleCopies(), model.settleCopies());
    }
    this.compare();
  }

  compare(): void {
    const { cache, model } = this;
    cache.validate();
    const stats = cache.stats();
    assert.equal(stats.free, model.free);
    assert.equal(stats.evictable, model.evictable.size);
    assert.equal(stats.cached, model.cached.size);
    assert.equal(stats.evictions, model.evictions);
    assert.deepEqual(
      Array.from({ length: model.copies.length }, (_, i) => cache.copies()[8 * i] >> 8),
      model.copies.map(({ group }) => group),
    );
    model.accounts?.quotas.forEach((quota, t, { length }) => {
      const figures = { used: model.accounts!.used(t), evictable: model.accounts!.resting(t) };
      assert.deepEqual(cache.account(t === length - 1 ? "common" : t), { ...quota, ...figures });
    });
    if (model.accounts) assert.equal(cache.availableTo(0), model.accounts.available(0));
    if (this.isolation.pins !== undefined) {
      const [hard, soft] = [model.hardPinned.size, model.yielding];
      assert.deepEqual(cache.pinned(), { hard, soft, pins: model.pins.size, gaveWay: model.gaveWay });
    }
    const ids = new Map<ModelBlock, number>();
    for (const { real, model: sequence } of this.pairs) {
      assert.equal(cache.length(real), sequence.tokens.length);
      for (const [g, expected] of sequence.tables.entries()) {
        const table = g === 0 ? cache.blockTable(real) : cache.groupTable(real, g);
        assert.equal(table.length, expected.length);
        expected.forEach((block, i) => {
          if (block === undefined) return assert.equal(table[i], NO_BLOCK);
          assert.equal(ids.get(block) ?? table[i], table[i], "one model block, one id");
          ids.set(block, table[i]);
          assert.equal(cache.references(table[i]), block.refs);
        });
      }
    }
    assert.equal(new Set(ids.values()).size, ids.size, "one id, one model block");
    const names = [...model.cached.keys()];
    cache.groupStats().forEach(({ held, cached }, i) => {
      const blocks = this.pairs.flatMap(({ model: sequence }) => sequence.tables[i + 1]).filter(Boolean);
      assert.equal(held, blocks.length);
      assert.equal(cached, names.filter((name) => name.startsWith(`${i + 1}/`)).length);
    });
  }

  /** Ends every pin and every sequence: nothing is held any more. */
  finish(): void {
    const { cache, model, pins, pairs } = this;
    for (const [pin, real] of pins) {
      if (!model.pins.has(pin)) continue;
      model.unpin(pin);
      cache.unpin(real);
    }
    for (const { real, model: sequence } of pairs.splice(0)) {
      cache.close(real);
      model.close(sequence);
    }
    this.compare();
    assert.equal(cache.available, cache.blocks, "nothing is held");
  }
}
