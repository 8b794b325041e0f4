/** What prompts say beside their tokens, an adapter, salts, items; and what that does to K and V from its place on. */
import assert from "node:assert/strict";
import type { PromptMarks } from "../../../bindings/main.js";
import type { Random } from "../../support/random.js";
import { contentAfter, contentOfNothing } from "./answers.js";
import type { Systems } from "./systems.js";

const KINDS = { adapter: 0x20000, public: 0x30000, group: 0x40000, tenant: 0x50000, item: 0x60000 } as const;

/** Few different ones, all of them at tokens of the prompt, so that prompts often differ in one of them alone. */
export function drawMarks(random: Random, promptTokens: number): PromptMarks {
  const adapter = random.below(3) === 0 ? { adapter: random.below(2) } : {};
  const offset = random.below(promptTokens);
  const scope = random.pick(["group", "tenant"] as const);
  const salted = { offset, scope, salt: random.below(2) };
  const end = offset + 1 + random.below(6);
  const publicAgain =
    random.below(2) === 0 && end < promptTokens ? [{ offset: end, scope: "public" as const }] : [];
  const ranges = random.below(2) === 0 ? { ranges: [salted, ...publicAgain] } : {};
  const item = { offset: random.below(promptTokens), length: 1 + random.below(2), hash: random.below(2) };
  const items = random.below(2) === 0 ? { items: [item] } : {};
  return { ...adapter, ...ranges, ...items };
}

/** Those of the first tokens of a prompt. */
export function marksBefore({ adapter, ranges, items }: PromptMarks, end: number): PromptMarks {
  return {
    adapter,
    ranges: ranges?.filter(({ offset }) => offset < end),
    items: items?.filter(({ offset }) => offset < end),
  };
}

/** The content in front of token `at`: what stands before it, and what is marked there. */
function marked(content: number, at: number, { adapter, ranges, items }: PromptMarks): number {
  const next = (kind: keyof typeof KINDS, value: number): void => {
    content = contentAfter(content, KINDS[kind] + value);
  };
  if (at === 0 && adapter !== undefined) next("adapter", Number(adapter));
  for (const { offset, scope, salt = 0 } of ranges ?? []) if (offset === at) next(scope, Number(salt));
  for (const { offset, length, hash } of items ?? [])
    if (offset === at) next("item", 16 * length + Number(hash));
  return content;
}

/** K and V of a token at place `at` behind the tokens that `content` stands for. */
export function contentAt(content: number, token: number, at: number, marks: PromptMarks): number {
  return contentAfter(marked(content, at, marks), token);
}

/** K and V of each of the tokens. */
export function contentsOf(namespace: number, tokens: readonly number[], marks: PromptMarks): number[] {
  let content = contentOfNothing(namespace);
  return tokens.map((token, at) => (content = contentAt(content, token, at, marks)));
}

/** Tokens of a prompt that are cached; undefined where there is no room for the marks to ask with. */
export function matched(
  systems: Systems,
  tokens: ArrayLike<number>,
  namespace: number,
  marks: PromptMarks,
): number | undefined {
  const answer = systems.tryCall(({ cache }) => cache.match(tokens, namespace, marks));
  if (typeof answer === "number") return answer;
  assert.equal(answer, "OUT_OF_SCOPES");
  return undefined;
}
