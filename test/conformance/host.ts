/** Answers the calls of conformance scripts through the TypeScript API: one core, one structure of each kind. */
import {
  Core,
  type CoreOptions,
  type KeyedPool,
  type KvCache,
  type LaneArena,
  type OrderedIndex,
  type PageSet,
  POLICIES,
  QuartermasterError,
  type Scheduler,
  type Selection,
  type VirtualMemory,
} from "../../bindings/main.js";
import { ORDER_KINDS } from "../../bindings/block-order.js";
import type { Advice } from "../../bindings/page-set.js";
import { STATUS_CODES } from "../../bindings/errors.js";
import { cacheAddOns, schedulerAddOns } from "./host-add-ons.js";
import { laneOperations, selectionOperations } from "./host-lanes.js";
import { poolOperations, virtualOperations } from "./host-pools.js";
import type { Answer, Call } from "./script.js";

const STATUS_OF = new Map(Object.entries(STATUS_CODES).map(([number, code]) => [code as string, +number]));
const STATES = ["ended", "arriving", "waiting", "running", "loading", "idle"];
const KINDS = ["", "finished", "preempted", "rejected", "expired"];

export class ConformanceHost {
  core!: Core;
  cache!: KvCache;
  scheduler!: Scheduler;
  index!: OrderedIndex;
  pages!: PageSet;
  pool!: KeyedPool;
  virtual!: VirtualMemory;
  lanes!: LaneArena;
  selection!: Selection;
  readonly #options: CoreOptions;

  constructor(options: CoreOptions = {}) {
    this.#options = options;
  }

  /** Goes on from a snapshot, with the structures that it has. */
  async restore(snapshot: Uint8Array): Promise<void> {
    this.core = await Core.restore(snapshot, this.#options);
    const { kvCaches, schedulers, orderedIndexes, pageSets, keyedPools, virtualMemories } = this.core;
    [this.lanes] = this.core.laneArenas;
    [this.selection] = this.core.selections;
    [this.cache] = kvCaches;
    [this.scheduler] = schedulers;
    [this.index] = orderedIndexes;
    [this.pages] = pageSets;
    [this.pool] = keyedPools;
    [this.virtual] = virtualMemories;
  }

  async answer(call: Call): Promise<Answer> {
    const [operation, ...args] = call;
    if (operation === "core") {
      this.core = await Core.create({ ...this.#options, seed: args[0] as number });
      return [0];
    }
    try {
      const perform = this.#operations[operation];
      if (!perform) throw new Error(`unknown operation ${operation}`);
      return perform(args as never);
    } catch (error) {
      if (!(error instanceof QuartermasterError)) throw error;
      return [STATUS_OF.get(error.code)!];
    }
  }

  readonly #operations: Readonly<Record<string, (args: never) => Answer>> = {
    ...cacheAddOns(this),
    ...schedulerAddOns(this),
    ...poolOperations(this),
    ...virtualOperations(this),
    ...laneOperations(this),
    ...selectionOperations(this),
    cache: ([blocks, blockSize, maxSequences, maxSequenceTokens, prefixCache]: number[]) => {
      const shape = { blocks, blockSize, maxSequences, maxSequenceTokens, prefixCache: prefixCache !== 0 };
      this.cache = this.core.kvCache(shape);
      return [0];
    },
    ordered: ([blocks, blockSize, maxSequences, maxSequenceTokens, ...order]: number[]) => {
      const [kind, history, retainBlocks, baseCost, depthCost] = order;
      const costs = ORDER_KINDS[kind] === "gdsf" ? { baseCost: baseCost / 4, depthCost: depthCost / 4 } : {};
      this.cache = this.core.kvCache({
        blocks,
        blockSize,
        maxSequences,
        maxSequenceTokens,
        evictionOrder: { kind: ORDER_KINDS[kind], history, ...costs },
        retainBlocks,
      });
      return [0];
    },
    score: ([sequence, from, scores]: [number, number, number[]]) => [
      this.cache.score(sequence, scores, from),
    ],
    advise: ([sequence, discard]: number[]) => [
      this.cache.advise(sequence, discard === 0 ? "keep" : "discard"),
    ],
    prioritize: ([sequence, priority, priorityUntilUs, liveUntilUs]: number[]) => [
      this.cache.prioritize(sequence, { priority, priorityUntilUs, liveUntilUs }),
    ],
    advance: ([nowUs]: number[]) => [(this.cache.advance(nowUs), 0)],
    open: ([namespace, isPrivate, tokens]: [number, number, number[]]) => [
      this.cache.open({ tokens, namespace, private: isPrivate !== 0 }),
    ],
    match: ([namespace, tokens]: [number, number[]]) => [this.cache.match(tokens, namespace)],
    reserve: ([sequence, count]: number[]) => [this.cache.reserve(sequence, count)],
    append: ([sequence, tokens]: [number, number[]]) => [(this.cache.append(sequence, tokens), 0)],
    truncate: ([sequence, length]: number[]) => [(this.cache.truncate(sequence, length), 0)],
    fork: ([sequence]: number[]) => [this.cache.fork(sequence)],
    close: ([sequence]: number[]) => [(this.cache.close(sequence), 0)],
    length: ([sequence]: number[]) => [this.cache.length(sequence)],
    table: ([sequence]: number[]) => counted(this.cache.blockTable(sequence)),
    copies: () => counted(this.cache.copies(), 8),
    settle: () => [(this.cache.settleCopies(), 0)],
    revert: () => [(this.cache.revertCopies(), 0)],
    forget: () => [this.cache.forget()],
    available: () => [this.cache.available],
    statistics: () => {
      const { blocks, free, evictable, cached, openSequences, ...since } = this.cache.stats();
      const { queriedTokens, hitTokens, copiedTokens, evictions, duplicates } = since;
      const now = [blocks, this.cache.blockSize, free, evictable, cached, openSequences];
      return [0, ...now, queriedTokens, hitTokens, copiedTokens, evictions, duplicates];
    },
    references: ([block]: number[]) => [this.cache.references(block)],

    scheduler: ([vocabSize, maxRequests, maxRunning, maxBatchTokens, maxChunkTokens, ...rest]: number[]) => {
      const [watermarkBlocks, tokenCapacity, policy, queueTimeoutUs, ...more] = rest;
      const [agingTokens = 0, tenants = 0, inputWeight = 0, outputWeight = 0] = more;
      this.scheduler = this.core.scheduler({
        cache: this.cache,
        vocabSize,
        maxRequests,
        maxRunning,
        maxBatchTokens,
        maxChunkTokens,
        watermarkBlocks,
        tokenCapacity,
        policy: POLICIES[policy],
        queueTimeoutUs,
        ...(agingTokens > 0 && { agingTokens }),
        ...(tenants > 0 && { tenants }),
        ...(inputWeight + outputWeight > 0 && { inputWeight, outputWeight }),
      });
      return [0];
    },
    submit: (args: (number | number[])[]) => {
      const tokens = args.at(-1) as number[];
      const [id, namespace, priority, arrivalUs, maxNewTokens, ...more] = args.slice(0, -1) as number[];
      const [tenant = 0, deadlineUs = 0, maxChunkTokens = 0] = more;
      const always = { id, namespace, priority, arrivalUs, maxNewTokens, tenant, maxChunkTokens, tokens };
      return [this.scheduler.submit(deadlineUs === 0 ? always : { ...always, deadlineUs })];
    },
    wake: () => {
      const wake = this.scheduler.nextWakeUs();
      return [wake === Infinity ? -1 : wake];
    },
    served: ([tenant]: number[]) => [this.scheduler.served(tenant)],
    abort: ([request]: number[]) => [(this.scheduler.abort(request), 0)],
    state: ([request]: number[]) => [STATES.indexOf(this.scheduler.state(request))],
    step: ([nowUs]: number[]) => this.#step(nowUs),
    commit: ([stepId, nowUs, tokens, finished]: [number, number, number[], number[]]) => {
      this.scheduler.commit(stepId, nowUs, { tokens, finished });
      return this.#outcomes();
    },
    abandon: ([stepId]: number[]) => [(this.scheduler.abandon(stepId), 0)],

    named: ([blocks, blockSize, maxSequences, maxSequenceTokens, ring]: number[]) => {
      const bytes = Uint8Array.from({ length: 64 }, (_, i) => i);
      const contentKeys = { domainKey: bytes.subarray(0, 32), fingerprint: bytes.subarray(32), scopes: 4 };
      const { core } = this;
      // Raw calls for the events: the tier is another than the binding's.
      this.cache = core.kvCache({ blocks, blockSize, maxSequences, maxSequenceTokens, contentKeys });
      const { exports, memory } = core;
      const missing =
        exports.coreTop() + exports.coreCost(exports.kvEventsBytes(blocks, ring)) - memory.buffer.byteLength;
      if (missing > 0) memory.grow(Math.ceil(missing / 65536));
      exports.coreExtend();
      return [exports.kvEventsCreate(this.cache.pointer, ring, 5, 6)];
    },
    scope: ([namespace, list]: [number, number[]]) => {
      const at = this.core.scratch(32 + list.length);
      new Uint8Array(this.core.memory.buffer).set(list, at + 32);
      return [this.core.exports.kvContentScope(this.cache.pointer, namespace, at + 32, list.length, at)];
    },
    chunk: ([tokens, list]: [number[], number[]]) => {
      const { exports, memory } = this.core;
      const count = this.cache.writeInput("tokens", tokens);
      const at = this.core.scratch(32 + list.length);
      new Uint8Array(memory.buffer).set(list, at + 32);
      const input = exports.kvInput(this.cache.pointer);
      const status = exports.kvContentChunk(this.cache.pointer, input, count, at + 32, list.length, at);
      return [status, ...new Uint32Array(memory.buffer, at, 8)];
    },
    keys: ([sequence]: number[]) => {
      const bytes = this.cache.contentKeys(sequence);
      return [bytes.length / 32, ...new Uint32Array(bytes.buffer)];
    },
    key: ([block]: number[]) => [0, ...new Uint32Array(this.cache.content!.ofBlock(block).buffer)],
    events: ([others]: number[]) => {
      const { exports } = this.core;
      const at = this.core.scratch(this.core.scratchBytes);
      const answer = this.#events(exports.kvEventsRead(this.cache.pointer, at, 682, others), at);
      return [...answer, exports.kvEventsBatches(this.cache.pointer)];
    },
    picture: () => {
      const at = this.core.scratch(this.core.scratchBytes);
      return this.#events(this.core.exports.kvEventsSnapshot(this.cache.pointer, at, 682, 1), at);
    },
    lose: () => [this.core.exports.kvEventsLose(this.cache.pointer)],
    pages: ([order, slots, pages, history]: number[]) => {
      this.pages = this.core.pageSet({ slots, pages, evictionOrder: ORDER_KINDS[order], history });
      return [0];
    },
    request: ([page, advice]: number[]) => [
      +this.pages.request(page, advice === 2 ? undefined : (advice as Advice)),
    ],
    "pages-eager": ([order, slots, pages, history]: number[]) => {
      const evictionOrder = ORDER_KINDS[order];
      this.pages = this.core.pageSet({ slots, pages, evictionOrder, history, eager: true });
      return [0];
    },
    "page-run": ([pages, advice]: [number[], number[]]) => [
      this.pages.run(pages, advice.length > 0 ? advice : undefined),
    ],
    "page-clear": ([seed]: number[]) => [(this.pages.clear(seed), 0)],
    "page-figures": () => {
      const { slots, pages } = this.pages;
      const { requests, faults } = this.pages.stats();
      return [0, slots, pages, requests, faults];
    },
    slot: ([page]: number[]) => [this.pages.slot(page) ?? STATUS_OF.get("NOT_FOUND")!],

    index: ([capacity]: number[]) => [((this.index = this.core.orderedIndex({ capacity })), 0)],
    put: ([key, value]: number[]) => [+this.index.set(BigInt(key), BigInt(value))],
    get: ([key]: number[]) => {
      const value = this.index.get(BigInt(key));
      return value === undefined ? [0] : [1, Number(value)];
    },
    delete: ([key]: number[]) => [+this.index.delete(BigInt(key))],
    range: ([lowest, highest, limit]: number[]) => {
      const entries = this.index
        .scan(BigInt(lowest), limit)
        .filter(([key]) => key <= BigInt(highest))
        .map(([key, value]) => [Number(key), Number(value)]);
      return [entries.length, ...entries.flat()];
    },
    size: () => [this.index.size],
    exchange: ([key, expected, value]: number[]) => [
      +this.index.compareExchange(BigInt(key), BigInt(expected), BigInt(value)),
    ],
    add: ([key, delta]: number[]) => [0, Number(this.index.fetchAdd(BigInt(key), BigInt(delta)))],
    "put-many": ([keys, values]: [number[], number[]]) => {
      this.index.setMany(BigUint64Array.from(keys, BigInt), BigUint64Array.from(values, BigInt));
      return [keys.length];
    },
    "get-many": ([keys]: [number[]]) => {
      const { values, found } = this.index.getMany(BigUint64Array.from(keys, BigInt));
      const hits = found.reduce((sum, one) => sum + one, 0);
      return [hits, ...Array.from(values).flatMap((value, i) => [found[i], Number(value)])];
    },
    "delete-many": ([keys]: [number[]]) => [this.index.deleteMany(BigUint64Array.from(keys, BigInt))],
    "index-clear": () => [(this.index.clear(), 0)],
    "index-figures": () => {
      const { entries, levels, nodes, freeNodes } = this.index.stats();
      const { exports } = this.core;
      const { pointer } = this.index;
      const shape = [exports.orderedIndexNodeBytes(pointer), exports.orderedIndexLeafCapacity(pointer)];
      return [0, entries, levels, nodes, freeNodes, ...shape];
    },
    validate: () => [(this.core.validate(), 0)],
  };

  /** Count, then what each record says, with a stored block's tokens. */
  #events(count: number, at: number): Answer {
    const { buffer } = this.core.memory;
    const records = Array.from({ length: Math.max(0, count) }, (_, i) => {
      const words = [...new Uint32Array(buffer, at + 96 * i, 24)];
      const tokens = words[0] === 1 ? new Uint32Array(buffer, words[4], this.cache.blockSize) : [];
      return [...words.slice(0, 4), ...words.slice(5, 7), ...words.slice(8), ...tokens];
    });
    return [count, ...records.flat()];
  }

  /** Result, counts, then every section in the order of docs/conformance.md. */
  #step(nowUs: number): Answer {
    const plan = this.scheduler.step(nowUs);
    const { rows, tables, tableStart, tableCount } = plan;
    const blocks = Array.from({ length: rows }, (_, row) => [
      tableCount[row],
      ...tables.subarray(tableStart[row], tableStart[row] + tableCount[row]),
    ]);
    return [
      0,
      plan.stepId,
      rows,
      plan.decodeRows,
      plan.samplingRows,
      plan.totalTokens,
      plan.transferCount,
      plan.running,
      plan.waiting,
      plan.freeBlocks,
      plan.evictableBlocks,
      ...plan.requests,
      ...plan.phases,
      ...plan.newTokens,
      ...plan.computedBefore,
      ...plan.tokens,
      ...plan.slots,
      ...blocks.flat(),
      ...plan.transfers,
      ...this.#outcomes().slice(1),
    ];
  }

  #outcomes(): Answer {
    const outcomes = this.scheduler.outcomes();
    const words = outcomes.map(({ request, kind, code, generated, cachedTokens, preemptions }) => [
      request,
      KINDS.indexOf(kind),
      code === undefined || code === "OK" ? 0 : STATUS_OF.get(code)!,
      generated,
      cachedTokens,
      preemptions,
    ]);
    return [0, outcomes.length, ...words.flat()];
  }
}

function counted(words: Uint32Array, size = 1): Answer {
  return [words.length / size, ...words];
}
