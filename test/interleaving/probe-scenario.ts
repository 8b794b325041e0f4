/** Scenarios of a small KV cache with a shared probe index: the engine's calls in one thread, probes in the other. */
import assert from "node:assert/strict";
import { shipped } from "../support/threads-builds.js";
import type { Call, Event } from "./logical-threads.js";
import type { Outcome, Scenario } from "./schedules.js";

type Exports = Outcome["exports"];

export type EngineStep =
  readonly ["open"] | readonly ["reserve" | "append", count: number] | readonly ["close" | "forget"];

export interface ProbePlan {
  readonly blocks: number;
  /** Bits of a prefix's key; 0: all prefixes have the same. */
  readonly keyBits: number;
  /** Prompts computed before, whole blocks; "held": their sequences stay open. */
  readonly cached: readonly { readonly prompt: readonly number[]; readonly held: boolean }[];
  /** Tokens of the sequence that the engine's steps open, reserve for and append. */
  readonly tokens: readonly number[];
  /** Steps before the threads start, and those of the engine's thread. */
  readonly before: readonly EngineStep[];
  readonly steps: readonly EngineStep[];
  readonly probes: readonly (readonly number[])[];
}

/** What the scenarios call, by file in assembly/exports. */
export const EXPORTS = {
  memory: ["coreCreate", "coreAttach", "coreRegionPointer", "scratchCreate"],
  index: ["orderedIndexNodes"],
  paging: [
    ...["kvCacheCreate", "kvInput", "kvOpen", "kvReserve", "kvAppend", "kvClose", "kvForget", "kvMatch"],
    ...["kvCacheProbeIndex", "kvCacheProbeStart", "kvCacheProbe", "kvValidateCache"],
  ],
};

const BLOCK_SIZE = 4;
const MAX_SEQUENCES = 4;
const MAX_TOKENS = 32;
const DEFAULT_NODE_BYTES = 1024;
const LOCKED = 0xffffn;
/** Bytes of scratch, where a probe's work and the prompts lie. */
const SCRATCH_BYTES = 8192;
const PROMPTS_AT = 4096;
const PROMPT_BYTES = 256;

interface Layout {
  readonly cache: number;
  readonly scratch: number;
}

function number(result: number | bigint | undefined): number {
  return Number(result) >>> 0;
}

/** Creates the cache, computes what is cached, does the steps before. Returns the handle of the engine's sequence. */
function prepare(exports: Exports, memory: WebAssembly.Memory, plan: ProbePlan): Layout & { handle: number } {
  assert.equal(exports.coreCreate(5n), 0);
  assert.equal(exports.coreAttach(1), 0);
  assert.equal(exports.scratchCreate(SCRATCH_BYTES), 0);
  const scratch = number(exports.coreRegionPointer(0));
  const { blocks, keyBits } = plan;
  assert.equal(exports.kvCacheCreate(blocks, BLOCK_SIZE, MAX_SEQUENCES, MAX_TOKENS, 1, keyBits, 1), 0);
  const cache = number(exports.coreRegionPointer(1));
  const input = new Uint32Array(memory.buffer, number(exports.kvInput(cache)), MAX_TOKENS);
  for (const { prompt, held } of plan.cached) {
    input.set(prompt);
    const handle = number(exports.kvOpen(cache, 0, prompt.length, 0));
    assert.ok(Number(exports.kvReserve(cache, handle, prompt.length)) >= 0);
    assert.equal(exports.kvAppend(cache, handle, prompt.length), 0);
    if (!held) assert.equal(exports.kvClose(cache, handle), 0);
  }
  input.set(plan.tokens);
  let handle = 0;
  for (const step of plan.before) {
    const { name, args } = engineCall(step, plan, { cache, scratch }, handle);
    const result = number(exports[name](...args));
    if (step[0] === "open") handle = result;
  }
  plan.probes.forEach((prompt, i) =>
    new Uint32Array(memory.buffer, scratch + PROMPTS_AT + i * PROMPT_BYTES, prompt.length).set(prompt),
  );
  return { cache, scratch, handle };
}

function engineCall(step: EngineStep, { tokens }: ProbePlan, { cache }: Layout, handle: number): Call {
  switch (step[0]) {
    case "open":
      return { name: "kvOpen", args: [cache, 0, tokens.length, 0] };
    case "reserve":
      return { name: "kvReserve", args: [cache, handle, step[1]] };
    case "append":
      return { name: "kvAppend", args: [cache, handle, step[1]] };
    case "close":
      return { name: "kvClose", args: [cache, handle] };
    case "forget":
      return { name: "kvForget", args: [cache] };
  }
}

/** How many leading blocks of each probed prompt are cached after none, one, two ... of the engine's steps. */
function statesOf(plan: ProbePlan): number[][] {
  const module = new WebAssembly.Module(shipped());
  return Array.from({ length: plan.steps.length + 1 }, (_, done) => {
    const memory = new WebAssembly.Memory({ initial: 16, maximum: 65536, shared: true });
    const { exports } = new WebAssembly.Instance(module, { env: { memory, park: () => 0 } });
    const own = exports as unknown as Exports;
    const { handle, ...layout } = prepare(own, memory, plan);
    for (const step of plan.steps.slice(0, done)) {
      const { name, args } = engineCall(step, plan, layout, handle);
      assert.ok(Number(own[name](...args)) >= 0, `${name} is refused`);
    }
    const input = new Uint32Array(memory.buffer, number(own.kvInput(layout.cache)), MAX_TOKENS);
    return plan.probes.map((prompt) => {
      input.set([...prompt, 0]);
      return number(own.kvMatch(layout.cache, 0, prompt.length + 1)) / BLOCK_SIZE;
    });
  });
}

/**
 * The engine's thread does its steps, the other one probes each prompt once. A probe may say what was cached at some
 * moment of its call; where prefixes share a key, also less.
 */
export function probeScenario(plan: ProbePlan): Scenario {
  const states = statesOf(plan);
  const shape = prepareOnce(plan);
  const { cache, scratch, handle, blocksAt, blocksEnd, tokensAt, tokensEnd, nodesAt, nodesEnd } = shape;
  const probes = plan.probes.flatMap((prompt, i): Call[] => {
    const tokens = scratch + PROMPTS_AT + i * PROMPT_BYTES;
    return [
      { name: "kvCacheProbeStart", args: [cache, 0, scratch] },
      { name: "kvCacheProbe", args: [cache, tokens, prompt.length / BLOCK_SIZE, scratch] },
    ];
  });
  const within = (address: number, from: number, to: number): boolean => address >= from && address < to;
  return {
    setup: (exports, memory) => void prepare(exports, memory, plan),
    enter: (exports) => void exports.coreAttach(1),
    isShared: (address) =>
      within(address, blocksAt, blocksEnd) ||
      within(address, tokensAt, tokensEnd) ||
      within(address, nodesAt, nodesEnd),
    mayWait: (address, value) =>
      within(address, nodesAt, nodesEnd) &&
      (address - nodesAt) % DEFAULT_NODE_BYTES === 0 &&
      (value & LOCKED) !== 0n,
    threads: [plan.steps.map((step) => engineCall(step, plan, { cache, scratch }, handle)), probes],
    check({ events, exports }) {
      assert.equal(exports.kvValidateCache(cache), 0, "valid");
      const engine = events.filter(({ thread }) => thread === 0);
      for (const { result, call } of engine) assert.ok(Number(result) >= 0, `${call.name} is refused`);
      const answers = events.filter(({ call }) => call.name === "kvCacheProbe");
      answers.forEach((answer, i) => checkAnswer(answer, i, engine, states, plan.keyBits === 64));
    },
  };
}

function checkAnswer(
  { result, start, end }: Event,
  which: number,
  engine: readonly Event[],
  states: readonly (readonly number[])[],
  exact: boolean,
): void {
  const first = engine.filter((event) => event.end < start).length;
  const last = engine.filter((event) => event.start < end).length;
  const cached = states.slice(first, last + 1).map((state) => state[which]);
  const [least, most] = [exact ? Math.min(...cached) : 0, Math.max(...cached)];
  const told = Number(result);
  assert.ok(told >= least && told <= most, `prompt ${which}: ${told} blocks, of ${least} to ${most} cached`);
}

/** Where things lie: the same for every instance that prepares the plan. */
function prepareOnce(plan: ProbePlan) {
  const memory = new WebAssembly.Memory({ initial: 16, maximum: 65536, shared: true });
  const instance = new WebAssembly.Instance(new WebAssembly.Module(shipped()), {
    env: { memory, park: () => 0 },
  });
  const exports = instance.exports as unknown as Exports;
  const prepared = prepare(exports, memory, plan);
  const view = new DataView(memory.buffer);
  // assembly/paging/layout.ts: addresses of the sections behind the shape, the seed and the key mask.
  const [blocksAt, blocksEnd, tokensAt, tokensEnd] = [48, 52, 56, 60].map((offset) =>
    view.getUint32(prepared.cache + offset, true),
  );
  const index = number(exports.kvCacheProbeIndex(prepared.cache));
  const nodesAt = view.getUint32(index, true);
  const nodesEnd = nodesAt + number(exports.orderedIndexNodes(index)) * DEFAULT_NODE_BYTES;
  return { ...prepared, blocksAt, blocksEnd, tokensAt, tokensEnd, nodesAt, nodesEnd };
}
