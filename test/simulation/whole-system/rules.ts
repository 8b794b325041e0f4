/** Who may be served before whom, who may be preempted, and how long anybody may have to wait. */
import assert from "node:assert/strict";
import type { PolicyName } from "../../../bindings/main.js";
import { allTokens, before, isActive, rankOf, type Tracked } from "./requests.js";
import type { WorldShape } from "./shape.js";

export class Rules {
  readonly #policy: PolicyName;
  readonly #mostOvertakers: number;
  /** Tenants at their ceilings are passed over, and preempt their own. */
  readonly #quotas: boolean;
  #top: Tracked | undefined;
  #patience = 0;

  constructor(shape: WorldShape) {
    const { policy, agingTokens } = shape.scheduler;
    this.#policy = policy;
    this.#quotas = shape.quotas;
    this.#mostOvertakers = Math.floor(shape.cache.maxSequenceTokens / agingTokens);
  }

  /** A step has admitted `admitted`, in this order, and left `waiting`. */
  admissions(admitted: readonly Tracked[], waiting: readonly Tracked[]): void {
    const policy = this.#policy;
    admitted.forEach((one, i) => {
      for (const other of [...admitted.slice(i + 1), ...waiting]) {
        if (this.#quotas && one.tenant !== other.tenant) continue;
        const [mine, its] = [rankOf(one, policy), rankOf(other, policy)];
        if (policy === "longest-prefix") this.#overtaken(one, other);
        else if (policy === "fair") this.#withinTenant(one, other);
        else
          assert.ok(!before(its, mine), `${policy}: ${one.handle} before ${other.handle}: ${mine}, ${its}`);
      }
    });
  }

  #withinTenant(one: Tracked, other: Tracked): void {
    if (one.tenant !== other.tenant) return;
    const [mine, its] = [one, other].map(({ priority, order }) => [priority, order]);
    assert.ok(!before(its, mine), `fair: ${one.handle} before ${other.handle} of the same tenant`);
  }

  #overtaken(one: Tracked, other: Tracked): void {
    assert.ok(one.priority <= other.priority, "longest-prefix: the less urgent first");
    if (one.priority < other.priority || one.order < other.order) return;
    other.overtakers.add(one.handle);
    const count = other.overtakers.size;
    assert.ok(
      count <= this.#mostOvertakers,
      `${count} have overtaken ${other.handle}; bound ${this.#mostOvertakers}`,
    );
  }

  /** `victim` was preempted while `running` ran, in order of admission. */
  preemption(victim: Tracked, running: readonly Tracked[]): void {
    const urgency = ({ deadlineUs, priority }: Tracked): number => {
      if (this.#policy === "fcfs") return 0;
      return this.#policy === "earliest-deadline" ? deadlineUs : priority;
    };
    const among = this.#quotas ? running.filter(({ tenant }) => tenant === victim.tenant) : running;
    const worst = Math.max(...among.map(urgency));
    const expected = among.filter((one) => urgency(one) === worst).at(-1);
    assert.equal(victim, expected, "the last admitted of the least urgent is preempted");
  }

  /** In order of arrival everybody ends within the tokens of those who came before: whoever is first gets one a step. */
  arrival(request: Tracked, live: Iterable<Tracked>): void {
    request.patience = allTokens(request);
    for (const other of live) if (other !== request && isActive(other)) request.patience += allTokens(other);
  }

  /** A step was executed that no transfer held up: nobody waits longer than the bound. */
  executed(live: Iterable<Tracked>): void {
    // Who waits for a tenant's own quota waits as long as that tenant takes.
    if (this.#quotas) return;
    if (this.#policy === "fcfs") {
      for (const one of live) {
        if (!isActive(one)) continue;
        one.patience -= 1;
        assert.ok(one.patience >= 0, `${one.handle} starves: order of arrival promises it an end by now`);
      }
    } else if (this.#policy !== "fair" && this.#policy !== "longest-prefix") this.#mostUrgent(live);
  }

  /**
   * The most urgent of all ends while it is that: those that run give way one after the other, and of those that run the
   * first admitted of the most urgent gets at least a token a step.
   */
  #mostUrgent(live: Iterable<Tracked>): void {
    let top: Tracked | undefined;
    let tokens = 0;
    let running = 0;
    for (const one of live) {
      if (!isActive(one)) continue;
      if (one.state === "running") [tokens, running] = [tokens + allTokens(one), running + 1];
      if (!top || before(rankOf(one, this.#policy), rankOf(top, this.#policy))) top = one;
    }
    if (top !== this.#top) {
      this.#top = top;
      if (top) this.#patience = (running + 2) * (tokens + allTokens(top));
    }
    this.#patience -= 1;
    assert.ok(!top || this.#patience >= 0, `${top?.handle} starves: nobody is more urgent`);
  }
}
