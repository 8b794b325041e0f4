/** Whoever is outside: submits, aborts, hints, asks for too much, asks for nonsense. */
import assert from "node:assert/strict";
import type { PromptMarks, RequestOptions, StepPlan } from "../../../bindings/main.js";
import { ADVICE_KINDS } from "../../../bindings/block-order.js";
import type { Random } from "../../support/random.js";
import { answerTo } from "./answers.js";
import { drawMarks } from "./marks.js";
import { knownTokens, type Tracked } from "./requests.js";
import { drawQuota } from "./shape.js";
import type { World } from "./world.js";

/** The token store's pages. */
const PAGE_TOKENS = 256;

export class Clients {
  readonly #world: World;
  #structures = 0;

  constructor(world: World) {
    this.#world = world;
  }

  /** Between two steps. */
  act(random: Random): void {
    const { shape, outsiders, systems } = this.#world;
    for (let due = shape.load; due > 0; due -= 10) if (random.below(10) < due) this.#submit(random);
    if (shape.aborts > 0 && random.below(shape.aborts) === 0) this.#abort(random);
    if (shape.outsiders && random.below(3) === 0)
      outsiders.act(random, () => {
        const namespace = random.below(shape.namespaces);
        const tokens = this.#prompt(random, 30, namespace);
        return { tokens, namespace, marks: this.#marks(random, tokens.length) };
      });
    this.#world.archive?.act(random);
    this.#world.pins?.act(random);
    if (shape.turns) this.#world.conversations.act(random);
    if (shape.priorities && random.below(5) === 0) this.#prioritize(random);
    this.#world.transfers?.drift(random, random.below(3));
    if (random.below(8) === 0) this.#hint(random);
    if (shape.scheduler.maxDraftTokens > 0) this.#guess(random);
    if (random.below(120) === 0) systems.call(({ cache }) => cache.forget());
    if (random.below(200) === 0) this.#allocate(random);
    if (shape.quotas && random.below(80) === 0) this.#limit(random);
    if (random.below(60) === 0) this.#nonsense(random);
  }

  /** While a step is in flight. */
  interfere(random: Random, plan: StepPlan): void {
    const { shape, systems, nowUs } = this.#world;
    if (shape.aborts > 0 && random.below(shape.aborts) === 0)
      for (let count = 1 + random.below(2); count > 0; count--) this.#abort(random);
    if (random.below(12) === 0) this.#submit(random);
    if (shape.turns && random.below(4) === 0) this.#world.conversations.act(random);
    if (shape.priorities && random.below(12) === 0) this.#prioritize(random);
    this.#world.transfers?.drift(random, random.below(2));
    if (random.below(40) === 0) {
      assert.equal(
        systems.tryCall(({ scheduler }) => void scheduler.step(nowUs)),
        "STEP_IN_FLIGHT",
      );
      const { stepId } = plan;
      assert.equal(
        systems.tryCall(({ scheduler }) => scheduler.abandon(stepId + 1)),
        "UNKNOWN_STEP",
      );
    }
  }

  /** Prompts of a family begin alike. */
  #prompt(random: Random, longest: number, namespace: number): number[] {
    const { shape } = this.#world;
    const { vocabSize } = shape.scheduler;
    const family = random.below(shape.families);
    const length = 1 + random.below(longest);
    const alike = random.below(4) === 0 ? 0 : random.below(length + 1);
    return Array.from({ length }, (_, at) =>
      at < alike ? ((at + 1) * (family * 7 + 3) + namespace) % vocabSize : random.below(vocabSize),
    );
  }

  #marks(random: Random, promptTokens: number): PromptMarks {
    return this.#world.shape.marks && random.below(2) === 0 ? drawMarks(random, promptTokens) : {};
  }

  #submit(random: Random): void {
    const world = this.#world;
    const { shape, nowUs } = world;
    const namespace = random.below(shape.namespaces);
    const tokens = this.#prompt(random, shape.longestPrompt, namespace);
    const options = {
      tokens,
      maxNewTokens: 1 + random.below(shape.longestAnswer),
      namespace,
      tenant: random.below(3),
      priority: random.below(3),
      arrivalUs: random.below(3) === 0 ? nowUs + random.below(200) : 0,
      ...(random.below(3) === 0 && { deadlineUs: nowUs + 1 + random.below(8000) / 4 }),
      ...(random.below(4) === 0 && { maxChunkTokens: 1 + random.below(8) }),
      ...(random.below(3) === 0 && { id: 1 + random.below(12) }),
      ...(shape.turns && random.below(2) === 0 && { turns: true }),
      ...world.pins?.draw(random),
    } satisfies RequestOptions;
    const marks = this.#marks(random, tokens.length);
    const answered = world.systems.tryCall(({ scheduler }) => scheduler.submit({ ...options, ...marks }));
    // Whether a prompt's marks find room depends on which ones others share.
    if (answered !== "OUT_OF_SCOPES" || Object.keys(marks).length === 0)
      assert.equal(
        typeof answered === "string" ? answered : "",
        this.#refusal(options),
        "refused for the right reason",
      );
    if (typeof answered === "string") {
      world.tally.refused += 1;
      world.tally.quotaRefusals += Number(answered === "QUOTA_EXCEEDED");
      return;
    }
    const request: Tracked = {
      handle: answered,
      id: options.id,
      namespace,
      tenant: options.tenant,
      priority: options.priority,
      marks,
      pin: undefined,
      turns: options.turns ?? false,
      promptTokens: tokens.length,
      maxNewTokens: options.maxNewTokens,
      maxChunkTokens: options.maxChunkTokens ?? 0,
      deadlineUs: options.deadlineUs ?? Infinity,
      answer: answerTo(tokens, namespace, options.maxNewTokens, shape.scheduler.vocabSize, marks),
      arrivalUs: options.arrivalUs,
      order: 0,
      state: "arriving",
      generated: 0,
      computed: 0,
      joined: 0,
      preemptions: 0,
      cachedTokens: 0,
      sequence: 0,
      swapped: false,
      sent: 0,
      planned: false,
      admittedNow: false,
      aborted: false,
      drafts: [],
      overtakers: new Set(),
      patience: 0,
    };
    world.enter(request);
    world.pins?.asks(request, options.pin);
  }

  /** Why a request must be refused, "" if it must not. */
  #refusal({ tokens, maxNewTokens, id, tenant = 0 }: RequestOptions): string {
    const { shape, live } = this.#world;
    const pages = Math.floor(shape.scheduler.tokenCapacity / PAGE_TOKENS);
    const never = this.everFits(tenant, tokens.length + maxNewTokens);
    if (never !== "") return never;
    if (id !== undefined && [...live.values()].some((request) => request.id === id)) return "DUPLICATE_ID";
    if (live.size === shape.scheduler.maxRequests) return "OUT_OF_REQUESTS";
    return live.size === pages ? "OUT_OF_TOKENS" : "";
  }

  /** Why a request of so many tokens could never run, "" if it could. */
  everFits(tenant: number, total: number): string {
    const { blocks, maxSequenceTokens } = this.#world.shape.cache;
    if (total > maxSequenceTokens) return "TOO_LONG";
    const needed = this.#peakBlocks(total - 1);
    if (needed > blocks - (this.#world.pins?.limit ?? 0)) return "POOL_TOO_SMALL";
    return this.#world.shape.quotas && needed > this.#mostBlocks(tenant) ? "QUOTA_EXCEEDED" : "";
  }

  /** Most blocks that `tokens` tokens take in all groups, fed one by one. */
  #peakBlocks(tokens: number): number {
    const [own, ...groups] = this.#world.machine.groups;
    return groups.reduce(
      (sum, { kind, window, blockSize }) => {
        const all = Math.ceil(tokens / blockSize);
        const reach = kind === "window" ? window - 1 : 1;
        return sum + (kind === "full" ? all : Math.min(all, Math.ceil(reach / blockSize) + 1));
      },
      Math.ceil(tokens / own.blockSize),
    );
  }

  /** What a tenant may come to hold: no more than its ceiling, and than others' floors leave. */
  #mostBlocks(tenant: number): number {
    const { cache } = this.#world.systems.main;
    let most = cache.blocks;
    for (const other of [0, 1, 2, "common"] as const)
      if (other !== tenant) most -= cache.account(other).floor;
    return Math.min(most, cache.account(tenant).ceiling);
  }

  /** A tenant may have more from now on, or less. */
  #limit(random: Random): void {
    const { shape, systems } = this.#world;
    const quota = drawQuota(random, random.below(3), shape.cache.blocks);
    systems.call(({ cache }) => cache.setQuota(quota));
    this.#world.limited();
  }

  #abort(random: Random): void {
    const world = this.#world;
    if (world.live.size === 0) return;
    this.abort(random.pick([...world.live.values()]));
  }

  abort(request: Tracked): void {
    const answered = this.#world.systems.tryCall(({ scheduler }) => scheduler.abort(request.handle));
    assert.equal(answered, request.aborted ? "UNKNOWN_REQUEST" : 0);
    if (!request.aborted) this.#world.abort(request);
  }

  /** Somebody becomes more urgent, or less. */
  #prioritize(random: Random): void {
    const { live, systems, tally } = this.#world;
    if (live.size === 0) return;
    const request = random.pick([...live.values()]);
    const priority = random.below(4);
    const { handle } = request;
    const answered = systems.tryCall(({ scheduler }) => scheduler.setPriority(handle, priority));
    assert.equal(answered, request.aborted ? "UNKNOWN_REQUEST" : 0);
    if (request.aborted) return;
    request.priority = priority;
    tally.prioritized += 1;
  }

  /** Guesses what somebody will say next: rightly up to somewhere. */
  #guess(random: Random): void {
    const { systems, running, shape } = this.#world;
    const { maxDraftTokens, vocabSize } = shape.scheduler;
    for (const request of running) {
      if (random.below(2) === 0) continue;
      const known = knownTokens(request);
      const right = random.below(6);
      const tokens = Array.from({ length: random.below(6) }, (_, i) =>
        i < right ? request.answer.tokens[known + i] || 0 : random.below(vocabSize),
      );
      const decodes = request.generated > 0 && known - request.computed === 1;
      const recurrent = shape.cache.groups?.some(({ kind }) => kind === "recurrent") ?? false;
      const room =
        decodes && !recurrent ? Math.min(maxDraftTokens, request.maxNewTokens - request.generated - 1) : 0;
      const { handle } = request;
      const kept = systems.call(({ scheduler }) => scheduler.propose(handle, tokens));
      assert.equal(kept, Math.min(tokens.length, room), "as many as it can make use of");
      request.drafts = tokens.slice(0, kept);
    }
  }

  /** What an eviction order may be told. */
  #hint(random: Random): void {
    const { systems, running, nowUs } = this.#world;
    const order = systems.main.cache.evictionOrder;
    if (order === "priority") {
      systems.call(({ cache }) => cache.advance(nowUs));
      this.#world.pins?.settle(nowUs);
    }
    // Who has just been read back has no row yet that names its sequence.
    const named = running.filter(({ sequence }) => sequence !== 0);
    if (named.length === 0) return;
    const { sequence } = random.pick(named);
    const liveUntilUs = nowUs + random.below(300);
    const [priority, discard] = [random.below(101), random.below(2)];
    if (order === "priority")
      systems.call(({ cache }) =>
        cache.prioritize(sequence, { priority, liveUntilUs, priorityUntilUs: liveUntilUs }),
      );
    if (ADVICE_KINDS.includes(order))
      systems.call(({ cache }) => cache.advise(sequence, discard ? "discard" : "keep"));
    if (order === "scored") systems.call(({ cache }) => cache.score(sequence, [priority, discard]));
  }

  /** Asks the core for room: for more than there is, or a little, so that its memory grows under the scheduler's feet. */
  #allocate(random: Random): void {
    const { systems } = this.#world;
    const much = systems.tryCall(({ core }) => void core.orderedIndex({ capacity: 50_000_000 }));
    assert.equal(much, "OUT_OF_MEMORY");
    if (this.#structures++ >= 2) return;
    const capacity = 1 + random.below(3000);
    systems.call(({ core }) => void core.orderedIndex({ capacity }));
  }

  #nonsense(random: Random): void {
    const { shape, systems, live } = this.#world;
    const refused = (options: object): number | string =>
      systems.tryCall(({ scheduler }) => scheduler.submit({ tokens: [0], maxNewTokens: 1, ...options }));
    assert.equal(refused({ tokens: [] }), "EMPTY_PROMPT");
    // Blocks are looked at before tokens are: a tenant may be allowed none.
    const most = shape.quotas ? this.#mostBlocks(0) : Infinity;
    const words = this.#peakBlocks(2) > most ? "QUOTA_EXCEEDED" : "INVALID_TOKEN";
    assert.equal(refused({ tokens: [0, 4000] }), words);
    assert.equal(refused({ tenant: 3 }), "INVALID_ARGUMENT");
    assert.equal(refused({ arrivalUs: NaN }), "INVALID_TIME");
    let dead = random.below(2 ** 31);
    while (live.has(dead)) dead = random.below(2 ** 31);
    assert.equal(
      systems.tryCall(({ scheduler }) => scheduler.abort(dead)),
      "UNKNOWN_REQUEST",
    );
    assert.equal(
      systems.tryCall(({ scheduler }) => scheduler.abandon(0)),
      "UNKNOWN_STEP",
    );
  }
}
