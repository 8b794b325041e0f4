/**
 * VirtualMemory: which physical memory lies behind which tokens of a KV cache that is contiguous in virtual memory.
 *
 * Every sequence has a slot: a dense range of addresses in each tensor, as long as the longest sequence, reserved once.
 * Memory comes behind it in *page-groups* as the sequence grows. All tensors grow alike, so the unit is the *KV block*,
 * one page-group in each. This class decides and accounts; the map plan it writes is executed by a back end
 * (`VirtualKVCache`, or an engine's own).
 *
 *   const memory = core.virtualMemory({ slots: 64, maxTokens: 8192, tokenBytes: 2048, tensors: 64, pageBytes: 65536, blocks: 512 });
 *   const slot = memory.allocate(promptTokens);
 *   memory.step(lengths);                 // one length a slot, 0 for inactive ones
 *   execute(memory.takePlan());           // before the kernels
 *   memory.background();                  // what the next steps will need
 *   executeMeanwhile(memory.takePlan());  // while they run
 *
 * Source: "vAttention" (arXiv 2405.04437).
 */
import type { Core } from "./core.js";
import { invalidArgument, QuartermasterError, requireInteger } from "./errors.js";
import { SLOT_WORDS, validateVirtualMemory, VirtualMemoryHeader } from "./virtual-memory-layout.js";

export interface VirtualMemoryOptions {
  /** Sequences at a time, 1 to 4096. */
  slots: number;
  /** Longest sequence, 1 to 2^24 tokens. */
  maxTokens: number;
  /** Bytes of one token in one tensor, 1 to 2^24. */
  tokenBytes: number;
  /** Tensors that grow alike, 1 to 2^20: 2 x layers, or 2 when a token's layers lie side by side. Default 1. */
  tensors?: number;
  /** Bytes of a page-group, a power of two from 4096 to 2^30. Default 65536. */
  pageBytes?: number;
  /** KV blocks of physical memory, 1 to 2^24; each is `tensors` page-groups. */
  blocks: number;
  /** Tokens that `background` looks ahead; 0: it plans nothing. Default 9. */
  eagerSteps?: number;
  /** KV blocks that looking beyond the next token may map in one step. Default 2. */
  eagerBlocks?: number;
  /** Whether `background` takes a KV block from an idle slot when it has nothing else to do. Default false. */
  eagerReclaim?: boolean;
}

/** The first `tokens` tokens of the active slot `from`. */
export interface SharedPrefix {
  readonly from: number;
  readonly tokens: number;
}

/** u32 words of one change: op (0 unmap, 1 map), slot, page, KV block. */
export const CHANGE_WORDS = 4;
export const ChangeOp = { Unmap: 0, Map: 1 } as const;

export class VirtualMemory {
  readonly core: Core;
  readonly pointer: number;
  readonly slots: number;
  readonly maxTokens: number;
  readonly tokenBytes: number;
  readonly tensors: number;
  readonly pageBytes: number;
  readonly blocks: number;
  /** Pages of one slot in one tensor: `pageBytes * slotPages` bytes are reserved for it. */
  readonly slotPages: number;

  /** Made by `core.virtualMemory(...)`. */
  constructor(core: Core, pointer: number) {
    this.core = core;
    this.pointer = pointer;
    this.slots = this.#word("slotCount");
    this.maxTokens = this.#word("maxTokens");
    this.tokenBytes = this.#word("tokenBytes");
    this.tensors = this.#word("tensors");
    this.pageBytes = 2 ** this.#word("pageShift");
    this.blocks = this.#word("blockCount");
    this.slotPages = this.#word("slotPages");
  }

  /** Checks options and fills in defaults. */
  static shape(options: VirtualMemoryOptions): Required<VirtualMemoryOptions> {
    if (typeof options !== "object" || options === null)
      throw invalidArgument("options", options, "an object");
    const slots = requireInteger("slots", options.slots, 1, 4096);
    const maxTokens = requireInteger("maxTokens", options.maxTokens, 1, 2 ** 24);
    const tokenBytes = requireInteger("tokenBytes", options.tokenBytes, 1, 2 ** 24);
    const pageBytes = requireInteger("pageBytes", options.pageBytes ?? 65536, 4096, 2 ** 30);
    if (!Number.isInteger(Math.log2(pageBytes)))
      throw invalidArgument("pageBytes", pageBytes, "a power of two from 4096 to 2^30");
    const pages = Math.ceil((maxTokens * tokenBytes) / pageBytes);
    if (pages > 2 ** 20 || pages * slots > 2 ** 26)
      throw invalidArgument(
        "maxTokens",
        maxTokens,
        `at most 2^20 pages a slot and 2^26 in all; ${pages} and ${pages * slots} asked for`,
      );
    return {
      slots,
      maxTokens,
      tokenBytes,
      tensors: requireInteger("tensors", options.tensors ?? 1, 1, 2 ** 20),
      pageBytes,
      blocks: requireInteger("blocks", options.blocks, 1, 2 ** 24),
      eagerSteps: requireInteger("eagerSteps", options.eagerSteps ?? 9, 0, 2 ** 24),
      eagerBlocks: requireInteger("eagerBlocks", options.eagerBlocks ?? 2, 0, 2 ** 24),
      eagerReclaim: options.eagerReclaim ?? false,
    };
  }

  /**
   * Gives a slot to a sequence of `tokens` tokens, the one whose leftover pages fit best, and promises it the KV blocks
   * it lacks: the next step maps them. With `prefix` it reads the first tokens where another slot has them, as after
   * `sharePrefix`, and needs no KV blocks of its own for them. Throws OUT_OF_SEQUENCES, OUT_OF_BLOCKS, TOO_LONG.
   */
  allocate(tokens: number, prefix?: SharedPrefix): number {
    const { core, pointer } = this;
    requireInteger("tokens", tokens, 1, 0xffffffff);
    if (prefix !== undefined) {
      this.#requireSlot("prefix.from", prefix.from);
      requireInteger("prefix.tokens", prefix.tokens, 0, tokens);
    }
    return core.call(
      () => core.exports.virtualMemoryAllocate(pointer, tokens, prefix?.from ?? 0, prefix?.tokens ?? 0),
      `allocate a slot of ${tokens} tokens`,
    );
  }

  /**
   * Ends a slot's sequence. Its pages stay mapped, for the slot's next sequence or until another slot needs them;
   * `unmap` gives them back at once. Between iterations only: kernels may still be reading the slot before.
   */
  free(slot: number, unmap = false): void {
    this.#requireSlot("slot", slot);
    this.core.call(
      () => this.core.exports.virtualMemoryFree(this.pointer, slot, unmap ? 1 : 0),
      `free slot ${slot}`,
    );
  }

  /**
   * Plans what the tokens of the coming iteration need. `lengths`: tokens of every slot once the iteration has run, 0
   * exactly for inactive slots. Returns the slots that there was no memory for: they have kept their length and are to
   * be preempted; all others are served. Throws, having changed nothing, TOO_LONG, and INVALID_ARGUMENT also when a slot
   * would end before its shared prefix does.
   */
  step(lengths: ArrayLike<number>): number[] {
    const { core, pointer, slots } = this;
    core.requireUsable();
    if (lengths?.length !== slots) throw invalidArgument("lengths", lengths, `${slots} lengths, one a slot`);
    const words = new Uint32Array(core.memory.buffer, this.#word("lengths"), slots);
    for (let slot = 0; slot < slots; slot++) this.#requireLength(slot, lengths[slot]);
    words.set(lengths);
    const count = core.call(() => core.exports.virtualMemoryStep(pointer), "step");
    return count === 0 ? [] : [...new Uint32Array(core.memory.buffer, this.#word("short"), count)];
  }

  /** Plans what the next steps will need; its changes touch nothing that the kernels of this iteration do. */
  background(): void {
    this.core.call(() => this.core.exports.virtualMemoryBackground(this.pointer), "background");
  }

  /**
   * Lets slot `to` read the first pages of slot `from` in place of its own, whole pages that end with a token and lie
   * within the first `tokens` tokens of both. Returns how many tokens that is; `to` must compute the others, and neither
   * may become shorter while both have them. Again for the same slots it changes nothing and returns the same.
   */
  sharePrefix(from: number, to: number, tokens: number): number {
    const { core, pointer } = this;
    this.#requireSlot("from", from);
    this.#requireSlot("to", to);
    requireInteger("tokens", tokens, 0, this.maxTokens);
    return core.call(
      () => core.exports.virtualMemoryShare(pointer, from, to, tokens),
      `share ${tokens} tokens of slot ${from} with slot ${to}`,
    );
  }

  /** Unmaps all that no token lies in; `freeList` is then every KV block that can be had. */
  trim(): void {
    this.core.call(() => this.core.exports.virtualMemoryTrim(this.pointer), "trim");
  }

  /** The changes planned since the last call, a copy: records of CHANGE_WORDS. Execute them in order. */
  takePlan(): Uint32Array {
    const { core, pointer } = this;
    core.requireUsable();
    const taken = this.#word("taken");
    const count = (this.#word("made") - taken) >>> 0;
    const size = this.#word("ringMask") + 1;
    const plan = new Uint32Array(count * CHANGE_WORDS);
    const ring = new Uint32Array(core.memory.buffer, this.#word("ring"), size * CHANGE_WORDS);
    const start = taken % size;
    const first = Math.min(count, size - start);
    plan.set(ring.subarray(start * CHANGE_WORDS, (start + first) * CHANGE_WORDS));
    plan.set(ring.subarray(0, (count - first) * CHANGE_WORDS), first * CHANGE_WORDS);
    new Uint32Array(core.memory.buffer, pointer)[VirtualMemoryHeader.taken] = taken + count;
    return plan;
  }

  /**
   * KV blocks that can be had, free or by unmapping what no token lies in, less those promised to new slots: what a
   * scheduler may count on.
   */
  get freeBlocks(): number {
    return this.core.exports.virtualMemoryAvailable(this.pointer);
  }

  /** KV blocks that nothing maps; a copy. */
  freeList(): Uint32Array {
    this.core.requireUsable();
    return new Uint32Array(this.core.memory.buffer, this.#word("free"), this.#word("freeCount")).slice();
  }

  /** KV blocks behind pages, one that several slots share counted once. */
  get mappedBlocks(): number {
    return this.blocks - this.#word("freeCount");
  }

  /** KV blocks that tokens of active slots lie in. */
  get heldBlocks(): number {
    return this.#word("heldCount");
  }

  /** Whether a slot has a sequence. */
  isActive(slot: number): boolean {
    return this.length(slot) !== 0;
  }

  /** Tokens of a slot's sequence; 0 when it has none. */
  length(slot: number): number {
    return this.#slotWord(slot, 0);
  }

  /** Pages of a slot that have memory behind them. */
  mapped(slot: number): number {
    return this.#slotWord(slot, 2);
  }

  /** KV blocks behind the mapped pages of a slot; a copy. */
  pages(slot: number): Uint32Array {
    const at = this.#word("table") + slot * this.slotPages * 4;
    return new Uint32Array(this.core.memory.buffer, at, this.mapped(slot)).slice();
  }

  /** Pages that `tokens` tokens lie in. */
  pagesFor(tokens: number): number {
    return Math.ceil((tokens * this.tokenBytes) / this.pageBytes);
  }

  /** Full check, O(pages + KV blocks); throws CORRUPT. */
  validate(): void {
    validateVirtualMemory(this.core.memory.buffer, this.pointer);
  }

  #word(name: keyof typeof VirtualMemoryHeader): number {
    return this.core.views.word(this.pointer + VirtualMemoryHeader[name] * 4);
  }

  #slotWord(slot: number, word: number): number {
    this.#requireSlot("slot", slot);
    return this.core.views.word(this.#word("slots") + (slot * SLOT_WORDS + word) * 4);
  }

  #requireSlot(argument: string, slot: number): void {
    requireInteger(argument, slot, 0, this.slots - 1);
  }

  #requireLength(slot: number, tokens: number): void {
    const argument = `lengths[${slot}]`;
    if (tokens > this.maxTokens)
      throw new QuartermasterError("TOO_LONG", `${argument} is ${tokens}; allowed: up to ${this.maxTokens}`, {
        argument,
        value: tokens,
        range: `an integer from 0 to ${this.maxTokens}`,
      });
    const active = this.isActive(slot);
    requireInteger(argument, tokens, active ? 1 : 0, active ? this.maxTokens : 0);
  }
}
