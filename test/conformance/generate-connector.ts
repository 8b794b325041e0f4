/** A script about a connector: what a prompt is called outside, and blocks that are copied in from there. */
import { bound, callClose, fillInput, LONGEST, marks } from "./generate-sharing.js";
import { type Generator, tokens } from "./recorder.js";

/** Kind, window, tokens a block of each group. */
const GROUPS = [
  [1, 8, 4],
  [0, 0, 8],
];

/** Sequences that begin with blocks from outside, in one call or two, and others that are computed; each under its keys. */
export const connector: Generator = async (recorder) => {
  const host = bound(recorder);
  const { random, call } = host;
  await call("core", 31);
  await call("connected", 60, 4, 9, LONGEST, 16, GROUPS.flat());
  const open: number[] = [];
  for (let i = 0; i < 160; i++) {
    const namespace = random.below(2);
    const list = random.below(3) === 0 ? marks(random) : [];
    const prompt = tokens(random, 40);
    await call("prompt-keys", namespace, list, prompt);
    const [cached] = await call("match-marked", namespace, list, prompt);
    const [sequence] = await call("open-marked", namespace, 0, list, prompt);
    if (sequence > 0) {
      open.push(sequence);
      const [length] = await call("length", sequence);
      const rest = prompt.slice(length);
      const [added] = await call("reserve", sequence, rest.length);
      await call("copies");
      await call("settle");
      if (added >= 0 && random.below(2) === 0) await call("append", sequence, rest);
      else if (added >= 0) {
        // As whole blocks have come: all of them, or the first ones and then the others.
        const first = rest.slice(0, random.below(2) === 0 ? rest.length : random.below(rest.length + 1));
        if (random.below(9) === 0)
          await call("append-loaded", sequence, length + first.length - 1, first.length > 0 ? first : [1]);
        await call("append-loaded", sequence, prompt.length, first);
        await call("append-loaded", sequence, prompt.length, rest.slice(first.length));
      }
      await call("keys", sequence);
      await call("slots", sequence);
      for (let group = 1; group <= GROUPS.length; group++) {
        await call("group-table", sequence, group);
        await call("group-cached", sequence, group);
      }
    }
    if (cached > 0 && i % 4 === 0) await call("append-loaded", 12345678, 8, [1]);
    await call("group-figures", 1 + random.below(GROUPS.length + +(random.below(20) === 0)));
    while (open.length > 6 || (open.length > 0 && random.below(3) === 0))
      await callClose(host, random.pick(open), open);
    if (i % 20 === 0) await call("validate");
  }
  await fillInput(host);
};
