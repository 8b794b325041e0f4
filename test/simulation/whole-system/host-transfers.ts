/** Swaps between device and host tier: they move block by block while steps go on, end late, and fail. */
import assert from "node:assert/strict";
import { type StepPlan, TRANSFER_WORDS, TransferMark, TransferOp } from "../../../bindings/main.js";
import type { Random } from "../../support/random.js";
import type { World } from "./world.js";

interface Flight {
  readonly id: number;
  readonly out: boolean;
  /** It must be complete before the batch of the plan that began it. */
  readonly before: boolean;
  readonly blocks: { readonly source: number; readonly target: number; readonly tokens: number }[];
  done: number;
}

export class HostTransfers {
  readonly #world: World;
  readonly #flights = new Map<number, Flight>();
  #lost = false;

  constructor(world: World) {
    this.#world = world;
  }

  get inFlight(): number {
    return this.#flights.size;
  }

  /**
   * What a plan begins and waits for, in the order of docs/abi.md; also when the step is then abandoned. False: it must be,
   * since what its batch was to read has not arrived.
   */
  begin(plan: StepPlan, random: Random): boolean {
    const { tally } = this.#world;
    this.#lost = false;
    const begun = this.#read(plan, random);
    for (const flight of begun) this.#flights.set(flight.id, flight);
    for (const out of [true, false])
      for (const flight of begun) if (flight.before && flight.out === out) this.#finish(flight, random);
    tally.waits += plan.transfers.filter(
      (word, i) => i % TRANSFER_WORDS === 0 && word === TransferOp.Wait,
    ).length;
    tally.lostSteps += Number(this.#lost);
    return !this.#lost;
  }

  /** Some blocks of some transfers move. */
  drift(random: Random, moves: number): void {
    for (; moves > 0 && this.#flights.size > 0; moves--)
      this.#move(random.pick([...this.#flights.values()]), random);
  }

  /** Everything in flight ends. */
  settle(random: Random): void {
    for (const flight of [...this.#flights.values()]) this.#finish(flight, random);
  }

  /** Waits at once; returns the transfers that begin. */
  #read(plan: StepPlan, random: Random): Flight[] {
    const { blockSize } = this.#world.shape.cache;
    const begun = new Map<number, Flight>();
    for (let i = 0; i < plan.transferCount; i++) {
      const record = plan.transfers.subarray(i * TRANSFER_WORDS, (i + 1) * TRANSFER_WORDS);
      const [op, , source, , target, tokens, mark, id] = record;
      if (op === TransferOp.Wait) {
        const flight = this.#flights.get(id);
        assert.ok(flight, "a plan waits for what is in flight");
        this.#finish(flight, random);
      }
      if (op !== TransferOp.SwapOut && op !== TransferOp.SwapIn) continue;
      assert.ok(!this.#flights.has(id), "an id names one transfer");
      const before = mark === TransferMark.Before;
      const flight = begun.get(id) ?? { id, out: op === TransferOp.SwapOut, before, blocks: [], done: 0 };
      begun.set(id, flight);
      for (let moved = 0, k = 0; moved < tokens; moved += blockSize, k++)
        flight.blocks.push({
          source: source + k,
          target: target + k,
          tokens: Math.min(blockSize, tokens - moved),
        });
    }
    return [...begun.values()];
  }

  #finish(flight: Flight, random: Random): void {
    while (this.#flights.has(flight.id)) this.#move(flight, random);
  }

  /** One block more arrives, or it does not and nothing behind it does. */
  #move(flight: Flight, random: Random): void {
    const { machine, shape } = this.#world;
    const { out, blocks, done } = flight;
    if (done === blocks.length) return this.#end(flight, random);
    const { source, target, tokens } = blocks[done];
    if (shape.transferFailures > 0 && random.below(shape.transferFailures) === 0) {
      machine.breakSwap(out, target);
      return this.#end(flight, random);
    }
    machine.swap(out, source, target, tokens);
    flight.done += 1;
  }

  #end({ id, out, blocks, done }: Flight, random: Random): void {
    const { systems, tally } = this.#world;
    this.#flights.delete(id);
    const us = random.below(3) === 0 ? 0 : 1 + random.below(30);
    this.#world.note(() => `transfer ${id} ${out ? "out" : "in"}: ${done} of ${blocks.length} blocks`);
    if (systems.call(({ scheduler }) => Number(scheduler.transferred(id, done, us))) === 1) this.#lost = true;
    assert.equal(
      systems.tryCall(({ scheduler }) => Number(scheduler.transferred(id, 0))),
      "NOT_FOUND",
    );
    if (done < blocks.length) tally.failedTransfers += 1;
    else tally[out ? "sent" : "loaded"] += 1;
    const tokens = blocks.slice(0, done).reduce((sum, { tokens }) => sum + tokens, 0);
    if (!out) this.#world.loaded(tokens, done === blocks.length);
  }
}
