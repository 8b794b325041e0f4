/** A consumer of a cache's events that keeps what each medium holds, over gaps and snapshots. */
import assert from "node:assert/strict";
import type { KvEvent, KvEvents } from "../../bindings/main.js";

export const hex = (key: Uint8Array): string => Buffer.from(key).toString("hex");

/** What a consumer believes each medium to hold: group/key, with the key of the block before it. */
export class TierMirror {
  readonly media = new Map<string, Map<string, string | null>>();
  snapshots = 0;
  #skipTo = -1;

  constructor(readonly events: KvEvents) {}

  follow(): void {
    for (const { seq, events } of this.events) {
      if (seq <= this.#skipTo) continue;
      if (events.some(({ type }) => type === "gap")) this.snapshot();
      else for (const event of events) this.#apply(event);
    }
  }

  snapshot(): void {
    this.snapshots += 1;
    this.media.clear();
    const { events } = this.events.snapshot();
    for (const event of events) {
      this.#apply(event);
      if (event.type === "snapshot-end") this.#skipTo = event.seq;
    }
  }

  of(medium: string): Map<string, string | null> {
    if (!this.media.has(medium)) this.media.set(medium, new Map());
    return this.media.get(medium)!;
  }

  #apply(event: KvEvent): void {
    if (event.type === "stored") {
      let parent = event.parentKey && hex(event.parentKey);
      for (const key of event.keys) {
        const name = `${event.group}/${hex(key)}`;
        assert.ok(!this.of(event.medium).has(name), "nothing is stored twice");
        this.of(event.medium).set(name, parent);
        parent = hex(key);
      }
    } else if (event.type === "removed") {
      for (const key of event.keys)
        assert.ok(this.of(event.medium).delete(`${event.group}/${hex(key)}`), "only what is there goes");
    } else if (event.type === "cleared") {
      const blocks = this.of(event.medium);
      for (const name of blocks.keys()) if (name.startsWith(`${event.group}/`)) blocks.delete(name);
    }
  }
}
