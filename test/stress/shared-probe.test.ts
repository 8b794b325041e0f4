/**
 * Probes from real workers against an engine thread that publishes and evicts. After the run each answer is held
 * against the states that the cache went through meanwhile: a probe may say anything between the least and the most
 * blocks of its prompt cached in those states, and nothing else.
 */
import assert from "node:assert/strict";
import { on } from "node:events";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import { Core, type KvCache, type SequenceId } from "../../bindings/main.js";
import { Random } from "../support/random.js";
import { BLOCK_SIZE, Clock, NOTE_WORDS, prompts } from "./shared-probe-plan.js";

const long = process.env.QUARTERMASTER_LONG === "1";
const PROBES = long ? 2_000_000 : 60_000;
const WORKER = fileURLToPath(new URL("shared-probe-worker.js", import.meta.url));

const PROMPTS = prompts().map((prompt) => Uint32Array.from(prompt));

/** Changes the cache step by step; every step is one call that only adds blocks or only evicts some. */
class EngineThread {
  /** Blocks cached of each prompt after each change. */
  readonly states: Uint8Array[] = [];
  readonly #held: SequenceId[] = [];

  constructor(
    readonly cache: KvCache,
    readonly clock: Int32Array,
    readonly random: Random,
  ) {
    this.states.push(this.#state());
  }

  change(run: () => void): void {
    Atomics.add(this.clock, Clock.Time, 1);
    run();
    this.states.push(this.#state());
    Atomics.add(this.clock, Clock.Time, 1);
  }

  /** Computes a prompt, in a few pieces, and holds it. */
  hold(prompt: Uint32Array): void {
    const { cache, random } = this;
    const sequence = cache.open({ tokens: prompt });
    this.#held.push(sequence);
    while (cache.length(sequence) < prompt.length) {
      const done = cache.length(sequence);
      const piece = prompt.slice(done, done + 1 + random.below(4 * BLOCK_SIZE));
      if (piece.length > cache.available * BLOCK_SIZE) return;
      this.change(() => cache.reserve(sequence, piece.length));
      this.change(() => cache.append(sequence, piece));
    }
  }

  step(): void {
    const { cache, random } = this;
    // The first prompt is held from the start and stays.
    if (this.#held.length > 3 || (this.#held.length > 1 && random.below(2) === 0)) {
      const [sequence] = this.#held.splice(1 + random.below(this.#held.length - 1), 1);
      this.change(() => cache.close(sequence));
    } else if (random.below(40) === 0) {
      this.change(() => cache.forget());
    } else {
      this.hold(random.pick(PROMPTS));
    }
  }

  #state(): Uint8Array {
    return Uint8Array.from(PROMPTS, (prompt) => this.cache.match(prompt) / BLOCK_SIZE);
  }
}

for (const workers of [1, 3]) {
  test(`probes of ${workers} workers beside an engine that publishes and evicts say what was there`, async () => {
    const core = await Core.create({ build: "core-threads", seed: 7 });
    const cache = core.kvCache({
      blocks: 40,
      blockSize: BLOCK_SIZE,
      maxSequences: 16,
      maxSequenceTokens: 64,
      sharedProbe: true,
    });
    const clock = new Int32Array(new SharedArrayBuffer(12));
    const engine = new EngineThread(cache, clock, new Random(workers));
    engine.hold(PROMPTS[9]);

    const notes = Array.from(
      { length: workers },
      () => new Int32Array(new SharedArrayBuffer((PROBES / workers) * NOTE_WORDS * 4)),
    );
    const threads = notes.map(
      (own, seed) => new Worker(WORKER, { workerData: { shared: core.share(), clock, notes: own, seed } }),
    );
    // Listening from the start: a worker may be done before another one is ready.
    const messages = threads.map((thread) => on(thread, "message"));
    const next = async (): Promise<number[]> =>
      Promise.all(messages.map(async (stream) => ((await stream.next()).value as [number])[0]));
    await next();
    const finished = next();

    let seen = 0;
    let still = 0;
    while (Atomics.load(clock, Clock.Probes) < workers * Math.floor(PROBES / workers)) {
      for (let i = 0; i < 200; i++) engine.step();
      const probes = Atomics.load(clock, Clock.Probes);
      still = probes === seen ? still + 1 : 0;
      seen = probes;
      assert.ok(still < 2000, `no probe has ended during ${still * 200} steps of the engine`);
    }
    Atomics.store(clock, Clock.Stop, 1);
    const probed = await finished;
    core.validate();

    let changed = 0;
    let overlapping = 0;
    notes.forEach((own, worker) => {
      for (let i = 0; i < probed[worker]; i++) {
        const [which, before, after, blocks] = own.subarray(i * NOTE_WORDS, (i + 1) * NOTE_WORDS);
        const last = Math.min((after + 1) >> 1, engine.states.length - 1);
        let [least, most] = [255, 0];
        for (let state = before >> 1; state <= last; state++) {
          least = Math.min(least, engine.states[state][which]);
          most = Math.max(most, engine.states[state][which]);
        }
        if (blocks < least || blocks > most)
          assert.fail(
            `prompt ${which}: ${blocks} blocks; cached from time ${before} to ${after}: ${least} to ${most}`,
          );
        changed += Number(least !== most);
        overlapping += Number(before !== after || (before & 1) === 1);
      }
    });
    assert.ok(overlapping > 100, `only ${overlapping} probes met a change`);
    assert.ok(changed > 10, `only ${changed} probes met a change of what they asked for`);
    const evictions = cache.stats().evictions;
    assert.ok(evictions > 1000, `only ${evictions} evictions`);
  });
}
