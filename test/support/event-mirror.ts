/**
 * A consumer of a cache's events that knows nothing but the encoded batches: which prefixes it believes to be cached, each
 * spelt out as namespace and tokens from the beginning. It refuses what no consumer could make sense of.
 */
import assert from "node:assert/strict";
import { unpack, type Unpacked } from "./naive-msgpack.js";

type Fields = Map<string, Unpacked>;

const hex = (bytes: Unpacked): string => Buffer.from(bytes as Uint8Array).toString("hex");

export class EventMirror {
  /** Key to prefix. */
  readonly prefixes = new Map<string, string>();
  /** Number of the next batch; of the one with the gap while it is lost. */
  seq = 0;
  /** It has been told of a gap, or of another epoch, and waits for a snapshot. */
  lost = false;
  #epoch: number | undefined;
  /** Every key ever seen: a key stands for one prefix, a prefix has one key. */
  readonly #names = new Map<string, string>();

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
    } else if (type === "SnapshotEnd") this.seq = Number(event.get("seq")) + 1;
    else if (this.lost) return;
    else if (type === "AllBlocksCleared") this.prefixes.clear();
    else if (type === "BlockRemoved") {
      for (const key of event.get("block_hashes") as Unpacked[])
        assert.ok(this.prefixes.delete(hex(key)), "only what was stored is removed");
    } else if (type === "BlockStored") this.#store(event);
    else assert.fail(`an event ${String(type)}`);
  }

  #store(event: Fields): void {
    const keys = (event.get("block_hashes") as Unpacked[]).map(hex);
    const tokens = event.get("token_ids") as number[];
    const size = event.get("block_size") as number;
    assert.equal(tokens.length, keys.length * size);
    const parent = event.get("parent_block_hash")!;
    let prefix = parent === null ? `${String(event.get("namespace"))}:` : this.prefixes.get(hex(parent));
    assert.ok(prefix !== undefined, "ancestors come first");
    keys.forEach((key, i) => {
      prefix += `${tokens.slice(i * size, (i + 1) * size).join(",")};`;
      assert.ok(!this.prefixes.has(key), "nothing is stored twice");
      assert.equal(this.#names.get(key) ?? prefix, prefix);
      assert.equal(this.#names.get(prefix!) ?? key, key);
      this.#names.set(key, prefix!).set(prefix!, key);
      this.prefixes.set(key, prefix!);
    });
  }

  get sorted(): string[] {
    return [...this.prefixes.values()].sort();
  }
}
