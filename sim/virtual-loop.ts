/**
 * An iteration loop over requests that share a budget of KV memory, in any layout: what is admitted, wasted, and mapped
 * while kernels wait. Used by the bench `vattention` and its test.
 */
import { QuartermasterError } from "../bindings/errors.js";
import { ChangeOp, CHANGE_WORDS, type VirtualMemory } from "../bindings/virtual-memory.js";

export interface LoopRequest {
  /** Iteration before which it cannot be admitted. */
  readonly arrival: number;
  readonly promptTokens: number;
  readonly newTokens: number;
}

export interface LoopPolicy {
  /** Whether pages are mapped ahead beside the kernels. */
  readonly background: boolean;
  /** Whether a finished request gives its pages up at once. */
  readonly unmapOnFree: boolean;
}

export interface LoopFigures {
  readonly iterations: number;
  /** Most requests at a time. */
  readonly peakBatch: number;
  /** KV blocks mapped in active slots and not full, a slot: mean over all, and the most of one. */
  readonly waste: number;
  readonly worstWaste: number;
  /** KV blocks that idle slots and reused ones have from before, mean over iterations. */
  readonly deferred: number;
  /** KV blocks mapped while kernels wait: in steps of requests that decode, and of those that begin. */
  readonly decodeWaits: number;
  readonly prefillWaits: number;
  /** KV blocks mapped in all, and unmapped. */
  readonly maps: number;
  readonly unmaps: number;
  readonly preemptions: number;
}

/** Executes what the loop has planned; the default does nothing. */
export interface LoopBackend {
  wait(plan: Uint32Array): void;
  beside(plan: Uint32Array): Promise<void>;
}

interface Running {
  readonly request: LoopRequest;
  readonly slot: number;
  length: number;
  /** Pages the slot had when it was given out. */
  readonly found: number;
}

const NOWHERE: LoopBackend = { wait: () => undefined, beside: async () => undefined };

export async function runLoop(
  memory: VirtualMemory,
  requests: readonly LoopRequest[],
  policy: LoopPolicy,
  backend = NOWHERE,
): Promise<LoopFigures> {
  const waiting = [...requests];
  let running: Running[] = [];
  const figures = {
    peakBatch: 0,
    worstWaste: 0,
    decodeWaits: 0,
    prefillWaits: 0,
    maps: 0,
    unmaps: 0,
    preemptions: 0,
  };
  let [waste, slots, deferred, iteration] = [0, 0, 0, 0];
  /** Changes planned since last asked, counted; those of `begun` slots are of requests that begin. */
  const take = (begun?: ReadonlySet<number>): Uint32Array => {
    const plan = memory.takePlan();
    for (let at = 0; at < plan.length; at += CHANGE_WORDS) {
      if (plan[at] === ChangeOp.Unmap) figures.unmaps += 1;
      else {
        figures.maps += 1;
        if (begun?.has(plan[at + 1])) figures.prefillWaits += 1;
        else if (begun !== undefined) figures.decodeWaits += 1;
      }
    }
    return plan;
  };
  for (; waiting.length > 0 || running.length > 0; iteration++) {
    const begun = new Set<number>();
    while (waiting.length > 0 && waiting[0].arrival <= iteration && running.length < memory.slots) {
      // A page a request in hand: those that run must be able to go on for a while.
      if (memory.freeBlocks < memory.pagesFor(waiting[0].promptTokens + 1) + running.length) break;
      const request = waiting.shift()!;
      const slot = memory.allocate(request.promptTokens);
      begun.add(slot);
      running.push({ request, slot, length: request.promptTokens, found: memory.mapped(slot) });
      backend.wait(take());
    }
    const lengths = new Uint32Array(memory.slots);
    for (const { slot, length } of running) lengths[slot] = length;
    let oom = new Set(memory.step(lengths));
    backend.wait(take(begun));
    while (oom.size > 0) {
      // The last one admitted makes room and starts again.
      const victim = running.pop();
      if (victim === undefined)
        throw new QuartermasterError("OUT_OF_BLOCKS", "one request alone does not fit");
      figures.preemptions += 1;
      waiting.unshift(victim.request);
      memory.free(victim.slot, policy.unmapOnFree);
      lengths[victim.slot] = 0;
      oom = new Set(memory.step(lengths));
      backend.wait(take(begun));
    }
    if (policy.background) memory.background();
    const besides = backend.beside(take());
    figures.peakBatch = Math.max(figures.peakBatch, running.length);
    let mappedActive = 0;
    let left = 0;
    for (const { slot, length, found } of running) {
      const used = Math.floor((length * memory.tokenBytes) / memory.pageBytes);
      const mapped = memory.mapped(slot);
      const old = Math.max(0, Math.min(found, mapped) - memory.pagesFor(length));
      const wasted = mapped - old - used;
      waste += wasted;
      left += old;
      mappedActive += mapped;
      figures.worstWaste = Math.max(figures.worstWaste, wasted);
    }
    slots += running.length;
    deferred += memory.mappedBlocks - mappedActive + left;
    await besides;
    running = running.filter((state) => {
      if (state.length + 1 < state.request.promptTokens + state.request.newTokens) {
        state.length += 1;
        return true;
      }
      memory.free(state.slot, policy.unmapOnFree);
      return false;
    });
    backend.wait(take());
  }
  return { iterations: iteration, ...figures, waste: waste / slots, deferred: deferred / iteration };
}
