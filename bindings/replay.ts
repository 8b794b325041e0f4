/** Replay: builds the core of a record (record.ts) again, gives it the same inputs, and compares what comes out. */
import { invalidArgument, QuartermasterError } from "./errors.js";
import type { StepPlan } from "./plan.js";
import { LanePlayer } from "./eviction/lane-record.js";
import { outcomesDigest, planDigest } from "./plan-digest.js";
import { createScheduler, RECORD_VERSION, type RecordLine, type SetupCoreOptions } from "./record.js";
import type { Scheduler } from "./scheduler.js";
import type { Outcome } from "./scheduler-options.js";

export interface ReplayOptions extends SetupCoreOptions {
  /** Called with each plan, after the comparison and before its results are entered. */
  onPlan?: (plan: StepPlan, step: ReplayedStep) => void;
  /** Stop once the step of this id has been planned. Default: go on to the end of the record. */
  untilStep?: number;
}

/** A step as it was planned again. */
export interface ReplayedStep {
  readonly stepId: number;
  readonly nowUs: number;
  /** What the plan did to requests. */
  readonly outcomes: Outcome[];
  readonly digest: string;
  readonly scheduler: Scheduler;
}

/** The first difference between the record and its replay. */
export interface ReplayMismatch {
  /** Line of the record, from 1. */
  readonly line: number;
  /** Step planned last before it, itself included; 0 = before the first. */
  readonly stepId: number;
  /** What differs: "plan", "outcomes", "request" or "lanes" (another handle), "step" (another id), or "refused". */
  readonly what: "plan" | "outcomes" | "request" | "lanes" | "step" | "refused";
  /** As recorded, and as replayed. */
  readonly recorded: string;
  readonly replayed: string;
}

export interface ReplayReport {
  /** Steps planned, up to and with the one that differs. */
  readonly steps: number;
  readonly requests: number;
  /** Undefined when everything came out as recorded. */
  readonly mismatch: ReplayMismatch | undefined;
}

/**
 * Replays the lines of a record and stops at the first difference. Throws INVALID_ARGUMENT for a line that is no line of
 * a record, and whatever creating the core throws.
 */
export async function replay(lines: Iterable<string>, options: ReplayOptions = {}): Promise<ReplayReport> {
  let player: Player | undefined;
  let number = 0;
  for (const text of lines) {
    number += 1;
    if (text.trim() === "") continue;
    const line = parseLine(text, number);
    if (player === undefined) {
      player = new Player(await createRecorded(line, number, options), options);
      continue;
    }
    if (player.play(line, number)) break;
  }
  if (player === undefined) throw invalidArgument("record", undefined, "lines, the first with a version");
  return player.report();
}

function parseLine(text: string, number: number): RecordLine {
  let line: unknown;
  try {
    line = JSON.parse(text);
  } catch {
    throw invalidArgument(`record, line ${number}`, text, "a line of JSON");
  }
  if (typeof line !== "object" || line === null)
    throw invalidArgument(`record, line ${number}`, text, "an object");
  const { submit, propose, turn, tokens, finished } = line as {
    submit?: { tokens?: unknown; id?: unknown } | null;
    propose?: unknown;
    turn?: unknown;
    tokens?: unknown;
    finished?: unknown;
  };
  if ((propose !== undefined || turn !== undefined) && !Array.isArray(tokens))
    throw invalidArgument(`record, line ${number}: tokens`, tokens, "an array");
  if (submit !== undefined) {
    if (!Array.isArray(submit?.tokens))
      throw invalidArgument(`record, line ${number}: submit.tokens`, submit, "an array");
    if (submit.id !== undefined && !/^\d{1,20}$/.test(String(submit.id)))
      throw invalidArgument(`record, line ${number}: submit.id`, submit.id, "a decimal number");
  }
  if (finished !== undefined && !Array.isArray(finished))
    throw invalidArgument(`record, line ${number}: finished`, finished, "an array");
  return line as RecordLine;
}

function createRecorded(line: RecordLine, number: number, options: ReplayOptions): Promise<Scheduler> {
  if (!("record" in line)) throw invalidArgument(`record, line ${number}`, line, '{"record": 1, ...} first');
  if (line.record !== RECORD_VERSION)
    throw invalidArgument(`record, line ${number}: version`, line.record, String(RECORD_VERSION));
  const { seed, cache, scheduler } = line;
  if (!/^\d{1,20}$/.test(seed))
    throw invalidArgument(`record, line ${number}: seed`, seed, "a decimal number");
  return createScheduler({ seed: BigInt(seed), cache, scheduler }, options);
}

class Player {
  readonly #scheduler: Scheduler;
  readonly #options: ReplayOptions;
  #steps = 0;
  #requests = 0;
  #lanes: LanePlayer | undefined;
  #stepId = 0;
  #mismatch: ReplayMismatch | undefined;
  #line = 0;

  constructor(scheduler: Scheduler, options: ReplayOptions) {
    this.#scheduler = scheduler;
    this.#options = options;
  }

  /** Plays one line; returns whether to stop. */
  play(line: RecordLine, number: number): boolean {
    this.#line = number;
    const trapped = "trapped" in line;
    try {
      this.#enter(line);
      if (trapped) this.#mismatch = undefined; // its line says nothing of what should have come out
      if (trapped) this.#compare("refused", "POISONED", "accepted");
    } catch (error) {
      if (!(error instanceof QuartermasterError)) throw error;
      if (error.argument === LINE) throw error;
      this.#compare("refused", trapped ? "POISONED" : "accepted", error.code);
      return true;
    }
    return this.#mismatch !== undefined || this.#stepId === this.#options.untilStep;
  }

  report(): ReplayReport {
    return { steps: this.#steps, requests: this.#requests, mismatch: this.#mismatch };
  }

  #enter(line: RecordLine): void {
    const scheduler = this.#scheduler;
    if ("submit" in line) {
      const { id, ...options } = line.submit;
      const request = scheduler.submit(id === undefined ? options : { ...options, id: BigInt(id) });
      this.#requests += 1;
      this.#compare("request", String(line.request), String(request));
    } else if ("lanes" in line) {
      const { lanes, ...start } = line;
      scheduler.lanes(lanes, start);
    } else if ("step" in line) {
      this.#step(line);
    } else if ("commit" in line) {
      const { samplingRows } = scheduler.plan();
      const finished = new Uint8Array(samplingRows);
      for (const row of line.finished ?? []) finished[row] = 1;
      const { accepted } = line;
      const results = { tokens: line.tokens, finished, ...(accepted && { accepted }) };
      scheduler.commit(line.commit, line.nowUs, results);
      this.#compare("outcomes", line.outcomes, outcomesDigest(scheduler.outcomes()));
    } else if ("propose" in line) {
      scheduler.propose(line.propose, line.tokens);
    } else if ("arena" in line) {
      const { core, cache } = scheduler;
      this.#lanes = new LanePlayer(core.laneArena({ ...line.arena, cache }));
    } else if ("lane" in line) {
      if (this.#lanes === undefined) throw invalidArgument(LINE, line, "lanes behind their arena");
      const [recorded, replayed] = this.#lanes.play(line);
      this.#compare("lanes", String(recorded), String(replayed));
    } else if ("abandon" in line) {
      scheduler.abandon(line.abandon);
    } else if ("abort" in line) {
      scheduler.abort(line.abort);
    } else if ("prioritize" in line) {
      scheduler.setPriority(line.prioritize, line.priority);
    } else if ("predict" in line) {
      scheduler.setPrediction(line.predict, line.tokens);
    } else if ("turn" in line) {
      const { turn, tokens, maxNewTokens, last } = line;
      scheduler.nextTurn(turn, { tokens, maxNewTokens, last });
    } else if ("transferred" in line) {
      scheduler.transferred(line.transferred, line.blocks, line.us);
    } else {
      const known =
        "submit, propose, lanes, step, commit, abandon, abort, prioritize, predict, transferred, turn, arena or lane";
      throw new QuartermasterError("INVALID_ARGUMENT", `record, line ${this.#line}: allowed: ${known}`, {
        argument: LINE,
        value: line,
        range: known,
      });
    }
  }

  #step(line: { step: number; id: number; plan: string }): void {
    const plan = this.#scheduler.step(line.step);
    const outcomes = this.#scheduler.outcomes();
    const digest = planDigest(plan, outcomes);
    this.#steps += 1;
    this.#stepId = plan.stepId;
    this.#compare("step", String(line.id), String(plan.stepId));
    this.#compare("plan", line.plan, digest);
    const { stepId } = plan;
    this.#options.onPlan?.(plan, { stepId, nowUs: line.step, outcomes, digest, scheduler: this.#scheduler });
  }

  /** Keeps the first difference. */
  #compare(what: ReplayMismatch["what"], recorded: string, replayed: string): void {
    if (recorded === replayed) return;
    this.#mismatch ??= { line: this.#line, stepId: this.#stepId, what, recorded, replayed };
  }
}

/** Argument of the error for a line that no record has. */
const LINE = "record line";
