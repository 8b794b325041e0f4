/** Our index under a workload split between threads, this one and workers: each has an equal part of every phase. */
import { once } from "node:events";
import { isMainThread, parentPort, Worker } from "node:worker_threads";
import { Core, type SharedCore } from "../../bindings/main.js";
import { BatchReplayer, type IndexShape, makeIndex } from "./ours.js";
import type { MakeReplayer, Replayer } from "./replay.js";
import type { Phase } from "./workload.js";

/** Words of the page that a worker shares for one phase. */
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
  readonly #workers: readonly Worker[];
  readonly #own: BatchReplayer;
  #core: SharedCore | undefined;
  #pages: Int32Array[] = [];
  #keys = 0;

  constructor(workers: readonly Worker[], core: Core) {
    this.#workers = workers;
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
    this.#pages = this.#workers.map(() => new Int32Array(new SharedArrayBuffer(64)));
    const copied = { ...phase, keys: shared(phase.keys), ...(phase.codes && { codes: shared(phase.codes) }) };
    const prepared = this.#workers.map((worker, i) => {
      worker.postMessage({ core: this.#core, page: this.#pages[i], phase: copied } satisfies Share);
      return once(worker, "message");
    });
    this.#core = undefined;
    await Promise.all(prepared);
  }

  #together(from: number, to: number, own: (from: number, to: number) => number): number {
    const threads = this.#pages.length + 1;
    const border = (i: number): number => from + Math.floor(((to - from) * i) / threads);
    this.#pages.forEach((page, i) => {
      page.set([border(i + 1), border(i + 2)], FROM);
      Atomics.store(page, TURN, 1);
      Atomics.notify(page, TURN);
    });
    let sum = own(from, border(1));
    for (const page of this.#pages) {
      while (Atomics.load(page, DONE) === 0) Atomics.wait(page, DONE, 0);
      sum += page[SUM];
    }
    return sum;
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

/** The same workers serve the warm-up and the measurement: their compilers learn, too. */
export function team(shape: IndexShape, threads: number): MakeReplayer {
  const workers = Array.from({ length: threads - 1 }, () => new Worker(new URL(import.meta.url)));
  for (const worker of workers) worker.unref();
  return async (workload) => new TeamReplayer(workers, (await makeIndex(workload, shape, threads)).core);
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
