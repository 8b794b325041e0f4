/** A worker of Deno or a browser that attaches to the core it is sent and does its part. */
import { Core, type SharedCore } from "../../bindings/main.js";
import { work, type WorkerReport } from "./attach-plan.js";

/** The core to attach to, or the word to start: work begins when all have attached. */
export type ToWorker = { readonly shared: SharedCore; readonly me: number } | "start";

let core: Core | undefined;
let number = 0;

globalThis.onmessage = async ({ data }: MessageEvent<ToWorker>): Promise<void> => {
  const wrong: string[] = [];
  try {
    if (data !== "start") {
      number = data.me;
      core = await Core.attach(data.shared);
    } else {
      for (const index of core!.orderedIndexes) wrong.push(...work(index, number));
      core!.close();
    }
  } catch (error) {
    wrong.push(String(error));
  }
  const report: WorkerReport = { worker: core?.worker ?? -1, wrong };
  globalThis.postMessage(report);
};
