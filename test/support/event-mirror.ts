/**
 * A consumer of a cache's events that knows nothing but the encoded batches: which prefixes it believes to be cached, each
 * spelt out as namespace and tokens from the beginning, in the cache's own tables (group 0) and in its groups. It refuses
 * what no consumer could make sense of.
 */
import assert from "node:assert/strict";
import { unpack, type Unpacked } from "./naive-msgpack.js";

type Fields = Map<string, Unpacked>;

const hex = (bytes: Unpacked): string => Buffer.from(bytes as Uint8Array).toString("hex");

export class EventMirror {
  /** Key to prefix. */
  readonly prefixes = new Map<string, string>();
  /** By group 1, 2, ...: keys of prefixes that end with a block of it. */
  readonly groups = new Map<number, Set<string>>();
  /** Number of the next batch; of the one with the gap while it is lost. */
  seq = 0;
  /** It has been told of a gap, or of another epoch, and waits for a snapshot. */
  lost = false;
  #epoch: number | undefined;
  /** Tokens of a block of group 0. */
  #blockTokens = 0;
  /** Every key ever seen: a key stands for one prefix, a prefix has one key. */
  readonly #names = new Map<string, string>();

  /** `salted`: prompts have salts, which no event tells, so that several keys stand for the same tokens. */
  constructor(readonly salted = false) {}

  /** Takes a batch in the default encoding. */
  apply(bytes: Uint8Array): void {
    const batch = unpack(bytes) as Unpacked[];
    assert.equal(batch.length, 6);
    const [ts, events, , instance, epoch, seq] = batch as [number, Fields[], null, string, number, number];
    assert.equal(typeof ts, "number");
    assert.equal(typeof instance, "string");
    const isSnapshot = events[0]?.get("type") === "SnapshotBegin";
    if (!isSnapshot) {
      if (this.#epoch !== undefined && epoch !== this.#epoch) this.lost = true;
      if (this.lost || seq < this.seq) return; // the snapshot will have it, or had it
      assert.equal(seq, this.seq, "no batch is left out");
      this.seq = seq + 1;
    }
    this.#epoch = epoch;
    for (const event of events) this.#apply(event);
  }

  #apply(event: Fields): void {
    const type = event.get("type");
    if (type === "Gap") {
      this.lost = true;
      this.seq = event.get("from_seq") as number;
    } else if (type === "SnapshotBegin") {
      this.lost = false;
      this.prefixes.clear();
      this.groups.clear();
    } else if (type === "SnapshotEnd") this.seq = Number(event.get("seq")) + 1;
    else if (this.lost) return;
    else if (type === "AllBlocksCleared") this.#of(event).clear();
    else if (type === "BlockRemoved") {
      for (const key of (event.get("block_hashes") as Unpacked[]).map(hex)) {
        assert.ok(this.#of(event).delete(key), "only what was stored is removed");
        if (event.get("group_idx") === 0)
          for (const keys of this.groups.values()) assert.ok(!keys.has(key), "a group's block goes first");
      }
    } else if (type === "BlockStored") this.#store(event);
    else assert.fail(`an event ${String(type)}`);
  }

  #of(event: Fields): Map<string, string> | Set<string> {
    const group = event.get("group_idx") as number;
    if (group === 0) return this.prefixes;
    if (!this.groups.has(group)) this.groups.set(group, new Set());
    return this.groups.get(group)!;
  }

  #store(event: Fields): void {
    const keys = (event.get("block_hashes") as Unpacked[]).map(hex);
    const tokens = event.get("token_ids") as number[];
    const size = event.get("block_size") as number;
    assert.equal(tokens.length, keys.length * size);
    const parent = event.get("parent_block_hash")!;
    let prefix = parent === null ? `${String(event.get("namespace"))}:` : this.prefixes.get(hex(parent));
    assert.ok(prefix !== undefined, "ancestors come first");
    const stored = this.#of(event);
    if (stored instanceof Map) this.#blockTokens = size;
    keys.forEach((key, i) => {
      for (let at = i * size; at < (i + 1) * size; at += this.#blockTokens)
        prefix += `${tokens.slice(at, at + this.#blockTokens).join(",")};`;
      assert.ok(!stored.has(key), "nothing is stored twice");
      if (stored instanceof Set) {
        assert.equal(this.prefixes.get(key), prefix, "under the name of the block that it ends with");
        stored.add(key);
        return;
      }
      assert.equal(this.#names.get(key) ?? prefix, prefix);
      if (!this.salted) assert.equal(this.#names.get(prefix!) ?? key, key);
      this.#names.set(key, prefix!).set(prefix!, key);
      this.prefixes.set(key, prefix!);
    });
  }

  /** The cached blocks of all groups, each as group/namespace/tokens. */
  get all(): string[] {
    const named = (group: number, key: string): string => {
      const [namespace, tokens] = this.prefixes.get(key)!.split(":");
      return `${group}/${namespace}/${tokens.split(/[;,]/).filter(Boolean).join()}`;
    };
    const own = [...this.prefixes.keys()].map((key) => named(0, key));
    const others = [...this.groups].flatMap(([group, keys]) => [...keys].map((key) => named(group, key)));
    return [...own, ...others].sort();
  }

  get sorted(): string[] {
    return [...this.prefixes.values()].sort();
  }
}
