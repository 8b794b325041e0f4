/**
 * Pins of cached prefixes: requests pin their prompts, a host pins what runs. Hard ones are found for as long as they live; soft
 * ones until their time comes or room runs out, and then the least worth goes first; nobody's pin is ended by anything else.
 */
import assert from "node:assert/strict";
import type { PinId, PromptMarks, RequestPin } from "../../../bindings/main.js";
import type { Random } from "../../support/random.js";
import { marksBefore, matched } from "./marks.js";
import type { Tracked } from "./requests.js";
import type { World } from "./world.js";

export interface Pin {
  readonly hard: boolean;
  readonly priority: number;
  readonly untilUs: number;
  readonly namespace: number;
  readonly marks: PromptMarks;
  /** What it keeps, in whole blocks of all groups. */
  readonly tokens: readonly number[];
  /** Unknown until the request that made it ends. */
  id: PinId | undefined;
}

const DEFAULT_PRIORITY = 35;

export class Pins {
  /** In the order in which they were made. */
  readonly #live: Pin[] = [];
  readonly #world: World;
  readonly #limit: number;
  readonly #capacity: number;
  #gaveWay = 0;
  /** A request whose prompt is to be pinned; one at a time, so that it can be told what has become of it. */
  #asking: { request: Tracked; pin: RequestPin } | undefined;

  constructor(world: World) {
    this.#world = world;
    const { blocks, pins } = world.shape.cache;
    const { share = 0, capacity = 0 } = pins as { share?: number; capacity?: number };
    this.#limit = Math.floor(blocks * share);
    this.#capacity = capacity;
  }

  /** Holds of blocks. */
  get holds(): number {
    return this.#live.reduce((sum, { tokens }) => sum + this.#blocksOf(tokens.length), 0);
  }

  get count(): number {
    return this.#live.length;
  }

  /** The request whose prompt is to be pinned. */
  get asking(): Tracked | undefined {
    return this.#asking?.request;
  }

  /** Blocks that hard pins may keep. */
  get limit(): number {
    return this.#limit;
  }

  /** When the first one ends. */
  get nextUs(): number {
    return Math.min(Infinity, ...this.#live.map(({ untilUs }) => untilUs));
  }

  /** What the next request may say of its prompt. */
  draw(random: Random): { pin?: RequestPin } {
    if (this.#asking !== undefined || random.below(3) !== 0) return {};
    const { hard, priority } = this.#kind(random);
    return { pin: { hard, priority, ...(random.below(3) !== 0 && { forUs: random.below(900) }) } };
  }

  asks(request: Tracked, pin: RequestPin | undefined): void {
    if (pin !== undefined) this.#asking = { request, pin };
  }

  /** It was aborted: what it has pinned ends, for nobody was told of it. */
  forget(request: Tracked): void {
    if (this.#asking?.request === request) this.#asking = undefined;
    const at = this.#live.findIndex((pin) => pin === request.pin && pin.id === undefined);
    if (at >= 0) this.#live.splice(at, 1);
  }

  act(random: Random): void {
    this.#giveWay();
    if (random.below(8) === 0) this.#pin(random);
    if (random.below(20) === 0) this.#unpin(random);
  }

  /** Time has come to `nowUs` in the core. */
  advanced(nowUs: number): void {
    for (let i = this.#live.length - 1; i >= 0; i--)
      if (this.#live[i].untilUs <= nowUs) {
        this.#ended(this.#live[i].id);
        this.#live.splice(i, 1);
      }
  }

  /** Room may have run out: soft pins have given way, those that are worth least. */
  settle(nowUs = -1): void {
    this.#giveWay();
    this.advanced(nowUs);
    const { pins, hard } = this.#world.systems.main.cache.pinned();
    assert.equal(
      pins,
      this.#live.length,
      "pins end with their time, or for want of room, or when they are told to",
    );
    assert.ok(hard <= this.#limit, "hard pins keep to their share");
    for (const pin of this.#live) this.#found(pin);
  }

  /** Those that have given way since it was last looked at. */
  #giveWay(): void {
    const { gaveWay } = this.#world.systems.main.cache.pinned();
    for (; this.#gaveWay < gaveWay; this.#gaveWay++) {
      const soft = this.#live.filter((pin) => !pin.hard);
      const least = Math.min(...soft.map(({ priority }) => priority));
      const victim = soft.find(({ priority }) => priority === least);
      assert.ok(victim, "a pin that gives way is soft");
      this.#ended(victim.id);
      this.#live.splice(this.#live.indexOf(victim), 1);
      this.#world.tally.yieldedPins += 1;
    }
  }

  /** The first token of the request that asks was sampled; `dropped` pins have ended since, for their requests were aborted. */
  sampled(request: Tracked, nowUs: number, before: { pins: number; hard: number }, dropped: number): void {
    const { pin } = this.#asking!;
    this.#asking = undefined;
    const { systems, tally } = this.#world;
    const whole = this.#pinnable(request, request.promptTokens);
    const made = systems.main.cache.pinned().pins - before.pins + dropped;
    const { hard = false, priority = DEFAULT_PRIORITY, forUs = Infinity } = pin;
    const full = before.pins === this.#capacity;
    if (made === 0) {
      // What its end has given back since may have been all of it that another could go on from.
      const most = request.promptTokens - (request.promptTokens % this.#world.shape.cache.blockSize);
      const over = hard && before.hard + this.#blocksOf(most) > this.#limit;
      assert.ok(!whole || full || over, "a prompt is pinned when it was asked for");
      request.pin = "refused";
      return;
    }
    assert.ok(made === 1 && whole !== 0 && !full);
    const tokens = [...request.answer.tokens.subarray(0, whole ?? 0)];
    const { namespace, marks } = request;
    request.pin = { hard, priority, untilUs: nowUs + forUs, namespace, marks, tokens, id: undefined };
    this.#live.push(request.pin);
    tally.pins += 1;
  }

  /** What an outcome says of a request's pin. */
  told(request: Tracked, id: PinId | undefined, refusal: string | undefined): void {
    const { pin } = request;
    request.pin = undefined;
    if (this.#asking?.request === request) this.#asking = undefined;
    assert.equal(id !== undefined, typeof pin === "object", "the outcome says whether its prompt was pinned");
    assert.equal(refusal !== undefined, pin === "refused");
    if (id === undefined) return;
    const live = this.#live.find((one) => one === pin);
    if (live) live.id = id;
    else this.#ended(id);
  }

  /** Nobody needs any of them. */
  close(): void {
    for (const { id } of this.#live) {
      assert.ok(id !== undefined, "whoever has ended has told");
      this.#world.systems.call(({ cache }) => cache.unpin(id));
    }
    this.#live.length = 0;
  }

  #kind(random: Random): { hard: boolean; priority: number } {
    // Whose soft pin gives way depends on the tenant where there are quotas.
    const hard = this.#world.shape.quotas || random.below(2) === 0;
    return { hard, priority: hard ? DEFAULT_PRIORITY : random.below(4) };
  }

  #pin(random: Random): void {
    const { systems, running, nowUs, tally } = this.#world;
    const able = running.filter(({ sequence }) => sequence !== 0);
    if (able.length === 0) return;
    const request = random.pick(able);
    const { sequence, computed, answer, namespace, marks } = request;
    const { hard, priority } = this.#kind(random);
    const untilUs = random.below(3) === 0 ? Infinity : nowUs + random.below(900);
    const { pins, hard: kept } = systems.main.cache.pinned();
    const whole = this.#pinnable(request, computed);
    if (whole === undefined) return;
    const id = systems.tryCall(({ cache }) => cache.pin(sequence, { hard, priority, untilUs }));
    if (whole === 0) assert.equal(id, "NOT_FOUND");
    else if (pins === this.#capacity) assert.equal(id, "PIN_LIMIT");
    else if (id === "PIN_LIMIT") assert.ok(hard && kept + this.#blocksOf(whole) > this.#limit);
    else assert.equal(typeof id, "number");
    if (typeof id === "string") return;
    const tokens = [...answer.tokens.subarray(0, whole)];
    this.#live.push({ hard, priority, untilUs, namespace, marks, tokens, id });
    tally.pins += 1;
  }

  #unpin(random: Random): void {
    const known = this.#live.filter(({ id }) => id !== undefined);
    if (known.length === 0) return;
    const pin = random.pick(known);
    this.#world.systems.call(({ cache }) => cache.unpin(pin.id!));
    this.#live.splice(this.#live.indexOf(pin), 1);
    this.#ended(pin.id);
  }

  #ended(id: PinId | undefined): void {
    if (id === undefined) return;
    assert.equal(
      this.#world.systems.tryCall(({ cache }) => cache.unpin(id)),
      "NOT_FOUND",
      "a pin ends once",
    );
  }

  /**
   * How many of a request's first tokens can be pinned: whole blocks, with groups as far as another could go on from them.
   * Undefined where there is no room for the marks to ask with.
   */
  #pinnable({ answer, namespace, marks }: Tracked, computed: number): number | undefined {
    const { shape, machine, systems } = this.#world;
    const { blockSize, prefixCache } = shape.cache;
    const whole = prefixCache ? computed - (computed % blockSize) : 0;
    if (machine.groups.length === 1) return whole;
    const tokens = [...answer.tokens.subarray(0, whole), 0];
    return matched(systems, tokens, namespace, marksBefore(marks, whole));
  }

  /** Blocks of a pin of so many tokens: in groups those that the next token needs. */
  #blocksOf(length: number): number {
    const [own, ...groups] = this.#world.machine.groups;
    return groups.reduce((sum, { kind, window, blockSize }) => {
      const reach = kind === "full" ? length : kind === "window" ? window - 1 : 1;
      return sum + Math.ceil(length / blockSize) - Math.floor(Math.max(0, length - reach) / blockSize);
    }, length / own.blockSize);
  }

  /** All of what is pinned would be found by whoever asks for it. */
  #found({ namespace, marks, tokens, hard }: Pin): void {
    const before = marksBefore(marks, tokens.length);
    const found = matched(this.#world.systems, [...tokens, 0], namespace, before);
    assert.ok(
      found === undefined || found >= tokens.length,
      `${found} of ${tokens.length} pinned tokens are cached${hard ? ", hard" : ""}`,
    );
  }
}
