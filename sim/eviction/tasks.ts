/**
 * Retrieval tasks of the embedded model tiny-retrieval: a context, and questions that need it. Seeded: equal arguments
 * give equal texts.
 *
 *   kv      `ab37;cd05;...`              `?ab` -> `37`      every character counts, nothing can be left out
 *   needle  `word word #ab37;word ...`   `?ab` -> `37`      few characters count
 *   chain   `abcd;cd37;...`              `?ab` -> `cd37`    1 to 4 hops
 *   copy    `[abcdefghijkl]...`          `[abc` -> `defghijkl]`
 *   major   `{aabac...`                  `}` -> `a`         the commonest letter: every character counts a little
 *   multi   words, facts and strings     both kinds in turn two tasks over one text
 *
 * Kinds of task after "SCBench: A KV Cache-Centric Analysis of Long-Context Methods" (ICLR 2025, arXiv 2412.10319): string
 * retrieval, multi-hop tracing, global information.
 */
import { invalidArgument, requireInteger } from "../../bindings/errors.js";
import { RandomStream } from "../random.js";
import { fillerText, fillerWords } from "./filler.js";

export const TASKS = ["kv", "needle", "chain", "copy", "major", "multi"] as const;
export type TaskName = (typeof TASKS)[number];

export interface Question {
  readonly text: string;
  readonly answer: string;
}

export interface Task {
  readonly name: TaskName;
  readonly context: string;
  /** Different ones: a question asked twice can be answered from its first answer. */
  readonly questions: readonly Question[];
}

export interface TaskOptions {
  readonly seed: number;
  /** Characters of the context, at most; 64 to 700, the lengths that the model was trained on. Default 448. */
  readonly length?: number;
  /** Questions to ask, at least 1. Default 1; `major` has one. */
  readonly questions?: number;
  /** How often each fact of `needle` stands in its stretch, 1 to 3. Default 1. */
  readonly repeats?: number;
  /** Digits of a value, 2 to 4. Default 2. */
  readonly digits?: number;
}

const LETTERS = "abcdefghijklmnopqrstuvwxyz";

/** One context with its questions. Throws INVALID_ARGUMENT. */
export function makeTask(name: TaskName, options: TaskOptions): Task {
  const { seed } = options;
  const length = requireInteger("length", options.length ?? 448, 64, 700);
  const questions = requireInteger("questions", options.questions ?? 1, 1, 64);
  const digits = requireInteger("digits", options.digits ?? 2, 2, 4);
  const repeats = requireInteger("repeats", options.repeats ?? 1, 1, 3);
  const random = new RandomStream(requireInteger("seed", seed, 0, 2 ** 40) * 8 + TASKS.indexOf(name));
  const make = MAKERS[name];
  if (make === undefined) throw invalidArgument("task", name, TASKS.join(", "));
  const { context, answers, others = [] } = make(random, { length, digits, questions, repeats });
  const [first, second] = [random.shuffle(answers), random.shuffle(others)];
  const chosen = first.flatMap((question, i) => [question, ...second.slice(i, i + 1)]).slice(0, questions);
  return { name, context, questions: chosen };
}

interface Made {
  readonly context: string;
  /** Everything that may be asked. */
  readonly answers: Question[];
  /** Questions of a second kind, asked in turn with the first. */
  readonly others?: Question[];
}

type Sizes = Required<Pick<TaskOptions, "length" | "digits" | "questions" | "repeats">>;
type Maker = (random: RandomStream, sizes: Sizes) => Made;

const MAKERS: Readonly<Record<TaskName, Maker>> = {
  kv: (random, { length, digits }) => {
    const count = Math.floor(length / (3 + digits));
    const facts = pairs(random, count).map((key) => ({ key, value: number(random, digits) }));
    return {
      context: facts.map(({ key, value }) => `${key}${value};`).join(""),
      answers: facts.map(({ key, value }) => ({ text: `?${key}`, answer: value })),
    };
  },

  needle: (random, { length, digits, questions, repeats }) => {
    // Facts lie one in each of equal stretches of the text, so their depths are uniform.
    const count = Math.max(questions, Math.floor(length / (60 + 20 * repeats)));
    const stretch = Math.floor(length / count);
    const facts = pairs(random, count).map((key) => ({ key, value: number(random, digits) }));
    const context = facts
      .map(({ key, value }) => {
        const once = `#${key}${value};`;
        let fact = once;
        for (let i = 1; i < repeats; i++) fact += fillerText(random, 8) + once;
        const before = random.below(stretch - fact.length + 1);
        return fillerText(random, before) + fact + fillerText(random, stretch - fact.length - before);
      })
      .join("");
    return { context, answers: facts.map(({ key, value }) => ({ text: `?${key}`, answer: value })) };
  },

  chain: (random, { length }) => {
    const names = pairs(random, Math.floor(length / 5));
    const links: string[] = [];
    const answers: Question[] = [];
    for (let at = 0; at < names.length;) {
      const hops = Math.min(1 + random.below(4), names.length - at);
      const chain = names.slice(at, at + hops);
      const steps = [...chain.slice(1), number(random, 2)];
      chain.forEach((name, i) => links.push(`${name}${steps[i]};`));
      answers.push({ text: `?${chain[0]}`, answer: steps.join("") });
      at += hops;
    }
    return { context: random.shuffle(links).join(""), answers };
  },

  copy: (random, { length }) => {
    const items = differentStarts(random, Math.floor(length / 14));
    return { context: items.map((item) => `[${item}]`).join(""), answers: items.map(stringQuestion) };
  },

  major: (random, { length }) => {
    const [common, ...others] = random.shuffle([...LETTERS]).slice(0, 4);
    // Three in five are the commonest letter, the other three share the rest.
    const text = Array.from({ length: length - 1 }, (_, i) => (i % 5 < 3 ? common : others[random.below(3)]));
    return { context: `{${random.shuffle(text).join("")}`, answers: [{ text: "}", answer: common }] };
  },

  multi: (random, { length, digits, questions }) => {
    // A fact and a string in each of equal stretches of the text, in either order.
    const count = Math.max(Math.ceil(questions / 2), Math.floor(length / 110));
    const stretch = Math.floor(length / count);
    const facts = pairs(random, count).map((key) => ({ key, value: number(random, digits) }));
    const strings = differentStarts(random, count);
    const context = facts
      .map(({ key, value }, i) => {
        const parts = random.shuffle([`#${key}${value};`, `[${strings[i]}]`]);
        const room = stretch - parts[0].length - parts[1].length;
        const before = fillerText(random, random.below(room + 1));
        return before + parts[0] + fillerText(random, room - before.length) + parts[1];
      })
      .join("");
    return {
      context,
      answers: facts.map(({ key, value }) => ({ text: `?${key}`, answer: value })),
      others: strings.map(stringQuestion),
    };
  },
};

/** Strings of 12 letters whose first three tell them apart. */
function differentStarts(random: RandomStream, count: number): string[] {
  const starts = new Set<string>();
  const items: string[] = [];
  while (items.length < count) {
    const item = letters(random, 12);
    if (starts.has(item.slice(0, 3))) continue;
    starts.add(item.slice(0, 3));
    items.push(item);
  }
  return items;
}

function stringQuestion(item: string): Question {
  return { text: `[${item.slice(0, 3)}`, answer: `${item.slice(3)}]` };
}

/** `count` different pairs of letters. */
function pairs(random: RandomStream, count: number): string[] {
  return random.shuffle([...LETTERS].flatMap((a) => [...LETTERS].map((b) => a + b))).slice(0, count);
}

function letters(random: RandomStream, count: number): string {
  return Array.from({ length: count }, () => LETTERS[random.below(26)]).join("");
}

function number(random: RandomStream, digits: number): string {
  return Array.from({ length: digits }, () => String(random.below(10))).join("");
}

/** A table, then steps that look it up again and again while text is generated. */
export interface LoopTask {
  /** `a3;b7;...;word word !` */
  readonly context: string;
  /** One character of the run a step: a label, `.`, a digit. */
  readonly run: string;
}

export interface LoopOptions {
  readonly seed: number;
  /** Characters of context and run together. Default 448. */
  readonly length?: number;
  /** Labels of the table, 1 to 26. Default 12. */
  readonly labels?: number;
  /** Words between table and run. Default 20. */
  readonly words?: number;
}

/** `loop`: after `label.` comes the sum of the looked up digits so far, modulo 10. */
export function makeLoop({ seed, length = 448, labels = 12, words = 20 }: LoopOptions): LoopTask {
  const random = new RandomStream(requireInteger("seed", seed, 0, 2 ** 40) * 8 + 7);
  const table = random
    .shuffle([...LETTERS])
    .slice(0, requireInteger("labels", labels, 1, 26))
    .map((label) => ({ label, digit: random.below(10) }));
  const facts = table.map(({ label, digit }) => `${label}${digit};`).join("");
  const context = `${facts}${fillerWords(random, words)}!`;
  let sum = 0;
  let run = "";
  while (context.length + run.length + 3 <= length) {
    const { label, digit } = table[random.below(table.length)];
    sum = (sum + digit) % 10;
    run += `${label}.${sum}`;
  }
  return { context, run };
}
