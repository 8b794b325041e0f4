/**
 * Logical threads: instances of one instrumented module over one memory, run by turns on one real thread. A
 * thread runs until the schedule switches away from it at a yield point; then its stack is unwound, and rewound
 * when its turn comes again.
 */

/** One call of an export. */
export interface Call {
  readonly name: string;
  readonly args: readonly (number | bigint)[];
}

/** What a finished call returned, and when it began and ended in the order of all such moments. */
export interface Event {
  readonly thread: number;
  readonly call: Call;
  readonly result: number | bigint | undefined;
  readonly start: number;
  readonly end: number;
  /** What `Scenario.observe` read off the memory right after the call. */
  readonly observed?: unknown;
}

type Exported = (...args: (number | bigint)[]) => number | bigint | undefined;
type Exports = Readonly<Record<string, Exported>>;

/** Bytes of unwound stack a thread. */
const STACK_BYTES = 16384;

/** Accesses of one word in a row, its value unchanged, after which a thread counts as waiting for it. */
const SPIN = 5;
/** Accesses of words that nobody shares, in one schedule, after which a thread counts as lost in a loop. */
const MAX_PRIVATE = 1_000_000;

export const enum State {
  Ready,
  /** Waits until the word it spins on changes. */
  Waiting,
  Finished,
}

export class LogicalThread {
  state = State.Ready;
  /** Asked at every yield point: whether to switch away. */
  onYield: () => boolean = () => false;
  /** Addresses that other threads may use too; at others there is nothing to decide. */
  isShared: (address: number) => boolean = () => true;
  /** Whether a thread that finds this value there again and again may be waiting for another one. */
  mayWait: (address: number, value: bigint) => boolean = () => true;
  readonly exports: Exports;
  readonly #memory: WebAssembly.Memory;
  readonly #data: number;
  #words: BigUint64Array;
  #calls: readonly Call[] = [];
  #next = 0;
  #start = -1;
  #suspended = false;
  #rewinding = false;
  #spinAddress = -1;
  #spinValue = 0n;
  #spins = 0;
  #privateAccesses = 0;

  constructor(module: WebAssembly.Module, memory: WebAssembly.Memory, data: number) {
    this.#memory = memory;
    this.#words = new BigUint64Array(memory.buffer);
    this.#data = data;
    const yieldPoint = (address: number): void => this.#yieldAt(address >>> 0);
    const park = (address: number): void => this.#yieldAt(address >>> 0);
    const instance = new WebAssembly.Instance(module, { env: { memory, yieldPoint, park } });
    this.exports = instance.exports as unknown as Exports;
    const header = new Uint32Array(memory.buffer, data, 2);
    header.set([data + 8, data + STACK_BYTES]);
  }

  /** Bytes of memory that a thread's unwound stack takes. */
  static readonly stackBytes = STACK_BYTES;

  begin(calls: readonly Call[]): void {
    this.#calls = calls;
    this.#next = 0;
    this.#start = -1;
    this.#suspended = false;
    this.#spins = 0;
    this.#spinAddress = -1;
    this.#privateAccesses = 0;
    this.state = calls.length === 0 ? State.Finished : State.Ready;
    new Uint32Array(this.#memory.buffer, this.#data, 1)[0] = this.#data + 8;
  }

  /** Whether the word that the thread waits for has changed; if so it is ready again. */
  wakes(): boolean {
    if (this.state !== State.Waiting || this.#words[this.#spinAddress >>> 3] === this.#spinValue)
      return false;
    this.state = State.Ready;
    this.#spins = 0;
    return true;
  }

  /** Runs until the schedule switches away or all calls have returned. `now` gives the moments of events. */
  run(now: () => number, finished: (event: Omit<Event, "thread">) => void): void {
    for (;;) {
      const call = this.#calls[this.#next];
      if (this.#start < 0) this.#start = now();
      if (this.#suspended) {
        this.#suspended = false;
        this.#rewinding = true;
        this.exports.asyncify_start_rewind(this.#data);
      }
      const result = this.exports[call.name](...call.args);
      if (this.#suspended) {
        this.exports.asyncify_stop_unwind();
        return;
      }
      finished({ call, result, start: this.#start, end: now() });
      this.#start = -1;
      this.#next += 1;
      if (this.#next === this.#calls.length) {
        this.state = State.Finished;
        return;
      }
    }
  }

  #yieldAt(address: number): void {
    if (this.#rewinding) {
      this.#rewinding = false;
      this.exports.asyncify_stop_rewind();
      return;
    }
    if (!this.isShared(address)) {
      this.#privateAccesses += 1;
      if (this.#privateAccesses > MAX_PRIVATE) throw new Error("livelock: a thread runs on and on");
      return;
    }
    this.#countSpins(address);
    if (!this.onYield()) return;
    this.#suspended = true;
    this.exports.asyncify_start_unwind(this.#data);
  }

  #countSpins(address: number): void {
    const value = this.#words[address >>> 3];
    if (address !== this.#spinAddress || value !== this.#spinValue) {
      this.#spinAddress = address;
      this.#spinValue = value;
      this.#spins = 0;
    }
    this.#spins += 1;
    if (this.#spins >= SPIN && this.mayWait(address, value)) this.state = State.Waiting;
  }
}
