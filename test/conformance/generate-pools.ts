/** Scripts about structures beside the KV cache: the keyed pool and virtual memory. */
import type { Random } from "../support/random.js";
import type { Generator } from "./recorder.js";

/** Words of keys of `length` words each, few enough to come again. */
const keyWords = (random: Random, count: number, length: number): number[] =>
  Array.from({ length: count }, () => {
    const key = random.below(12);
    return Array.from({ length }, (_, i) => key * (i + 1));
  }).flat();

export const keyedPool: Generator = async (recorder) => {
  const { random } = recorder;
  const blocks = 24;
  await recorder.call("core", 26);
  await recorder.call("keyed", blocks, 24, 8);
  const held: number[] = [];
  const aside = new Set<number>();
  /** Different blocks in circulation. */
  const some = (most: number): number[] => {
    const chosen = new Set<number>();
    for (let n = random.below(most + 1); n > 0; n--) chosen.add(random.below(blocks));
    return [...chosen].filter((block) => !aside.has(block));
  };
  for (let i = 0; i < 600; i++) {
    switch (random.below(9)) {
      case 0:
      case 1: {
        const [touched, count] = [some(3), random.below(5)];
        if (random.below(3) === 0) await recorder.call("keyed-fits", count, touched);
        const [status, ...taken] = await recorder.call("keyed-take", count, touched);
        if (status >= 0) held.push(...touched, ...taken.slice(0, count));
        break;
      }
      case 2:
      case 3: {
        const released = held.splice(random.below(held.length + 1), 1 + random.below(4));
        if (released.length > 0) await recorder.call("keyed-release", released);
        const block = random.below(blocks);
        if (random.below(9) === 0 && !held.includes(block)) await recorder.call("keyed-release", [block]);
        break;
      }
      case 4: {
        const named = some(4);
        const length = random.pick([2, 4, 6]);
        if (named.length > 0)
          await recorder.call("keyed-enter", random.below(2), named, keyWords(random, named.length, length));
        break;
      }
      case 5:
      case 6: {
        const length = random.pick([2, 4, 6]);
        const words = keyWords(random, 1 + random.below(8), length);
        await recorder.call("keyed-find", random.below(2), random.below(2), length, words);
        break;
      }
      case 7:
        if (random.below(3) === 0) await recorder.call("keyed-drop", some(5));
        else await recorder.call("keyed-counts");
        break;
      default: {
        const block = random.below(blocks);
        const [put] = await recorder.call("keyed-aside", block, aside.has(block) ? 0 : 1);
        if (put < 0) break;
        if (!aside.delete(block)) aside.add(block);
      }
    }
    if (i % 50 === 0) await recorder.call("validate");
  }
  while (held.length > 0) await recorder.call("keyed-release", held.splice(-8));
  await recorder.call("keyed-counts");
};

export const virtualMemory: Generator = async (recorder) => {
  const { random } = recorder;
  const [slots, maxTokens] = [6, 96];
  await recorder.call("core", 27);
  // Tokens cross the ends of pages: 3 tokens in 4 pages are the least that can be shared.
  await recorder.call("virtual", slots, maxTokens, 1536, 4, 4096, 60, 5, 2, 1);
  let lengths = new Array<number>(slots).fill(0);
  const active = (): number[] => lengths.flatMap((length, slot) => (length > 0 ? [slot] : []));
  const step = async (asked: number[]): Promise<void> => {
    const [refused, ...short] = await recorder.call("virtual-step", asked);
    if (refused >= 0) lengths = asked.map((length, slot) => (short.includes(slot) ? lengths[slot] : length));
  };
  for (let i = 0; i < 300; i++) {
    const kind = random.below(10);
    const some = active();
    if (kind < 2) {
      const count = 1 + random.below(40);
      const from = some.length > 0 && random.below(2) === 0 ? random.pick(some) : 0;
      const prefix = lengths[from] > 0 ? random.below(Math.min(count, lengths[from]) + 1) : 0;
      const asked = random.below(30) === 0 ? maxTokens + 1 : count;
      const [slot] = await recorder.call("virtual-allocate", asked, from, prefix);
      if (slot >= 0) lengths[slot] = asked;
    } else if (kind === 2) {
      const slot = random.below(slots);
      const [freed] = await recorder.call("virtual-free", slot, random.below(2));
      if (freed === 0) lengths[slot] = 0;
    } else if (kind === 3 && some.length > 1) {
      const [from, to] = [random.pick(some), random.pick(some)];
      await recorder.call("virtual-share", from, to, random.below(Math.min(lengths[from], lengths[to]) + 2));
    } else if (kind === 4) {
      await recorder.call(random.below(6) === 0 ? "virtual-trim" : "virtual-available");
      await recorder.call("virtual-pages", random.below(slots + 1));
    } else {
      await step(lengths.map((length) => (length === 0 ? 0 : Math.min(maxTokens, length + random.below(5)))));
      if (random.below(2) === 0) await recorder.call("virtual-ahead");
    }
    if (random.below(40) === 0) await step(lengths.map((length) => (length > 0 ? maxTokens + 1 : 0)));
    await recorder.call("virtual-changes");
    if (i % 50 === 0) await recorder.call("validate");
  }
  await step(lengths);
};
