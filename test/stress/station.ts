/** What the threads of a stress run share, and how one of them takes part. */
import type { OrderedIndex } from "../../bindings/main.js";
import { Random } from "../support/random.js";

export type ScenarioName = "upserts" | "mixture" | "scans" | "counters" | "histories";

/** A run, as told to each of its threads. */
export interface Task {
  readonly scenario: ScenarioName;
  readonly workers: number;
  /** Rounds, or thousands of calls a worker: how much there is to do. */
  readonly rounds: number;
  readonly keys: number;
  readonly seed: number;
  /** Where threads meet, the clock, and how far each has come. */
  readonly board: Int32Array;
  /** Accounts; each scenario says what is in it. */
  readonly ledger: Int32Array;
}

/** Counts that a run reports. */
export type Figures = Record<string, number>;

const BOARD = { Arrived: 0, Meetings: 1, Time: 2, Progress: 16 } as const;
/** Threads count their progress on a cache line each. */
const LINE = 16;
/** Turns a thread spins at a meeting before it sleeps: who wakes from sleep comes too late to collide. */
const MEETING_SPINS = 3000;

export function newBoard(workers: number): Int32Array {
  return new Int32Array(new SharedArrayBuffer((BOARD.Progress + workers * LINE) * 4));
}

/** Steps that each thread has made. */
export function progressOf({ board, workers }: Pick<Task, "board" | "workers">): number[] {
  return Array.from({ length: workers }, (_, me) => Atomics.load(board, BOARD.Progress + me * LINE));
}

/** One thread's place in a run. */
export class Station {
  readonly random: Random;

  constructor(
    readonly task: Task,
    readonly index: OrderedIndex,
    readonly me: number,
  ) {
    this.random = new Random(task.seed * 64 + me);
  }

  /** Says that this thread moves. */
  step(): void {
    Atomics.add(this.task.board, BOARD.Progress + this.me * LINE, 1);
  }

  /** The next moment of the run's own time. */
  tick(): number {
    return Atomics.add(this.task.board, BOARD.Time, 1);
  }

  /** Returns when all threads are here. */
  meet(): void {
    const { board, workers } = this.task;
    this.step();
    const meeting = Atomics.load(board, BOARD.Meetings);
    if (Atomics.add(board, BOARD.Arrived, 1) + 1 === workers) {
      Atomics.store(board, BOARD.Arrived, 0);
      Atomics.add(board, BOARD.Meetings, 1);
      Atomics.notify(board, BOARD.Meetings);
      return;
    }
    for (let turn = 0; turn < MEETING_SPINS; turn++)
      if (Atomics.load(board, BOARD.Meetings) !== meeting) return;
    while (Atomics.load(board, BOARD.Meetings) === meeting)
      Atomics.wait(board, BOARD.Meetings, meeting, 1000);
  }

  /** Lets one thread look at everything while the others stand still. */
  whileAllWait(check: () => void): void {
    this.meet();
    if (this.me === 0) check();
    this.meet();
  }

  /** The numbers 1 to `count` in an order of this thread's own. */
  shuffled(count: number): number[] {
    const order = Array.from({ length: count }, (_, i) => i + 1);
    for (let i = count - 1; i > 0; i--) {
      const j = this.random.below(i + 1);
      [order[i], order[j]] = [order[j], order[i]];
    }
    return order;
  }
}
