/**
 * StateExecutor: a model whose next token depends on everything that cache groups hold: all tokens, the last few through a
 * window, and a state that is a running hash. It keeps them in pages as a plan says and reads them back through the plan's
 * tables, so a block that is lost, stale or another sequence's shows in the token.
 */
import assert from "node:assert/strict";
import {
  type CacheGroup,
  NO_BLOCK,
  Phase,
  type StepPlan,
  TRANSFER_WORDS,
  TransferOp,
} from "../../bindings/main.js";
import type { Random } from "./random.js";

/** What a page holds: tokens by offset, or a state at 0; and of which group. */
interface Page {
  group: number;
  words: number[];
}

/** State after a token. */
function hashed(state: number, token: number): number {
  return Math.imul(state ^ (token + 0x9e37), 0x85ebca6b) ^ (state >>> 13);
}

/** What a group contributes to the token that follows `tokens`. */
function contribution({ kind, window }: CacheGroup, tokens: readonly number[]): number {
  if (kind === "recurrent") return tokens.reduce(hashed, 1);
  const seen = kind === "full" ? tokens : tokens.slice(-window);
  return seen.reduce((sum, token, i) => sum + (i + 1) * token, seen.length);
}

/** The token that follows, without any cache. */
export function nextToken(groups: readonly CacheGroup[], tokens: readonly number[], vocab: number): number {
  const sum = groups.reduce((total, group, g) => total + (contribution(group, tokens) >>> 0) * (g + 1), 0);
  return (sum >>> 0) % vocab;
}

/** Up to four guesses at the tokens that follow: right, wrong, or right at first. */
export function guessAfter(
  random: Random,
  groups: readonly CacheGroup[],
  tokens: readonly number[],
  vocab: number,
): number[] {
  const guess: number[] = [];
  for (let i = random.below(5); i > 0; i--) {
    const right = nextToken(groups, tokens.concat(guess), vocab);
    guess.push(random.below(4) === 0 ? random.below(vocab) : right);
  }
  return guess;
}

export class StateExecutor {
  readonly #pages = new Map<number, Page>();
  /** Pages in host memory. */
  readonly #host = new Map<number, Page>();
  /** Group 0 first. */
  readonly groups: readonly CacheGroup[];
  readonly vocab: number;

  constructor(groups: readonly CacheGroup[], vocab: number) {
    this.groups = groups;
    this.vocab = vocab;
  }

  /** The token picked behind each sampling row's right drafts, and how many those were. */
  run(plan: StepPlan): { tokens: number[]; accepted: number[] } {
    this.#copy(plan);
    const tokens: number[] = [];
    const accepted: number[] = [];
    for (let row = 0; row < plan.rows; row++) {
      const start = plan.tokenStart[row];
      const picked = Array.from({ length: plan.newTokens[row] }, (_, i) => this.#feed(plan, row, i));
      if (plan.phases[row] === Phase.PrefillChunk) continue;
      const drafts = plan.phases[row] === Phase.Decode ? picked.length - 1 : 0;
      let right = 0;
      while (right < drafts && picked[right] === plan.tokens[start + 1 + right]) right += 1;
      tokens.push(picked[drafts === 0 ? picked.length - 1 : right]);
      accepted.push(right);
    }
    return { tokens, accepted };
  }

  /** A whole page goes to host memory, or comes from there. */
  swap(out: boolean, source: number, target: number): void {
    const [from, to] = out ? [this.#pages, this.#host] : [this.#host, this.#pages];
    const page = from.get(source);
    if (page === undefined) to.delete(target);
    else to.set(target, { group: page.group, words: [...page.words] });
  }

  /** A transfer of a page broke off: nothing is left of what was there. */
  breakSwap(out: boolean, target: number): void {
    (out ? this.#host : this.#pages).delete(target);
  }

  /** Bytes of a page as `readBlocks` gives it: group, words, and the words. */
  get blockBytes(): number {
    return 4 * (2 + Math.max(...this.groups.map(({ blockSize }) => blockSize)));
  }

  /** Pages as bytes; one that nobody has written as zeros. */
  readBlocks(ids: Uint32Array): Uint8Array {
    const payload = new Uint32Array((ids.length * this.blockBytes) / 4);
    ids.forEach((id, i) => {
      const { group, words } = this.#pages.get(id) ?? { group: 0, words: [] };
      payload.set([group, words.length, ...words], (i * this.blockBytes) / 4);
    });
    return new Uint8Array(payload.buffer);
  }

  writeBlocks(ids: Uint32Array, payload: Uint8Array): void {
    const words = new Int32Array(payload.slice().buffer);
    ids.forEach((id, i) => {
      const [group, count, ...rest] = words.subarray((i * this.blockBytes) / 4);
      this.#pages.set(id, { group, words: rest.slice(0, count) });
    });
  }

  #copy(plan: StepPlan): void {
    for (let at = 0; at < plan.transfers.length; at += TRANSFER_WORDS) {
      const [op, , source, , target, tokens] = plan.transfers.subarray(at, at + TRANSFER_WORDS);
      if ((op & 0xff) !== TransferOp.Copy) continue;
      const page = this.#pages.get(source)!;
      assert.equal(page.group, op >> 8, "a page is copied within its group");
      const words = page.words.slice(0, this.groups[page.group].kind === "recurrent" ? 1 : tokens);
      this.#pages.set(target, { group: page.group, words });
    }
  }

  /** Feeds a row's `i`-th token; returns the token that follows it. */
  #feed(plan: StepPlan, row: number, i: number): number {
    const at = plan.tokenStart[row] + i;
    const position = plan.computedBefore[row] + i;
    const token = plan.tokens[at];
    const sums = this.groups.map((group, g) => {
      const { tables, tableStart, slots } = g === 0 ? plan : plan.groups![g - 1];
      const blockAt = (p: number): number => tables[tableStart[row] + Math.floor(p / group.blockSize)];
      assert.equal(slots[at], blockAt(position) * group.blockSize + (position % group.blockSize));
      const page = this.#write(g, blockAt(position), position % group.blockSize === 0);
      if (group.kind === "recurrent") {
        const before = position === 0 ? 1 : this.#read(g, blockAt(position - 1), 0);
        page.words[0] = hashed(before, token);
        return page.words[0];
      }
      page.words[position % group.blockSize] = token;
      const from = group.kind === "full" ? 0 : Math.max(0, position + 1 - group.window);
      let sum = position + 1 - from;
      for (let p = from; p <= position; p++)
        sum += (p - from + 1) * this.#read(g, blockAt(p), p % group.blockSize);
      return sum;
    });
    const sum = sums.reduce((total, value, g) => total + (value >>> 0) * (g + 1), 0);
    return (sum >>> 0) % this.vocab;
  }

  #write(group: number, id: number, begins: boolean): Page {
    assert.notEqual(id, NO_BLOCK);
    let page = this.#pages.get(id);
    if (page === undefined || begins || page.group !== group) {
      assert.ok(begins, `block ${id} of group ${group} is written in the middle, and holds nothing of it`);
      this.#pages.set(id, (page = { group, words: [] }));
    }
    return page;
  }

  #read(group: number, id: number, offset: number): number {
    assert.notEqual(id, NO_BLOCK, "what a window still sees is held");
    const page = this.#pages.get(id);
    assert.equal(page?.group, group, `block ${id} holds something of group ${group}`);
    assert.notEqual(page!.words[offset], undefined, `block ${id} holds offset ${offset}`);
    return page!.words[offset];
  }
}
