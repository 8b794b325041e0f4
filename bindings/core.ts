/**
 * Core: one instance of the WebAssembly module over one memory, and the structures created in it.
 *
 * Runs unchanged in Node, Deno and browsers. Memory grows only when a structure is created, never inside a
 * step; every typed-array view handed out before a growth of a plain memory is stale afterwards.
 *
 * Longer than its neighbours because every structure is created here: only the core may make room in its memory.
 */
import { ORDER_KINDS } from "./block-order.js";
import { invalidArgument, QuartermasterError, requireInteger, statusError, subjectError } from "./errors.js";
import { FOLDED, LaneArena, type LaneArenaOptions } from "./eviction/lanes.js";
import { Selection, type SelectionOptions } from "./eviction/select.js";
import type { CoreExports } from "./exports.js";
import { FreeExtents, type FreeExtentsOptions } from "./free-extents.js";
import { KeyedPool, type KeyedPoolOptions } from "./keyed-pool.js";
import { KvCache } from "./kv-cache.js";
import { addOnsOf } from "./kv-cache-add-ons.js";
import { type KvCacheOptions } from "./kv-cache-options.js";
import { MemoryViews } from "./memory-views.js";
import {
  type Build,
  BUILDS,
  type HostImports,
  hostImports,
  instantiateRaw,
  loadModule,
  ordersLoads,
} from "./module.js";
import { OrderedIndex } from "./ordered-index.js";
import { INDEX_MODES, type OrderedIndexOptions, orderedIndexShape } from "./ordered-index-options.js";
import {
  EvictionOrder,
  ExpiryOrder,
  OrderedView,
  type OrderedViewOptions,
  TenantOrder,
  VIEW_CLASSES,
  ViewOrder,
} from "./ordered-view.js";
import { PageSet, type PageSetOptions } from "./page-set.js";
import { Scheduler } from "./scheduler.js";
import { type SchedulerOptions } from "./scheduler-options.js";
import { VirtualMemory, type VirtualMemoryOptions } from "./virtual-memory.js";

/** Layout version this binding was written for; the module's `abiVersion()` must be the same. */
export const ABI_VERSION = 3;

const PAGE = 65536;
const RegionKind = {
  Scratch: 1,
  OrderedIndex: 2,
  KvCache: 3,
  Scheduler: 4,
  OrderedView: 5,
  FreeExtents: 6,
  Selection: 7,
  Lanes: 9,
  PageSet: 10,
  KeyedPool: 13,
  VirtualMemory: 16,
} as const;

export interface CoreOptions {
  /** Which build to load. Default "core". */
  build?: Build;
  /** Compiled module to use instead of loading `build` from the package; `build` must say what it is. */
  module?: WebAssembly.Module;
  /** How to instantiate the module. Default: WebAssembly.instantiate. */
  instantiate?: (module: WebAssembly.Module, imports: HostImports) => Promise<CoreExports>;
  /** Bytes of a module to compile instead of loading `build` from the package. */
  bytes?: BufferSource;
  /**
   * Most memory the core may grow to, in bytes, 64 KiB to 4 GiB. Default 4 GiB (nothing is touched before it
   * is needed).
   */
  maximumBytes?: number;
  /**
   * Seed of every hash in the core, 0 <= seed < 2^64. Default 0; take a random one where users choose the
   * prompts.
   */
  seed?: bigint | number;
  /**
   * Instances that may use the core at the same time, this one included, 1 to 64: each has 64 KiB of scratch.
   * More than one needs build "core-threads". Default 1, and 8 in that build.
   */
  workers?: number;
}

/** What a worker needs to attach to a core; may be posted to it. */
export interface SharedCore {
  readonly build: Build;
  readonly module: WebAssembly.Module;
  readonly memory: WebAssembly.Memory;
}

export class Core {
  readonly build: Build;
  readonly module: WebAssembly.Module;
  readonly memory: WebAssembly.Memory;
  /** Raw exports of the module (docs/abi.md): for hosts that drive the core without these bindings. */
  readonly exports: CoreExports;
  /** Reads of the memory that outlive its growth. */
  readonly views: MemoryViews;
  /** Structures in order of creation; a restored core has those of the snapshot. */
  readonly orderedIndexes: OrderedIndex[] = [];
  readonly orderedViews: OrderedView[] = [];
  readonly freeExtentSets: FreeExtents[] = [];
  readonly kvCaches: KvCache[] = [];
  readonly schedulers: Scheduler[] = [];
  readonly selections: Selection[] = [];
  readonly pageSets: PageSet[] = [];
  readonly keyedPools: KeyedPool[] = [];
  readonly laneArenas: LaneArena[] = [];
  readonly virtualMemories: VirtualMemory[] = [];
  #poison: unknown = undefined;
  #closed = false;
  readonly #shared: boolean;
  #worker = 0;
  #scratchPointer = 0;
  #scratchBytes = 0;

  private constructor(
    build: Build,
    module: WebAssembly.Module,
    memory: WebAssembly.Memory,
    exports: CoreExports,
  ) {
    this.build = build;
    this.#shared = build === "core-threads";
    this.module = module;
    this.memory = memory;
    this.views = new MemoryViews(memory);
    this.exports = exports;
    if (exports.abiVersion() !== ABI_VERSION) {
      throw new QuartermasterError(
        "UNSUPPORTED",
        `module has ABI ${exports.abiVersion()}, binding ${ABI_VERSION}`,
      );
    }
  }

  /** Creates an empty core. */
  static async create(options: CoreOptions = {}): Promise<Core> {
    const seed = BigInt.asIntN(64, seedOf(options.seed));
    const core = await Core.#instantiate(options, PAGE);
    const shared = core.build === "core-threads";
    const workers = requireInteger(
      "workers",
      options.workers ?? (shared ? 8 : 1),
      1,
      shared ? MAX_WORKERS : 1,
    );
    core.call(() => core.exports.coreCreate(seed), "coreCreate");
    core.#worker = core.exports.coreAttach(ordersLoads() ? 1 : 0);
    core.#takeScratch(SCRATCH_BYTES * workers);
    return core;
  }

  /**
   * Attaches this thread to a core that another thread created: what `share()` returned there. The engine
   * thread alone creates structures, runs the scheduler and the KV cache; ordered indexes of mode "locked" and
   * "optimistic", and `probe` of a KV cache with `sharedProbe`, serve every thread. Throws OUT_OF_WORKERS.
   */
  static async attach(shared: SharedCore, options: Pick<CoreOptions, "instantiate"> = {}): Promise<Core> {
    const { build, module, memory } = shared ?? {};
    if (build !== "core-threads" || !(memory instanceof WebAssembly.Memory)) {
      throw invalidArgument("shared", shared, "what share() of a core of build core-threads returned");
    }
    const core = new Core(build, module, memory, await instantiate(options, module, memory));
    core.#adoptRegions();
    core.#worker = core.call(() => core.exports.coreAttach(ordersLoads() ? 1 : 0), "attach");
    if (core.#worker >= core.#scratchBytes / SCRATCH_BYTES) {
      core.exports.coreDetach(core.#worker);
      throw new QuartermasterError("OUT_OF_WORKERS", `attach: all ${core.#worker} workers are attached`);
    }
    return core;
  }

  /** What `Core.attach` in another thread needs. Throws UNSUPPORTED unless the build is "core-threads". */
  share(): SharedCore {
    this.requireUsable();
    if (this.build !== "core-threads") {
      throw new QuartermasterError("UNSUPPORTED", `share: build ${this.build} has no shared memory`);
    }
    return { build: this.build, module: this.module, memory: this.memory };
  }

  /** Id of this thread among those attached; the creator is 0. */
  get worker(): number {
    return this.#worker;
  }

  /**
   * Takes over after a worker that was terminated without `close()`; any attached thread may, once the worker makes
   * no further call. Its id is free again. When it died inside a call that locks, the locks stay held: the core is
   * poisoned for all, and this throws POISONED. A worker that died between two calls leaves nothing behind, nor does
   * one that was reading an index of mode "optimistic", unless writers had driven it to take locks.
   */
  detachWorker(worker: number): void {
    this.requireUsable();
    requireInteger("worker", worker, 0, MAX_WORKERS - 1);
    if (worker === this.#worker) throw invalidArgument("worker", worker, "another worker than this one");
    const { exports } = this;
    const shared = [
      ...this.orderedIndexes.map(({ pointer }) => pointer),
      ...this.kvCaches.map(({ pointer }) => exports.kvCacheProbeIndex(pointer) >>> 0).filter(Boolean),
    ];
    if (shared.some((index) => exports.orderedIndexInside(index, worker) !== 0)) {
      exports.corePoison();
      this.requireUsable();
    }
    this.call(() => exports.coreDetach(worker), `worker ${worker}`);
  }

  /**
   * Creates a core from the bytes of `snapshot()`, on any machine and in any build: same calls, same bytes
   * from there. Throws BAD_SNAPSHOT for bytes that are cut short, of another ABI version, or whose directory is damaged. Damage
   * inside a structure is not looked for: keep a checksum with bytes that may get some; `validate` finds what breaks an invariant.
   */
  static async restore(bytes: Uint8Array, options: CoreOptions = {}): Promise<Core> {
    if (!(bytes instanceof Uint8Array) || bytes.length < PAGE / 64) {
      throw new QuartermasterError("BAD_SNAPSHOT", "a snapshot is a Uint8Array of at least 1024 bytes");
    }
    const core = await Core.#instantiate(options, bytes.length);
    new Uint8Array(core.memory.buffer).set(bytes);
    core.call(() => core.exports.coreAdopt(), "snapshot");
    core.#worker = core.exports.coreAttach(ordersLoads() ? 1 : 0);
    core.#adoptRegions();
    return core;
  }

  static async #instantiate(options: CoreOptions, bytes: number): Promise<Core> {
    const build = options.build ?? "core";
    if (!BUILDS.includes(build)) throw invalidArgument("build", build, BUILDS.join(", "));
    const maximum = options.maximumBytes ?? 65536 * PAGE;
    requireInteger("maximumBytes", maximum, PAGE, 65536 * PAGE);
    const module =
      options.module ?? (options.bytes ? await WebAssembly.compile(options.bytes) : await loadModule(build));
    const initial = Math.ceil(bytes / PAGE);
    // A shared memory must declare its maximum; 65536 pages are what the module declares too.
    const memory =
      build === "core-threads"
        ? new WebAssembly.Memory({ initial, maximum: Math.floor(maximum / PAGE), shared: true })
        : new WebAssembly.Memory({ initial, maximum: Math.floor(maximum / PAGE) });
    return new Core(build, module, memory, await instantiate(options, module, memory));
  }

  /**
   * The whole state as bytes: `Core.restore` continues from it exactly. Copies; no other worker may be in a
   * changing call meanwhile.
   */
  snapshot(): Uint8Array {
    this.requireUsable();
    const length = this.exports.coreTop();
    const bytes = new Uint8Array(length);
    bytes.set(new Uint8Array(this.memory.buffer, 0, length));
    return bytes.fill(0, WORKERS_AT, WORKERS_AT + 16);
  }

  /** An ordered map from u64 keys to u64 or u32 values. */
  orderedIndex(options: OrderedIndexOptions): OrderedIndex {
    const { exports } = this;
    const shape = orderedIndexShape(options);
    const { nodeBytes, valueBytes, mode } = shape;
    if (mode !== "private" && this.build !== "core-threads") {
      throw invalidArgument("mode", mode, `"private" in build ${this.build}; others need core-threads`);
    }
    const bits = Math.log2(
      shape.keysPerPromotion ?? 2 ** exports.orderedIndexDigitBits(nodeBytes, valueBytes),
    );
    const nodes = exports.orderedIndexNodesFor(shape.capacity, nodeBytes, valueBytes, bits);
    const concurrency = INDEX_MODES.indexOf(mode);
    this.#makeRoom(
      exports.orderedIndexBytes(nodes, nodeBytes, valueBytes, bits, concurrency),
      "orderedIndex",
    );
    this.call(
      () => exports.orderedIndexCreate(nodes, nodeBytes, valueBytes, bits, concurrency),
      "orderedIndex",
    );
    const index = new OrderedIndex(this, this.#lastPointer());
    this.orderedIndexes.push(index);
    return index;
  }

  /** Ids in the order of a u64 of the caller's own. */
  viewOrder(options: OrderedViewOptions): ViewOrder {
    return this.#orderedView(ViewOrder, options);
  }

  /** Ids in the order of their deadlines. */
  expiryOrder(options: OrderedViewOptions): ExpiryOrder {
    return this.#orderedView(ExpiryOrder, options);
  }

  /** Ids in the order in which they are to be evicted. */
  evictionOrder(options: OrderedViewOptions): EvictionOrder {
    return this.#orderedView(EvictionOrder, options);
  }

  /** Ids in eviction order, tenant by tenant. */
  tenantOrder(options: OrderedViewOptions): TenantOrder {
    return this.#orderedView(TenantOrder, options);
  }

  /** Which runs of a pool's blocks are free; at first all are. */
  freeExtents(options: FreeExtentsOptions): FreeExtents {
    const { blocks } = FreeExtents.shape(options);
    this.#makeRoom(this.exports.freeExtentsBytes(blocks), "freeExtents");
    this.call(() => this.exports.freeExtentsCreate(blocks), "freeExtents");
    const extents = new FreeExtents(this, this.#lastPointer());
    this.freeExtentSets.push(extents);
    return extents;
  }

  /** Room for the lanes of sequences of a cache of this core. */
  laneArena(options: LaneArenaOptions): LaneArena {
    const { exports } = this;
    if (!this.kvCaches.includes(options?.cache))
      throw invalidArgument("cache", options?.cache, "a KvCache of this core");
    const shape = LaneArena.shape(options);
    const { cache, layers, kvHeads, capacity, sequences, moveCapacity } = shape;
    const planes = shape.planes + (shape.folded ? FOLDED : 0);
    this.#makeRoom(
      exports.lanesBytes(layers, kvHeads, capacity, planes, sequences, moveCapacity),
      "laneArena",
    );
    this.call(
      () => exports.lanesCreate(cache.pointer, layers, kvHeads, capacity, planes, sequences, moveCapacity),
      "laneArena",
    );
    const arena = new LaneArena(this, this.#lastPointer(), cache);
    this.laneArenas.push(arena);
    return arena;
  }

  /** Room to choose slots and to add attention statistics up in. */
  selection(options: SelectionOptions): Selection {
    const { capacity, floats } = Selection.shape(options);
    this.#makeRoom(this.exports.selectionBytes(capacity, floats), "selection");
    this.call(() => this.exports.selectionCreate(capacity, floats), "selection");
    const selection = new Selection(this, this.#lastPointer());
    this.selections.push(selection);
    return selection;
  }

  /** A block pool with prefix index and block tables. */
  kvCache(options: KvCacheOptions): KvCache {
    const { exports } = this;
    const shape = KvCache.shape(options);
    if (shape.sharedProbe && this.build !== "core-threads") {
      throw invalidArgument("sharedProbe", true, `false in build ${this.build}; it needs core-threads`);
    }
    const bytes = exports.kvCacheBytes(
      shape.blocks,
      shape.blockSize,
      shape.maxSequences,
      shape.maxSequenceTokens,
      shape.sharedProbe ? 1 : 0,
    );
    const order = shape.evictionOrder;
    const orderBytes =
      order.kind === "lru"
        ? 0
        : exports.kvOrderBytes(shape.blocks, ORDER_KINDS.indexOf(order.kind), order.history);
    const addOns = addOnsOf(this, shape);
    const regions = 1 + Number(orderBytes > 0) + addOns.length;
    if (exports.coreRegions() > MAX_REGIONS - regions) {
      throw statusError(-2, `kvCache with its order and add-ons needs ${regions} regions`);
    }
    const addOnBytes = addOns.reduce((sum, addOn) => sum + exports.coreCost(addOn.bytes), 0);
    this.#makeRoom(exports.coreCost(bytes) + addOnBytes + orderBytes, "kvCache");
    return this.#whole(() => {
      this.call(
        () =>
          exports.kvCacheCreate(
            shape.blocks,
            shape.blockSize,
            shape.maxSequences,
            shape.maxSequenceTokens,
            shape.prefixCache ? 1 : 0,
            shape.keyBits,
            shape.sharedProbe ? 1 : 0,
          ),
        "kvCache",
      );
      const pointer = this.#lastPointer();
      if (orderBytes > 0) {
        const kind = ORDER_KINDS.indexOf(order.kind);
        this.call(
          () => exports.kvOrderCreate(pointer, kind, order.history, order.baseCost, order.depthCost),
          "kvCache",
        );
      }
      for (const addOn of addOns) this.call(() => addOn.create(pointer), "kvCache");
      if (shape.retainBlocks < shape.blocks)
        this.call(() => exports.kvRetain(pointer, shape.retainBlocks), "kvCache");
      const cache = new KvCache(this, pointer);
      this.kvCaches.push(cache);
      return cache;
    });
  }

  /** Which pages are in a fixed number of slots, under an eviction order. */
  pageSet(options: PageSetOptions): PageSet {
    const { kind, slots, pages, history, eager } = PageSet.shape(options);
    this.#makeRoom(this.exports.pageSetBytes(kind, slots, pages, history), "pageSet");
    this.call(() => this.exports.pageSetCreate(kind, slots, pages, history, eager ? 1 : 0), "pageSet");
    const set = new PageSet(this, this.#lastPointer());
    this.pageSets.push(set);
    return set;
  }

  /** A block pool whose keys come from outside. */
  keyedPool(options: KeyedPoolOptions): KeyedPool {
    const { blocks, keyBytes, batch } = KeyedPool.shape(options);
    this.#makeRoom(this.exports.keyedPoolBytes(blocks, keyBytes, batch), "keyedPool");
    this.call(() => this.exports.keyedPoolCreate(blocks, keyBytes, batch), "keyedPool");
    const pool = new KeyedPool(this, this.#lastPointer());
    this.keyedPools.push(pool);
    return pool;
  }

  /** Which page-groups of physical memory lie behind which tokens of a virtually contiguous KV cache. */
  virtualMemory(options: VirtualMemoryOptions): VirtualMemory {
    const { exports } = this;
    const shape = VirtualMemory.shape(options);
    const { slots, maxTokens, tokenBytes, pageBytes, blocks } = shape;
    this.#makeRoom(
      exports.virtualMemoryBytes(slots, maxTokens, tokenBytes, pageBytes, blocks),
      "virtualMemory",
    );
    this.call(
      () =>
        exports.virtualMemoryCreate(
          slots,
          maxTokens,
          tokenBytes,
          pageBytes,
          blocks,
          shape.tensors,
          shape.eagerSteps,
          shape.eagerBlocks,
          shape.eagerReclaim ? 1 : 0,
        ),
      "virtualMemory",
    );
    const memory = new VirtualMemory(this, this.#lastPointer());
    this.virtualMemories.push(memory);
    return memory;
  }

  /** A scheduler over a cache of this core. */
  scheduler(options: SchedulerOptions): Scheduler {
    const { exports } = this;
    if (!this.kvCaches.includes(options?.cache)) {
      throw invalidArgument("cache", options?.cache, "a KvCache of this core");
    }
    const shape = Scheduler.shape(options);
    if (shape.hostTier !== undefined) this.#requireTierless(options);
    const kv = options.cache.pointer;
    const { maxRequests, maxRunning, maxBatchTokens, tokenCapacity } = shape;
    return this.#whole(() => {
      this.#makeRoom(
        exports.schedulerRegionBytes(
          kv,
          maxRequests,
          maxRunning,
          maxBatchTokens,
          tokenCapacity,
          shape.tenants,
        ),
        "scheduler",
      );
      this.call(
        () =>
          exports.schedulerRegionCreate(
            kv,
            maxRequests,
            maxRunning,
            maxBatchTokens,
            shape.maxChunkTokens,
            shape.watermarkBlocks,
            shape.vocabSize,
            shape.policy,
            tokenCapacity,
            shape.queueTimeoutUs,
            shape.agingTokens,
            shape.tenants,
            shape.inputWeight,
            shape.outputWeight,
          ),
        "scheduler",
      );
      const pointer = this.#lastPointer();
      if (shape.maxDraftTokens > 0) {
        this.#makeRoom(exports.schedulerDraftsBytes(pointer, shape.maxDraftTokens), "maxDraftTokens");
        this.call(() => exports.schedulerDraftsCreate(pointer, shape.maxDraftTokens), "maxDraftTokens");
      }
      const { hostTier } = shape;
      if (hostTier !== undefined) {
        const { blocks, copies, preemption, blocking, reuse, outUs, inUs, prefillUs, swapIn } = hostTier;
        this.#makeRoom(exports.hostTierBytes(pointer, blocks, copies), "hostTier");
        const flags = [preemption, Number(blocking), Number(reuse)] as const;
        this.call(
          () => exports.hostTierCreate(pointer, blocks, copies, ...flags, outUs, inUs, prefillUs, swapIn),
          "hostTier",
        );
      }
      if (shape.preemptive) this.call(() => exports.schedulerPreemptive(pointer, 1), "preemptive");
      const scheduler = new Scheduler(this, pointer, options.cache);
      this.schedulers.push(scheduler);
      return scheduler;
    });
  }

  /** Whether the cache has no host tier yet: one is all it can have. */
  #requireTierless({ cache, hostTier }: SchedulerOptions): void {
    if (this.schedulers.some((other) => other.cache === cache && other.hostTier !== undefined))
      throw invalidArgument("hostTier", hostTier, "none: another scheduler of the cache has one");
  }

  /** Full check of the arena and of every structure; throws CORRUPT when an invariant is broken. */
  validate(): void {
    this.call(() => this.exports.coreValidate(), "arena");
    for (const index of this.orderedIndexes) index.validate();
    for (const view of this.orderedViews) view.validate();
    for (const extents of this.freeExtentSets) extents.validate();
    for (const cache of this.kvCaches) cache.validate();
    for (const set of this.pageSets) set.validate();
    for (const pool of this.keyedPools) pool.validate();
    for (const scheduler of this.schedulers) scheduler.validate();
    for (const arena of this.laneArenas) arena.validate();
    for (const memory of this.virtualMemories) memory.validate();
  }

  /** Ends this instance: every later call throws CLOSED, its worker id is free again. Idempotent. */
  close(): void {
    if (!this.#closed) this.exports.coreDetach(this.#worker);
    this.#closed = true;
  }

  /** Throws CLOSED or POISONED when the core can no longer be used. */
  requireUsable(): void {
    if (this.#shared && this.#poison === undefined && this.views.word(WORKERS_AT) !== 0) {
      this.#poison = new Error("a worker died or trapped while it held a lock");
    }
    if (this.#closed) throw new QuartermasterError("CLOSED", "the core has been closed");
    if (this.#poison !== undefined) {
      throw new QuartermasterError("POISONED", "the core has trapped before; restore it from a snapshot", {
        cause: this.#poison,
      });
    }
  }

  /**
   * Runs one call into the module. A negative result becomes a typed error; a trap poisons the core.
   * @param what names the subject in the error's message.
   * @param argument name and value of what the call is about, for the error when it is not there
   */
  call(run: () => number, what: string, argument?: readonly [name: string, value: unknown]): number {
    const result = this.run(run, what);
    if (result < 0) throw argument ? subjectError(result, what, ...argument) : statusError(result, what);
    return result;
  }

  /** As `call`, for results that are addresses or counts: every value of them is one. */
  run(run: () => number, what: string): number {
    if (this.#closed || this.#poison !== undefined) this.requireUsable();
    try {
      return run();
    } catch (error) {
      // The module throws no TypeError: an argument could not be made a number, and nothing has been called.
      if (error instanceof TypeError)
        throw new QuartermasterError("INVALID_ARGUMENT", `${what}: ${error.message}`, { cause: error });
      throw this.trapped(error, what);
    }
  }

  /** Poisons the core after a call into the module has thrown; returns what to throw. */
  trapped(error: unknown, what: string): QuartermasterError {
    const lost = this.exports.corePoisoned() < 0;
    this.#poison = error;
    this.exports.corePoison();
    const reason = lost
      ? "a worker died or trapped while it held a lock"
      : "the core trapped on a broken invariant";
    return new QuartermasterError("POISONED", `${what}: ${reason}`, { cause: error });
  }

  /** Address of at least `bytes` bytes for the arguments of one call. */
  scratch(bytes: number): number {
    if (bytes > SCRATCH_BYTES) {
      throw new QuartermasterError(
        "OUT_OF_MEMORY",
        `${bytes} bytes of scratch asked for, ${SCRATCH_BYTES} there`,
      );
    }
    return this.#scratchPointer + this.#worker * SCRATCH_BYTES;
  }

  /** Bytes that `scratch` can give. */
  get scratchBytes(): number {
    return SCRATCH_BYTES;
  }

  #orderedView<View extends OrderedView>(
    type: new (core: Core, pointer: number) => View,
    options: OrderedViewOptions,
  ): View {
    const { capacity } = OrderedView.shape(options);
    const kind = VIEW_CLASSES.indexOf(type as never);
    this.#makeRoom(this.exports.orderedViewBytes(capacity), "orderedView");
    this.call(() => this.exports.orderedViewCreate(capacity, kind), "orderedView");
    const view = new type(this, this.#lastPointer());
    this.orderedViews.push(view);
    return view;
  }

  /** Makes a structure and its add-ons; when one of them is refused, nothing is left of the others. */
  #whole<Made>(make: () => Made): Made {
    this.exports.coreMark();
    try {
      return make();
    } catch (error) {
      if (this.#poison === undefined) this.exports.coreRewind();
      throw error;
    }
  }

  #takeScratch(bytes: number): void {
    this.#makeRoom(bytes, "scratch");
    this.call(() => this.exports.scratchCreate(bytes), "scratch");
    this.#scratchPointer = this.#lastPointer();
    this.#scratchBytes = bytes;
  }

  #lastPointer(): number {
    return this.exports.coreRegionPointer(this.exports.coreRegions() - 1) >>> 0;
  }

  /** Grows the memory until a region of `bytes` fits, or throws OUT_OF_MEMORY naming the need. */
  #makeRoom(bytes: number, what: string): void {
    this.requireUsable();
    if (bytes < 0) throw statusError(bytes, what);
    const needed = this.exports.coreTop() + this.exports.coreCost(bytes);
    const missing = needed - this.memory.buffer.byteLength;
    if (missing <= 0) return;
    try {
      this.memory.grow(Math.ceil(missing / PAGE));
    } catch (error) {
      throw new QuartermasterError(
        "OUT_OF_MEMORY",
        `${what} needs ${bytes} bytes: the memory cannot grow to ${needed}`,
        {
          argument: what,
          value: bytes,
          cause: error,
        },
      );
    }
    this.call(() => this.exports.coreExtend(), what);
  }

  /**
   * Takes up the structures that the engine thread has created since this thread attached (or since the last
   * call): they are then at the end of `orderedIndexes`, `kvCaches` and so on.
   */
  refresh(): void {
    this.requireUsable();
    this.#adoptRegions();
  }

  #adoptRegions(): void {
    const { exports } = this;
    const known = new Set(
      [
        this.orderedIndexes,
        this.orderedViews,
        this.freeExtentSets,
        this.kvCaches,
        this.schedulers,
        this.selections,
        this.pageSets,
        this.keyedPools,
        this.laneArenas,
        this.virtualMemories,
      ].flatMap((structures) => structures.map(({ pointer }) => pointer)),
    );
    for (let i = 0; i < exports.coreRegions(); i++) {
      if (known.has(exports.coreRegionPointer(i) >>> 0)) continue;
      const pointer = exports.coreRegionPointer(i) >>> 0;
      const kind = exports.coreRegionKind(i);
      if (kind === RegionKind.Scratch) {
        this.#scratchPointer = pointer;
        this.#scratchBytes = exports.coreRegionBytes(i);
      } else if (kind === RegionKind.OrderedIndex) {
        this.orderedIndexes.push(new OrderedIndex(this, pointer));
      } else if (kind === RegionKind.OrderedView) {
        const type = VIEW_CLASSES[exports.orderedViewKind(pointer)] ?? OrderedView;
        this.orderedViews.push(new type(this, pointer));
      } else if (kind === RegionKind.FreeExtents) {
        this.freeExtentSets.push(new FreeExtents(this, pointer));
      } else if (kind === RegionKind.KvCache) {
        this.kvCaches.push(new KvCache(this, pointer));
      } else if (kind === RegionKind.Scheduler) {
        const kv = exports.schedulerCache(pointer) >>> 0;
        const cache = this.kvCaches.find((candidate) => candidate.pointer === kv);
        if (cache) this.schedulers.push(new Scheduler(this, pointer, cache));
      } else if (kind === RegionKind.Selection) {
        this.selections.push(new Selection(this, pointer));
      } else if (kind === RegionKind.PageSet) {
        this.pageSets.push(new PageSet(this, pointer));
      } else if (kind === RegionKind.KeyedPool) {
        this.keyedPools.push(new KeyedPool(this, pointer));
      } else if (kind === RegionKind.VirtualMemory) {
        this.virtualMemories.push(new VirtualMemory(this, pointer));
      } else if (kind === RegionKind.Lanes) {
        const kv = new Uint32Array(this.memory.buffer, pointer, 1)[0];
        const cache = this.kvCaches.find((candidate) => candidate.pointer === kv);
        if (cache) this.laneArenas.push(new LaneArena(this, pointer, cache));
      }
    }
  }
}

/** Bytes of scratch a worker. */
const SCRATCH_BYTES = 1 << 16;
const MAX_WORKERS = 64;
/** Regions that a core's directory has room for. */
const MAX_REGIONS = 64;
/** Address of the poison word and the attached workers in the arena's header: not part of a snapshot. */
const WORKERS_AT = 112;

function instantiate(
  options: Pick<CoreOptions, "instantiate">,
  module: WebAssembly.Module,
  memory: WebAssembly.Memory,
): Promise<CoreExports> {
  return (options.instantiate ?? instantiateRaw)(module, hostImports(memory));
}

function seedOf(seed: bigint | number | undefined): bigint {
  if (seed === undefined) return 0n;
  if (typeof seed === "number" && !(Number.isSafeInteger(seed) && seed >= 0)) {
    throw invalidArgument("seed", seed, "an integer from 0 to 2^64 - 1");
  }
  const value = BigInt(seed);
  if (value < 0n || value >= 1n << 64n) throw invalidArgument("seed", seed, "an integer from 0 to 2^64 - 1");
  return value;
}
