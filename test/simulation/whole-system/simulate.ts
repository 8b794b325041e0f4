/**
 * Simulates the whole system from one seed: worlds one after the other, each some hundred steps long, a few of them thousands,
 * and then drained.
 * When one fails, steps are left out for as long as it still fails, and the error says how to run the rest again.
 */
import type { Build, CoreOptions } from "../../../bindings/main.js";
import { Random } from "../../support/random.js";
import { emptyTally, type Tally } from "./tally.js";
import { World } from "./world.js";

export interface Simulation {
  readonly seed: number;
  /** Steps in all, each world's drain not counted. */
  readonly steps: number;
  /** As for a world (world.ts). */
  readonly core?: CoreOptions;
  readonly build?: Build;
  readonly believesDamage?: boolean;
  readonly losesFiles?: boolean;
  /** Told the digest of every plan. */
  readonly onPlan?: (digest: string) => void;
  /** Whether to leave steps out of a world that fails. Default true. */
  readonly shrink?: boolean;
}

/** Runs of a failing world that may be spent on leaving steps out. */
const SHRINKING_RUNS = 150;

export class SimulationError extends Error {
  constructor(
    readonly seed: number,
    readonly world: number,
    /** Steps of the world that are left. */
    readonly steps: readonly number[],
    /** Steps that it had lived when it failed first. */
    readonly lived: number,
    cause: unknown,
    trace: readonly string[],
  ) {
    super(
      `${cause instanceof Error ? cause.message : String(cause)}\n` +
        `  seed ${seed}, world ${world}, step ${lived}; ${steps.length} steps are enough:\n` +
        `  QUARTERMASTER_WORLD=${seed}:${world}:${ranges(steps)} node scripts/run-tests.mjs whole-system\n` +
        trace
          .slice(-30)
          .map((line) => `    ${line}\n`)
          .join(""),
      { cause },
    );
  }
}

const seedOf = (seed: number, world: number): number =>
  Math.imul(seed, 0x9e3779b1) + Math.imul(world + 1, 0x7feb352d);

/** Runs a world through the given steps, and its drain. `lived` is told each step before it is taken. */
async function live(
  { seed, core, build, believesDamage, losesFiles, onPlan }: Simulation,
  world: number,
  steps: readonly number[],
  lived: (step: number) => void = () => {},
  traced?: (trace: readonly string[]) => void,
): Promise<Tally> {
  const made = await World.create(seedOf(seed, world), {
    core,
    build,
    believesDamage,
    losesFiles,
    traced: traced !== undefined,
  });
  made.onPlan = onPlan;
  traced?.(made.trace!);
  try {
    for (const step of steps) {
      lived(step);
      await made.step(step);
    }
    made.drain();
  } finally {
    await made.close();
  }
  return made.tally;
}

/** Steps of a world: of ten one lives long, so that whatever adds up slowly shows. */
function lifeOf(seed: number, world: number): number {
  const random = new Random(seedOf(~seed, world));
  return random.below(10) === 0 ? 1000 + random.below(4000) : 400 + random.below(400);
}

/** Runs the simulation; throws a SimulationError for the first world that fails. */
export async function simulate(simulation: Simulation): Promise<Tally> {
  const total = emptyTally();
  for (let world = 0, left = simulation.steps; left > 0; world++) {
    const life = Array.from({ length: Math.min(lifeOf(simulation.seed, world), left) }, (_, i) => i);
    left -= life.length;
    let last = 0;
    try {
      const tally = await live(simulation, world, life, (step) => (last = step));
      for (const name of Object.keys(total) as (keyof Tally)[]) total[name] += tally[name];
    } catch (error) {
      throw await explain(simulation, world, life.slice(0, last + 1), error);
    }
  }
  return total;
}

/** Replays what a SimulationError names: "seed:world:steps". */
export async function replayWorld(text: string, core?: CoreOptions): Promise<void> {
  const [seed, world, list = ""] = text.split(":");
  const steps = list.split(",").flatMap((range) => {
    const [first, last = first] = range.split("-").map(Number);
    return Array.from({ length: last - first + 1 }, (_, i) => first + i);
  });
  const simulation = { seed: Number(seed), steps: steps.length, core };
  let trace: readonly string[] = [];
  try {
    await live(simulation, Number(world), steps, undefined, (lines) => (trace = lines));
  } catch (error) {
    throw new SimulationError(Number(seed), Number(world), steps, steps.length, error, trace);
  }
}

async function explain(
  simulation: Simulation,
  world: number,
  life: readonly number[],
  error: unknown,
): Promise<SimulationError> {
  const steps = simulation.shrink === false ? life : await leaveOut(simulation, world, life);
  let trace: readonly string[] = [];
  try {
    await live(simulation, world, steps, undefined, (lines) => (trace = lines));
  } catch (again) {
    error = again;
  }
  return new SimulationError(simulation.seed, world, steps, life.length, error, trace);
}

/** Leaves out halves, quarters, ... of the steps while what is left fails ("delta debugging", Zeller 2002). */
async function leaveOut(
  simulation: Simulation,
  world: number,
  life: readonly number[],
): Promise<readonly number[]> {
  let steps = life;
  let runs = 0;
  for (
    let size = Math.ceil(steps.length / 2);
    size >= 1 && runs < SHRINKING_RUNS;
    size = Math.floor(size / 2)
  ) {
    for (let at = 0; at < steps.length && runs < SHRINKING_RUNS;) {
      const rest = [...steps.slice(0, at), ...steps.slice(at + size)];
      let failedAt = -1;
      runs += 1;
      try {
        await live(simulation, world, rest, (step) => (failedAt = step));
        at += size;
      } catch {
        steps = rest.slice(0, rest.indexOf(failedAt) + 1);
      }
    }
  }
  return steps;
}

/** 1, 2, 3, 7 as "1-3,7". */
function ranges(steps: readonly number[]): string {
  const parts: [number, number][] = [];
  for (const step of steps) {
    const last = parts.at(-1);
    if (last && last[1] === step - 1) last[1] = step;
    else parts.push([step, step]);
  }
  return parts.map(([first, last]) => (first === last ? `${first}` : `${first}-${last}`)).join(",");
}
