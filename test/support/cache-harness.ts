/** A KvCache and a MapCache driven side by side by random calls, compared after each. */
import assert from "node:assert/strict";
import type { MapBlock, MapCache, MapSequence } from "../../bench/peer/map-cache.js";
import { type KvCache, QuartermasterError, type SequenceId } from "../../bindings/main.js";
import type { Random } from "./random.js";

export interface Pair {
  real: SequenceId;
  model: MapSequence;
}

export class CacheHarness {
  readonly pairs: Pair[] = [];
  constructor(
    readonly cache: KvCache,
    readonly model: MapCache,
    readonly random: Random,
  ) {}

  /** Prompts over few tokens with shared beginnings, so that prefixes and collisions are common. */
  tokens(count: number): number[] {
    return Array.from({ length: count }, (_, i) =>
      this.random.below(12) === 0 ? this.random.below(3) : i % 3,
    );
  }

  refused(run: () => void, code: string): boolean {
    try {
      run();
      return false;
    } catch (error) {
      assert.ok(error instanceof QuartermasterError && error.code === code, String(error));
      return true;
    }
  }

  step(): void {
    const { cache, model, random, pairs } = this;
    const pair = pairs.length > 0 ? random.pick(pairs) : undefined;
    switch (random.below(12)) {
      case 0:
      case 1:
      case 2: {
        const tokens = this.tokens(random.below(30));
        const namespace = random.below(2);
        const isPrivate = random.below(10) === 0;
        const tenant = cache.tenants > 0 ? random.below(cache.tenants) : 0;
        assert.equal(cache.match(tokens, namespace), model.matchTokens(tokens, namespace));
        const opened = model.openSequence(tokens, namespace, isPrivate, tenant);
        if (opened === undefined) {
          assert.ok(
            this.refused(
              () => cache.open({ tokens, namespace, private: isPrivate, tenant }),
              "OUT_OF_SEQUENCES",
            ),
          );
        } else {
          pairs.push({ real: cache.open({ tokens, namespace, private: isPrivate, tenant }), model: opened });
        }
        break;
      }
      case 3:
      case 4:
      case 5:
      case 6: {
        if (!pair) break;
        const count = random.below(random.below(3) === 0 ? 14 : 4);
        if (pair.model.tokens.length + count > model.maxSequenceTokens) break;
        const reserved = model.reserve(pair.model, count);
        assert.equal(
          this.refused(() => cache.reserve(pair.real, count), model.refusal),
          !reserved,
        );
        break;
      }
      case 7:
      case 8: {
        if (!pair) break;
        const tokens = this.tokens(random.below(10)).map(
          (token, i) => (pair.model.tokens.length + i) % 3 || token,
        );
        const appended = model.append(pair.model, tokens);
        assert.equal(
          this.refused(() => cache.append(pair.real, tokens), appended),
          appended !== "OK",
        );
        break;
      }
      case 9: {
        if (!pair) break;
        const length = random.below(pair.model.tokens.length + 1);
        model.truncate(pair.model, length);
        cache.truncate(pair.real, length);
        break;
      }
      case 10: {
        if (!pair) break;
        if (random.below(2) === 0) {
          model.close(pair.model);
          cache.close(pair.real);
          pairs.splice(pairs.indexOf(pair), 1);
          break;
        }
        const twin = model.fork(pair.model);
        if (twin === undefined) assert.ok(this.refused(() => cache.fork(pair.real), "OUT_OF_SEQUENCES"));
        else pairs.push({ real: cache.fork(pair.real), model: twin });
        break;
      }
      default: {
        const choice = random.below(8);
        if (choice === 0) assert.equal(cache.forget(), model.forget());
        else if (choice < 3) {
          cache.revertCopies();
          model.revertCopies();
        } else {
          cache.settleCopies();
          model.settleCopies();
        }
      }
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
    assert.equal(stats.duplicates, model.duplicates);
    assert.equal(cache.copies().length / 8, model.pendingCopies.length);
    const named = new Map<MapBlock, number>();
    const ids = new Map<number, MapBlock>();
    for (const pair of this.pairs) {
      assert.equal(cache.length(pair.real), pair.model.tokens.length);
      const table = cache.blockTable(pair.real);
      assert.equal(table.length, pair.model.blocks.length);
      pair.model.blocks.forEach((block, i) => {
        assert.equal(named.get(block) ?? table[i], table[i], "one model block, one id");
        assert.equal(ids.get(table[i]) ?? block, block, "one id, one model block");
        named.set(block, table[i]);
        ids.set(table[i], block);
        assert.equal(cache.references(table[i]), block.refs);
      });
    }
  }
}
