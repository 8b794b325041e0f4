/** A thread that probes the shared cache over and over and notes what it was told, and when. */
import { parentPort, workerData } from "node:worker_threads";
import { Core, type SharedCore } from "../../bindings/main.js";
import { Random } from "../support/random.js";
import { Clock, NOTE_WORDS, prompts } from "./shared-probe-plan.js";

interface Task {
  readonly shared: SharedCore;
  readonly clock: Int32Array;
  readonly notes: Int32Array;
  readonly seed: number;
}

const { shared, clock, notes, seed } = workerData as Task;
const core = await Core.attach(shared);
const cache = core.kvCaches[0];
const random = new Random(seed);
const tokens = prompts().map((prompt) => Uint32Array.from(prompt));
parentPort?.postMessage("ready");

/** So that the engine gets its share of the run however few processors there are. */
const PROBES_PER_CHANGE = 5;

let count = 0;
while (Atomics.load(clock, Clock.Stop) === 0 && (count + 1) * NOTE_WORDS <= notes.length) {
  const which = random.below(tokens.length);
  const before = Atomics.load(clock, Clock.Time);
  const { blocks } = cache.probe(tokens[which]);
  const after = Atomics.load(clock, Clock.Time);
  notes.set([which, before, after, blocks], count * NOTE_WORDS);
  count += 1;
  Atomics.add(clock, Clock.Probes, 1);
  const now = Atomics.load(clock, Clock.Time);
  if (count > PROBES_PER_CHANGE * ((now >> 1) + 20)) Atomics.wait(clock, Clock.Time, now, 1);
}
core.close();
parentPort?.postMessage(count);
parentPort?.close();
