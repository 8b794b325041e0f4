/**
 * The blocks of a prompt that a tier keeps: those of the cache's own tables, named by a chain of keys, and those of its
 * groups, each named by the key of the block that it ends with and the number of its group.
 *
 * A stored prefix of n tokens is of use when every group has what the next token needs: full groups all blocks, windows those
 * that they reach, recurrent groups the state.
 */
import { createHash } from "node:crypto";
import { type CacheGroup, firstNeeded } from "../../bindings/cache-groups.js";
import type { TierBackend } from "./tier-backend.js";

/** A block of a prompt: of group 0, the cache's own tables, or of one of its groups. */
export interface PromptBlock {
  readonly group: number;
  /** Its place in the group's table. */
  readonly index: number;
  readonly key: Uint8Array;
  /** The block before it; of a group's block the one that it ends with. */
  readonly parent: Uint8Array | undefined;
}

/** Name of a group's block that ends with the block of this key. */
export function groupKey(key: Uint8Array, group: number): Uint8Array {
  return digest("group", key, Uint32Array.of(group));
}

export function digest(...parts: (string | Uint8Array | Uint32Array)[]): Uint8Array {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part);
  return hash.digest();
}

export class PromptBlocks {
  /** Of the whole blocks of the cache's own tables, in order. */
  readonly keys: readonly Uint8Array[];
  /** The cache's own tables first. */
  readonly groups: readonly CacheGroup[];
  /** A prefix that can be gone on from is a multiple of so many tokens. */
  readonly unit: number;
  /** Blocks that a tier has no right copy of, whatever it says. */
  readonly #bad = new Set<Uint8Array>();
  readonly #names: Uint8Array[][];

  constructor(groups: readonly CacheGroup[], keys: readonly Uint8Array[]) {
    this.keys = keys;
    this.groups = groups;
    this.unit = Math.max(...groups.map(({ blockSize }) => blockSize));
    this.#names = groups.map(({ blockSize }, group) => {
      const ratio = blockSize / groups[0].blockSize;
      return Array.from({ length: Math.floor(keys.length / ratio) }, (_, index) => {
        const end = keys[(index + 1) * ratio - 1];
        return group === 0 ? end : groupKey(end, group);
      });
    });
  }

  /** Blocks of a group that end with one of the first `blocks` blocks of the cache's own. */
  count(group: number, blocks: number): number {
    return Math.floor((blocks * this.groups[0].blockSize) / this.groups[group].blockSize);
  }

  at(group: number, index: number): PromptBlock {
    const key = this.#names[group][index];
    const ratio = this.groups[group].blockSize / this.groups[0].blockSize;
    const parent = group === 0 ? this.keys[index - 1] : this.keys[(index + 1) * ratio - 1];
    return { group, index, key, parent };
  }

  /** What must be copied so that a sequence on `from` tokens can go on from `to`, both multiples of the unit. */
  between(from: number, to: number): PromptBlock[] {
    return this.groups.flatMap((group, g) => {
      const first = Math.max(from / group.blockSize, firstNeeded(group, to));
      const count = Math.max(0, to / group.blockSize - first);
      return Array.from({ length: count }, (_, i) => this.at(g, first + i));
    });
  }

  /**
   * The longest prefix of up to `length` tokens that a sequence on the first `from` of them can be brought to by what the
   * tier has; of the cache's own blocks it has all that long. A multiple of the unit.
   */
  async fitting(tier: TierBackend, from: number, length: number): Promise<number> {
    for (let n = length - (length % this.unit); ;) {
      let cut = n;
      for (const [g, group] of this.groups.entries()) {
        if (g === 0) continue;
        const first = Math.max(from / group.blockSize, firstNeeded(group, n));
        const names = this.#names[g].slice(first, Math.max(first, n / group.blockSize));
        const there = (await present(tier, names)).map((is, i) => is && !this.#bad.has(names[i]));
        // Nothing behind a gap is of use to a full group, nothing before it is needed by the others.
        const gap = group.kind === "full" ? there.indexOf(false) : there.lastIndexOf(false);
        if (gap >= 0) cut = Math.min(cut, (first + gap) * group.blockSize);
      }
      if (cut === n || n <= from) return Math.max(n, from);
      n = cut - (cut % this.unit);
    }
  }

  /** The tier has no right copy of a group's block. */
  isBad(key: Uint8Array): void {
    this.#bad.add(key);
  }
}

/** Which of these blocks a tier has. */
export async function present(tier: TierBackend, keys: readonly Uint8Array[]): Promise<boolean[]> {
  if (keys.length === 0) return [];
  if (tier.has !== undefined) return tier.has(keys);
  return Promise.all(keys.map(async (key) => (await tier.match([key])) === 1));
}
