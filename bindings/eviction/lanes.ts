/**
 * LaneArena and CoreLanes: what is known of every cached token of a sequence, in core memory.
 *
 *   arena = core.laneArena({ cache, layers, kvHeads, capacity, planes, sequences })
 *   lanes = arena.open(sequence)      empty; `append` as the sequence's tokens are computed
 *   plan  = lanes.plan(keepPlan)      nothing has changed yet
 *   ... the executor runs plan.moves() ...
 *   plan.commit()                     survivors are packed, blocks that nobody needs are free
 *
 * The sequence is lossy from the first commit on: its length counts tokens seen, its blocks hold what stays, and nothing
 * of it enters the prefix index. Blocks that others can read are replaced, never written.
 *
 * One file, longer than others: arena, lanes and plan share one slab, and one plan at a time is pending in it.
 */
import type { Core } from "../core.js";
import { invalidArgument, requireInteger, statusError } from "../errors.js";
import type { KvCache } from "../kv-cache.js";
import type { SequenceId } from "../kv-cache-options.js";
import { APPEND_SLOT, MOVE_WORDS } from "../statistics.js";
import { type Fold, foldedSlots, foldMoves, foldTables, longestByLayer, planFold } from "./folded.js";
import { type ArenaShape, type LaneCall, planCall } from "./lane-record.js";
import type { KeepPlan, LaneView, SequenceLanes } from "./policy.js";
import { SavedLanes } from "./saved-lanes.js";
import { Head, HEAD_WORDS, lineUp, PLANES, Slab, SLAB_WORDS } from "./slab-layout.js";

export interface LaneArenaOptions {
  /** Cache whose sequences have lanes here. */
  cache: KvCache;
  /** Layers times KV heads: at most 65,536 lanes. */
  layers: number;
  kvHeads: number;
  /** Most slots of a lane: the longest prompt, and what a policy keeps. 1 to 2^24. */
  capacity: number;
  /** PlaneMask bits; 4 bytes a slot for each, and for the position. Default 0. */
  planes?: number;
  /**
   * A table a layer instead of one for all: blocks follow the sum over layers, not the longest lane, and CAKE's prompts
   * take the blocks of its budget and one layer. For executors with `layered`; shares no prefixes, merges nothing. Default
   * false.
   */
  folded?: boolean;
  /** Sequences that have lanes at a time, 1 to 65,536. Default 16. */
  sequences?: number;
  /** Move records handed out at a time, 1 to 2^20. Default 4096. */
  moveCapacity?: number;
}

/** Word offsets in the header (docs/abi.md). */
const Header = {
  layers: 1,
  kvHeads: 2,
  lanes: 3,
  capacity: 4,
  stride: 5,
  planes: 6,
  slabs: 7,
  slabBytes: 8,
  slabsAt: 9,
  openSlabs: 11,
  keep: 12,
  counts: 13,
  victims: 14,
  successors: 15,
  records: 16,
  moveCapacity: 17,
  evicted: 26,
  moved: 28,
  folded: 30,
  foldBlocks: 31,
  foldSlots: 32,
} as const;
const HEADER_WORDS = 33;
/** Added to the planes of a folded arena. */
export const FOLDED = 16;

const SLOT_MASK = 2 ** 20 - 1;
/** In the counts section: every slot stays. */
const ALL = 0xffffffff;
const NOT_FOUND = -19;
const COMPACTION_PENDING = -28;
const ALL_PLANES = 15;

export class LaneArena {
  readonly core: Core;
  /** Address of the structure in core memory. */
  readonly pointer: number;
  readonly cache: KvCache;
  readonly layers: number;
  readonly kvHeads: number;
  readonly lanes: number;
  readonly capacity: number;
  /** Words from one lane's plane to the next. */
  readonly stride: number;
  readonly planes: number;
  /** Whether each layer has a table of its own. */
  readonly folded: boolean;
  /** Sequences that can have lanes at a time. */
  readonly sequences: number;
  /** Told of every call that changes lanes or their sequences; for records. */
  onCall: ((call: LaneCall) => void) | undefined;
  readonly #at: Uint32Array;

  /** Made by `core.laneArena(...)`. */
  constructor(core: Core, pointer: number, cache: KvCache) {
    this.core = core;
    this.pointer = pointer;
    this.cache = cache;
    this.#at = new Uint32Array(core.memory.buffer, pointer, HEADER_WORDS).slice();
    this.layers = this.#at[Header.layers];
    this.kvHeads = this.#at[Header.kvHeads];
    this.lanes = this.#at[Header.lanes];
    this.capacity = this.#at[Header.capacity];
    this.stride = this.#at[Header.stride];
    this.planes = this.#at[Header.planes];
    this.sequences = this.#at[Header.slabs];
    this.folded = this.#at[Header.folded] !== 0;
  }

  /** Checks options and fills in defaults. */
  static shape(options: LaneArenaOptions): Required<LaneArenaOptions> {
    const layers = requireInteger("layers", options?.layers, 1, 2 ** 16);
    return {
      cache: options.cache,
      layers,
      kvHeads: requireInteger("kvHeads", options.kvHeads, 1, Math.floor(2 ** 16 / layers)),
      capacity: requireInteger("capacity", options.capacity, 1, 2 ** 24),
      planes: requireInteger("planes", options.planes ?? 0, 0, ALL_PLANES),
      folded: options.folded ?? false,
      sequences: requireInteger("sequences", options.sequences ?? 16, 1, 2 ** 16),
      moveCapacity: requireInteger("moveCapacity", options.moveCapacity ?? 4096, 1, 2 ** 20),
    };
  }

  /**
   * Empty lanes for a sequence of the cache. Throws OUT_OF_SEQUENCES, UNKNOWN_SEQUENCE.
   * @param bySlot keys are rotated by their slot: moves say how far they turn, no slot is reused in place. Not in folded arenas
   */
  open(sequence: SequenceId, bySlot = false): CoreLanes {
    const { core, pointer } = this;
    if (bySlot && this.folded) throw invalidArgument("bySlot", bySlot, "false in folded arenas");
    const handle = core.call(() => core.exports.lanesOpen(pointer, sequence), "lanes");
    if (bySlot) this.words(this.slabOf(handle), SLAB_WORDS)[Slab.bySlot] = 1;
    this.onCall?.({ lane: "open", sequence, handle, ...(bySlot && { bySlot: true }) });
    return new CoreLanes(this, handle);
  }

  /** Gives a sequence lanes that another has left: as many tokens as it has, in slots of its own. Throws OUT_OF_SEQUENCES. */
  resume(saved: SavedLanes, sequence: SequenceId): CoreLanes {
    const { core, pointer } = this;
    const handle = core.call(() => core.exports.lanesOpen(pointer, sequence), "lanes: resume");
    const lanes = new CoreLanes(this, handle);
    saved.writeTo(lanes);
    this.onCall?.({ lane: "resume", from: saved.handle, sequence, handle });
    return lanes;
  }

  /** As `cache.fork`, for a sequence with lanes here. */
  forkSequence(sequence: SequenceId): SequenceId {
    const twin = this.cache.fork(sequence);
    this.onCall?.({ lane: "forkSequence", sequence, twin });
    return twin;
  }

  /** As `cache.close`, for a sequence with lanes here. */
  closeSequence(sequence: SequenceId): void {
    this.cache.close(sequence);
    this.onCall?.({ lane: "closeSequence", sequence });
  }

  /** What it takes to make an arena like this one. */
  get shape(): ArenaShape {
    const { layers, kvHeads, capacity, planes, folded, sequences } = this;
    return {
      layers,
      kvHeads,
      capacity,
      planes,
      folded,
      sequences,
      moveCapacity: this.#at[Header.moveCapacity],
    };
  }

  /** Lanes that are open: in a restored core, how to find them again. */
  opened(): CoreLanes[] {
    const { core, pointer } = this;
    const handles = Array.from({ length: this.sequences }, (_, i) => core.exports.lanesAt(pointer, i));
    return handles.filter((handle) => handle !== NOT_FOUND).map((handle) => new CoreLanes(this, handle));
  }

  /** Sequences that have lanes. */
  get size(): number {
    return this.words(this.pointer, HEADER_WORDS)[Header.openSlabs];
  }

  /** Tokens dropped, and slots whose K and V were to be moved, summed over lanes since creation. */
  get totals(): { readonly evicted: number; readonly moved: number } {
    const header = this.words(this.pointer, HEADER_WORDS);
    const wide = (word: number): number => header[word] + header[word + 1] * 2 ** 32;
    return { evicted: wide(Header.evicted), moved: wide(Header.moved) };
  }

  /** Full check; throws CORRUPT. */
  validate(): void {
    this.core.call(() => this.core.exports.lanesValidateAll(this.pointer), "lanes");
  }

  /** Folded: what the sequence takes after the compaction that is planned next. */
  setFold(blocks: number, slots: number): void {
    const header = this.words(this.pointer, HEADER_WORDS);
    header[Header.foldBlocks] = blocks;
    header[Header.foldSlots] = slots;
  }

  /** A view over core memory; for the classes of this file. */
  words(address: number, length: number): Uint32Array {
    return new Uint32Array(this.core.memory.buffer, address, length);
  }

  /** Address of a section of the header. */
  section(name: "keep" | "counts" | "victims" | "successors" | "records"): number {
    return this.#at[Header[name]];
  }

  /** Address of a handle's slab. */
  slabOf(handle: number): number {
    return this.#at[Header.slabsAt] + (handle & SLOT_MASK) * this.#at[Header.slabBytes];
  }
}

/** One lane over core memory. */
class CoreLane implements LaneView {
  readonly pos: Uint32Array;
  readonly score?: Float32Array;
  readonly lastImp?: Uint32Array;
  readonly mri?: Uint32Array;
  readonly aux?: Float32Array;
  readonly #head: Uint32Array;

  constructor(arena: LaneArena, slab: number, lane: number) {
    const { buffer } = arena.core.memory;
    const { stride, lanes } = arena;
    this.#head = arena.words(slab + (SLAB_WORDS + lane * HEAD_WORDS) * 4, HEAD_WORDS);
    const heads = lineUp(lanes * HEAD_WORDS * 4);
    const planeBytes = lineUp(lanes * stride * 4);
    const first = slab + SLAB_WORDS * 4 + heads + lane * stride * 4;
    this.pos = new Uint32Array(buffer, first, stride);
    let at = first;
    for (const [name, bit, type] of PLANES) {
      if ((arena.planes & bit) === 0) continue;
      at += planeBytes;
      this[name] = new type(buffer, at, stride) as never;
    }
  }

  get length(): number {
    return this.#head[Head.length];
  }

  get hole(): number {
    return this.#head[Head.hole];
  }

  /** Tokens dropped so far. */
  get evicted(): number {
    return this.#head[Head.evicted];
  }
}

/** The lanes of one sequence. */
export class CoreLanes implements SequenceLanes {
  readonly arena: LaneArena;
  readonly handle: number;
  readonly layers: number;
  readonly kvHeads: number;
  readonly capacity: number;
  readonly #slab: number;
  #buffer: ArrayBufferLike | undefined;
  #views: CoreLane[] = [];

  /** Made by `arena.open`, `arena.opened` and `fork`. */
  constructor(arena: LaneArena, handle: number) {
    this.arena = arena;
    this.handle = handle;
    this.layers = arena.layers;
    this.kvHeads = arena.kvHeads;
    this.capacity = arena.capacity;
    this.#slab = arena.slabOf(handle);
  }

  get seen(): number {
    return this.arena.words(this.#slab, SLAB_WORDS)[Slab.seen];
  }

  /** Whether keys are rotated by their slot instead of their token's position. */
  get bySlot(): boolean {
    return this.arena.words(this.#slab, SLAB_WORDS)[Slab.bySlot] !== 0;
  }

  get blockSize(): number {
    return this.arena.cache.blockSize;
  }

  get sequence(): SequenceId {
    return this.arena.words(this.#slab, SLAB_WORDS)[Slab.sequence];
  }

  /** Folded: tokens of a prompt that is computed layer by layer, while it is. */
  get filling(): number {
    return this.arena.words(this.#slab, SLAB_WORDS)[Slab.filling];
  }

  /** Folded: a layer's slices as the slab holds them. A view. */
  slices(layer: number): Uint32Array {
    const { lanes, stride, planes } = this.arena;
    const heads = lineUp(lanes * HEAD_WORDS * 4);
    const held = PLANES.filter(([, bit]) => (planes & bit) !== 0).length;
    const at = this.#slab + SLAB_WORDS * 4 + heads + (1 + held) * lineUp(lanes * stride * 4);
    return this.arena.words(at + layer * stride * 4, stride);
  }

  /**
   * Folded: [layers] slices of the pool (LaneRow.tables) with room for `count` tokens more in layers [low, high). Throws
   * OUT_OF_BLOCKS.
   */
  tables(count: number, low = 0, high = this.layers): Uint32Array[] {
    const tables = foldTables(this, count, low, high);
    this.arena.onCall?.({ lane: "tables", handle: this.handle, count, low, high });
    return tables;
  }

  /** Folded: a layer of a prompt of `count` tokens has been computed, before the next one is. Throws INVALID_ARGUMENT. */
  enterLayer(layer: number, count: number): void {
    requireInteger("count", count, 1, this.capacity);
    this.#call("layer", (exports, pointer) => exports.lanesLayer(pointer, this.handle, layer, count));
    this.arena.onCall?.({ lane: "layer", handle: this.handle, layer, count });
  }

  /** Folded: all layers have been; the sequence's append comes next. */
  filled(): void {
    const { arena } = this;
    arena.setFold(0, foldedSlots(longestByLayer(this.lengths(), arena.kvHeads), arena.cache.blockSize));
    this.#call("filled", (exports, pointer) => exports.lanesLayer(pointer, this.handle, 0, 0));
    arena.onCall?.({ lane: "layer", handle: this.handle, layer: 0, count: 0 });
  }

  lane(layer: number, kvHead: number): LaneView {
    return this.#lanes()[layer * this.kvHeads + kvHead];
  }

  /** [layers * kvHeads] slots of each lane. */
  lengths(): Uint32Array {
    return Uint32Array.from(this.#lanes(), ({ length }) => length);
  }

  /** [layers * kvHeads] slots that the next token takes; undefined: it is appended everywhere. */
  holes(): Uint32Array | undefined {
    const holes = Uint32Array.from(this.#lanes(), ({ hole }) => hole);
    return holes.some((hole) => hole !== APPEND_SLOT) ? holes : undefined;
  }

  /**
   * Enters `count` tokens with zeroed planes, the first into a lane's hole where it has one: as many as the sequence
   * has got. Throws TOO_LONG when a lane would pass the capacity.
   */
  append(count: number): void {
    requireInteger("count", count, 0, this.arena.cache.maxSequenceTokens);
    this.#call("append", (exports, pointer) => exports.lanesAppend(pointer, this.handle, count));
    this.arena.onCall?.({ lane: "append", handle: this.handle, count });
  }

  /** Empties the lanes for a sequence that is computed anew. */
  reset(sequence: SequenceId): void {
    this.#call("reset", (exports, pointer) => exports.lanesReset(pointer, this.handle, sequence));
    this.arena.onCall?.({ lane: "reset", handle: this.handle, sequence });
  }

  /** Lanes for `cache.fork(sequence)`: a copy. Both must `unshare` before their next token. */
  fork(sequence: SequenceId): CoreLanes {
    const twin = this.#call("fork", (exports, pointer) => exports.lanesFork(pointer, this.handle, sequence));
    this.arena.onCall?.({ lane: "fork", handle: this.handle, sequence, twin });
    return new CoreLanes(this.arena, twin);
  }

  /** Copies everything out of the core and closes the lanes: their sequence's slots go elsewhere, and come back. */
  suspend(): SavedLanes {
    const saved = new SavedLanes(this);
    this.#call("suspend", (exports, pointer) => exports.lanesClose(pointer, this.handle));
    this.arena.onCall?.({ lane: "suspend", handle: this.handle });
    return saved;
  }

  /** Gives the slab back; the lanes are dead from here on. */
  close(): void {
    this.#call("close", (exports, pointer) => exports.lanesClose(pointer, this.handle));
    this.arena.onCall?.({ lane: "close", handle: this.handle });
  }

  /**
   * Plans what a policy has answered (its merges aside: they come first, and are the caller's). Throws
   * INVALID_ARGUMENT for a wrong answer or lanes that have not seen what their sequence has, OUT_OF_BLOCKS when shared
   * blocks must be replaced and there are none, COMPACTION_PENDING, COPIES_PENDING; nothing has changed then.
   * @param privateFrom blocks that hold slots from it on become the sequence's own. Default: those that are written
   */
  plan(answer: Pick<KeepPlan, "keep" | "inPlace">, privateFrom = APPEND_SLOT): CompactionPlan {
    const { arena } = this;
    const { lanes, stride } = arena;
    // Before anything is written: the plan that is there still reads its inputs.
    if (arena.cache.compacting) throw statusError(COMPACTION_PENDING, "lanes: plan");
    requireEntries("keep", answer.keep, lanes);
    const counts = arena.words(arena.section("counts"), lanes);
    const keep = arena.words(arena.section("keep"), lanes * stride);
    answer.keep.forEach((slots, lane) => {
      counts[lane] = ALL;
      if (slots === null) return;
      counts[lane] = requireInteger(`keep[${lane}].length`, slots.length, 1, stride);
      keep.set(slots, lane * stride);
    });
    const none = new Uint32Array(lanes).fill(APPEND_SLOT);
    const { victim = none, successor = none } = answer.inPlace ?? {};
    requireEntries("inPlace.victim", victim, lanes);
    requireEntries("inPlace.successor", successor, lanes);
    arena.words(arena.section("victims"), lanes).set(victim);
    arena.words(arena.section("successors"), lanes).set(successor);
    const fold = arena.folded ? planFold(this, answer) : undefined;
    if (fold) arena.setFold(fold.blocks, fold.slots);
    this.#call("plan", (exports, pointer) => exports.lanesPlan(pointer, this.handle, privateFrom));
    arena.onCall?.(planCall(this.handle, answer, privateFrom === APPEND_SLOT ? undefined : privateFrom));
    return fold ? new FoldedPlan(this, answer, fold) : new CompactionPlan(arena);
  }

  /**
   * As `plan` with every slot kept: blocks that the next token would be written to, and those that hold slots from
   * `privateFrom` on, become the sequence's own.
   */
  unshare(privateFrom = APPEND_SLOT): CompactionPlan {
    requireInteger("privateFrom", privateFrom, 0, APPEND_SLOT);
    return this.plan({ keep: new Array<null>(this.arena.lanes).fill(null) }, privateFrom);
  }

  #lanes(): CoreLane[] {
    const { arena } = this;
    const { buffer } = arena.core.memory;
    if (this.#buffer !== buffer) {
      this.#buffer = buffer;
      this.#views = Array.from({ length: arena.lanes }, (_, lane) => new CoreLane(arena, this.#slab, lane));
    }
    return this.#views;
  }

  #call(what: string, run: (exports: Core["exports"], pointer: number) => number): number {
    const { core, pointer } = this.arena;
    return core.call(() => run(core.exports, pointer), `lanes: ${what}`);
  }
}

/** A compaction that is planned: run its moves, then commit, or roll back. */
export class CompactionPlan {
  /** Block references that the sequence gives up, and fresh blocks in place of shared ones. */
  readonly released: number;
  readonly copied: number;
  readonly #arena: LaneArena;

  /** Made by `CoreLanes.plan`. */
  constructor(arena: LaneArena) {
    this.#arena = arena;
    const { before, after, fresh } = arena.cache.planned();
    this.copied = fresh;
    this.released = before - (after - fresh);
  }

  /**
   * Records for `Executor.move`, a batch at a time, to be run in order. Copies.
   */
  *moves(): Generator<Uint32Array> {
    const { core, pointer } = this.#arena;
    for (;;) {
      const count = core.call(() => core.exports.lanesMoves(pointer), "moves");
      if (count === 0) return;
      yield this.#arena.words(this.#arena.section("records"), count * MOVE_WORDS).slice();
    }
  }

  /** All records in one array. */
  allMoves(): Uint32Array {
    const batches = [...this.moves()];
    const all = new Uint32Array(batches.reduce((sum, { length }) => sum + length, 0));
    let at = 0;
    for (const batch of batches) {
      all.set(batch, at);
      at += batch.length;
    }
    return all;
  }

  /**
   * The moves have been run: lanes and sequence are what was planned. Throws NOT_FOUND when the plan is gone because its
   * sequence was closed.
   */
  commit(): void {
    const { core, pointer } = this.#arena;
    core.call(() => core.exports.lanesCommit(pointer), "commit");
    this.#arena.onCall?.({ lane: "commit" });
  }

  /**
   * Nothing was dropped. When moves have been run already the old table is valid, its content is not: moves are in
   * place. Throws NOT_FOUND.
   */
  rollback(): void {
    const { core, pointer } = this.#arena;
    core.call(() => core.exports.lanesRollback(pointer), "rollback");
    this.#arena.onCall?.({ lane: "rollback" });
  }
}

/** A compaction of folded lanes. */
class FoldedPlan extends CompactionPlan {
  readonly #lanes: CoreLanes;
  readonly #answer: Pick<KeepPlan, "keep" | "inPlace">;
  readonly #fold: Fold;
  #isRead = false;

  constructor(lanes: CoreLanes, answer: Pick<KeepPlan, "keep" | "inPlace">, fold: Fold) {
    super(lanes.arena);
    this.#lanes = lanes;
    this.#answer = answer;
    this.#fold = fold;
  }

  override *moves(): Generator<Uint32Array> {
    if (this.#isRead) return;
    this.#isRead = true;
    const staged = this.copied === 0 ? undefined : this.#lanes.arena.cache.plannedTable();
    const records = foldMoves(this.#lanes, this.#answer, this.#fold, staged);
    if (records.length > 0) yield records;
  }

  override commit(): void {
    super.commit();
    this.#fold.slices.forEach((slices, layer) => this.#lanes.slices(layer).set(slices));
  }
}

function requireEntries(argument: string, list: ArrayLike<unknown>, length: number): void {
  if (list?.length !== length) throw invalidArgument(argument, list, `${length} entries`);
}
