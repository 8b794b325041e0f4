/** What does a request of a page set cost, by order? 100,000 slots, pages by Zipf's law and scans. */
import { Core, type PageSetOptions } from "../bindings/main.js";
import { RandomStream } from "../sim/random.js";
import { interleave, type Report } from "./measure.js";

export const title =
  "requests of a page set of 100,000 slots, by eviction order; target 5 million a second by advice";

const SLOTS = 100_000;
const PAGES = 400_000;
const REQUESTS = 8_192;
/** Batches that run before one is timed. */
const WARM_UP = 6;
const ORDERS = [
  "marker",
  "flush-all-0s",
  "mark0",
  "mark-and-predict",
  "lru",
  "fifo",
  "lfu",
  "s3-fifo",
  "gittins",
] as const;

/** Those that a target was set for. */
const ADVISED: readonly string[] = ["flush-all-0s", "mark0", "mark-and-predict"];

export async function run(report: Report): Promise<void> {
  const random = new RandomStream(1);
  const page = (): number => Math.floor(PAGES * random.uniform() ** 3);
  const warm = Uint32Array.from({ length: PAGES }, page);
  const bits = Uint8Array.from(warm, (id) => +(id > SLOTS));
  const subjects = [];
  for (const evictionOrder of ORDERS) {
    const options: PageSetOptions = { slots: SLOTS, pages: PAGES, evictionOrder };
    const core = await Core.create();
    const set = core.pageSet(options);
    set.run(warm, bits);
    const at = core.scratch(REQUESTS * 5);
    const { exports, memory } = core;
    subjects.push({
      name: evictionOrder,
      operations: REQUESTS,
      // Each has megabytes of its own, which the others have pushed out of the cache: a few batches bring them back.
      prepare: () => {
        for (let batch = 0; batch <= WARM_UP; batch++) {
          const from = random.below(PAGES - REQUESTS);
          new Uint32Array(memory.buffer, at, REQUESTS).set(warm.subarray(from, from + REQUESTS));
          new Uint8Array(memory.buffer, at + REQUESTS * 4, REQUESTS).set(
            bits.subarray(from, from + REQUESTS),
          );
          if (batch < WARM_UP) exports.pageSetRun(set.pointer, at, at + REQUESTS * 4, REQUESTS);
        }
      },
      run: () => void exports.pageSetRun(set.pointer, at, at + REQUESTS * 4, REQUESTS),
    });
  }
  const timings = await interleave(subjects, report.quick ? 3 : 100);
  for (const { name, medianUs } of timings) {
    report.measured(String(SLOTS), name, "throughput", 1 / medianUs, "Mops/s");
    if (ADVISED.includes(name))
      report.bar(`requests with advice, ${name}, millions a second`, 1 / medianUs, ">=", 5);
  }
}
