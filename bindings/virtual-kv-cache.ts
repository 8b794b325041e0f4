/**
 * VirtualKVCache: a KV cache that kernels without block tables read as plain arrays, and whose memory still comes as
 * sequences grow: `VirtualMemory` with a back end that executes its plans.
 *
 *   const cache = new VirtualKVCache(core.virtualMemory(shape), backend);
 *   const slot = await cache.allocSlot(promptTokens);
 *   for (;;) {
 *     const { oom } = await cache.step(lengths);   // maps, and starts mapping ahead
 *     runKernels();                                // over backend's dense ranges
 *   }
 *
 * Linear memory of WebAssembly cannot be remapped: without native code use a `KvCache`, whose block tables need nothing
 * from the system. `BlockTableStore` puts that behind the same interface.
 */
import { QuartermasterError } from "./errors.js";
import { CHANGE_WORDS, type SharedPrefix, VirtualMemory } from "./virtual-memory.js";

/**
 * Executes map plans. Changes of one plan are in order; a plan is executed before the next one starts. One that fails leaves
 * ranges of which nobody knows what is mapped: there is none after it.
 */
export interface MapBackend {
  /** Executes a plan before it returns: kernels wait for it. */
  execute(plan: Uint32Array): void;
  /** Executes a plan on another thread. */
  executeAsync(plan: Uint32Array): Promise<void>;
  /** Gives the memory of KV blocks that nothing maps back to the system; they stay usable. */
  trim(blocks: Uint32Array): void;
}

/** What both layouts of a KV cache offer an engine that keeps one sequence a slot. */
export interface KVStore {
  /**
   * Slot for a sequence of `tokens` tokens, the first of which it may read where another slot has them. Throws
   * OUT_OF_SEQUENCES, OUT_OF_BLOCKS, TOO_LONG.
   */
  allocSlot(tokens: number, prefix?: SharedPrefix): Promise<number>;
  freeSlot(slot: number): Promise<void>;
  /** Makes room for `lengths` tokens, one a slot, 0 for inactive ones; `oom`: slots that got none. */
  step(lengths: ArrayLike<number>): Promise<StepMemory>;
  /** Lets `to` read the first `tokens` tokens of `from`; returns how many it can. */
  sharePrefix(from: number, to: number, tokens: number): Promise<number>;
  /** Blocks that can be had. */
  readonly freeBlocks: number;
  /** Gives memory that nobody uses back to the system; returns its blocks. */
  trim(): Promise<number>;
}

export interface StepMemory {
  /** Slots that keep their length, for want of memory: preempt them, or others. */
  readonly oom: readonly number[];
  /** Changes that the kernels had to wait for. */
  readonly changes: number;
}

export interface VirtualKVCacheOptions {
  /** Whether a freed slot gives its memory up at once. Default false: its next sequence finds it mapped. */
  unmapOnFree?: boolean;
}

export class VirtualKVCache implements KVStore {
  readonly memory: VirtualMemory;
  readonly #backend: MapBackend;
  readonly #unmapOnFree: boolean;
  /** The plan that is being executed beside the kernels. */
  #background: Promise<void> = Promise.resolve();
  /** Why a plan was not executed. */
  #failure: QuartermasterError | undefined;

  constructor(memory: VirtualMemory, backend: MapBackend, options: VirtualKVCacheOptions = {}) {
    this.memory = memory;
    this.#backend = backend;
    this.#unmapOnFree = options.unmapOnFree ?? false;
  }

  get freeBlocks(): number {
    return this.memory.freeBlocks;
  }

  async allocSlot(tokens: number, prefix?: SharedPrefix): Promise<number> {
    this.#requireMapped();
    const slot = this.memory.allocate(tokens, prefix);
    await this.#settle();
    return slot;
  }

  /** Between iterations only: kernels of the last one have read the slot. */
  async freeSlot(slot: number): Promise<void> {
    this.#requireMapped();
    this.memory.free(slot, this.#unmapOnFree);
    await this.#settle();
  }

  /**
   * Waits for what was mapped beside the last iteration, maps what is still missing, and starts to map for the next.
   * When it returns the kernels may run. Rejects as `VirtualMemory.step` throws, and with what the back end throws: then some
   * pages are not mapped that should be, and every later call rejects with POISONED.
   */
  async step(lengths: ArrayLike<number>): Promise<StepMemory> {
    await this.idle();
    const oom = this.memory.step(lengths);
    const plan = this.memory.takePlan();
    this.#execute(plan);
    this.memory.background();
    this.#start(this.memory.takePlan());
    return { oom, changes: plan.length / CHANGE_WORDS };
  }

  async sharePrefix(from: number, to: number, tokens: number): Promise<number> {
    this.#requireMapped();
    const shared = this.memory.sharePrefix(from, to, tokens);
    await this.#settle();
    return shared;
  }

  async trim(): Promise<number> {
    this.#requireMapped();
    this.memory.trim();
    await this.#settle();
    const blocks = this.memory.freeList();
    this.#backend.trim(blocks);
    return blocks.length;
  }

  /** Waits for the back end to have done all that was planned; rejects as `step` does. */
  async idle(): Promise<void> {
    await this.#background;
    this.#requireMapped();
  }

  /** Executes what a call between iterations has planned, after what is under way. */
  async #settle(): Promise<void> {
    const plan = this.memory.takePlan();
    await this.idle();
    this.#execute(plan);
  }

  #execute(plan: Uint32Array): void {
    if (plan.length === 0) return;
    try {
      this.#backend.execute(plan);
    } catch (error) {
      throw this.#failed(error);
    }
  }

  #start(plan: Uint32Array): void {
    if (plan.length === 0) return;
    this.#background = this.#backend.executeAsync(plan).catch((error: unknown) => {
      throw this.#failed(error);
    });
    // Whoever waits next is told; nobody may be waiting yet.
    this.#background.catch(() => undefined);
  }

  /** Ends the cache: what is mapped is no longer what the memory's tables say. Returns the error itself. */
  #failed(cause: unknown): unknown {
    const why = cause instanceof Error ? cause.message : String(cause);
    this.#failure = new QuartermasterError(
      "POISONED",
      `a map plan has failed (${why}): its ranges are undefined, make a new memory`,
      { cause },
    );
    return cause;
  }

  #requireMapped(): void {
    if (this.#failure) throw this.#failure;
  }
}
