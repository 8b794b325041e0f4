/**
 * Requests of several turns. Between two turns the host tier or the cache may keep what was computed, or nobody may; the next
 * one says what it would say to all of the text if it were new.
 */
import assert from "node:assert/strict";
import type { Random } from "../../support/random.js";
import { answerTo } from "./answers.js";
import { knownTokens, type Tracked } from "./requests.js";
import type { World } from "./world.js";

/**
 * Word of a host tier's header with the address of its requests' copies, and of a copy with what is in flight; bits of a
 * request's handle that are its slot.
 */
const COPY_OF = 8;
const COPY_OP = 4;
const SLOT_MASK = 0xfffff;

export class Conversations {
  /** Turns that have ended since the last plan: what is sent of them to a host tier is in the next one. */
  parked = 0;
  readonly #world: World;

  constructor(world: World) {
    this.#world = world;
  }

  get idle(): Tracked[] {
    return [...this.#world.live.values()].filter(({ state }) => state === "idle");
  }

  /** Some go on, some are given up. */
  act(random: Random): void {
    for (const request of this.idle) {
      if (random.below(5) !== 0) continue;
      if (random.below(6) === 0) this.#world.clients.abort(request);
      else this.#goOn(request, random);
    }
  }

  /** Nobody says anything more. */
  close(): void {
    for (const request of this.idle) this.#world.clients.abort(request);
  }

  /** The answer to a turn is complete. */
  pause(request: Tracked): void {
    request.state = "idle";
    request.sent = request.computed;
    request.computed = 0;
    request.sequence = 0;
    if (!this.#world.transfers) return;
    this.parked += 1;
    request.swapped = this.#onHost(request);
  }

  /** Whether a request's blocks are being sent to the host tier. */
  isOnItsWay(request: Tracked): boolean {
    const copy = this.#copyOf(request);
    return copy !== 0 && new Uint32Array(this.#world.systems.main.core.memory.buffer, copy)[COPY_OP] !== 0;
  }

  /** Whether the host tier has anything of a request, or is being sent it: no outcome of a turn says so. */
  #onHost(request: Tracked): boolean {
    return this.#copyOf(request) !== 0;
  }

  #copyOf({ handle }: Tracked): number {
    const { core, scheduler } = this.#world.systems.main;
    const tier = new Uint32Array(core.memory.buffer, core.exports.schedulerTier(scheduler.pointer) >>> 0);
    return new Uint32Array(core.memory.buffer, tier[COPY_OF])[handle & SLOT_MASK];
  }

  #goOn(request: Tracked, random: Random): void {
    const { shape, systems, clients, tally } = this.#world;
    const { vocabSize } = shape.scheduler;
    const { handle, answer, namespace, marks } = request;
    const known = knownTokens(request);
    const count = random.below(6);
    const said = Array.from({ length: count }, () => random.below(vocabSize));
    const maxNewTokens = 1 + random.below(Math.min(shape.longestAnswer, 12));
    const last = random.below(4) === 0;
    const expected =
      count === 0 ? "EMPTY_PROMPT" : clients.everFits(request.tenant, known + count + maxNewTokens);
    const answered = systems.tryCall(({ scheduler }) =>
      scheduler.nextTurn(handle, { tokens: said, maxNewTokens, last }),
    );
    assert.equal(
      typeof answered === "string" ? answered : "",
      expected,
      "a turn is refused for the right reason",
    );
    if (typeof answered === "string") {
      // It is still idle, and there is nothing left to say.
      if (expected !== "EMPTY_PROMPT") clients.abort(request);
      return;
    }
    const tokens = [...answer.tokens.subarray(0, known), ...said];
    request.promptTokens = tokens.length;
    request.maxNewTokens = maxNewTokens;
    request.answer = answerTo(tokens, namespace, maxNewTokens, vocabSize, marks);
    request.generated = 0;
    request.preemptions = 0;
    request.deadlineUs = Infinity;
    request.arrivalUs = 0;
    request.turns = !last;
    request.overtakers.clear();
    tally.turns += 1;
    this.#world.again(request);
  }
}
