/** One lane under a policy whose attention rows are given, normalised or not: scripted and generated traces. */
import type { EvictionPolicy, StatView } from "../../bindings/main.js";
import { HostLanes } from "../../sim/eviction/host-lanes.js";

/** Attention of the step's query, one head a group member, at a position. Steps count from 1; 0 is the prompt. */
export type Trace = (position: number, step: number, head: number) => number;

export class TraceHost {
  readonly lanes: HostLanes;
  readonly policy: EvictionPolicy;
  readonly #trace: Trace;
  readonly #heads: number;
  #step = 0;
  peak = 0;

  /** @param prompt tokens, whose column sums are the trace at step 0 */
  constructor(policy: EvictionPolicy, trace: Trace, prompt: number, heads = 1) {
    this.policy = policy;
    this.#trace = trace;
    this.#heads = heads;
    this.lanes = new HostLanes(1, 1, 4096, policy.planes);
    policy.beginSequence(this.lanes, prompt);
    this.lanes.append(prompt);
    const view = this.#view();
    const colcount = new Uint32Array(view.stride).fill(1);
    policy.observePrefill(0, { ...view, newTokens: prompt, colsum: view.lastRow!, colcount }, prompt);
    this.#apply(policy.endPrefill());
  }

  /** Whether the policy dropped something. */
  step(): boolean {
    this.#step += 1;
    this.lanes.append(1);
    this.peak = Math.max(this.peak, this.lanes.longest);
    this.policy.observeDecode(0, this.#view());
    return this.#apply(this.policy.endStep());
  }

  /** Ascending positions. */
  get held(): number[] {
    return [...this.lanes.positions(0)].sort((a, b) => a - b);
  }

  has(position: number): boolean {
    return this.lanes.positions(0).includes(position);
  }

  #view(): StatView {
    const { pos, length } = this.lanes.lane(0, 0);
    const stride = Math.ceil(length / 4) * 4;
    const lastRow = new Float32Array(this.#heads * stride);
    for (let head = 0; head < this.#heads; head++)
      for (let slot = 0; slot < length; slot++)
        lastRow[head * stride + slot] = this.#trace(pos[slot], this.#step, head);
    return {
      layer: 0,
      heads: this.#heads,
      kvHeads: 1,
      newTokens: 1,
      lengths: Uint32Array.of(length),
      stride,
      lastRow,
    };
  }

  #apply(plan: ReturnType<EvictionPolicy["endStep"]>): boolean {
    if (plan?.keep[0]) this.lanes.keep(0, plan.keep[0]);
    if (plan?.inPlace) this.lanes.reuse(plan.inPlace);
    return plan !== null;
  }
}
