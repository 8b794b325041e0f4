/**
 * An archive on disk: blocks of finished prefixes are stored by their tokens and come back later, as a host's prefix store does
 * it (docs/disk-tier.md). A load takes fresh blocks behind the cached prefix, and reads into them while steps go on; a block
 * that is missing or damaged ends what is recorded. Nobody may ever read what did not arrive.
 */
import assert from "node:assert/strict";
import type { PromptMarks, SequenceId } from "../../../bindings/main.js";
import type { Random } from "../../support/random.js";
import { contentsOf } from "./marks.js";
import type { DiskStore } from "./disk-store.js";
import { LOADS } from "./shape.js";
import type { World } from "./world.js";

interface Prefix {
  readonly namespace: number;
  readonly marks: PromptMarks;
  readonly tokens: readonly number[];
}

interface Load extends Prefix {
  readonly sequence: SequenceId;
  /** Tokens that were cached; blocks asked for behind them, and read so far. */
  readonly cached: number;
  readonly wanted: number;
  read: number;
}

export class Archive {
  /** Prompt tokens that it looked up, and found cached. */
  queriedTokens = 0;
  hitTokens = 0;
  readonly open: Load[] = [];
  /** Where the blocks are in some worlds; the others keep them here alone. */
  disk: DiskStore | undefined;
  /** Blocks that the disk has just given, or has not. */
  #arrived = new Map<string, Uint32Array | undefined>();
  readonly #world: World;
  readonly #stored = new Map<string, Uint32Array>();
  readonly #prefixes: Prefix[] = [];

  constructor(world: World) {
    this.#world = world;
  }

  get sequences(): SequenceId[] {
    return this.open.map(({ sequence }) => sequence);
  }

  act(random: Random): void {
    if (random.below(6) === 0) this.#save(random);
    if (this.open.length < LOADS && this.#prefixes.length > 0 && random.below(5) === 0) this.#begin(random);
    for (const load of [...this.open]) if (random.below(2) === 0) this.#read(load, random);
  }

  /** The disk takes what was saved, and gives the next block of each load. */
  async exchange(random: Random): Promise<void> {
    if (!this.disk) return;
    const wanted = this.open.filter(({ read, wanted }) => read < wanted).map((load) => this.#nextKey(load));
    this.#arrived = await this.disk.exchange(random, wanted);
    for (const [key, words] of this.#arrived) if (!words) this.#stored.delete(key);
  }

  #nextKey(load: Load): string {
    return keyOf(load, load.cached + (load.read + 1) * this.#world.shape.cache.blockSize);
  }

  /** Nothing more is read; what has arrived is recorded. */
  close(): void {
    for (const load of [...this.open]) this.#end(load);
  }

  /** Stores the cached whole blocks of a running request. */
  #save(random: Random): void {
    const { running, machine, shape, systems } = this.#world;
    const { blockSize, maxSequenceTokens } = shape.cache;
    const able = running.filter(({ computed }) => computed >= blockSize);
    if (able.length === 0) return;
    const { namespace, marks, answer, computed } = random.pick(able);
    const whole = Math.min(computed - (computed % blockSize), maxSequenceTokens - 1);
    const tokens = [...answer.tokens.subarray(0, whole)];
    const prefix = { namespace, marks, tokens };
    const sequence = this.#open({ ...prefix, tokens: [...tokens, 0] });
    if (sequence === undefined) return;
    const { cache } = systems.main;
    const blocks = Math.floor(cache.length(sequence) / blockSize);
    const table = cache.blockTable(sequence);
    machine.expect(table, answer.contents, blocks * blockSize, "the archive");
    for (let i = 0; i < blocks; i++) {
      const key = keyOf(prefix, (i + 1) * blockSize);
      const words = machine.read(table[i]);
      this.#stored.set(key, words);
      this.disk?.put(key, words, i === 0 ? undefined : keyOf(prefix, i * blockSize));
    }
    this.#prefixes.push({ ...prefix, tokens: tokens.slice(0, blocks * blockSize) });
    systems.call(({ cache }) => cache.close(sequence));
  }

  /** Takes blocks for what is stored behind the cached prefix. */
  #begin(random: Random): void {
    const { systems, shape } = this.#world;
    const { blockSize } = shape.cache;
    const prefix = random.pick(this.#prefixes);
    const sequence = this.#open(prefix);
    if (sequence === undefined) return;
    const found = systems.main.cache.length(sequence);
    const cached = found - (found % blockSize);
    if (cached < found) systems.call(({ cache }) => void cache.truncate(sequence, cached));
    let wanted = 0;
    while (this.#stored.has(keyOf(prefix, cached + (wanted + 1) * blockSize))) wanted += 1;
    const count = wanted * blockSize;
    const added = systems.tryCall(({ cache }) => cache.reserve(sequence, count));
    if (typeof added === "string") {
      assert.ok(["OUT_OF_BLOCKS", "QUOTA_EXCEEDED"].includes(added), added);
      systems.call(({ cache }) => cache.close(sequence));
      return;
    }
    this.open.push({ ...prefix, sequence, cached, wanted, read: 0 });
  }

  /** A block arrives, or does not: what has arrived so far is recorded then. */
  #read(load: Load, random: Random): void {
    const { machine, shape, systems, tally } = this.#world;
    const { sequence, cached, wanted } = load;
    const { blockSize } = shape.cache;
    if (load.read === wanted) return this.#end(load);
    const key = this.#nextKey(load);
    // The disk reads a block a step.
    if (this.disk && !this.#arrived.has(key)) return;
    const stored = this.disk ? this.#arrived.get(key) : this.#stored.get(key)!;
    if (!stored) return this.#end(load);
    this.#arrived.delete(key);
    const block = systems.main.cache.blockTable(sequence)[cached / blockSize + load.read];
    if (random.below(8) !== 0) {
      machine.fill(block, stored);
      load.read += 1;
      return;
    }
    tally.failedReads += 1;
    // Missing, or damaged: its checksum says so, and whatever came of it is left in the block.
    if (random.below(2) === 0)
      machine.fill(
        block,
        stored.map((word) => word ^ 1),
      );
    if (shape.believesDamage) load.read += 1;
    this.#end(load);
  }

  #end(load: Load): void {
    const { shape, systems, tally } = this.#world;
    const { sequence, tokens, cached, read } = load;
    const end = cached + read * shape.cache.blockSize;
    systems.call(({ cache }) => cache.append(sequence, tokens.slice(cached, end)));
    tally.restoredBlocks += read;
    this.#check(load, end);
    systems.call(({ cache }) => cache.close(sequence));
    this.open.splice(this.open.indexOf(load), 1);
  }

  #check({ sequence, namespace, marks, tokens }: Load, length: number): void {
    const { machine, systems } = this.#world;
    const contents = contentsOf(namespace, tokens.slice(0, length), marks);
    machine.expect(systems.main.cache.blockTable(sequence), contents, length, "the archive");
  }

  #open({ namespace, marks, tokens }: Prefix): SequenceId | undefined {
    const { systems } = this.#world;
    const sequence = systems.tryCall(({ cache }) => cache.open({ tokens, namespace, ...marks }));
    if (typeof sequence === "string") {
      assert.ok(["OUT_OF_SEQUENCES", "OUT_OF_SCOPES"].includes(sequence), sequence);
      return undefined;
    }
    this.queriedTokens += tokens.length;
    this.hitTokens += systems.main.cache.length(sequence);
    return sequence;
  }
}

function keyOf({ namespace, marks, tokens }: Prefix, end: number): string {
  const text = end > tokens.length ? "beyond" : tokens.slice(0, end).join(",");
  return `${namespace}:${JSON.stringify(marks)}:${text}`;
}
