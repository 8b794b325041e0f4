/** A router that hears of a cache's events and nothing else: what it believes to be cached is what is cached. */
import assert from "node:assert/strict";
import { encodeKvEvents, KvEventLog } from "../../../bindings/main.js";
import { EventMirror } from "../../support/event-mirror.js";
import type { System } from "./systems.js";
import type { World } from "./world.js";

export class Listener {
  #mirror = new EventMirror();
  #log: KvEventLog | undefined;
  #core: System["core"] | undefined;
  #epoch = 0;

  /** Reads what there is to read, and compares. */
  listen({ systems, running, shape }: World): void {
    const { core, cache } = systems.main;
    if (core !== this.#core) {
      // Another core goes on: its events are an epoch of their own.
      this.#core = core;
      this.#epoch += 1;
      this.#mirror = new EventMirror(shape.marks);
      this.#log = new KvEventLog(cache.events({ instance: "world", epoch: this.#epoch }));
    }
    const mirror = this.#mirror;
    for (const batch of this.#log!.poll(0)) mirror.apply(encodeKvEvents(batch));
    if (mirror.lost)
      for (const batch of this.#log!.since(this.#epoch, mirror.seq, 0)) mirror.apply(encodeKvEvents(batch));
    assert.ok(!mirror.lost);
    const twins = cache.groupStats().map(({ cached }) => cached);
    twins.forEach((cached, i) =>
      assert.equal(
        mirror.groups.get(i + 1)?.size ?? 0,
        cached,
        `as many blocks of group ${i + 1} as are cached`,
      ),
    );
    const own = cache.stats().cached - twins.reduce((sum, cached) => sum + cached, 0);
    assert.equal(mirror.prefixes.size, own, "as many blocks as are cached");
    const prefixes = new Set(mirror.prefixes.values());
    const { blockSize } = shape.cache;
    for (const { computed, namespace, answer, handle } of running) {
      let prefix = `${namespace}:`;
      for (let end = blockSize; end <= computed; end += blockSize) {
        prefix += `${answer.tokens.subarray(end - blockSize, end).join(",")};`;
        assert.ok(prefixes.has(prefix), `the router knows the first ${end} tokens of ${handle}`);
      }
    }
  }
}
