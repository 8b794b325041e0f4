/** The loop: streams, stop rules, aborts, failures of the executor, closing; and what a stream may show. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import {
  Core,
  Engine,
  type EngineOptions,
  type Executor,
  type ExecutorDescription,
  QuartermasterError,
  type RowContext,
  type StepPlan,
  type StepResult,
  type TokenEvent,
  TextStream,
} from "../../bindings/main.js";
import { Random } from "../support/random.js";

const VOCAB = 128;

/**
 * Keeps tokens in the slots of the plan and answers with the row's last token plus one, read through its
 * table.
 */
class CountingExecutor implements Executor {
  readonly kv: Uint32Array;
  fail: ((plan: StepPlan) => boolean) | undefined;
  closed = false;
  contexts: RowContext[] = [];

  constructor(
    readonly blocks = 64,
    readonly blockSize = 4,
  ) {
    this.kv = new Uint32Array(blocks * blockSize);
  }

  describe(): ExecutorDescription {
    const { blocks, blockSize } = this;
    return {
      backend: "counting",
      layers: 1,
      kvHeads: 1,
      headDim: 1,
      blockBytes: blockSize * 4,
      blocks,
      blockSize,
      vocabSize: VOCAB,
      maxSequenceTokens: 256,
    };
  }

  async run(plan: StepPlan, context: (row: number) => RowContext): Promise<StepResult> {
    await Promise.resolve();
    if (this.fail?.(plan)) throw new Error("out of order");
    for (let at = 0; at < plan.transfers.length; at += 8) {
      const [, , source, , target, tokens] = plan.transfers.subarray(at, at + 8);
      this.kv.copyWithin(target * this.blockSize, source * this.blockSize, source * this.blockSize + tokens);
    }
    plan.tokens.forEach((token, i) => (this.kv[plan.slots[i]] = token));
    const sampled: number[] = [];
    for (let row = 0; row < plan.rows; row++) {
      if (plan.phases[row] === 0) continue;
      this.contexts.push({ ...context(row), tokens: context(row).tokens.slice() });
      const last = plan.computedBefore[row] + plan.newTokens[row] - 1;
      const block = plan.tables[plan.tableStart[row] + Math.floor(last / this.blockSize)];
      sampled.push((this.kv[block * this.blockSize + (last % this.blockSize)] + 1) % VOCAB);
    }
    return { tokens: Uint32Array.from(sampled) };
  }

  async close(): Promise<void> {
    this.closed = true;
  }
}

async function start(options: Partial<EngineOptions> & { blocks?: number } = {}): Promise<{
  engine: Engine;
  executor: CountingExecutor;
}> {
  const executor = new CountingExecutor(options.blocks ?? 64);
  const core = await Core.create();
  const cache = core.kvCache({
    blocks: executor.blocks,
    blockSize: 4,
    maxSequences: 16,
    maxSequenceTokens: 256,
  });
  const scheduler = core.scheduler({ cache, vocabSize: VOCAB, maxBatchTokens: 32 });
  return { engine: new Engine({ scheduler, executor, ...options }), executor };
}

async function collect(stream: AsyncIterable<TokenEvent>): Promise<TokenEvent[]> {
  const events: TokenEvent[] = [];
  for await (const event of stream) events.push(event);
  return events;
}

const asciiDetokenizer = (): { push: (token: number) => string; finish: () => string } => ({
  push: (token) => String.fromCharCode(token),
  finish: () => "",
});

const codes = (text: string): number[] => [...text].map((c) => c.charCodeAt(0));

describe("generate", () => {
  test("streams each request's own tokens, many at a time, and gives everything back", async () => {
    const { engine } = await start({ blocks: 30 });
    const answers = await Promise.all(
      Array.from({ length: 40 }, async (_, i) => {
        const tokens = Array.from({ length: 1 + (i % 30) }, (_, at) => (i + at) % 60);
        const events = await collect(engine.generate({ tokens, maxNewTokens: 1 + (i % 12) }));
        return { i, last: tokens.at(-1)!, events };
      }),
    );
    for (const { i, last, events } of answers) {
      assert.deepEqual(
        events.map((event) => event.token),
        Array.from({ length: 1 + (i % 12) }, (_, at) => (last + 1 + at) % VOCAB),
      );
      assert.ok(events.slice(0, -1).every((event) => event.finishReason === undefined));
      assert.equal(events.at(-1)!.finishReason, "length");
    }
    assert.equal(engine.scheduler.cache.available, 30);
    engine.scheduler.validate();
    await engine.close();
  });

  test("ends at end-of-text tokens, unless told to go on", async () => {
    const { engine } = await start({ eosTokenIds: [13] });
    const ask = (options: object): Promise<TokenEvent[]> =>
      collect(engine.generate({ tokens: [10], maxNewTokens: 9, ...options }));
    assert.deepEqual(
      (await ask({})).map(({ token }) => token),
      [11, 12, 13],
    );
    assert.equal((await ask({})).at(-1)!.finishReason, "eos");
    assert.equal((await ask({ ignoreEos: true })).length, 9);
    assert.deepEqual((await ask({ ignoreEos: true, stopTokenIds: [15] })).at(-1)!.token, 15);
    await engine.close();
  });

  test("never shows a stop string, and ends at it", async () => {
    const { engine } = await start({ detokenizer: asciiDetokenizer });
    const events = await collect(
      engine.generate({ tokens: codes("a"), maxNewTokens: 20, stop: ["fgh", "xyz"] }),
    );
    assert.equal(events.map(({ text }) => text).join(""), "bcde");
    assert.equal(events.at(-1)!.finishReason, "stop");
    assert.equal(events.at(-1)!.token, "h".charCodeAt(0));
    await engine.close();
  });

  test("shows text held back for a stop string that did not come", async () => {
    const { engine } = await start({ detokenizer: asciiDetokenizer });
    const events = await collect(
      engine.generate({ tokens: codes("a"), maxNewTokens: 4, stop: ["deZ", "efgh"] }),
    );
    assert.equal(events.map(({ text }) => text).join(""), "bcde");
    await engine.close();
  });

  test("gives the executor each row's sampling, history and draw index", async () => {
    const { engine, executor } = await start();
    await collect(
      engine.generate({ tokens: [5, 6], maxNewTokens: 3, sampling: { temperature: 0.5, seed: 9 } }),
    );
    assert.deepEqual(
      executor.contexts.map(({ tokens, generated }) => [[...tokens], generated]),
      [
        [[5, 6], 0],
        [[5, 6, 7], 1],
        [[5, 6, 7, 8], 2],
      ],
    );
    assert.ok(
      executor.contexts.every(
        ({ sampling }) => sampling.temperature === 0.5 && sampling.seed === 9 && sampling.topP === 1,
      ),
    );
    await engine.close();
  });

  test("refuses bad requests before anything is streamed", async () => {
    const { engine } = await start();
    assert.throws(() => engine.generate({ tokens: [], maxNewTokens: 1 }), { code: "EMPTY_PROMPT" });
    assert.throws(() => engine.generate({ tokens: [1], maxNewTokens: 1, stop: ["x"] }), {
      code: "INVALID_ARGUMENT",
    });
    const sampling = { temperature: -1 };
    assert.throws(
      () => engine.generate({ tokens: [1], maxNewTokens: 1, sampling }),
      /sampling\.temperature is -1/,
    );
    assert.equal(engine.scheduler.waiting, 0);
    await engine.close();
  });

  test("waits for requests that arrive later", async () => {
    const { engine } = await start();
    const arrivalUs = engine.nowUs() + 30_000;
    const later = collect(engine.generate({ tokens: [1], maxNewTokens: 2, arrivalUs }));
    const now = collect(engine.generate({ tokens: [1], maxNewTokens: 2 }));
    assert.ok((await now)[0].timeUs < arrivalUs);
    assert.ok((await later)[0].timeUs >= arrivalUs);
    await engine.close();
  });
});

describe("a request ends early", () => {
  test("when its consumer leaves the loop", async () => {
    const { engine } = await start();
    for await (const { index } of engine.generate({ tokens: [1, 2, 3], maxNewTokens: 200 }))
      if (index === 2) break;
    const rest = await collect(engine.generate({ tokens: [7], maxNewTokens: 2 }));
    assert.equal(rest.length, 2);
    assert.equal(engine.scheduler.running, 0);
    assert.equal(engine.scheduler.cache.available, 64);
    await engine.close();
  });

  test("when its signal aborts, before, while and after it runs", async () => {
    const { engine } = await start();
    const controller = new AbortController();
    const stream = engine.generate({ tokens: [1], maxNewTokens: 200, signal: controller.signal });
    const seen: number[] = [];
    await assert.rejects(
      async () => {
        for await (const { token } of stream) {
          seen.push(token);
          if (seen.length === 3) controller.abort();
        }
      },
      { code: "ABORTED" },
    );
    assert.ok(seen.length >= 3 && seen.length < 200);
    assert.throws(() => engine.generate({ tokens: [1], maxNewTokens: 1, signal: controller.signal }), {
      code: "ABORTED",
    });
    assert.equal(engine.scheduler.cache.available, 64);
    await engine.close();
  });

  test("with the executor's error when a step fails, and later requests run", async () => {
    const { engine, executor } = await start();
    executor.fail = (plan) => plan.tokens.includes(99);
    const failing = collect(engine.generate({ tokens: [99], maxNewTokens: 3 }));
    await assert.rejects(failing, (error) => {
      assert.ok(error instanceof QuartermasterError && error.code === "EXECUTOR_FAILED");
      assert.match(error.message, /out of order/);
      return true;
    });
    assert.deepEqual(
      (await collect(engine.generate({ tokens: [1], maxNewTokens: 2 }))).map(({ token }) => token),
      [2, 3],
    );
    engine.scheduler.validate();
    assert.equal(engine.scheduler.cache.available, 64);
    await engine.close();
  });

  test("with the error of its detokenizer; the others of its batch go on, and so does the engine", async () => {
    const broken = new Error("half a character");
    let made = 0;
    const detokenizer = (): { push: (token: number) => string; finish: () => string } => {
      const first = made++ === 0;
      let tokens = 0;
      const push = (token: number): string => {
        if (first && ++tokens === 3) throw broken;
        return String.fromCharCode(token);
      };
      return { push, finish: () => "" };
    };
    const { engine } = await start({ detokenizer });
    const ask = (token: number): Promise<TokenEvent[]> =>
      collect(engine.generate({ tokens: [token], maxNewTokens: 6 }));
    const [failing, going] = [ask(10), ask(20)];
    await assert.rejects(failing, broken);
    assert.deepEqual(
      (await going).map(({ token }) => token),
      [21, 22, 23, 24, 25, 26],
    );
    assert.equal((await ask(30)).length, 6);
    const { scheduler } = engine;
    assert.deepEqual([scheduler.running, scheduler.waiting, scheduler.cache.available], [0, 0, 64]);
    scheduler.validate();
  });

  for (const what of ["onStep", "nowUs"] as const)
    test(`with what ${what} throws: the scheduler keeps none of the requests, and later ones run`, async () => {
      const broken = new Error("not now");
      let calls = 0;
      const once = (): number => {
        if (++calls === 9) throw broken;
        return calls;
      };
      const { engine } = await start({ [what]: once });
      const ask = (token: number): Promise<TokenEvent[]> =>
        collect(engine.generate({ tokens: [token], maxNewTokens: 40 }));
      const ended = await Promise.allSettled([ask(10), ask(20)]);
      assert.deepEqual(ended, Array(2).fill({ status: "rejected", reason: broken }));
      const { scheduler } = engine;
      assert.deepEqual([scheduler.running, scheduler.waiting, scheduler.cache.available], [0, 0, 64]);
      assert.equal((await ask(30)).length, 40);
      scheduler.validate();
    });

  test("when its signal aborts before anybody has looked at the stream", async () => {
    const { engine } = await start();
    const controller = new AbortController();
    const stream = engine.generate({ tokens: [1], maxNewTokens: 200, signal: controller.signal });
    controller.abort();
    assert.equal(engine.scheduler.waiting, 0);
    await assert.rejects(collect(stream), { code: "ABORTED" });
    await engine.close();
  });

  test("when the executor answers with too few tokens, or with one past the vocabulary", async () => {
    for (const tokens of [[], [VOCAB]]) {
      const { engine, executor } = await start();
      const run = executor.run.bind(executor);
      executor.run = async () => ({ tokens: Uint32Array.from(tokens) });
      await assert.rejects(collect(engine.generate({ tokens: [1], maxNewTokens: 3 })), {
        code: "EXECUTOR_FAILED",
      });
      executor.run = run;
      assert.equal((await collect(engine.generate({ tokens: [1], maxNewTokens: 3 }))).length, 3);
      await engine.close();
    }
  });

  test("with CLOSED when the engine closes, and the executor is closed after the step in flight", async () => {
    const { engine, executor } = await start();
    const stream = engine.generate({ tokens: [1], maxNewTokens: 200 })[Symbol.asyncIterator]();
    assert.equal((await stream.next()).value.token, 2);
    let closed: Promise<void> | undefined;
    executor.fail = () => {
      closed ??= engine.close();
      return false;
    };
    const rest = async (): Promise<void> => {
      while (!(await stream.next()).done);
    };
    await assert.rejects(rest, { code: "CLOSED" });
    await closed;
    assert.ok(executor.closed);
    assert.throws(() => engine.generate({ tokens: [1], maxNewTokens: 1 }), { code: "CLOSED" });
    await engine.close();
  });
});

test("an engine refuses a cache that its executor cannot hold", async () => {
  const core = await Core.create();
  const cache = core.kvCache({ blocks: 65, blockSize: 4 });
  const scheduler = core.scheduler({ cache, vocabSize: VOCAB });
  assert.throws(() => new Engine({ scheduler, executor: new CountingExecutor(64) }), /cache\.blocks is 65/);
  assert.throws(
    () => new Engine({ scheduler, executor: new CountingExecutor(80, 8) }),
    /cache\.blockSize is 4/,
  );
});

test("blocks held outside the scheduler that leave no room end the requests instead of hanging", async () => {
  const { engine } = await start({ blocks: 8 });
  const { cache } = engine.scheduler;
  const held = cache.open({ tokens: [1], private: true });
  cache.reserve(held, 30);
  await assert.rejects(collect(engine.generate({ tokens: [1, 2, 3], maxNewTokens: 2 })), {
    code: "OUT_OF_BLOCKS",
  });
  cache.close(held);
  assert.equal((await collect(engine.generate({ tokens: [1, 2, 3], maxNewTokens: 2 }))).length, 2);
  await engine.close();
});

test("requests that waited longer than the queue timeout are rejected with the reason", async () => {
  const executor = new CountingExecutor(64);
  const core = await Core.create();
  const cache = core.kvCache({ blocks: 64, blockSize: 4, maxSequences: 1, maxSequenceTokens: 256 });
  const scheduler = core.scheduler({ cache, vocabSize: VOCAB, maxRunning: 1, queueTimeoutUs: 5000 });
  let clockUs = 0;
  const engine = new Engine({ scheduler, executor, nowUs: () => (clockUs += 100) });
  const arrivalUs = engine.nowUs();
  const first = collect(engine.generate({ tokens: [1], maxNewTokens: 250 - 1, arrivalUs }));
  const second = collect(engine.generate({ tokens: [2], maxNewTokens: 5, arrivalUs }));
  await assert.rejects(second, { code: "QUEUE_TIMEOUT" });
  assert.equal((await first).length, 249);
  await engine.close();
});

test("forked sequences write apart: the copy of the shared block keeps both right", async () => {
  const core = await Core.create();
  const cache = core.kvCache({ blocks: 16, blockSize: 4 });
  const kv = new Uint32Array(16 * 4);
  const write = (sequence: number, tokens: number[]): void => {
    cache.reserve(sequence, tokens.length);
    const copies = cache.copies();
    for (let at = 0; at < copies.length; at += 8) {
      kv.copyWithin(copies[at + 4] * 4, copies[at + 2] * 4, copies[at + 2] * 4 + copies[at + 5]);
    }
    cache.settleCopies();
    const table = cache.blockTable(sequence);
    const from = cache.length(sequence);
    tokens.forEach((token, i) => (kv[table[(from + i) >> 2] * 4 + ((from + i) & 3)] = token));
    cache.append(sequence, tokens);
  };
  const content = (sequence: number): number[] => {
    const table = cache.blockTable(sequence);
    return Array.from({ length: cache.length(sequence) }, (_, i) => kv[table[i >> 2] * 4 + (i & 3)]);
  };
  const parent = cache.open({ tokens: [] });
  write(parent, [1, 2, 3, 4, 5, 6]);
  const twins = [cache.fork(parent), cache.fork(parent)];
  write(twins[0], [70, 71]);
  write(parent, [80, 81, 82]);
  write(twins[1], [90]);
  assert.deepEqual(content(parent), [1, 2, 3, 4, 5, 6, 80, 81, 82]);
  assert.deepEqual(content(twins[0]), [1, 2, 3, 4, 5, 6, 70, 71]);
  assert.deepEqual(content(twins[1]), [1, 2, 3, 4, 5, 6, 90]);
  core.validate();
});

test("a text stream shows exactly the text before the first stop string, whatever the pieces", () => {
  fc.assert(
    fc.property(
      fc.string({ unit: fc.constantFrom("a", "b", "c"), maxLength: 30 }),
      fc.array(fc.string({ unit: fc.constantFrom("a", "b", "c"), minLength: 2, maxLength: 4 }), {
        maxLength: 3,
      }),
      fc.integer(),
      (text, stops, seed) => {
        const random = new Random(seed);
        const stream = new TextStream(stops);
        let shown = "";
        let fed = 0;
        while (fed < text.length && !stream.stopped) {
          const piece = text.slice(fed, fed + 1 + random.below(3));
          fed += piece.length;
          shown += stream.push(piece);
          for (const stop of stops) assert.ok(!shown.includes(stop));
        }
        shown += stream.finish();
        const ends = stops.map((stop) => text.indexOf(stop)).filter((at) => at >= 0);
        if (ends.length === 0) assert.equal(shown, text);
        else
          assert.ok(
            stream.stopped && text.startsWith(shown) && stops.some((stop) => text.startsWith(shown + stop)),
          );
      },
    ),
    { numRuns: 3000 },
  );
});
