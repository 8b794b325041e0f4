/** The core under test and, now and then, a second one restored from its snapshot that must do exactly the same. */
import assert from "node:assert/strict";
import {
  type Build,
  Core,
  type CoreOptions,
  type KvCache,
  loadModule,
  QuartermasterError,
  type Scheduler,
  type StepPlan,
} from "../../../bindings/main.js";
import { outcomesDigest, planDigest } from "../../../bindings/plan-digest.js";
import type { WorldShape } from "./shape.js";

/** Little enough that asking for much is refused. */
const MAXIMUM_BYTES = 1 << 24;

export interface System {
  readonly core: Core;
  readonly cache: KvCache;
  readonly scheduler: Scheduler;
}

type Result<Value> = { value: Value; error?: undefined } | { value?: undefined; error: QuartermasterError };

const modules = new Map<Build, Promise<WebAssembly.Module>>();

/** How to make a core; a module that is given stands in for the one-thread builds. */
async function options(build: Build, given: CoreOptions): Promise<CoreOptions> {
  if (!modules.has(build)) modules.set(build, loadModule(build));
  const instantiate: CoreOptions["instantiate"] = (module, imports) =>
    Promise.resolve(new WebAssembly.Instance(module, imports).exports as never);
  const shipped = { build, module: await modules.get(build), maximumBytes: MAXIMUM_BYTES, instantiate };
  return build === "core-threads" ? shipped : { ...shipped, ...given };
}

function systemOf(core: Core): System {
  const [scheduler] = core.schedulers;
  return { core, cache: scheduler.cache, scheduler };
}

export class Systems {
  /** Plans compared, and restored cores gone on with. */
  compared = 0;
  replaced = 0;
  #main: System;
  #twin: System | undefined;
  readonly #given: CoreOptions;

  private constructor(main: System, given: CoreOptions) {
    this.#main = main;
    this.#given = given;
  }

  static async create(shape: WorldShape, seed: number, given: CoreOptions): Promise<Systems> {
    const core = await Core.create({ ...(await options(shape.build, given)), seed });
    const cache = core.kvCache(shape.cache);
    core.scheduler({ ...shape.scheduler, cache });
    return new Systems(systemOf(core), given);
  }

  get main(): System {
    return this.#main;
  }

  get hasTwin(): boolean {
    return this.#twin !== undefined;
  }

  /**
   * From now on a restored core gets every call as well; it is of another build, unless a module was given. Not beside a debug
   * build: that one checks itself after every call, and a check leaves behind what it has looked at last.
   */
  async restoreTwin(build: Build): Promise<void> {
    const bytes = this.#main.core.snapshot();
    const own = this.#main.core.build;
    const other = this.#given.module === undefined && own !== "debug" ? build : own;
    this.#twin = systemOf(await Core.restore(bytes, await options(other, this.#given)));
  }

  /** Ends the comparison; goes on with the restored core if asked. Both have the same bytes. */
  dropTwin(goOn: boolean): void {
    const twin = this.#twin!;
    this.#twin = undefined;
    const [bytes, again] = [this.#main, twin].map(({ core }) => core.snapshot());
    // Whoever reads the events of one of them changes what is left to read there.
    if (this.#main.cache.content === undefined)
      assert.equal(Buffer.compare(again, bytes), 0, "the same bytes in the end");
    if (!goOn) return;
    this.replaced += 1;
    this.#main = twin;
  }

  /** Calls both and compares: numbers, and what is refused. Throws what the call throws. */
  call<Value extends number | void>(run: (system: System) => Value): Value {
    const result = attempt(run, this.#main);
    if (this.#twin !== undefined) {
      const again = attempt(run, this.#twin);
      assert.equal(
        again.error?.code,
        result.error?.code,
        "the restored core refuses what the first one refuses",
      );
      assert.equal(again.value, result.value, "and returns what it returns");
    }
    if (result.error !== undefined) throw result.error;
    return result.value as Value;
  }

  /** As `call`, for calls that may be refused: returns the status by name, or the value. */
  tryCall(run: (system: System) => number | void): number | string {
    try {
      return this.call(run) ?? 0;
    } catch (error) {
      if (error instanceof QuartermasterError && error.code !== "POISONED") return error.code;
      throw error;
    }
  }

  step(nowUs: number): StepPlan {
    this.call(({ scheduler }) => void scheduler.step(nowUs));
    const plan = this.#main.scheduler.plan();
    if (this.#twin === undefined) return plan;
    const { scheduler } = this.#twin;
    const digest = planDigest(plan, this.#main.scheduler.outcomes());
    assert.equal(
      planDigest(scheduler.plan(), scheduler.outcomes()),
      digest,
      "the restored core makes the same plan",
    );
    this.compared += 1;
    return plan;
  }

  /** What has been done to requests; the same in both. */
  outcomes(): ReturnType<Scheduler["outcomes"]> {
    const outcomes = this.#main.scheduler.outcomes();
    if (this.#twin) assert.equal(outcomesDigest(this.#twin.scheduler.outcomes()), outcomesDigest(outcomes));
    return outcomes;
  }
}

/** Refusals are frequent, and where they come from is known: no traces of them. */
function attempt<Value>(run: (system: System) => Value, system: System): Result<Value> {
  const limit = Error.stackTraceLimit;
  Error.stackTraceLimit = 0;
  try {
    return { value: run(system) };
  } catch (error) {
    if (error instanceof QuartermasterError) return { error };
    throw error;
  } finally {
    Error.stackTraceLimit = limit;
  }
}
