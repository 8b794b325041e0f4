/**
 * Makes the conformance scripts: random calls as the property tests make them, answered by the TypeScript API, which
 * those tests hold against naive models. Written to test/conformance/scripts/ by `npm run conformance:generate`; a
 * test makes them again and compares.
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { type BlockOrderKind, ORDER_KINDS } from "../../bindings/block-order.js";
import { POLICIES, type PolicyName } from "../../bindings/scheduler-options.js";
import { root } from "../support/package-root.js";
import { Random } from "../support/random.js";
import { drafting, idling, swapping } from "./generate-scheduling.js";
import { grouped, isolated, isolatedRequests } from "./generate-sharing.js";
import { blockRuns, comb, tokenStore, turns } from "./generate-conversations.js";
import { connector } from "./generate-connector.js";
import { lossyLives, lossyRequests, selecting } from "./generate-lanes.js";
import { keyedPool, virtualMemory } from "./generate-pools.js";
import { type Generator, Recorder, tokens } from "./recorder.js";
import { print, type Script } from "./script.js";

export const SCRIPTS = join(root, "test", "conformance", "scripts");

const cacheCalls: Generator = async (recorder) => {
  await recorder.call("core", 11);
  await recorder.call("cache", 14, 4, 9, 48, recorder.random.below(4) === 0 ? 0 : 1);
  await callCache(recorder);
};

/** A cache under an eviction order: blocks of one token, so that whole prefixes come and go. */
function orderedCalls(kind: BlockOrderKind, history: number): Generator {
  return async (recorder) => {
    await recorder.call("core", 14);
    await recorder.call("ordered", 40, 1, 9, 48, ORDER_KINDS.indexOf(kind), history, 30, 3, 2);
    await callCache(recorder, kind);
  };
}

/** A cache whose blocks have names, and tell when they come and go. */
const namedCalls: Generator = async (recorder) => {
  await recorder.call("core", 15);
  await recorder.call("named", 14, 4, 9, 48, 12);
  await recorder.call("scope", 1, [4, 1, 0, 0, 0, 115]);
  await recorder.call("scope", 1, [4, 1, 0, 0, 0, 116]);
  await recorder.call("chunk", tokens(recorder.random, 40), [3, 1, 0, 0, 0, 97]);
  await callCache(recorder, "lru");
  await recorder.call("lose");
  await recorder.call("picture");
  await recorder.call("events", 0);
  await recorder.call("picture");
};

async function callCache(recorder: Recorder, kind?: BlockOrderKind): Promise<void> {
  const { random } = recorder;
  const open: number[] = [];
  const any = (): number => (random.below(20) === 0 ? 12345678 : random.pick(open.length > 0 ? open : [77]));
  for (let i = 0; i < 400; i++) {
    switch (random.below(13)) {
      case 0:
      case 1: {
        const [sequence] = await recorder.call(
          "open",
          random.below(2),
          +(random.below(8) === 0),
          tokens(random, 40),
        );
        if (sequence > 0) open.push(sequence);
        break;
      }
      case 2:
        await recorder.call("match", random.below(2), tokens(random, 40));
        break;
      case 3:
      case 4:
        await recorder.call("reserve", any(), random.below(random.below(3) === 0 ? 4 : 24));
        break;
      case 5:
      case 6:
        await recorder.call("append", any(), tokens(random, 8));
        break;
      case 7:
        await recorder.call("truncate", any(), random.below(40));
        break;
      case 8: {
        if (random.below(2) === 0) break;
        const [twin] = await recorder.call("fork", any());
        if (twin > 0) open.push(twin);
        break;
      }
      case 9: {
        const sequence = any();
        const [closed] = await recorder.call("close", sequence);
        if (closed === 0) open.splice(open.indexOf(sequence), 1);
        break;
      }
      case 10:
        await recorder.call("copies");
        await recorder.call(random.below(4) === 0 ? "revert" : "settle");
        break;
      case 11:
        await recorder.call("references", random.below(14));
        await recorder.call(random.below(10) === 0 ? "forget" : "available");
        break;
      default:
        await recorder.call("length", any());
        await recorder.call("table", any());
    }
    if (kind === "priority" && i % 5 === 0) {
      await recorder.call("prioritize", any(), random.below(101), i + random.below(60), i + random.below(60));
      await recorder.call("deadline");
      await recorder.call("advance", i);
    }
    if (kind === "lru" && i % 8 === 0) {
      await recorder.call("keys", any());
      await recorder.call("key", random.below(15));
      await recorder.call("events", random.below(2));
    }
    if (kind === "scored" && i % 3 === 0)
      await recorder.call(
        "score",
        any(),
        random.below(4),
        Array.from({ length: random.below(9) }, () => random.below(50)),
      );
    if ((kind === "mark0" || kind === "mark-and-predict") && i % 5 === 0)
      await recorder.call("advise", any(), random.below(2));
    if (i % 50 === 0) await recorder.call("validate");
  }
}

/** Under a policy that goes by more than the others: with tenants, deadlines and token budgets of requests. */
function policyCalls(policy: PolicyName): Generator {
  return (recorder) => callScheduler(recorder, policy);
}

/** What some requests are expected to generate yet; now and then, of one that lives, too much. */
async function callPredictions(recorder: Recorder, requests: readonly number[]): Promise<void> {
  const { random, host } = recorder;
  if (requests.length === 0) return;
  for (let n = random.below(3); n > 0; n--) {
    const request = random.pick(requests.slice(-12));
    const most = host.scheduler.state(request) !== "ended" && random.below(9) === 0 ? 2 ** 25 : 40;
    await recorder.call("predict", request, random.below(most));
  }
}

async function callScheduler(recorder: Recorder, policy?: PolicyName): Promise<void> {
  const { random } = recorder;
  const vocabulary = 7;
  const maxRunning = 1 + random.below(8);
  await recorder.call("core", 12);
  await recorder.call("cache", 20, 4, 8, 64, 1);
  const chunk = random.below(2) * (1 + random.below(6));
  const shape = [vocabulary, 24, maxRunning, maxRunning + random.below(24), chunk, random.below(4), 6144];
  if (policy === undefined) await recorder.call("scheduler", ...shape, random.below(3), random.below(2) * 60);
  else
    await recorder.call("scheduler", ...shape, POLICIES.indexOf(policy), 400, 1 + random.below(4), 3, 2, 3);
  const requests: number[] = [];
  let now = 0;
  /** Tenant, now and then one too many; deadline; most prompt tokens a step. */
  const terms = (): number[] => [
    random.below(20) === 0 ? 3 : random.below(3),
    random.below(3) === 0 ? now + 1 + random.below(1200) / 4 : 0,
    random.below(4) === 0 ? 1 + random.below(6) : 0,
  ];
  const submit = async (): Promise<void> => {
    const arrival = random.below(3) === 0 ? now + random.below(40) : 0;
    const prompt = tokens(random, 24);
    const [request] = await recorder.call(
      "submit",
      recorder.steps.length + 1,
      random.below(2),
      random.below(3),
      arrival,
      1 + random.below(20),
      ...(policy === undefined ? [] : terms()),
      prompt,
    );
    if (request > 0) requests.push(request);
  };
  for (let i = 0; i < 90; i++) {
    for (let n = random.below(3); n > 0; n--) await submit();
    now += random.below(12);
    const [status, stepId, , , samplingRows] = await recorder.call("step", now);
    if (status < 0) continue;
    if (random.below(8) === 0 && requests.length > 0) await recorder.call("abort", random.pick(requests));
    if (random.below(10) === 0) {
      await recorder.call("abandon", stepId);
    } else {
      const sampled = Array.from({ length: samplingRows }, () => random.below(vocabulary));
      if (random.below(12) === 0) await recorder.call("commit", stepId + 1, now, sampled, sampled);
      const finished = sampled.map(() => +(random.below(12) === 0));
      await recorder.call("commit", stepId, now, sampled, finished);
    }
    if (requests.length > 0) await recorder.call("state", random.pick(requests));
    if (policy !== undefined && i % 4 === 0) await recorder.call("wake");
    if (policy === "shortest-first") await callPredictions(recorder, requests);
    if (policy === "fair") await recorder.call("served", random.below(3));
    if (i % 20 === 0) await recorder.call("validate");
  }
}

/** Requests of pages, some with a bit of advice, and some for pages that there are not. */
const pageCalls: Generator = async (recorder) => {
  const { random } = recorder;
  await recorder.call("core", 15);
  await recorder.call("pages", ORDER_KINDS.indexOf("mark-and-predict"), 6, 20, 12);
  for (let i = 0; i < 500; i++) {
    const page = random.below(3) === 0 ? random.below(20) : random.below(7);
    await recorder.call("request", page, random.below(3));
    if (i % 7 === 0) await recorder.call("slot", random.below(random.below(9) === 0 ? 24 : 20));
    if (i % 100 === 0) await recorder.call("validate");
  }
};

const indexCalls: Generator = async (recorder) => {
  const { random } = recorder;
  await recorder.call("core", 13);
  await recorder.call("index", 300);
  const key = (): number =>
    random.below(40) === 0 ? 0 : (1 + random.below(400)) * 2 ** (8 * random.below(3));
  for (let i = 0; i < 1500; i++) {
    const kind = random.below(10);
    if (kind < 5) await recorder.call("put", key(), random.next());
    else if (kind < 7) await recorder.call("get", key());
    else if (kind < 9) await recorder.call("delete", key());
    else await recorder.call("range", key(), key(), random.below(6));
    if (i % 300 === 0) await recorder.call("validate");
  }
  await recorder.call("size");
};

/** Requests of pages by the list, figures, and a new beginning half way; what advice throws out goes at once. */
const pageRuns: Generator = async (recorder) => {
  const { random } = recorder;
  await recorder.call("core", 36);
  await recorder.call("pages-eager", ORDER_KINDS.indexOf("mark0"), 6, 20, 12);
  for (let i = 0; i < 60; i++) {
    const pages = Array.from({ length: random.below(30) }, () => random.below(random.below(3) + 7));
    if (random.below(12) === 0) pages.push(20);
    await recorder.call("page-run", pages, random.below(2) === 0 ? [] : pages.map(() => random.below(2)));
    await recorder.call("slot", random.below(20));
    await recorder.call("page-figures");
    if (i === 30) await recorder.call("page-clear", 5);
    if (i % 20 === 0) await recorder.call("validate");
  }
  const all = Array.from({ length: 400 }, (_, i) => (7 * i) % 20);
  await recorder.call(
    "page-run",
    all,
    all.map((page) => page % 2),
  );
};

/** Batches of keys, exchanges and sums, on keys that are there and others. */
const indexBatches: Generator = async (recorder) => {
  const { random } = recorder;
  await recorder.call("core", 37);
  await recorder.call("index", 600);
  const key = (): number => (1 + random.below(300)) * 2 ** (8 * random.below(2));
  const keys = (): number[] => Array.from({ length: random.below(40) }, key);
  for (let i = 0; i < 120; i++) {
    const list = keys();
    await recorder.call(
      "put-many",
      list,
      list.map(() => random.below(2 ** 20)),
    );
    await recorder.call("get-many", keys());
    if (random.below(2) === 0) await recorder.call("delete-many", keys());
    const [one] = list;
    if (one !== undefined) await recorder.call("add", one, random.below(99));
    await recorder.call("add", key(), 1);
    const [found, value] = one === undefined ? [0] : await recorder.call("get", one);
    if (found === 1) await recorder.call("exchange", one, value + random.below(2), 7);
    await recorder.call("exchange", key(), 1, 2);
    await recorder.call("index-figures");
    if (i === 70) await recorder.call("index-clear");
    if (i % 20 === 0) await recorder.call("validate");
  }
};

const GENERATORS: Readonly<Record<string, Generator>> = {
  "cache-1": cacheCalls,
  "cache-2": cacheCalls,
  "scheduler-1": (recorder) => callScheduler(recorder),
  "scheduler-2": (recorder) => callScheduler(recorder),
  "scheduler-3": (recorder) => callScheduler(recorder),
  index: indexCalls,
  "order-gdsf": orderedCalls("gdsf", 50),
  "order-s3-fifo": orderedCalls("s3-fifo", 40),
  "order-gittins": orderedCalls("gittins", 80),
  "order-mark0": orderedCalls("mark0", 40),
  "order-priority": orderedCalls("priority", 0),
  "order-seen-twice": orderedCalls("seen-twice", 20),
  named: namedCalls,
  "order-lfu": orderedCalls("lfu", 60),
  "order-scored": orderedCalls("scored", 0),
  "order-marker": orderedCalls("marker", 0),
  "order-mark-and-predict": orderedCalls("mark-and-predict", 40),
  "policy-longest-prefix": policyCalls("longest-prefix"),
  "policy-fair": policyCalls("fair"),
  "policy-earliest-deadline": policyCalls("earliest-deadline"),
  pages: pageCalls,
  "quotas-marks-pins": isolated(),
  "quotas-marks-pins-scheduler": isolatedRequests(),
  "groups-window": grouped([
    [1, 8, 4],
    [0, 0, 8],
  ]),
  "groups-recurrent": grouped([
    [1, 5, 8],
    [2, 0, 8],
  ]),
  drafts: drafting,
  "host-tier": swapping("async"),
  "keyed-pool": keyedPool,
  "virtual-memory": virtualMemory,
  "groups-isolated": isolated([
    [1, 8, 4],
    [0, 0, 8],
  ]),
  "groups-isolated-scheduler": isolatedRequests([
    [1, 8, 4],
    [2, 0, 8],
  ]),
  "block-runs": blockRuns(0),
  "block-runs-quotas": blockRuns(3),
  turns: turns(false),
  "turns-host-tier": turns(true),
  idle: idling,
  "swap-in-sync": swapping("sync"),
  "swap-in-adaptive": swapping("adaptive"),
  figures: isolated([], true),
  "policy-shortest-first": policyCalls("shortest-first"),
  comb,
  "token-store": tokenStore,
  connector,
  lanes: lossyLives(false),
  "lanes-by-slot": lossyLives(true),
  "lanes-scheduler": lossyRequests,
  selection: selecting,
  "page-runs": pageRuns,
  "index-batches": indexBatches,
};

/** All scripts, made anew. */
export async function generate(): Promise<Script[]> {
  const scripts: Script[] = [];
  for (const [i, [name, generator]] of Object.entries(GENERATORS).entries()) {
    const recorder = new Recorder(new Random(i + 1));
    await generator(recorder);
    scripts.push({ format: 1, name, steps: recorder.steps });
  }
  return scripts;
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  for (const script of await generate()) {
    writeFileSync(join(SCRIPTS, `${script.name}.json`), print(script));
    console.log(`${script.name}: ${script.steps.length} calls`);
  }
}
