/** Conversations whose topics come back: facts of four topics, said in windows in random order. Seeded. */
import { RandomStream } from "../random.js";
import { differentWords, fillerText } from "./filler.js";
import type { Question } from "./tasks.js";

/** First letters of a topic's keys. */
const TOPICS = ["abcdef", "ghijkl", "mnopqr", "stuvwxyz"];

export interface Conversation {
  readonly text: string;
  /** In the order of the text, which they make up. */
  readonly windows: readonly { readonly text: string; readonly topic: number }[];
  readonly questions: readonly (Question & { readonly topic: number })[];
  /** [topics] words that only windows of the topic have as filler; empty unless planted. */
  readonly words: readonly (readonly string[])[];
}

/**
 * Four topics of ten facts with values of two digits, in windows of five facts and a little filler.
 * @param planted words of a topic's own as its filler: what a conversation about it keeps coming back to
 */
export function makeConversation(seed: number, { planted = 0 } = {}): Conversation {
  const random = new RandomStream(seed);
  const all = planted > 0 ? differentWords(random, TOPICS.length * planted, 6) : [];
  const words = TOPICS.map((_, topic) => all.slice(topic * planted, (topic + 1) * planted));
  const questions: (Question & { topic: number })[] = [];
  const windows = TOPICS.flatMap((letters, topic) => {
    const keys = new Set<string>();
    while (keys.size < 10)
      keys.add(letters[random.below(letters.length)] + String.fromCharCode(97 + random.below(26)));
    const facts = [...keys].map((key) => {
      const answer = String(10 + random.below(90));
      questions.push({ text: `?${key}`, answer, topic });
      return `#${key}${answer};`;
    });
    return [0, 1].map((half) => ({
      topic,
      text: facts
        .slice(half * 5, half * 5 + 5)
        .map(
          (fact) => (planted > 0 ? `${words[topic][random.below(planted)]} ` : fillerText(random, 7)) + fact,
        )
        .join(""),
    }));
  });
  random.shuffle(windows);
  return { text: windows.map(({ text }) => text).join(""), windows, questions, words };
}
