/** The latest batches of a cache's events, for consumers that come late or have missed some. */
import { requireInteger } from "./errors.js";
import type { KvEventBatch, KvEvents } from "./kv-events.js";

export class KvEventLog {
  readonly events: KvEvents;
  readonly capacity: number;
  readonly #batches: KvEventBatch[] = [];

  /** Keeps the last `capacity` batches, 1 to 2^20. Default 10,000. */
  constructor(events: KvEvents, capacity = 10_000) {
    this.events = events;
    this.capacity = requireInteger("capacity", capacity, 1, 2 ** 20);
  }

  /** Reads what has happened; returns the new batches, for those who have missed none. */
  poll(ts = Date.now() / 1000): KvEventBatch[] {
    const fresh: KvEventBatch[] = [];
    for (let batch = this.events.read(ts); batch; batch = this.events.read(ts)) fresh.push(batch);
    this.#batches.push(...fresh);
    this.#batches.splice(0, this.#batches.length - this.capacity);
    return fresh;
  }

  /**
   * What a consumer needs that wants to go on from batch `seq` of epoch `epoch`: the batches from there, or one snapshot when they are not
   * there any more, one of them has a gap, or the epoch is another.
   */
  since(epoch: number, seq: number, ts = Date.now() / 1000): KvEventBatch[] {
    this.poll(ts);
    const from = seq - (this.#batches[0]?.seq ?? this.events.seq);
    const batches = this.#batches.slice(Math.max(0, from));
    const whole = epoch === this.events.epoch && from >= 0 && from <= this.#batches.length;
    const gap = batches.some(({ events }) => events.some(({ type }) => type === "gap"));
    return whole && !gap ? batches : [this.events.snapshot(ts)];
  }
}
