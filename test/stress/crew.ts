/** The threads of the index's stress runs as the engine thread sees them: it gives tasks and watches. */
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import { Core, type IndexMode, type OrderedIndex } from "../../bindings/main.js";
import { SCENARIOS } from "./index-scenarios.js";
import { type Figures, newBoard, progressOf, type ScenarioName, type Task } from "./station.js";

const WORKER = fileURLToPath(new URL("index-worker.js", import.meta.url));
const LOOK_MS = 50;
/** Processor time of this process without a step of any thread after which a run has failed. */
const STUCK_CPU_MS = 2_000;

export interface HireOptions {
  /** How many times faster than time the core's clock for lost locks runs. Default 1. */
  readonly hurry?: number;
  /**
   * Milliseconds without a step of any thread after which a run has failed, whatever the processors did. Default
   * 30,000: threads that wait for a lock use little processor time, but the core itself ends a wait of seconds.
   */
  readonly patience?: number;
}

export interface Run {
  readonly scenario: ScenarioName;
  readonly mode: IndexMode;
  readonly workers: number;
  readonly rounds: number;
  readonly keys: number;
  readonly nodeBytes: number;
  readonly seed: number;
}

type Answer = { readonly figures: Figures } | { readonly failure: string };

export class Crew {
  readonly core: Core;
  readonly #threads: readonly Worker[];
  readonly #patience: number;

  private constructor(core: Core, threads: readonly Worker[], patience: number) {
    this.core = core;
    this.#threads = threads;
    this.#patience = patience;
  }

  static async hire(
    bytes: BufferSource,
    size: number,
    { hurry = 1, patience = 30_000 }: HireOptions = {},
  ): Promise<Crew> {
    const module = await WebAssembly.compile(bytes);
    const core = await Core.create({ build: "core-threads", module, seed: 5 });
    const threads = Array.from(
      { length: size },
      (_, me) => new Worker(WORKER, { workerData: { shared: core.share(), me, hurry } }),
    );
    await Promise.all(threads.map((thread) => once(thread, "message")));
    return new Crew(core, threads, patience);
  }

  async dismiss(): Promise<void> {
    await Promise.all(this.#threads.map((thread) => thread.terminate()));
  }

  /** Sums of what the threads counted; throws what the first failing one says, or that nobody moves. */
  async run(
    { scenario, mode, workers, rounds, keys, nodeBytes, seed }: Run,
    prepare: (index: OrderedIndex) => void = () => {},
  ): Promise<Figures> {
    prepare(this.core.orderedIndex({ capacity: 2 * keys + 100, nodeBytes, mode }));
    const task: Task = {
      scenario,
      workers,
      rounds,
      keys,
      seed,
      board: newBoard(workers),
      ledger: new Int32Array(new SharedArrayBuffer(SCENARIOS[scenario].ledgerWords(workers, keys) * 4)),
    };
    const answers = this.#threads.slice(0, workers).map(async (thread) => {
      const answered = once(thread, "message");
      thread.postMessage(task);
      const [answer] = (await answered) as [Answer];
      if ("failure" in answer) throw new Error(answer.failure);
      return answer.figures;
    });
    const sums: Figures = {};
    for (const figures of await watched(task, this.#patience, Promise.all(answers)))
      for (const [name, count] of Object.entries(figures)) sums[name] = (sums[name] ?? 0) + count;
    return sums;
  }
}

/** Rejects when no thread has made a step for long. */
async function watched<Result>(task: Task, patience: number, finished: Promise<Result>): Promise<Result> {
  let [seen, cpu, since] = ["", process.cpuUsage(), performance.now()];
  let timer: NodeJS.Timeout | undefined;
  const stuck = new Promise<never>((_, reject) => {
    timer = setInterval(() => {
      const steps = progressOf(task).join();
      if (steps !== seen) [seen, cpu, since] = [steps, process.cpuUsage(), performance.now()];
      const { user, system } = process.cpuUsage(cpu);
      if ((user + system) / 1000 > STUCK_CPU_MS || performance.now() - since > patience)
        reject(new Error(`nobody moves: the threads have made ${steps} steps`));
    }, LOOK_MS);
  });
  try {
    return await Promise.race([finished, stuck]);
  } finally {
    clearInterval(timer);
  }
}
