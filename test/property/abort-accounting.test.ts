/**
 * Accounting is exact wherever an abort falls: blocks, references, sequences, token pages, ids, queues, tenants' counters
 * and the lookup statistics are afterwards what they are without the request.
 */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { Core, type KvCache, type RequestId, type Scheduler, type StepPlan } from "../../bindings/main.js";

const BLOCKS = 12;
const BLOCK_SIZE = 4;
const VOCAB = 50;
const INPUT_WEIGHT = 1;
const OUTPUT_WEIGHT = 2;
/** The request that is aborted, and the one beside it. */
const ID = 7;
const PROMPT = Array.from({ length: 18 }, (_, i) => i);

interface Scene {
  readonly core: Core;
  readonly cache: KvCache;
  readonly scheduler: Scheduler;
  now: number;
}

async function open(build: "core" | "debug" = "debug"): Promise<Scene> {
  const core = await Core.create({ build });
  const cache = core.kvCache({
    blocks: BLOCKS,
    blockSize: BLOCK_SIZE,
    maxSequences: 4,
    maxSequenceTokens: 48,
  });
  const scheduler = core.scheduler({
    cache,
    vocabSize: VOCAB,
    maxRequests: 4,
    maxBatchTokens: 8,
    watermarkBlocks: 0,
    policy: "fair",
    tenants: 2,
    inputWeight: INPUT_WEIGHT,
    outputWeight: OUTPUT_WEIGHT,
    tokenCapacity: 4 * 256,
  });
  return { core, cache, scheduler, now: 1 };
}

/** Submits the request to be aborted, of tenant 1. */
function submit({ scheduler }: Scene, options: object = {}): RequestId {
  return scheduler.submit({ tokens: PROMPT, maxNewTokens: 12, id: ID, tenant: 1, ...options });
}

/** Another tenant's request. */
function submitOther({ scheduler }: Scene, promptTokens: number, maxNewTokens: number): RequestId {
  return scheduler.submit({
    tokens: Array.from({ length: promptTokens }, (_, i) => VOCAB - 1 - (i % 20)),
    maxNewTokens,
  });
}

function plan(scene: Scene): StepPlan {
  return scene.scheduler.step(scene.now++);
}

function commit(scene: Scene, { stepId, samplingRows }: StepPlan, finish = false): void {
  const finished = new Uint8Array(samplingRows).fill(finish ? 1 : 0);
  scene.scheduler.commit(stepId, scene.now, { tokens: new Uint32Array(samplingRows), finished });
}

function serve(scene: Scene, steps = 1): void {
  for (let i = 0; i < steps; i++) commit(scene, plan(scene));
}

/** Serves whoever is left to the end, and checks that nothing is left of anybody. */
function nothingIsLeft(scene: Scene, request: RequestId): void {
  const { core, cache, scheduler } = scene;
  core.validate();
  assert.equal(scheduler.state(request), "ended");
  assert.throws(() => scheduler.abort(request), { code: "UNKNOWN_REQUEST" });
  assert.deepEqual([scheduler.computed(request), scheduler.generated(request)], [-1, -1]);
  const seen: number[] = [];
  for (let i = 0; i < 200 && scheduler.running + scheduler.waiting + scheduler.arriving > 0; i++) {
    const next = plan(scene);
    assert.ok(!next.requests.includes(request), "it never runs again");
    commit(scene, next);
    seen.push(...scheduler.outcomes().map((outcome) => outcome.request));
  }
  assert.ok(!seen.includes(request), "and has no outcome of its own");
  assert.deepEqual([scheduler.running, scheduler.waiting, scheduler.arriving], [0, 0, 0]);
  assert.equal(cache.available, BLOCKS, "every block is available");
  assert.equal(cache.stats().openSequences, 0);
  for (let block = 0; block < BLOCKS; block++) assert.equal(cache.references(block), 0);
  // Its id and all token pages are free again: the store has room for four requests, and the table too.
  const again = [ID, ID + 1, ID + 2, ID + 3].map((id) => submit(scene, { id }));
  for (const handle of again) scheduler.abort(handle);
  core.validate();
}

const charged = (tokens: { prompt: number; generated: number }): number =>
  INPUT_WEIGHT * tokens.prompt + OUTPUT_WEIGHT * tokens.generated;

describe("abort leaves exact accounts", () => {
  test("before the request arrives", async () => {
    const scene = await open();
    const request = submit(scene, { arrivalUs: 1000 });
    serve(scene);
    assert.equal(scene.scheduler.state(request), "arriving");
    scene.scheduler.abort(request);
    assert.equal(scene.scheduler.nextWakeUs(), Infinity);
    nothingIsLeft(scene, request);
    assert.equal(scene.scheduler.served(1), 0);
  });

  test("while it waits", async () => {
    const scene = await open();
    submitOther(scene, 40, 1);
    serve(scene);
    const request = submit(scene);
    serve(scene);
    assert.equal(scene.scheduler.state(request), "waiting");
    scene.scheduler.abort(request);
    assert.equal(scene.scheduler.waiting, 0);
    nothingIsLeft(scene, request);
    assert.equal(scene.scheduler.served(1), 40, "lifted to where the other tenant is, and served nothing");
    assert.equal(scene.cache.stats().queriedTokens, 40, "only the other's prompt was looked up");
  });

  test("while it waits with a step of others in flight", async () => {
    const scene = await open();
    submitOther(scene, 40, 1);
    serve(scene);
    const inFlight = plan(scene);
    const request = submit(scene);
    scene.scheduler.abort(request);
    commit(scene, inFlight);
    nothingIsLeft(scene, request);
  });

  for (const executed of [true, false]) {
    const ending = executed ? "then executed" : "then not executed";
    const end = (scene: Scene, inFlight: StepPlan): void => {
      if (executed) commit(scene, inFlight);
      else scene.scheduler.abandon(inFlight.stepId);
    };

    test(`with the step in flight that admitted it, ${ending}`, async () => {
      const scene = await open();
      const request = submit(scene);
      const inFlight = plan(scene);
      scene.scheduler.abort(request);
      assert.throws(() => scene.scheduler.abort(request), { code: "UNKNOWN_REQUEST" });
      assert.ok(scene.cache.available < BLOCKS, "the executor may still read and write its blocks");
      end(scene, inFlight);
      assert.equal(scene.cache.available, BLOCKS, "they are given back with the step");
      const prompt = executed ? PROMPT.length : 0;
      assert.equal(scene.scheduler.served(1), charged({ prompt, generated: 0 }));
      assert.equal(scene.cache.stats().queriedTokens, prompt);
      nothingIsLeft(scene, request);
    });

    test(`with a later chunk of its prompt in flight, ${ending}`, async () => {
      const scene = await open();
      const request = submit(scene);
      serve(scene);
      const inFlight = plan(scene);
      assert.equal(inFlight.phases[0], 0);
      scene.scheduler.abort(request);
      end(scene, inFlight);
      assert.equal(scene.scheduler.served(1), charged({ prompt: PROMPT.length, generated: 0 }));
      nothingIsLeft(scene, request);
      const cached = executed ? 16 : 8;
      assert.equal(scene.cache.match([...PROMPT, 0]), cached, "what was computed stays cached, no more");
    });

    test(`with its last chunk in flight, ${ending}: the token sampled is nobody's`, async () => {
      const scene = await open();
      const request = submit(scene);
      serve(scene, 2);
      const inFlight = plan(scene);
      assert.deepEqual([inFlight.rows, inFlight.phases[0]], [1, 2]);
      scene.scheduler.abort(request);
      end(scene, inFlight);
      assert.equal(scene.scheduler.served(1), charged({ prompt: PROMPT.length, generated: 0 }));
      nothingIsLeft(scene, request);
    });

    test(`with a token in flight for which it got a block, ${ending}`, async () => {
      const scene = await open();
      const request = submit(scene);
      serve(scene, 5);
      const before = scene.cache.available;
      const inFlight = plan(scene);
      assert.equal(inFlight.phases[0], 1);
      assert.equal(scene.cache.available, before - 1, "the 21st token opens a block");
      scene.scheduler.abort(request);
      end(scene, inFlight);
      assert.equal(scene.scheduler.served(1), charged({ prompt: PROMPT.length, generated: 3 }));
      nothingIsLeft(scene, request);
    });

    test(`with its final token in flight, ${ending}: it does not finish as well`, async () => {
      const scene = await open();
      const request = submit(scene);
      serve(scene, 2);
      const inFlight = plan(scene);
      scene.scheduler.abort(request);
      if (executed) commit(scene, inFlight, true);
      else scene.scheduler.abandon(inFlight.stepId);
      assert.deepEqual(scene.scheduler.outcomes(), []);
      nothingIsLeft(scene, request);
    });

    test(`in the step that preempted it, ${ending}`, async () => {
      const { scene, request, inFlight } = await preempted();
      assert.equal(scene.scheduler.state(request), "waiting");
      scene.scheduler.abort(request);
      end(scene, inFlight);
      assert.equal(scene.scheduler.waiting, 0);
      nothingIsLeft(scene, request);
    });

    test(`admitted again after a preemption, ${ending}: its prompt is charged once`, async () => {
      const { scene, request, inFlight, other } = await preempted();
      const before = scene.scheduler.served(1);
      commit(scene, inFlight);
      scene.scheduler.abort(other);
      const again = plan(scene);
      assert.equal(again.requests[0], request);
      scene.scheduler.abort(request);
      end(scene, again);
      assert.equal(scene.scheduler.served(1), before);
      nothingIsLeft(scene, request);
    });
  }

  test("between a commit and the next step", async () => {
    const scene = await open();
    const request = submit(scene);
    serve(scene, 4);
    assert.equal(scene.scheduler.state(request), "running");
    scene.scheduler.abort(request);
    assert.equal(scene.cache.available, BLOCKS, "at once");
    assert.equal(scene.scheduler.served(1), charged({ prompt: PROMPT.length, generated: 2 }));
    nothingIsLeft(scene, request);
  });

  test("running, with a step in flight that had no tokens left for it", async () => {
    const scene = await open();
    submitOther(scene, 2, 9);
    submitOther(scene, 4, 9);
    const request = submit(scene, { tokens: PROMPT.slice(0, 5), lastChunk: 5, tenant: 0 });
    const inFlight = plan(scene);
    assert.equal(scene.scheduler.state(request), "running");
    assert.ok(!inFlight.requests.includes(request), "its prompt is computed whole, in a later step");
    scene.scheduler.abort(request);
    commit(scene, inFlight);
    nothingIsLeft(scene, request);
  });

  test("after a preemption, waiting", async () => {
    const { scene, request, inFlight } = await preempted();
    commit(scene, inFlight);
    assert.equal(scene.scheduler.state(request), "waiting");
    scene.scheduler.abort(request);
    nothingIsLeft(scene, request);
  });

  test("of everybody at once with a step in flight", async () => {
    const scene = await open();
    const requests = [submit(scene), submitOther(scene, 5, 9), submitOther(scene, 6, 9)];
    serve(scene, 4);
    const inFlight = plan(scene);
    assert.ok(inFlight.rows >= 2);
    for (const request of requests) scene.scheduler.abort(request);
    commit(scene, inFlight);
    for (const request of requests) nothingIsLeft(scene, request);
  });
});

test("an admission that was not executed counts no lookup, however often it is tried", async () => {
  const scene = await open("core");
  submit(scene);
  for (let i = 0; i < 5; i++) scene.scheduler.abandon(plan(scene).stepId);
  assert.deepEqual([scene.cache.stats().queriedTokens, scene.scheduler.served(1)], [0, 0]);
  serve(scene);
  assert.equal(scene.cache.stats().queriedTokens, PROMPT.length);
});

/** The request waits again: the pool was too small for both; the step that took its blocks is in flight. */
async function preempted(): Promise<{
  scene: Scene;
  request: RequestId;
  other: RequestId;
  inFlight: StepPlan;
}> {
  const scene = await open();
  const other = submitOther(scene, 20, 16);
  serve(scene);
  const request = submit(scene);
  for (let i = 0; i < 40; i++) {
    const inFlight = plan(scene);
    if (scene.scheduler.outcomes().some(({ kind }) => kind === "preempted"))
      return { scene, request, other, inFlight };
    commit(scene, inFlight);
  }
  throw new Error("nobody was preempted");
}
