/**
 * Copies to host memory: 4,096 blocks of 32 KiB (16 tokens of a layer's K or V of an 8B model with grouped queries) handed
 * over block by block, or in groups of 20 that follow each other ("FastSwitch", arXiv 2411.18424): what a call costs
 * beside what it copies. The same pairs of blocks in all subjects; memcpy on the copier's thread.
 */
import { COPY_WORDS, loadAddon, type NativeCopier } from "../native-host/executor/addon.js";
import { breathe, median, type Report } from "./measure.js";

export const title = "blocks copied to host memory by single calls, and by batches of runs";

const BLOCKS = 4096;
const GROUP = 20;
const BLOCK_BYTES = 32 * 1024;

/** One copy: source block, target block, blocks. */
type Run = readonly [source: number, target: number, blocks: number];

/** Groups of blocks, in another order on either side. */
function groups(): Run[] {
  const starts = Array.from({ length: Math.ceil(BLOCKS / GROUP) }, (_, i) => i * GROUP);
  // A stride that is coprime to the number of whole groups takes each once; the last, shorter one keeps its place.
  const whole = Math.floor(BLOCKS / GROUP);
  return starts.map((source, i) => {
    const target = i < whole ? ((i * 83) % whole) * GROUP : source;
    return [source, target, Math.min(GROUP, BLOCKS - source)] as const;
  });
}

const singles = (runs: readonly Run[]): Run[] =>
  runs.flatMap(([source, target, blocks]) =>
    Array.from({ length: blocks }, (_, i): Run => [source + i, target + i, 1]),
  );

const records = (runs: readonly Run[]): Uint32Array => {
  const words = new Uint32Array(runs.length * COPY_WORDS);
  runs.forEach(([source, target, blocks], i) => words.set([0, source, 1, target, blocks], i * COPY_WORDS));
  return words;
};

interface Subject {
  readonly name: string;
  /** Hands everything over; settles when all has arrived. */
  readonly run: () => Promise<unknown> | void;
  readonly us: number[];
  /** Microseconds in which the loop could do nothing else. */
  readonly blockedUs: number[];
}

export async function run(report: Report): Promise<void> {
  const addon = loadAddon();
  if ("reason" in addon) {
    console.error(`swap-copies: skipped, ${addon.reason}`);
    return;
  }
  const device = new Uint8Array(BLOCKS * BLOCK_BYTES).fill(1);
  const host = new Uint8Array(BLOCKS * BLOCK_BYTES).fill(2);
  const shape = { blockBytes: BLOCK_BYTES, hostBlocks: BLOCKS, outThreads: 1, inThreads: 1 };
  const copier = addon.addon.createCopier(shape, device, host);
  const twoThreads = addon.addon.createCopier({ ...shape, outThreads: 2 }, device, host);
  const subjects = subjectsOf(copier, twoThreads, device, host);
  const rounds = report.quick ? 5 : 31;
  for (let round = -3; round < rounds; round++) {
    await breathe();
    // Whose turn is first changes: what came before decides what is in the processor's caches.
    const turn = (round + 3) % subjects.length;
    for (const { run: copy, us, blockedUs } of [...subjects.slice(turn), ...subjects.slice(0, turn)]) {
      const start = performance.now();
      const ends = copy();
      const handedOver = performance.now();
      await ends;
      if (round < 0) continue;
      us.push((performance.now() - start) * 1000);
      blockedUs.push((handedOver - start) * 1000);
    }
  }
  copier.close();
  twoThreads.close();
  if (host.some((byte) => byte !== 1)) throw new Error("not everything was copied");
  reportOn(report, subjects);
}

function subjectsOf(
  copier: NativeCopier,
  twoThreads: NativeCopier,
  device: Uint8Array,
  host: Uint8Array,
): Subject[] {
  const runs = groups();
  const each = singles(runs);
  const inCalls = (copies: readonly Run[], by = copier): (() => Promise<unknown>) => {
    const calls = copies.map((copy) => records([copy]));
    return () => Promise.all(calls.map((words) => by.copyBatch(words)));
  };
  const [allRuns, allBlocks] = [records(runs), records(each)];
  const subject = (name: string, copy: Subject["run"]): Subject => ({
    name,
    run: copy,
    us: [],
    blockedUs: [],
  });
  return [
    subject(`1 call, ${runs.length} runs`, () => copier.copyBatch(allRuns)),
    subject(`${runs.length} calls, a run each`, inCalls(runs)),
    subject(`1 call, ${BLOCKS} blocks`, () => copier.copyBatch(allBlocks)),
    subject(`${BLOCKS} calls, a block each`, inCalls(each)),
    subject(`${runs.length} calls, a run each, two threads`, inCalls(runs, twoThreads)),
    subject("TypedArray.set, a block each, on the loop", () => {
      for (const [source, target] of each)
        host.set(device.subarray(source * BLOCK_BYTES, (source + 1) * BLOCK_BYTES), target * BLOCK_BYTES);
    }),
  ];
}

function reportOn(report: Report, subjects: readonly Subject[]): void {
  const name = `${BLOCKS} blocks of 32 KiB`;
  const gigabytes = (BLOCKS * BLOCK_BYTES) / 1e9;
  for (const { name: subject, us, blockedUs } of subjects) {
    report.measured(name, subject, "median", median(us), "us");
    report.measured(name, subject, "rate", gigabytes / (median(us) / 1e6), "GB/s");
    report.measured(name, subject, "loop blocked", median(blockedUs), "us");
  }
  const [batch, grouped, , single] = subjects.map(({ us }) => median(us));
  report.compared(name, subjects[3].name, single / batch, { subject: subjects[0].name });
  report.compared(name, subjects[3].name, single / grouped, { subject: subjects[1].name });
  report.bar("throughput of groups of 20 in a batch over that of single calls", single / batch, ">=", 1.2);
}
