/**
 * Workers of the web platform (Deno, browsers) attach to a core of this thread and use its ordered indexes, while
 * this thread, which may not block in a browser, does so too.
 */
import { Core, type IndexMode } from "../../bindings/main.js";
import {
  ADDITIONS,
  COUNTERS,
  MAIN_ADDITIONS,
  OWN,
  STANDING,
  type WorkerReport,
  WORKERS,
} from "./attach-plan.js";
import type { ToWorker } from "./attach-worker.js";

export interface AttachReport {
  /** Ids of the workers, in order. */
  readonly workers: readonly number[];
  readonly wrong: readonly string[];
  /** Entries and the sum of the counters at the end, of each index. */
  readonly indexes: readonly { readonly mode: IndexMode; readonly entries: number; readonly sum: number }[];
}

/** What the report must be. */
export const EXPECTED: AttachReport = {
  workers: Array.from({ length: WORKERS }, (_, i) => i + 1),
  wrong: [],
  indexes: (["locked", "optimistic"] as const).map((mode) => ({
    mode,
    entries: STANDING + COUNTERS.length + (WORKERS * OWN) / 2,
    sum: WORKERS * ADDITIONS + MAIN_ADDITIONS,
  })),
};

export async function attachScenario(): Promise<AttachReport> {
  const core = await Core.create({ build: "core-threads", seed: 17 });
  const indexes = (["locked", "optimistic"] as const).map((mode) =>
    core.orderedIndex({ capacity: 20_000, nodeBytes: 128, mode }),
  );
  for (const index of indexes) {
    for (let key = 1; key <= STANDING; key++) index.setHalves(key, 0, key * 3);
    for (const counter of COUNTERS) index.setHalves(counter, 0, 0);
  }
  const url = new URL("./attach-worker.js", import.meta.url);
  const threads = Array.from({ length: WORKERS }, () => new Worker(url, { type: "module" }));
  const tell = (message: (me: number) => ToWorker): Promise<WorkerReport[]> =>
    Promise.all(
      threads.map((thread, me) => {
        const answer = new Promise<WorkerReport>((resolve) => {
          thread.onmessage = ({ data }) => resolve(data as WorkerReport);
          thread.onerror = ({ message }) => resolve({ worker: -1, wrong: [`worker: ${message}`] });
        });
        thread.postMessage(message(me));
        return answer;
      }),
    );
  const attached = await tell((me) => ({ shared: core.share(), me }));
  const finished = tell(() => "start");

  const wrong: string[] = [];
  for (const index of indexes) {
    for (let i = 0; i < MAIN_ADDITIONS; i++) {
      index.fetchAddHalves(COUNTERS[i % COUNTERS.length], 0, 1);
      const standing = 1 + ((i * 11) % STANDING);
      if (index.getLow(standing, 0) !== standing * 3) wrong.push(`main: get ${standing}`);
      // The event loop goes on, and the work lasts as long as that of the workers.
      if (i % 50 === 0) await new Promise((resolve) => setTimeout(resolve, 1));
    }
  }
  const done = await finished;
  for (const thread of threads) thread.terminate();
  core.validate();
  return {
    workers: done.map(({ worker }) => worker).sort(),
    wrong: [...wrong, ...[...attached, ...done].flatMap((report) => report.wrong)],
    indexes: indexes.map((index) => ({
      mode: index.mode,
      entries: index.size,
      sum: COUNTERS.reduce((sum, counter) => sum + index.getLow(counter, 0)!, 0),
    })),
  };
}
