/** Scripts about blocks that lie side by side, and about conversations that stay between their turns. */
import { POLICIES } from "../../bindings/scheduler-options.js";
import { Transfers } from "./generate-scheduling.js";
import {
  BLOCKS,
  bound,
  callClose,
  callQuota,
  callSequence,
  fillInput,
  LONGEST,
  tenantOf,
} from "./generate-sharing.js";
import { type Generator, type Recorder, tokens } from "./recorder.js";

/** A cache whose sequences take blocks in runs, under quotas if it has tenants. */
export function blockRuns(tenants: number): Generator {
  return async (recorder) => {
    const host = bound(recorder);
    const { random, call } = host;
    // Few blocks without tenants: what is reserved is split for others.
    const blocks = tenants === 0 ? 16 : BLOCKS;
    const shape = [blocks, 4, 9, LONGEST];
    await call("core", 26);
    await call("cache", ...shape, 1);
    await call("run-figures");
    await call("core", 26);
    await call("runs", ...shape, blocks + 1, tenants);
    await call("core", 26);
    await call("runs", ...shape, tenants === 0 ? 6 : 0, tenants);
    const open: number[] = [];
    const any = (): number =>
      random.below(20) === 0 ? 12345678 : random.pick(open.length > 0 ? open : [77]);
    for (let i = 0; i < 400; i++) {
      const kind = random.below(15);
      let made = 0;
      if (kind < 2) {
        const opening = [random.below(2), +(random.below(8) === 0)];
        if (tenants === 0) [made] = await call("open", ...opening, tokens(random, 40));
        else [made] = await call("open-as", ...opening, tenantOf(random), tokens(random, 40));
      } else if (kind === 2 || open.length > 6) await callClose(host, any(), open);
      else if (kind === 3) {
        const sequence = any();
        await call("table", sequence);
        await call("run-tail", sequence);
      } else if (kind === 4) {
        await call("run-figures");
        await call("run-free", random.below(2) * random.below(blocks), 1 + random.below(8));
      } else if (kind === 5) {
        if (tenants > 0 && random.below(2) === 0) await callQuota(host);
        else await call(random.below(8) === 0 ? "forget" : "available");
      } else made = await callSequence(host, any);
      if (made > 0) open.push(made);
      if (i % 50 === 0) await call("validate");
    }
    await fillInput(host);
  };
}

const VOCABULARY = 7;

type Conversations = Pick<Recorder, "random" | "host" | "call">;

/** One turn more of a request that is idle, or now and then of any; with tokens that there are not, or too many. */
async function callTurn({ random, host, call }: Conversations, requests: readonly number[]): Promise<void> {
  const idle = requests.filter((request) => host.scheduler.state(request) === "idle");
  const candidates = idle.length > 0 && random.below(8) !== 0 ? idle : requests;
  if (candidates.length === 0) return;
  const request = random.pick(candidates);
  const said = tokens(random, 12);
  if (said.length > 0 && random.below(20) === 0) said[said.length - 1] = VOCABULARY;
  const [status] = await call(
    "next-turn",
    request,
    1 + random.below(12),
    +(random.below(5) === 0),
    random.below(30) === 0 ? [] : said,
  );
  // A conversation that has become too long cannot go on.
  if (status === -11) await call("abort", request);
}

/** Conversations without a host tier, or with one over a cache with runs, whose transfers may fail. */
export function turns(tiered: boolean): Generator {
  return async (recorder) => {
    const { random, host } = recorder;
    const call: Recorder["call"] = (...args) => recorder.call(...args);
    const policy = POLICIES.indexOf(tiered ? "priority" : "fcfs");
    const shape = [VOCABULARY, 16, 6, 24, 0, 1, 4096, policy, 0, 1, 1, 1, 2];
    await call("core", 27);
    if (tiered) await call("runs", 24, 4, 12, 64, 0);
    else await call("cache", 24, 4, 12, 64, 1);
    await call("scheduler-as", 0, +tiered, shape, tiered ? [40, 12, 0, 0, 0, 10, 12, 4] : []);
    const requests: number[] = [];
    const transfers = new Transfers(recorder, 4);
    let now = 0;
    for (let i = 0; i < 160; i++) {
      for (let n = random.below(3); n > 1; n--) {
        const numbers = [
          recorder.steps.length + 1,
          random.below(2),
          random.below(9),
          0,
          1 + random.below(12),
          0,
        ];
        const stays = +(random.below(4) !== 0);
        const [request] = await call("submit-as", [...numbers, 0, 0, 0, stays], [], tokens(random, 20));
        if (request > 0) requests.push(request);
      }
      const recent = requests.slice(-16);
      for (let n = random.below(3); n > 0; n--) await callTurn({ random, host, call }, recent);
      if (i % 4 === 0) await call("wake");
      now += 10;
      const [status, stepId, , , samplingRows] = await call("step", now);
      if (status < 0) continue;
      await transfers.begin();
      await transfers.drift();
      if (random.below(12) === 0 && recent.length > 0) await call("abort", random.pick(recent));
      if (random.below(10) === 0) await call("abandon", stepId);
      else {
        const sampled = Array.from({ length: samplingRows }, () => random.below(VOCABULARY));
        const finished = sampled.map(() => +(random.below(12) === 0));
        await call("commit", stepId, now, sampled, finished);
      }
      await call("outcomes");
      await transfers.drift();
      if (recent.length > 0) await call("state", random.pick(recent));
      if (tiered && random.below(4) === 0) await call("run-figures");
      if (i % 20 === 0) await call("validate");
    }
    await transfers.endAll();
    await call("validate");
  };
}

/** More free runs than one call of the core lists: half of the blocks, each by itself. */
export const comb: Generator = async (recorder) => {
  const call: Recorder["call"] = (...args) => recorder.call(...args);
  await call("core", 28);
  await call("runs", 16_500, 1, 4, 8300, 1, 0);
  await call("comb", 8250, 8192);
  await call("core", 28);
  await call("runs", 16_500, 1, 4, 8300, 1, 0);
  await call("comb", 8250, 9000);
  await call("validate");
};

/** Conversations that outgrow the token store: one has its next turn only when another one has ended. */
export const tokenStore: Generator = async (recorder) => {
  const { random, host } = recorder;
  const call: Recorder["call"] = (...args) => recorder.call(...args);
  const pages = 3;
  await call("core", 29);
  await call("cache", 240, 4, 4, 640, 1);
  const shape = [VOCABULARY, 3, 3, 256, 0, 0, 256 * pages, POLICIES.indexOf("fcfs"), 0, 1, 1, 1, 2];
  await call("scheduler-as", 0, 0, shape, []);
  const said = (count: number): number[] => Array.from({ length: count }, () => random.below(VOCABULARY));
  const requests: number[] = [];
  for (let id = 1; id <= 2; id++) {
    const [request] = await call("submit-as", [id, 0, 0, 0, 4, 0, 0, 0, 0, 1], [], said(200));
    requests.push(request);
  }
  let now = 0;
  const serve = async (): Promise<void> => {
    while (host.scheduler.running + host.scheduler.waiting > 0) {
      now += 10;
      const [, stepId, , , samplingRows] = await call("step", now);
      await call("commit", stepId, now, said(samplingRows), said(samplingRows).fill(0));
    }
  };
  await serve();
  const [first, second] = requests;
  await call("next-turn", first, 4, 0, said(100)); // takes the third page
  await call("next-turn", second, 4, 0, said(100));
  await call("state", second);
  await serve();
  await call("next-turn", second, 4, 0, said(40)); // still within its own page
  await serve();
  await call("next-turn", second, 4, 0, said(100));
  await call("abort", first);
  await call("next-turn", second, 4, 1, said(100));
  await serve();
  await call("validate");
};
