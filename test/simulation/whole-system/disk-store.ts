/**
 * The archive's blocks in a disk tier (docs/disk-tier.md) of a temporary directory, through crashes of the process: what was stored
 * is there, and is what was stored; of what is damaged nothing is there.
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdtemp, open, readdir, rm, copyFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DiskTier } from "../../../native-host/storage/main.js";
import type { Random } from "../../support/random.js";

/** Small files, so that some are full, and checkpoints in between. */
const OPTIONS = {
  capacityBytes: 2 ** 26,
  fsync: "never",
  segmentBytes: 4096,
  checkpointBytes: 8192,
} as const;

const keyOf = (name: string): Uint8Array => createHash("sha256").update(name).digest();

const directory = (): Promise<string> => mkdtemp(join(tmpdir(), "quartermaster-world-"));

export class DiskStore {
  crashes = 0;
  #tier: DiskTier;
  readonly #words = new Map<string, Uint32Array>();
  readonly #queue: { name: string; parent: string | undefined }[] = [];
  /** Blocks whose records may have been damaged, once and for all. */
  readonly #damaged = new Set<string>();

  private constructor(
    tier: DiskTier,
    readonly losesFiles: boolean,
  ) {
    this.#tier = tier;
  }

  /** `losesFiles`: a mistake that must be noticed. */
  static async create(losesFiles: boolean): Promise<DiskStore> {
    return new DiskStore(await DiskTier.open(await directory(), OPTIONS), losesFiles);
  }

  /** It is stored with the next `exchange`. */
  put(name: string, words: Uint32Array, parent: string | undefined): void {
    if (this.#words.has(name)) return;
    this.#words.set(name, words);
    this.#queue.push({ name, parent });
  }

  /** Between two steps: stores what is to be stored, and reads one of the blocks that are wanted for each load. */
  async exchange(random: Random, wanted: readonly string[]): Promise<Map<string, Uint32Array | undefined>> {
    for (const { name, parent } of this.#queue.splice(0)) {
      const { buffer, byteOffset, byteLength } = this.#words.get(name)!;
      const info = parent === undefined ? {} : { parent: keyOf(parent) };
      const stored = await this.#tier.put(keyOf(name), new Uint8Array(buffer, byteOffset, byteLength), info);
      // A checkpoint may still name a record that was found damaged before the crash.
      assert.ok(stored || this.#damaged.has(name), "what is not there is stored");
    }
    if (random.below(60) === 0) await this.#crash(random);
    const read = new Map<string, Uint32Array | undefined>();
    for (const name of wanted) read.set(name, await this.#get(name));
    return read;
  }

  async close(): Promise<void> {
    await this.#tier.close();
    await rm(this.#tier.directory, { recursive: true });
  }

  async #get(name: string): Promise<Uint32Array | undefined> {
    const block = await this.#tier.get(keyOf(name));
    if (block === undefined) {
      assert.ok(this.#damaged.has(name) || !this.#words.has(name), "what was stored is there after a crash");
      this.#words.delete(name);
      return undefined;
    }
    const words = new Uint32Array(new Uint8Array(block.payload).buffer);
    assert.deepEqual(words, this.#words.get(name), "what was stored is what is read");
    return words;
  }

  /** The process ends and another one opens what it left; now and then a byte of it has changed meanwhile. */
  async #crash(random: Random): Promise<void> {
    const old = this.#tier;
    const next = await directory();
    const files = (await readdir(old.directory)).filter((file) => file !== "lock").sort();
    for (const file of this.losesFiles ? files.slice(0, -1) : files)
      await copyFile(join(old.directory, file), join(next, file));
    await this.close();
    if (random.below(4) === 0 && files.length > 0) await this.#damage(join(next, random.pick(files)), random);
    this.#tier = await DiskTier.open(next, OPTIONS);
    this.crashes += 1;
  }

  /** Which blocks lie there is not known here: any may be gone then. */
  async #damage(file: string, random: Random): Promise<void> {
    const handle = await open(file, "r+");
    const { size } = await handle.stat();
    if (size > 0) {
      const at = random.below(size);
      const byte = Buffer.alloc(1);
      await handle.read(byte, 0, 1, at);
      byte[0] ^= 1 << random.below(8);
      await handle.write(byte, 0, 1, at);
      for (const name of this.#words.keys()) this.#damaged.add(name);
    }
    await handle.close();
  }
}
