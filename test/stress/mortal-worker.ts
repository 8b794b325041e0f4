/** A thread that uses the first index of a core, on command, until somebody terminates it. */
import { parentPort, workerData } from "node:worker_threads";
import { Core, type QuartermasterError, type SharedCore } from "../../bindings/main.js";
import { instantiateRaw } from "../../bindings/module.js";
import { Random } from "../support/random.js";
import { KEYS, type Order, type Role } from "./mortal-plan.js";

const port = parentPort!;
let mayStop = false;
const core = await Core.attach(workerData as SharedCore, {
  instantiate: (module, { env }) =>
    instantiateRaw(module, {
      env: {
        ...env,
        park(...wait) {
          if (!mayStop) return env.park(...wait);
          port.postMessage("stuck");
          return Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0) as never;
        },
      },
    }),
});
const index = core.orderedIndexes[0];
const random = new Random(core.worker);

function call(role: Role): void {
  const key = BigInt(1 + random.below(KEYS));
  if (role === "reader") index.get(key);
  else if (random.below(2) === 0) index.set(key, key);
  else index.delete(key);
}

port.on("message", (order: Order) => {
  if (order.what === "work") {
    for (let i = 0; i < 500; i++) call(order.role);
    port.postMessage("idle");
  } else if (order.what === "work on") {
    for (;;) {
      call(order.role);
      Atomics.add(order.calls, 0, 1);
    }
  } else if (order.what === "get stuck") {
    mayStop = true;
    if (order.role === "reader") index.get(1n);
    else index.set(1n, 1n);
    port.postMessage("done");
  } else {
    try {
      core.detachWorker(order.worker);
      port.postMessage("detached");
    } catch (error) {
      port.postMessage((error as QuartermasterError).code);
    }
  }
});
port.postMessage(core.worker);
