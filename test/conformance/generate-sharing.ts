/** Scripts about who shares what: quotas, marks, pins, reuse inside blocks, cache groups. */
import { POLICIES } from "../../bindings/scheduler-options.js";
import type { Random } from "../support/random.js";
import { callDrafts } from "./generate-scheduling.js";
import { type Generator, type Recorder, tokens } from "./recorder.js";

const TENANTS = 3;
export const BLOCKS = 32;
export const LONGEST = 48;

/** Kind, window, tokens a block of each group. */
type Groups = readonly (readonly number[])[];

/** An isolated cache: tenants, room for marks and pins, hard blocks, and parts of 2 tokens or groups. */
async function makeIsolated(recorder: Recorder, groups: Groups): Promise<void> {
  const shape = [BLOCKS, 4, 9, LONGEST, TENANTS, 16, 3, 3];
  if (groups.length === 0) await recorder.call("isolated", ...shape, 2);
  else await recorder.call("isolated", ...shape, 0, groups.flat());
}

/** A tenant; now and then one too many. */
export const tenantOf = (random: Random): number =>
  random.below(25) === 0 ? TENANTS : random.below(TENANTS);

/** Records of 8 words by position, of one position by kind: an adapter, scopes, items. */
export function marks(random: Random): number[] {
  const list: number[][] = [];
  const content = (): number[] => [1 + random.below(3), random.below(2), 0, random.below(2)];
  if (random.below(3) === 0) list.push([0, 4, 0, 0, ...content()]);
  for (let offset = random.below(9); offset < 24 && random.below(2) === 0; offset += 1 + random.below(9))
    list.push([offset, 2 + random.below(2), 0, 0, ...content()]);
  for (let offset = random.below(12); offset < 24 && random.below(3) === 0; offset += 9)
    list.push([offset, 5, 1 + random.below(6), 0, ...content()]);
  return list.sort((a, b) => a[0] - b[0] || a[1] - b[1]).flat();
}

/** Limits that are in order, now and then not; floors may be more than there is together. */
export async function callQuota({ random, call }: Bound): Promise<void> {
  const few = random.below(4);
  if (random.below(3) === 0) return void (await call("quota", random.below(TENANTS), 0, few, few + 1));
  const floor = random.below(14);
  const watermark = random.below(20) === 0 ? floor - 1 : floor + random.below(BLOCKS - floor);
  const ceiling = watermark < 0 ? 0 : watermark + random.below(BLOCKS + 1 - watermark);
  await call("quota", random.below(TENANTS + 1), floor, Math.max(0, watermark), ceiling);
}

export interface Bound {
  readonly random: Random;
  readonly call: Recorder["call"];
}

export const bound = (recorder: Recorder): Bound => ({
  random: recorder.random,
  call: (...call) => recorder.call(...call),
});

/** One call on a sequence. Returns a handle that it has made, or 0. */
export async function callSequence({ random, call }: Bound, any: () => number): Promise<number> {
  switch (random.below(7)) {
    case 0:
    case 1: {
      const sequence = any();
      const count = random.below(random.below(3) === 0 ? 4 : 24);
      const [added] = await call("reserve", sequence, count);
      if (added < 0 || random.below(3) === 0) return 0;
      await call("settle");
      await call("append", sequence, tokens(random, count));
      return 0;
    }
    case 2:
    case 3:
      await call("append", any(), tokens(random, 8));
      return 0;
    case 4:
      await call("truncate", any(), random.below(40));
      return 0;
    case 5:
      return random.below(2) === 0 ? 0 : (await call("fork", any()))[0];
    default:
      await call("copies");
      await call(random.below(4) === 0 ? "revert" : "settle");
      return 0;
  }
}

export async function callClose({ call }: Bound, sequence: number, open: number[]): Promise<void> {
  const [closed] = await call("close", sequence);
  if (closed === 0) open.splice(open.indexOf(sequence), 1);
}

/** What is left in the input of a call that was refused early differs between hosts: a call that fills all of it. */
export async function fillInput({ call }: Bound): Promise<void> {
  const all = Array.from({ length: LONGEST }, (_, i) => i % 3);
  await call("match", 0, all);
}

/** As `fillInput`, of marks: more than any call before has had. */
async function fillMarks({ call }: Bound): Promise<void> {
  const items = Array.from({ length: 12 }, (_, i) => [2 * i, 5, 1, 0, i, 0, 0, 0]);
  await call("open-marked", 0, 0, items.flat(), [1, 2, 3]);
}

/** What a cache says of itself, and of a prompt with marks. */
async function callFigures({ random, call }: Bound, i: number): Promise<void> {
  const [account, figures] = [random.below(TENANTS + 2), ["statistics", "pin-figures"]];
  if (i % 3 === 0) await call("match-marked", random.below(2), marks(random), tokens(random, 40));
  else if (i % 3 === 1) await call(figures[random.below(2)]);
  else await call(random.below(2) === 0 ? "account-figures" : "available-to", account);
}

/** Two sequences fill the same blocks: the second gets those of the first. */
async function callTwins({ call }: Bound): Promise<number[]> {
  const same = Array.from({ length: 2 * 4 }, (_, i) => i);
  const twins = [await call("open-as", 0, 0, 0, same), await call("open-as", 0, 0, 1, same)].map(
    ([twin]) => twin,
  );
  for (const twin of twins) {
    await call("reserve", twin, same.length);
    await call("append", twin, same);
  }
  return twins;
}

/** Opens a sequence on a prompt, computes it, pins it if it is told how hard, and closes it. */
async function callPrompt(
  { call }: Bound,
  tenant: number,
  first: number,
  count: number,
  hard?: number,
): Promise<void> {
  const prompt = Array.from({ length: count }, (_, i) => first + i);
  const [sequence] = await call("open-as", 0, 0, tenant, prompt);
  await call("reserve", sequence, count);
  await call("append", sequence, prompt);
  if (hard !== undefined) await call("pin", sequence, hard, 50, -1);
  await call("close", sequence);
}

/**
 * Tenants without limits in turn, each with prompts of its own: what one has cached is forgotten for another. Before them a soft
 * pin, which gives way, and a hard one, which does not.
 */
async function callCrowd(host: Bound, open: number[], pins: readonly number[]): Promise<void> {
  const { call } = host;
  while (open.length > 0) await callClose(host, open[0], open);
  for (const pin of pins) await call("unpin", pin);
  for (let tenant = 0; tenant < TENANTS; tenant++) await call("quota", tenant, 0, BLOCKS, BLOCKS);
  await callPrompt(host, 0, 1000, 40, 0);
  await callPrompt(host, 0, 2000, 8, 1);
  await call("pin-figures");
  for (let turn = 0; turn < 4 * TENANTS; turn++) {
    await callPrompt(host, turn % TENANTS, 100 * turn, 40);
    await call("account-figures", (turn + 1) % TENANTS);
  }
  // All blocks but those of the hard pin are held at once.
  for (let tenant = 0; tenant < TENANTS; tenant++) {
    const [sequence] = await call("open-as", 0, 1, tenant, []);
    await call("reserve", sequence, 40);
    open.push(sequence);
  }
  await call("pin-figures");
  while (open.length > 0) await callClose(host, open[0], open);
  await call("statistics");
}

/** `figures`: what it says of itself is asked for as well. */
export const isolated =
  (groups: Groups = [], figures = false): Generator =>
  async (recorder) => {
    const host = bound(recorder);
    const { random, call } = host;
    await call("core", 21);
    await makeIsolated(recorder, groups);
    const open: number[] = figures ? await callTwins(host) : [];
    const pins: number[] = [];
    const any = (): number =>
      random.below(20) === 0 ? 12345678 : random.pick(open.length > 0 ? open : [77]);
    for (let i = 0; i < 500; i++) {
      const kind = random.below(12);
      let made = 0;
      if (kind === 0)
        [made] = await call(
          "open-as",
          random.below(2),
          +(random.below(8) === 0),
          tenantOf(random),
          tokens(random, 40),
        );
      else if (kind === 1)
        [made] = await call(
          "open-marked",
          random.below(2),
          tenantOf(random),
          marks(random),
          tokens(random, 40),
        );
      else if (kind === 2 || open.length > 6) await callClose(host, any(), open);
      else if (kind === 3) {
        const until = random.below(4) === 0 ? i + random.below(60) : -1;
        const [pin] = await call("pin", any(), random.below(2), random.below(101), until);
        if (pin > 0) pins.push(pin);
      } else if (kind === 4) {
        if (random.below(3) === 0) await callQuota(host);
        else if (random.below(3) === 0) await call("unpin", random.pick(pins.length > 0 ? pins : [5]));
        else await call("account", random.below(TENANTS + 1));
      } else if (kind === 5) {
        const sequence = any();
        await call("table", sequence);
        for (let group = 1; group <= groups.length; group++) await call("group-table", sequence, group);
        await call("references", random.below(BLOCKS));
        await call(random.below(20) === 0 ? "forget" : "available");
      } else made = await callSequence(host, any);
      if (made > 0) open.push(made);
      if (figures) await callFigures(host, i);
      if (i % 10 === 0) {
        await call("deadline");
        await call("advance", i);
      }
      if (i % 50 === 0) await call("validate");
    }
    if (figures) await callCrowd(host, open, pins);
    if (groups.length > 0) await fillMarks(host);
    await fillInput(host);
  };

export const isolatedRequests =
  (groups: Groups = []): Generator =>
  async (recorder) => {
    const host = bound(recorder);
    const { random, call } = host;
    const vocabulary = 7;
    await call("core", 22);
    await makeIsolated(recorder, groups);
    const shape = [vocabulary, 24, 6, 20, 0, 2, 6144, POLICIES.indexOf("fair"), 400, 1, TENANTS, 1, 2];
    await call("scheduler-as", 0, 0, shape, []);
    await call("quota", 0, 6, 12, 20);
    await call("quota", 1, 0, 8, 10);
    const requests: number[] = [];
    let now = 0;
    for (let i = 0; i < 120; i++) {
      for (let n = random.below(3); n > 0; n--) {
        const arrival = random.below(3) === 0 ? now + random.below(40) : 0;
        const numbers = [
          recorder.steps.length + 1,
          random.below(2),
          random.below(3),
          arrival,
          1 + random.below(16),
        ];
        const pin = [random.below(3), random.below(101), random.below(2) * random.below(300)];
        const list = random.below(2) === 0 ? [] : marks(random);
        const [request] = await call(
          "submit-as",
          [...numbers, tenantOf(random), ...pin],
          list,
          tokens(random, 24),
        );
        if (request > 0) requests.push(request);
      }
      now += random.below(12);
      if (random.below(4) === 0) await callQuota(host);
      const [status, stepId, , , samplingRows] = await call("step", now);
      if (status < 0) continue;
      if (random.below(8) === 0 && requests.length > 0) await call("abort", random.pick(requests));
      if (random.below(10) === 0) await call("abandon", stepId);
      else {
        const sampled = Array.from({ length: samplingRows }, () => random.below(vocabulary));
        await call(
          "commit",
          stepId,
          now,
          sampled,
          sampled.map(() => +(random.below(12) === 0)),
        );
      }
      await call("outcomes");
      await call("account", random.below(TENANTS + 1));
      if (i % 20 === 0) await call("validate");
    }
    await fillInput(host);
  };

/** A cache with groups, `specs`: kind, window, tokens a block of each; by itself, then under a scheduler. */
export function grouped(specs: Groups): Generator {
  return async (recorder) => {
    const host = bound(recorder);
    const { random, call } = host;
    await call("core", 23);
    await call("grouped", 60, 4, 9, LONGEST, specs.flat());
    const open: number[] = [];
    const any = (): number =>
      random.below(20) === 0 ? 12345678 : random.pick(open.length > 0 ? open : [77]);
    for (let i = 0; i < 300; i++) {
      const kind = random.below(9);
      let made = 0;
      if (kind === 0)
        [made] = await call("open", random.below(2), +(random.below(8) === 0), tokens(random, 40));
      else if (kind === 1 || open.length > 6) await callClose(host, any(), open);
      else if (kind === 2) {
        const sequence = any();
        await call("length", sequence);
        await call("table", sequence);
        for (let group = 1; group <= specs.length; group++) await call("group-table", sequence, group);
      } else if (kind === 3) {
        await call("match", random.below(2), tokens(random, 40));
        await call("available");
      } else made = await callSequence(host, any);
      if (made > 0) open.push(made);
      if (i % 50 === 0) await call("validate");
    }
    while (open.length > 0) await callClose(host, open[0], open);
    await call("scheduler-as", 2, 0, [7, 24, 8, 24, 0, 1, 6144, POLICIES.indexOf("fcfs"), 0, 1, 1, 1, 2], []);
    await callDrafts(recorder, 7, async () => {
      const { rows, sequences } = recorder.host.scheduler.plan();
      for (let row = 0; row < rows; row += 3)
        for (let group = 1; group <= specs.length; group++) await call("group-table", sequences[row], group);
    });
    await fillInput(host);
  };
}
