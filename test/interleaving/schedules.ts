/**
 * Every schedule of a scenario within a bound on preemptive switches, depth first.
 *
 * A schedule is the list of its switches: at step s go on with thread t. Between these a thread runs on; when it
 * finishes or waits, the next one is chosen, which is a switch without cost. A failing schedule is printed and
 * can be replayed.
 */
import { type Call, type Event, LogicalThread, State } from "./logical-threads.js";

export interface Outcome {
  readonly memory: WebAssembly.Memory;
  /** Calls in the order in which they returned. */
  readonly events: readonly Event[];
  /** Exports of an instance for checking: nothing yields in it. */
  readonly exports: LogicalThread["exports"];
}

export interface Scenario {
  /** Builds the starting state, once; all schedules start from a copy of it. */
  setup(exports: LogicalThread["exports"], memory: WebAssembly.Memory): void;
  /** Called once for each thread's instance. */
  enter?(exports: LogicalThread["exports"]): void;
  readonly threads: readonly (readonly Call[])[];
  /** Addresses at which a switch can matter. Default: all. */
  isShared?(address: number): boolean;
  /** Whether a thread that finds this value there again and again may be waiting for another. Default: always. */
  mayWait?(address: number, value: bigint): boolean;
  /** Reads what a call left in memory, right after it returned. */
  observe?(event: Omit<Event, "thread">, memory: WebAssembly.Memory): unknown;
  /** Throws when the outcome is wrong. */
  check(outcome: Outcome): void;
}

/** One switch: at this step, to this thread. */
export interface Switch {
  readonly step: number;
  readonly to: number;
}

export interface Bounds {
  /** Most preemptive switches of a schedule. */
  preemptions: number;
  /** Schedules after which the search gives up; `exhausted` is then false. */
  maxSchedules?: number;
}

interface Run {
  /** Alternatives at steps behind the last decided switch. */
  readonly alternatives: readonly (Switch & { readonly preemptive: boolean })[];
}

const PAGE = 65536;
/** Yield points of one schedule after which it counts as livelocked. */
const MAX_STEPS = 100_000;

export class Checker {
  readonly #module: WebAssembly.Module;
  readonly #scenario: Scenario;
  readonly #memory: WebAssembly.Memory;
  readonly #image: Uint8Array;
  #entered!: Uint8Array;
  #threads: LogicalThread[] = [];
  #observer!: LogicalThread;

  /** @param bytes of a module from `instrument`. */
  constructor(bytes: BufferSource, scenario: Scenario) {
    this.#module = new WebAssembly.Module(bytes);
    this.#scenario = scenario;
    this.#memory = new WebAssembly.Memory({ initial: 16, maximum: 65536, shared: true });
    this.#makeThreads();
    scenario.setup(this.#observer.exports, this.#memory);
    this.#image = new Uint8Array(this.#memory.buffer, 0, this.#stacksAt).slice();
    this.#enterThreads();
  }

  /** Lets each thread say who it is; what that changed in memory belongs to the starting state. */
  #enterThreads(): void {
    const bytes = new Uint8Array(this.#memory.buffer, 0, this.#stacksAt);
    bytes.set(this.#image);
    for (const { exports } of this.#threads) this.#scenario.enter?.(exports);
    this.#entered = bytes.slice();
  }

  /** Stacks lie behind everything else. */
  get #stacksAt(): number {
    return 8 * PAGE;
  }

  #makeThreads(): void {
    const at = (i: number): number => this.#stacksAt + i * LogicalThread.stackBytes;
    const { threads } = this.#scenario;
    this.#threads = threads.map((_, i) => new LogicalThread(this.#module, this.#memory, at(i)));
    this.#observer = new LogicalThread(this.#module, this.#memory, at(threads.length));
  }

  /** Tries all schedules; throws an error that names the first failing one. */
  explore(bounds: Bounds): { schedules: number; exhausted: boolean } {
    const pending: { switches: Switch[]; preemptions: number }[] = [{ switches: [], preemptions: 0 }];
    let schedules = 0;
    for (let next = pending.pop(); next; next = pending.pop()) {
      if (schedules === bounds.maxSchedules) return { schedules, exhausted: false };
      schedules += 1;
      const { alternatives } = this.#runChecked(next.switches);
      for (const { step, to, preemptive } of alternatives) {
        const preemptions = next.preemptions + (preemptive ? 1 : 0);
        if (preemptions <= bounds.preemptions)
          pending.push({ switches: [...next.switches, { step, to }], preemptions });
      }
    }
    return { schedules, exhausted: true };
  }

  /** Runs exactly one schedule, as printed by a failure: "12>1 30>0". */
  replay(schedule: string): void {
    const switches = schedule
      .split(" ")
      .filter(Boolean)
      .map((word) => {
        const [step, to] = word.split(">").map(Number);
        return { step, to };
      });
    this.#runChecked(switches);
  }

  #runChecked(switches: readonly Switch[]): Run {
    try {
      return this.#run(switches);
    } catch (error) {
      // Threads that were left in the middle cannot be used again.
      this.#makeThreads();
      this.#enterThreads();
      const schedule = switches.map(({ step, to }) => `${step}>${to}`).join(" ");
      throw new Error(`schedule "${schedule}": ${(error as Error).message}`, { cause: error });
    }
  }

  #run(switches: readonly Switch[]): Run {
    new Uint8Array(this.#memory.buffer).set(this.#entered);
    const threads = this.#threads;
    threads.forEach((thread, i) => thread.begin(this.#scenario.threads[i]));
    const events: Event[] = [];
    const alternatives: (Switch & { preemptive: boolean })[] = [];
    let step = 0;
    let moment = 0;
    let decided = 0;
    let current = -1;
    let target = -1;
    const ready = (): number[] => {
      for (const thread of threads) thread.wakes();
      return threads.flatMap((thread, i) => (thread.state === State.Ready ? [i] : []));
    };
    /** The thread to go on with at this step, -1 if none can. */
    const choose = (): number => {
      const candidates = ready();
      const at = step++;
      if (at > MAX_STEPS) throw new Error("livelock: the threads run on and on");
      const goesOn = candidates.includes(current);
      let choice = goesOn ? current : (candidates[0] ?? -1);
      if (decided < switches.length && switches[decided].step === at) choice = switches[decided++].to;
      else if (decided === switches.length)
        for (const to of candidates)
          if (to !== choice) alternatives.push({ step: at, to, preemptive: goesOn });
      return choice;
    };
    for (const thread of threads) {
      thread.isShared = this.#scenario.isShared ?? (() => true);
      thread.mayWait = this.#scenario.mayWait ?? (() => true);
      thread.onYield = () => {
        target = choose();
        return target !== current;
      };
    }
    target = choose();
    while (target >= 0) {
      current = target;
      const running = threads[current];
      running.run(
        () => moment++,
        (event) => {
          const observed = this.#scenario.observe?.(event, this.#memory);
          events.push({ thread: current, ...event, observed });
        },
      );
      if (running.state === State.Finished) target = choose();
    }
    if (threads.some(({ state }) => state !== State.Finished))
      throw new Error("deadlock: every thread waits");
    this.#scenario.check({ memory: this.#memory, events, exports: this.#observer.exports });
    return { alternatives };
  }
}
