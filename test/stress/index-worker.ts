/** A thread of the index's stress runs: takes part in one run after the other. */
import { parentPort, workerData } from "node:worker_threads";
import { Core, type SharedCore } from "../../bindings/main.js";
import { instantiateRaw } from "../../bindings/module.js";
import { SCENARIOS } from "./index-scenarios.js";
import { Station, type Task } from "./station.js";

interface Post {
  readonly shared: SharedCore;
  readonly me: number;
  /** How many times faster than time the core's clock for lost locks runs. */
  readonly hurry: number;
}

const { shared, me, hurry } = workerData as Post;
const core = await Core.attach(shared, {
  instantiate: (module, { env }) =>
    instantiateRaw(module, { env: { ...env, park: (...wait) => env.park(...wait) * hurry } }),
});

parentPort!.on("message", (task: Task) => {
  core.refresh();
  const index = core.orderedIndexes[core.orderedIndexes.length - 1];
  try {
    const figures = SCENARIOS[task.scenario].run(new Station(task, index, me));
    parentPort!.postMessage({ figures });
  } catch (error) {
    parentPort!.postMessage({ failure: (error as Error).message });
  }
});
parentPort!.postMessage("ready");
