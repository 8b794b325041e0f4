/** Replaying a workload against one map in this process: what is timed, and how. */
import { type Letter, type Phase, SAMPLE, type Workload, warmUpOf } from "./workload.js";

/** A map under test. Checksums add up modulo 2^32 what reads and scans found. */
export interface Replayer {
  /** Takes keys and operations in the form the map's users have them in; not timed. */
  prepareLoad(keys: BigUint64Array): void | Promise<void>;
  load(): void;
  /** False if the map cannot run the phase. */
  prepare(phase: Phase): boolean | Promise<boolean>;
  /** Runs the operations from `from` to `to` of the prepared phase; returns their checksum. */
  run(from: number, to: number): number;
  size(): number;
  /** Bytes in use, for maps outside the JavaScript heap. */
  bytes?(): number;
  /** False if single batches cannot be timed. */
  readonly sampled: boolean;
}

/** Makes a map that holds the keys of a workload. */
export type MakeReplayer = (workload: Workload) => Promise<Replayer>;

/** Figures of one phase. The drivers in other languages print the same. */
export interface PhaseFigures {
  readonly phase: "load" | Letter;
  readonly operations: number;
  readonly cpuSeconds: number;
  readonly wallSeconds: number;
  readonly checksum: number;
  /** Nanoseconds an operation, over batches of ten; missing when not sampled. */
  readonly p50?: number;
  readonly p99?: number;
}

export interface Figures {
  readonly bytesPerKey: number;
  readonly size: number;
  readonly phases: PhaseFigures[];
}

export async function replay(make: MakeReplayer, workload: Workload): Promise<Figures> {
  const warmUp = warmUpOf(workload);
  await replayAll(await make(warmUp), warmUp);
  await new Promise((resolve) => setImmediate(resolve)); // lets finished compilations in
  return replayAll(await make(workload), workload);
}

async function replayAll(map: Replayer, workload: Workload): Promise<Figures> {
  const { loaded } = workload;
  await map.prepareLoad(loaded);
  const before = heapBytes();
  const loading = timed(() => (map.load(), 0));
  const bytes = map.bytes?.() ?? heapBytes() - before;
  const phases: PhaseFigures[] = [{ phase: "load", operations: loaded.length, ...loading }];
  for (const phase of workload.phases) {
    if (!(await map.prepare(phase))) continue;
    globalThis.gc?.();
    const figures = timed(() => map.run(0, phase.operations));
    phases.push({
      phase: phase.letter,
      operations: phase.operations,
      ...figures,
      ...sample(map, phase, figures.checksum),
    });
  }
  return { bytesPerKey: bytes / loaded.length, size: map.size(), phases };
}

function timed(run: () => number): Pick<PhaseFigures, "cpuSeconds" | "wallSeconds" | "checksum"> {
  const cpu = process.cpuUsage();
  const start = performance.now();
  const checksum = run();
  const wallSeconds = (performance.now() - start) / 1000;
  const { user, system } = process.cpuUsage(cpu);
  return { cpuSeconds: (user + system) / 1e6, wallSeconds, checksum: checksum >>> 0 };
}

/** The rest of the phase in batches of ten. */
function sample(
  map: Replayer,
  phase: Phase,
  checksum: number,
): Partial<Pick<PhaseFigures, "p50" | "p99" | "checksum">> {
  if (!map.sampled || phase.sampled === 0) return {};
  const times = new Float64Array(phase.sampled / SAMPLE);
  let sum = checksum;
  for (let i = 0; i < times.length; i++) {
    const from = phase.operations + i * SAMPLE;
    const start = performance.now();
    sum += map.run(from, from + SAMPLE);
    times[i] = ((performance.now() - start) * 1e6) / SAMPLE;
  }
  times.sort();
  const quantile = (q: number): number => times[Math.min(times.length - 1, Math.floor(times.length * q))];
  return { p50: quantile(0.5), p99: quantile(0.99), checksum: sum >>> 0 };
}

function heapBytes(): number {
  globalThis.gc?.();
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}
