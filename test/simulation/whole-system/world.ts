/**
 * A world: the shipped scheduler and cache, a virtual machine that executes, a virtual clock, and clients who submit,
 * abort and break down at random. Everything follows from the seed; each step has a generator of its own, so that a run
 * with steps left out is a run as well. Whatever must hold is checked in every step.
 */
import assert from "node:assert/strict";
import {
  type Build,
  type CoreOptions,
  planDigest,
  type RequestId,
  type StepPlan,
} from "../../../bindings/main.js";
import { groupShapes } from "../../../bindings/cache-groups.js";
import { Random } from "../../support/random.js";
import { Accounts } from "./accounts.js";
import { Archive } from "./archive.js";
import { BlockRunPromises } from "./block-runs.js";
import { Clients } from "./clients.js";
import { Conversations } from "./conversations.js";
import { DiskStore } from "./disk-store.js";
import { execute } from "./execution.js";
import { HostTransfers } from "./host-transfers.js";
import { Line } from "./line.js";
import { Listener } from "./listener.js";
import { Outsiders } from "./outsiders.js";
import { Pins } from "./pins.js";
import { checkRow } from "./plan-row.js";
import { allTokens, knownTokens, type Tracked } from "./requests.js";
import { Rules } from "./rules.js";
import { drawShape, type WorldShape } from "./shape.js";
import { Systems } from "./systems.js";
import { emptyTally } from "./tally.js";
import { Urgency } from "./urgency.js";
import { VirtualMachine } from "./virtual-machine.js";

const TWIN_BUILDS = ["core", "core-scalar", "core-threads"] as const;

export interface WorldOptions {
  /** How to make cores of one thread: from another module, for instance. */
  readonly core?: CoreOptions;
  /** Default: the seed says it. */
  readonly build?: Build;
  /** Whether to keep a trace. */
  readonly traced?: boolean;
  /** A mistake of the host that must be noticed: it believes what its archive's checksums say is damaged. */
  readonly believesDamage?: boolean;
  /** Another one: files of its archive are missing after a crash. */
  readonly losesFiles?: boolean;
}

export class World {
  readonly shape: WorldShape;
  readonly systems: Systems;
  readonly machine: VirtualMachine;
  readonly outsiders: Outsiders;
  readonly clients: Clients;
  readonly conversations: Conversations;
  /** Stored prefixes, pins, and transfers of a host tier; undefined in worlds without. */
  readonly pins: Pins | undefined;
  readonly archive: Archive | undefined;
  readonly transfers: HostTransfers | undefined;
  readonly live = new Map<RequestId, Tracked>();
  readonly tally = emptyTally();
  /** In order of admission. */
  running: Tracked[] = [];
  /** Time of the last step. */
  nowUs = 0;
  /** What went on, when it is asked for. */
  readonly trace: string[] | undefined;
  readonly #seed: number;
  readonly #rules: Rules;
  readonly #line: Line;
  readonly #urgency: Urgency;
  readonly #accounts: Accounts;
  readonly #runs: BlockRunPromises | undefined;
  readonly #listener = new Listener();
  /** Told the digest of every plan. */
  onPlan: ((digest: string) => void) | undefined;
  #order = 0;
  #idle = false;
  /** Who waits while its blocks are being sent to the host tier: admitted now, it finds them where they were. */
  #onItsWay = new Set<Tracked>();
  #lastEnded: RequestId | undefined;

  private constructor(seed: number, shape: WorldShape, systems: Systems, traced: boolean) {
    this.#seed = seed;
    this.shape = shape;
    this.systems = systems;
    const { blocks, blockSize } = shape.cache;
    const hostBlocks = shape.scheduler.hostTier?.blocks ?? 0;
    // As they were asked for, whatever the core makes of it.
    const groups = groupShapes(shape.cache.groups ?? [], blockSize);
    this.machine = new VirtualMachine(blocks, blockSize, groups, hostBlocks);
    this.outsiders = new Outsiders(systems, this.machine, shape.scheduler.vocabSize);
    this.clients = new Clients(this);
    this.conversations = new Conversations(this);
    if (shape.cache.pins) this.pins = new Pins(this);
    if (shape.archive) this.archive = new Archive(this);
    if (shape.scheduler.hostTier) this.transfers = new HostTransfers(this);
    this.#rules = new Rules(shape);
    this.#line = new Line(this);
    this.#urgency = new Urgency(this);
    this.#accounts = new Accounts(this);
    if (shape.cache.blockRuns) this.#runs = new BlockRunPromises(this);
    if (shape.quotas) this.limited();
    if (traced) this.trace = [];
  }

  static async create(seed: number, options: WorldOptions = {}): Promise<World> {
    const { core = {}, build, traced = false, believesDamage = false, losesFiles = false } = options;
    const drawn = { ...drawShape(seed), believesDamage, losesFiles };
    const shape =
      build === undefined ? drawn : { ...drawn, build, cache: { ...drawn.cache, sharedProbe: false } };
    const world = new World(seed, shape, await Systems.create(shape, seed >>> 0, core), traced);
    if (shape.disk) world.archive!.disk = await DiskStore.create(losesFiles);
    return world;
  }

  /** Lets go of what it has outside the process. */
  async close(): Promise<void> {
    this.tally.crashes = this.archive?.disk?.crashes ?? 0;
    await this.archive?.disk?.close();
  }

  /** One step of the whole system, the `index`-th of its life. */
  async step(index: number): Promise<void> {
    const random = new Random(
      Math.imul(this.#seed ^ 0x5bd1e995, 0x9e3779b1) + Math.imul(index + 1, 0x85ebca6b),
    );
    await this.#snapshot(random);
    await this.archive?.exchange(random);
    this.clients.act(random);
    this.#clock(random);
    this.#serve(random);
  }

  /** Nobody comes any more: everybody who is here ends, and nothing is left. */
  drain(): void {
    const random = new Random(this.#seed);
    const { systems, outsiders } = this;
    for (const outsider of [...outsiders.open]) outsiders.close(outsider);
    this.archive?.close();
    let tokens = 0;
    for (const request of this.live.values()) tokens += allTokens(request);
    const most = (this.live.size + 2) * (tokens + 1) * (this.transfers ? 2 : 1) + 10;
    for (let steps = 0; ; steps++) {
      this.conversations.close();
      if (this.live.size === 0 && this.conversations.parked === 0) break;
      assert.ok(steps <= most, `${this.live.size} requests starve with nobody new coming`);
      this.#clock(undefined);
      this.#serve(random, true);
    }
    this.transfers?.settle(random);
    this.pins?.close();
    if (systems.hasTwin) systems.dropTwin(false);
    const { cache, core, scheduler } = systems.main;
    core.validate();
    assert.equal(cache.available, cache.blocks, "every block is available again");
    assert.deepEqual([scheduler.running, scheduler.waiting, scheduler.arriving], [0, 0, 0]);
    assert.equal(scheduler.nextWakeUs(), Infinity);
    const { submitted, finished, aborted, expired, rejected } = this.tally;
    assert.equal(finished + aborted + expired + rejected, submitted, "every request has one end");
    this.tally.comparedPlans = systems.compared;
    this.tally.copies = this.machine.copies;
    this.tally.runBlocks = this.#runs?.kept ?? 0;
    this.tally.drafted = scheduler.drafted.fed;
    this.tally.restoredCores = systems.replaced;
    this.tally.quotaRefusals += outsiders.quotaRefusals;
  }

  /** A request was accepted. */
  enter(request: Tracked): void {
    this.live.set(request.handle, request);
    this.tally.submitted += 1;
    request.order = ++this.#order;
    if (request.arrivalUs <= this.nowUs) this.#arrive(request);
    this.note(() => `submit ${request.handle}, ${request.promptTokens} + ${request.maxNewTokens} tokens`);
  }

  /** Its next turn was accepted. */
  again(request: Tracked): void {
    this.#arrive(request);
    this.note(() => `turn of ${request.handle}, ${request.promptTokens} + ${request.maxNewTokens} tokens`);
  }

  /** A request was aborted. */
  abort(request: Tracked): void {
    this.tally.aborted += 1;
    this.note(() => `abort ${request.handle}, ${request.state}${request.planned ? ", in flight" : ""}`);
    if (request.planned) {
      request.aborted = true;
      return;
    }
    this.pins?.forget(request);
    this.#leave(request);
    this.#end(request);
  }

  /** A tenant's quota was changed. */
  limited(): void {
    const { cache } = this.systems.main;
    this.outsiders.floors = [0, 1, 2].map((tenant) => cache.account(tenant).floor);
    this.#accounts.limited();
  }

  /**
   * A transfer from the host tier has ended, whose first `tokens` tokens have arrived, which are all that it was to read if it is
   * `whole`: its request runs.
   */
  loaded(tokens: number, whole: boolean): void {
    const { scheduler } = this.systems.main;
    const loading = [...this.live.values()].filter(({ state }) => state === "loading");
    for (const request of loading) {
      const state = scheduler.state(request.handle);
      if (this.#hasGroups && state !== "loading") this.#loadedWhole(request, whole);
      if (state !== "running") continue;
      const computed = scheduler.computed(request.handle);
      if (!this.#hasGroups)
        assert.equal(computed, request.computed + tokens, "what has arrived counts, and nothing else");
      assert.ok(request.joined === 0 || computed <= request.joined, "and no more than its row says");
      request.joined = 0;
      request.state = "running";
      request.computed = computed;
      this.running.push(request);
    }
  }

  /** In a cache with groups a request comes back whole, or is to be computed again. */
  #loadedWhole(request: Tracked, whole: boolean): void {
    const { scheduler } = this.systems.main;
    this.tally[whole ? "groupLoads" : "groupLosses"] += 1;
    request.swapped = false;
    if (whole) return assert.equal(scheduler.computed(request.handle), request.sent);
    assert.equal(scheduler.state(request.handle), "waiting");
    request.state = "waiting";
    request.joined = 0;
  }

  get #hasGroups(): boolean {
    return this.machine.groups.length > 1;
  }

  note(text: () => string): void {
    this.trace?.push(text());
  }

  async #snapshot(random: Random): Promise<void> {
    const { systems } = this;
    if (systems.hasTwin) {
      if (random.below(25) === 0) systems.dropTwin(random.below(2) === 0);
    } else if (random.below(200) === 0) {
      const other = random.pick(TWIN_BUILDS);
      // A cache that other threads may probe lives in shared memory only.
      const build = this.shape.cache.sharedProbe ? "core-threads" : other;
      this.note(() => `snapshot, restored in ${build}`);
      await systems.restoreTwin(build);
    }
  }

  /** Time passes; with nothing to do it goes on to the time at which the core wants to be woken. */
  #clock(random: Random | undefined): void {
    const wake = this.systems.call(({ scheduler }) => scheduler.nextWakeUs());
    let next = this.nowUs + (random?.below(24) ?? 3) / 2;
    if (this.#idle && (random === undefined || random.below(2) === 0)) {
      if (wake < Infinity) next = Math.max(next, wake);
    }
    this.nowUs = next;
  }

  #arrive(request: Tracked): void {
    request.state = "waiting";
    request.order = ++this.#order;
    this.#rules.arrival(request, this.live.values());
  }

  #arrivals(): void {
    const due = [...this.live.values()].filter(
      ({ state, arrivalUs }) => state === "arriving" && arrivalUs <= this.nowUs,
    );
    due.sort((a, b) => a.arrivalUs - b.arrivalUs || a.order - b.order);
    for (const request of due) this.#arrive(request);
    // One that came to run at once waits from the first step that sees it.
    for (const request of this.live.values())
      if (request.state === "waiting" && request.arrivalUs === 0) request.arrivalUs = this.nowUs;
  }

  #serve(random: Random, sure = false): void {
    const { systems, tally } = this;
    tally.steps += 1;
    this.#arrivals();
    this.#runs?.note();
    this.#line.note();
    this.#urgency.note(
      [...this.live.values()].filter((one) => one.state === "waiting" && !this.#overdue(one)),
    );
    this.pins?.settle();
    this.#onItsWay.clear();
    if (this.transfers)
      for (const one of this.live.values()) if (this.conversations.isOnItsWay(one)) this.#onItsWay.add(one);
    const plan = systems.step(this.nowUs);
    this.pins?.advanced(this.nowUs);
    this.pins?.settle();
    this.note(() => `step ${plan.stepId} at ${this.nowUs}: ${plan.rows} rows, ${plan.totalTokens} tokens`);
    this.onPlan?.(planDigest(plan, systems.main.scheduler.outcomes()));
    const preempted = this.#planned();
    this.#urgency.planned(preempted.size);
    tally.urgent += Number(this.#urgency.isDue);
    this.#runs?.planned(preempted.size > 0);
    const loading = this.#loading();
    this.#rows(plan, preempted.size > 0, loading);
    const whole = this.transfers?.begin(plan, random) ?? true;
    this.conversations.parked = 0;
    // Who has lost what its row was to read, in a cache with groups, has no blocks any more.
    if (whole || !this.#hasGroups) this.#accounts.planned(plan);
    if (!sure) this.clients.interfere(random, plan);
    const { failures } = this.shape;
    if (!whole || (!sure && failures > 0 && random.below(failures) === 0)) this.#abandon(plan, random);
    else this.#commit(plan);
    this.#idle = plan.rows === 0;
    if (sure) this.transfers?.drift(random, 8);
    this.#accounts.settled();
    if (this.shape.cache.events !== undefined && (sure || random.below(6) === 0)) this.#listener.listen(this);
    if (this.#lastEnded !== undefined) assert.equal(systems.main.scheduler.state(this.#lastEnded), "ended");
  }

  /** What planning has done to requests. */
  #planned(): Set<Tracked> {
    const preempted = new Set<Tracked>();
    for (const outcome of this.systems.outcomes()) {
      const { request: handle, kind, code, generated, preemptions } = outcome;
      const request = this.live.get(handle);
      assert.ok(request, `${kind}: ${handle} is live`);
      assert.equal(generated, request.generated);
      this.note(() => `${kind} ${handle}`);
      if (kind === "preempted") {
        preempted.add(request);
        this.#rules.preemption(request, this.running);
        this.tally.preempted += 1;
        request.preemptions += 1;
        request.swapped = outcome.swappedTokens > 0;
        request.sent = request.computed;
        this.#stop(request);
      } else {
        assert.equal(request.state, "waiting", `${kind}: only who waits`);
        if (kind === "expired") assert.ok(request.deadlineUs <= this.nowUs, "its deadline has come");
        else if (code === "QUEUE_TIMEOUT") assert.ok(this.#timedOut(request), "it has waited long enough");
        else {
          assert.ok(this.shape.quotas && ["QUOTA_EXCEEDED", "OUT_OF_BLOCKS"].includes(code!), code);
          this.tally.quotaRefusals += 1;
        }
        this.tally[kind === "expired" ? "expired" : "rejected"] += 1;
        this.pins?.told(request, outcome.pin, outcome.pinRefusal);
        this.#end(request);
      }
      assert.equal(preemptions, request.preemptions);
    }
    for (const request of this.live.values()) {
      if (request.state !== "waiting" || preempted.has(request)) continue;
      assert.ok(!this.#overdue(request), `${request.handle} is overdue`);
    }
    return preempted;
  }

  #overdue(request: Tracked): boolean {
    if (request.state !== "waiting") return false;
    return request.deadlineUs <= this.nowUs || this.#timedOut(request);
  }

  #timedOut({ arrivalUs, preemptions }: Tracked): boolean {
    const { queueTimeoutUs } = this.shape.scheduler;
    return queueTimeoutUs > 0 && preemptions === 0 && arrivalUs + queueTimeoutUs <= this.nowUs;
  }

  /** Requests whose reading back begins with this step. */
  #loading(): Tracked[] {
    if (!this.transfers) return [];
    const { scheduler } = this.systems.main;
    const begun = [...this.live.values()].filter(
      ({ state, handle }) => state === "waiting" && scheduler.state(handle) === "loading",
    );
    for (const request of begun) {
      assert.ok(request.swapped, "what is read back was sent");
      request.state = "loading";
      request.sequence = 0;
      request.computed = scheduler.computed(request.handle);
      if (request.preemptions === 0) request.cachedTokens = request.computed;
    }
    return begun;
  }

  /** Each row is right by itself, and nobody is missing. */
  #rows(plan: StepPlan, preempted: boolean, loading: readonly Tracked[]): void {
    const { scheduler } = this.shape;
    const admitted: Tracked[] = [];
    const decoding = this.running.filter((one) => one.generated > 0 && knownTokens(one) - one.computed === 1);
    for (let row = 0; row < plan.rows; row++) {
      const request = this.live.get(plan.requests[row]);
      assert.ok(request, `row ${row} is of a live request`);
      assert.ok(!request.planned, `${request.handle} has one row`);
      request.planned = true;
      if (request.state === "waiting") this.#admit(request, plan, row, admitted);
      if (request.sequence === 0) request.sequence = plan.sequences[row];
      assert.equal(plan.sequences[row], request.sequence);
      request.joined = request.state === "loading" ? plan.computedBefore[row] : 0;
      if (request.state === "loading") this.#joins(plan, row, request, loading);
      else {
        assert.equal(request.state, "running");
        checkRow(plan, row, request, decoding.includes(request), scheduler.maxChunkTokens);
      }
    }
    this.#joined(plan, loading);
    assert.ok(plan.totalTokens <= (scheduler.maxBatchTokens ?? 0), "the token budget holds");
    assert.ok(this.running.length <= scheduler.maxRunning);
    for (const request of decoding)
      assert.ok(request.planned || request.state === "waiting", "nobody who decodes waits");
    if (preempted) assert.equal(admitted.length + loading.length, 0, "a step preempts or admits");
    const waiting = [...this.live.values()].filter(({ state }) => state === "waiting");
    this.#rules.admissions(admitted, waiting);
    for (const one of loading) this.#rules.admissions([one], waiting);
    if (!preempted) this.#line.planned(plan, admitted, loading, waiting);
    // Under a quota it may be a pin that keeps the room, for as long as that has.
    const pinned = this.shape.quotas && this.pins && this.systems.main.scheduler.nextWakeUs() < Infinity;
    const stuck = plan.rows === 0 && waiting.length > 0 && this.#alone() && !preempted && !pinned;
    assert.ok(!stuck, "with an idle machine somebody who waits is served");
    if (plan.rows === 0) assert.equal(this.running.length, 0, "whoever runs gets on");
    this.tally.rows += plan.rows;
    if (plan.groups) this.tally.groupRows += plan.rows;
  }

  /** A row of a request whose reading back begins with this step, as if it had ended. */
  #joins(plan: StepPlan, row: number, request: Tracked, loading: readonly Tracked[]): void {
    assert.ok(loading.includes(request), "whoever is being read since an earlier step has no row");
    assert.ok(request.joined > request.computed, "something is read");
    const read = { ...request, computed: request.joined };
    checkRow(plan, row, read, false, this.shape.scheduler.maxChunkTokens);
  }

  /** Those who are read back have a row in this step, or have none, all of them; they have one if nobody else has. */
  #joined(plan: StepPlan, loading: readonly Tracked[]): void {
    const swapIn = this.shape.scheduler.hostTier?.swapIn;
    const rows = loading.filter(({ planned }) => planned).length;
    const none = swapIn === "async" || (swapIn === "adaptive" && rows === 0 && plan.rows > 0);
    assert.equal(rows, none ? 0 : loading.length, `${swapIn}: joins the batch`);
    assert.ok(plan.running >= plan.rows);
    this.tally.joined += rows;
  }

  /** Nobody but the scheduler's requests has blocks, and nothing is on its way. */
  #alone(): boolean {
    return this.outsiders.open.length + (this.archive?.open.length ?? 0) + this.#onTheWay() === 0;
  }

  /** Transfers in flight, and requests that wait for one. */
  #onTheWay(): number {
    const loading = [...this.live.values()].filter(({ state }) => state === "loading");
    return loading.length + (this.transfers?.inFlight ?? 0) + this.conversations.parked;
  }

  #admit(request: Tracked, plan: StepPlan, row: number, admitted: Tracked[]): void {
    const cached = plan.computedBefore[row];
    admitted.push(request);
    this.running.push(request);
    request.state = "running";
    request.sequence = plan.sequences[row];
    request.computed = cached;
    request.admittedNow = true;
    if (request.preemptions === 0) request.cachedTokens = cached;
    this.tally.cachedTokens += cached;
    if (this.#hasGroups && request.swapped) {
      // What is there is of use whole, and once.
      if (this.#onItsWay.has(request)) assert.equal(cached, request.sent, "its blocks are still there");
      else [request.swapped, this.tally.groupLosses] = [false, this.tally.groupLosses + 1];
    }
    if (!request.swapped) this.#accounts.lookedUp(knownTokens(request), cached);
  }

  #commit(plan: StepPlan): void {
    const { systems } = this;
    const { rows, results } = execute(plan, this.machine, this.live);
    const before = systems.outcomes().length;
    const pinned = systems.main.cache.pinned();
    const { stepId } = plan;
    systems.call(({ scheduler }) => scheduler.commit(stepId, this.nowUs, results));
    const ends = new Set<RequestId>();
    let sampled: Tracked | undefined;
    const pins = this.pins?.count ?? 0;
    for (const { request, computed, generated } of rows) {
      request.planned = request.admittedNow = false;
      request.drafts = [];
      request.computed += computed;
      if (request.aborted) {
        this.pins?.forget(request);
        this.#leave(request);
        this.#end(request);
        continue;
      }
      if (generated > 0 && this.pins?.asking === request) sampled = request;
      request.generated += generated;
      this.tally.draftedRight += Math.max(0, generated - 1);
      if (generated > 0 && request.generated === request.answer.generated) ends.add(request.handle);
    }
    const dropped = pins - (this.pins?.count ?? 0);
    if (sampled) this.pins?.sampled(sampled, this.nowUs, pinned, dropped);
    const finished = systems.outcomes().slice(before);
    assert.deepEqual(
      new Set(finished.map(({ request }) => request)),
      ends,
      "who has said all ends, and nobody else",
    );
    assert.equal(finished.length, ends.size, "once");
    for (const outcome of finished) {
      const request = this.live.get(outcome.request)!;
      assert.equal(outcome.kind, "finished");
      assert.deepEqual(
        [outcome.generated, outcome.cachedTokens, outcome.preemptions],
        [request.answer.generated, request.cachedTokens, request.preemptions],
      );
      this.note(() => `finished ${request.handle}`);
      this.pins?.told(request, outcome.pin, outcome.pinRefusal);
      this.#leave(request);
      if (request.turns) {
        this.conversations.pause(request);
        continue;
      }
      this.tally.finished += 1;
      this.#end(request);
    }
    const { outsiders, archive } = this.shape;
    if (!this.#alone() || outsiders || archive) return;
    this.#rules.executed(this.live.values());
    this.#line.executed([...this.live.values()].filter(({ state }) => state === "waiting"));
  }

  #abandon(plan: StepPlan, random: Random): void {
    this.tally.abandoned += 1;
    this.note(() => `step ${plan.stepId} is not executed`);
    this.machine.fail(plan, random);
    const { stepId } = plan;
    const rows = Array.from(plan.requests, (handle) => this.live.get(handle)!);
    this.systems.call(({ scheduler }) => scheduler.abandon(stepId));
    for (const request of rows.reverse()) {
      const admitted = request.admittedNow;
      request.planned = request.admittedNow = false;
      if (admitted && !request.swapped) this.#accounts.lookedUp(-knownTokens(request), -request.computed);
      if (admitted && this.#hasGroups) request.swapped = false;
      if (request.aborted) {
        this.pins?.forget(request);
        this.#leave(request);
        this.#end(request);
      } else if (admitted) this.#stop(request);
    }
  }

  /** It runs no more, and waits. */
  #stop(request: Tracked): void {
    this.#leave(request);
    request.state = "waiting";
    request.computed = 0;
    request.drafts = [];
  }

  #leave(request: Tracked): void {
    const at = this.running.indexOf(request);
    if (at >= 0) this.running.splice(at, 1);
  }

  #end(request: Tracked): void {
    this.live.delete(request.handle);
    this.#lastEnded = request.handle;
  }
}
