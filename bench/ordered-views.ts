/**
 * Which structure should keep an order: the ordered view (on the B-skiplist), an intrusive list, or a heap in flat
 * memory? The figures behind docs/decisions/0006: eviction order, expiry and tenants, each with what really uses it.
 */
import { Core, type PageSet } from "../bindings/main.js";
import { RandomStream } from "../sim/random.js";
import { interleave, type Report, type Subject } from "./measure.js";

export const title = "orders for eviction, expiry and tenants: ordered view, intrusive list, heap";

const REQUESTS = 32_768;
const TENANTS = 16;

export async function run(report: Report): Promise<void> {
  const measure = async (name: string, subjects: Subject[]): Promise<void> => {
    for (const { name: subject, medianUs } of await interleave(subjects, report.quick ? 3 : 40))
      report.measured(name, subject, "median", medianUs * 1000, "ns");
  };
  for (const slots of [4_096, 65_536]) await measure(`eviction/${slots}`, await eviction(slots));
  for (const ids of [4_096, 65_536]) await measure(`expiry/${ids}`, await expiry(ids));
  await measure(`tenants/${TENANTS}x4096`, await tenants(4_096));
}

/** Requests that find their page three times in four. */
function requests(random: RandomStream, slots: number): Uint32Array {
  return Uint32Array.from({ length: REQUESTS }, () =>
    random.uniform() < 0.6 ? random.below(slots / 2) : random.below(slots * 2),
  );
}

/** Least recently used by an ordered view: one call a request, and one more for each victim. */
class ViewLru {
  faults = 0;
  readonly #slotOf: Int32Array;
  readonly #pageOf: Int32Array;
  readonly #view: number;
  #used = 0;
  #clock = 0n;

  constructor(
    readonly core: Core,
    readonly slots: number,
    pages: number,
  ) {
    this.#slotOf = new Int32Array(pages).fill(-1);
    this.#pageOf = new Int32Array(slots);
    this.#view = core.viewOrder({ capacity: slots }).pointer;
  }

  request(page: number): void {
    const { exports } = this.core;
    let slot = this.#slotOf[page];
    if (slot < 0) {
      this.faults += 1;
      if (this.#used < this.slots) slot = this.#used++;
      else {
        slot = exports.orderedViewPopFirst(this.#view);
        this.#slotOf[this.#pageOf[slot]] = -1;
      }
      this.#slotOf[page] = slot;
      this.#pageOf[slot] = page;
    }
    exports.orderedViewSet(this.#view, slot, this.#clock++);
  }
}

/** Least recently used three ways, which must agree on every fault. The list is that of the pages advised 1. */
async function eviction(slots: number): Promise<Subject[]> {
  const pages = requests(new RandomStream(1), slots);
  const core = await Core.create();
  const { exports } = core;
  const list = core.pageSet({ slots, pages: slots * 2, evictionOrder: "flush-all-0s", history: 0 });
  const heap = core.pageSet({ slots, pages: slots * 2, evictionOrder: "lru" });
  const view = new ViewLru(core, slots, slots * 2);
  const subject = (name: string, once: (page: number) => void): Subject => ({
    name,
    operations: REQUESTS,
    run: () => {
      for (const page of pages) once(page);
    },
  });
  const subjects = [
    subject("list", (page) => exports.pageSetRequest(list.pointer, page, 1)),
    subject("heap", (page) => exports.pageSetRequest(heap.pointer, page, 1)),
    subject("ordered view", (page) => view.request(page)),
  ];
  for (const { run } of subjects) run();
  const faults = [list.stats().faults, heap.stats().faults, view.faults];
  if (new Set(faults).size !== 1) throw new Error(`the three disagree: ${faults.join(", ")} faults`);
  return subjects;
}

/** A deadline moved for each operation, and the due ones taken out: a cache's terms are a heap. */
async function expiry(ids: number): Promise<Subject[]> {
  const core = await Core.create();
  const { exports } = core;
  const cache = core.kvCache({
    blocks: ids,
    blockSize: 1,
    maxSequences: ids,
    maxSequenceTokens: 2,
    evictionOrder: "priority",
  });
  const sequences = Array.from({ length: ids }, (_, id) => {
    const sequence = cache.open({ tokens: [] });
    cache.reserve(sequence, 1);
    cache.append(sequence, [id]);
    return sequence;
  });
  const view = core.expiryOrder({ capacity: ids });
  const due = core.scratch(8192 * 4);
  const random = new RandomStream(2);
  const at = Uint32Array.from({ length: REQUESTS }, () => random.below(ids));
  const later = Float64Array.from({ length: REQUESTS }, () => 1 + random.below(1_000_000));
  let [heapNow, viewNow] = [0, 0];
  return [
    {
      name: "heap",
      operations: REQUESTS,
      run: () => {
        for (let i = 0; i < REQUESTS; i++) {
          exports.kvPrioritize(cache.pointer, sequences[at[i]], 50, heapNow + later[i], Infinity);
          if (i % 64 === 0) exports.kvAdvance(cache.pointer, (heapNow += 1000));
        }
      },
    },
    {
      name: "ordered view",
      operations: REQUESTS,
      run: () => {
        for (let i = 0; i < REQUESTS; i++) {
          exports.orderedViewSetTime(view.pointer, at[i], viewNow + later[i]);
          if (i % 64 === 0) exports.orderedViewPopDue(view.pointer, (viewNow += 1000), 8192, due);
        }
      },
    },
  ];
}

/** The first of one tenant goes: a list or a heap for each tenant, or one view of all. */
async function tenants(slots: number): Promise<Subject[]> {
  const core = await Core.create();
  const { exports } = core;
  const sets = (evictionOrder: "lru" | "flush-all-0s"): PageSet[] =>
    Array.from({ length: TENANTS }, () => core.pageSet({ slots, pages: slots, evictionOrder, history: 0 }));
  const [heaps, lists] = [sets("lru"), sets("flush-all-0s")];
  const view = core.tenantOrder({ capacity: slots * TENANTS });
  const random = new RandomStream(3);
  const of = Uint8Array.from({ length: REQUESTS }, () => random.below(TENANTS));
  const ids = Uint32Array.from({ length: REQUESTS }, () => random.below(slots));
  let clock = 0;
  const each = (name: string, once: (tenant: number, id: number) => void): Subject => ({
    name,
    operations: REQUESTS,
    run: () => {
      for (let i = 0; i < REQUESTS; i++) once(of[i], ids[i]);
    },
  });
  return [
    each("list for each tenant", (tenant, id) => exports.pageSetRequest(lists[tenant].pointer, id, 1)),
    each("heap for each tenant", (tenant, id) => exports.pageSetRequest(heaps[tenant].pointer, id, 1)),
    each("ordered view", (tenant, id) => {
      clock = (clock + 1) & 0xffffff;
      exports.orderedViewSetTenant(view.pointer, tenant * slots + id, tenant, 0, 0, clock, 0);
    }),
  ];
}
