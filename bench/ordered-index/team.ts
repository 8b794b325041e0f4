/** Our index under a workload split between two threads, this one and a worker: each has half of every phase. */
import { once } from "node:events";
import { isMainThread, parentPort, Worker } from "node:worker_threads";
import { Core, type SharedCore } from "../../bindings/main.js";
import { BatchReplayer, type IndexShape, makeIndex } from "./ours.js";
import type { MakeReplayer, Replayer } from "./replay.js";
import type { Phase } from "./workload.js";

/** Words of the page that the two share for one phase. */
const [TURN, FROM, TO, DONE, SUM] = [0, 1, 2, 3, 4];

/** What the worker prepares before its turn comes; keys and codes are in shared memory. */
interface Share {
  /** Only before the first phase. */
  readonly core?: SharedCore;
  readonly page: Int32Array;
  /** Without codes: the load. */
  readonly phase: Partial<Phase> & Pick<Phase, "keys">;
}

class TeamReplayer implements Replayer {
  readonly sampled = false;
  readonly #worker: Worker;
  readonly #own: BatchReplayer;
  #core: SharedCore | undefined;
  #page: Int32Array = new Int32Array(0);
  #keys = 0;

  constructor(worker: Worker, core: Core) {
    this.#worker = worker;
    this.#own = new BatchReplayer(core.orderedIndexes[0]);
    this.#core = core.share();
  }

  async prepareLoad(keys: BigUint64Array): Promise<void> {
    this.#own.prepareLoad(keys);
    this.#keys = keys.length;
    await this.#hand({ keys });
  }

  load(): void {
    this.#together(0, this.#keys, (from, to) => (this.#own.loadRange(from, to), 0));
  }

  async prepare(phase: Phase): Promise<boolean> {
    // What scans and reads among updates find depends on who comes first.
    if (phase.letter === "e" || phase.letter === "u") return false;
    this.#own.prepare(phase);
    await this.#hand(phase);
    return true;
  }

  run(from: number, to: number): number {
    return this.#together(from, to, (first, last) => this.#own.run(first, last));
  }

  size(): number {
    return this.#own.size();
  }

  bytes(): number {
    return this.#own.bytes();
  }

  async #hand(phase: Share["phase"]): Promise<void> {
    this.#page = new Int32Array(new SharedArrayBuffer(64));
    const copied = { ...phase, keys: shared(phase.keys), ...(phase.codes && { codes: shared(phase.codes) }) };
    this.#worker.postMessage({ core: this.#core, page: this.#page, phase: copied } satisfies Share);
    this.#core = undefined;
    await once(this.#worker, "message");
  }

  #together(from: number, to: number, own: (from: number, to: number) => number): number {
    const middle = (from + to) >> 1;
    this.#page.set([middle, to], FROM);
    Atomics.store(this.#page, TURN, 1);
    Atomics.notify(this.#page, TURN);
    const sum = own(from, middle);
    while (Atomics.load(this.#page, DONE) === 0) Atomics.wait(this.#page, DONE, 0);
    return sum + this.#page[SUM];
  }
}

/** A copy in memory that threads share. */
function shared<T extends BigUint64Array | Uint32Array>(array: T): T {
  const copy = new (array.constructor as new (buffer: SharedArrayBuffer) => T)(
    new SharedArrayBuffer(array.byteLength),
  );
  copy.set(array as never);
  return copy;
}

/** One worker serves the warm-up and the measurement: its compiler learns, too. */
export function team(shape: IndexShape): MakeReplayer {
  const worker = new Worker(new URL(import.meta.url));
  worker.unref();
  return async (workload) => new TeamReplayer(worker, (await makeIndex(workload, shape, 2)).core);
}

async function serve(): Promise<void> {
  let own: BatchReplayer | undefined;
  parentPort!.on("message", async ({ core, page, phase }: Share) => {
    if (core !== undefined) own = new BatchReplayer((await Core.attach(core)).orderedIndexes[0]);
    if (phase.codes === undefined) own!.prepareLoad(phase.keys);
    else own!.prepare(phase as Phase);
    parentPort!.postMessage("prepared");
    Atomics.wait(page, TURN, 0);
    if (phase.codes === undefined) own!.loadRange(page[FROM], page[TO]);
    else page[SUM] = own!.run(page[FROM], page[TO]);
    Atomics.store(page, DONE, 1);
    Atomics.notify(page, DONE);
  });
}

if (!isMainThread) await serve();
