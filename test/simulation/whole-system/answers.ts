/**
 * The model that the virtual machine runs. The K and V of a token are one number that depends on every token up to it and
 * on the namespace, and the next token follows from that number: so whoever reads a wrong block says a wrong word.
 */

import type { PromptMarks } from "../../../bindings/main.js";
import { contentAt } from "./marks.js";

/** K and V of a token behind the tokens that `content` stands for. */
export function contentAfter(content: number, token: number): number {
  let mixed = Math.imul(content ^ (token + 0x9e3779b9), 0x85ebca6b);
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35);
  return (mixed ^ (mixed >>> 16)) >>> 0;
}

/** What stands in front of the first token. */
export function contentOfNothing(namespace: number): number {
  return contentAfter(0x51ed270b, namespace);
}

/** The same in the layers of a cache group: 0 are the cache's own tables. */
export function contentInGroup(content: number, group: number): number {
  return group === 0 ? content : contentAfter(content, 0x10000 + group);
}

/** The token that follows. */
export function nextToken(content: number, vocabSize: number): number {
  return (Math.imul(content, 0x9e3779b1) >>> 0) % vocabSize;
}

/** Whether the text ends with that token. */
export function endsText(content: number): boolean {
  return (Math.imul(content, 0x2545f491) >>> 0) % 40 === 0;
}

/** A prompt and what the model says to it, however the request is served. */
export interface Answer {
  /** Prompt and generated tokens. */
  readonly tokens: Uint32Array;
  /** K and V of each of them. */
  readonly contents: Uint32Array;
  readonly generated: number;
}

export function answerTo(
  prompt: ArrayLike<number>,
  namespace: number,
  maxNewTokens: number,
  vocabSize: number,
  marks: PromptMarks = {},
): Answer {
  const tokens = new Uint32Array(prompt.length + maxNewTokens);
  const contents = new Uint32Array(tokens.length);
  tokens.set(prompt);
  let content = contentOfNothing(namespace);
  let generated = 0;
  for (let at = 0; at < tokens.length; at++) {
    content = contents[at] = contentAt(content, tokens[at], at, marks);
    if (at < prompt.length - 1) continue;
    if (generated === maxNewTokens) break;
    tokens[at + 1] = nextToken(content, vocabSize);
    generated += 1;
    if (endsText(content)) break;
  }
  return { tokens, contents, generated };
}
