/**
 * EpiCache: topics are found, the peak of a blockwise prefill holds, scores and budgets are those defined, and a question
 * is answered from its own episode's cache, not from another's.
 */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { EpisodeIndex, kMeans, ngramEmbedder } from "../../bindings/eviction/episodes.js";
import { sensitivityBudgets } from "../../bindings/eviction/policies/epicache.js";
import { Core, createPolicy, type PolicyOptions, StatMask } from "../../bindings/main.js";
import { BOS, tokensOf } from "../../sim/eviction/alphabet.js";
import { layerSimilarity, prefillBlockwise } from "../../sim/eviction/blockwise.js";
import { type Conversation, makeConversation } from "../../sim/eviction/conversations.js";
import type { LabSequence } from "../../sim/eviction/lab.js";
import { argmax } from "../../sim/eviction/measures.js";
import { makeTask } from "../../sim/eviction/tasks.js";
import { RandomStream } from "../../sim/random.js";
import { openLab, watchBlocks } from "../support/lab.js";

const lab = await openLab();
after(() => lab.executor.close());
const selection = (await Core.create()).selection({ capacity: 4096 });
const epicache = (options: PolicyOptions) => createPolicy(selection, "epicache", options);

/** Agreement of two labellings, corrected for chance. */
function adjustedRand(a: ArrayLike<number>, b: ArrayLike<number>): number {
  const pairs = (n: number): number => (n * (n - 1)) / 2;
  const count = (keys: string[]): number => {
    const counts = new Map<string, number>();
    for (const key of keys) counts.set(key, (counts.get(key) ?? 0) + 1);
    return [...counts.values()].reduce((sum, n) => sum + pairs(n), 0);
  };
  const all = Array.from({ length: a.length }, (_, i) => i);
  const both = count(all.map((i) => `${a[i]} ${b[i]}`));
  const [left, right] = [count(all.map((i) => `${a[i]}`)), count(all.map((i) => `${b[i]}`))];
  const expected = (left * right) / pairs(a.length);
  return (both - expected) / ((left + right) / 2 - expected);
}

test("planted topics are found; the same seed gives the same clusters; inertia never grows", () => {
  const random = new RandomStream(2);
  const centers = Array.from({ length: 4 }, () => Float64Array.from({ length: 32 }, () => random.normal()));
  const truth = Array.from({ length: 80 }, (_, i) => i % 4);
  const points = truth.map((topic) => centers[topic].map((value) => value + 0.4 * random.normal()));
  const found = kMeans(points, 4, { seed: 5 });
  assert.ok(adjustedRand(found.labels, truth) > 0.95);
  assert.deepEqual(kMeans(points, 4, { seed: 5 }), found);
  found.inertia.forEach((value, i) => assert.ok(i === 0 || value <= found.inertia[i - 1] + 1e-9));
});

test("a cluster that loses all its points starts again at the farthest one: none stays empty", () => {
  // Two of 100,000 random starts, found by search: left where it was, the empty cluster stays empty.
  for (const seed of [7520, 19864]) {
    const random = new RandomStream(seed);
    const points = Array.from({ length: 24 }, () =>
      Float64Array.from({ length: 2 }, () => Math.round(8 * random.normal() ** 3)),
    );
    const { labels, inertia } = kMeans(points, 6, { seed, restarts: 1 });
    assert.equal(new Set(labels).size, 6);
    inertia.forEach((value, i) => assert.ok(i === 0 || value <= inertia[i - 1] + 1e-9));
  }
});

test("an index of windows: texts in order, questions find their episode, empty windows follow their neighbour", () => {
  const { windows, questions } = makeConversation(3);
  const texts = windows.map(({ text }) => text);
  const embed = ngramEmbedder(texts);
  const index = new EpisodeIndex([...texts.slice(0, 3), "", ...texts.slice(3)], { embed, episodes: 4 });
  assert.equal(index.rejected, 1);
  assert.equal(index.labels[3], index.labels[2]);
  for (let episode = 0; episode < index.episodes; episode++) {
    const text = index.episodeText(episode);
    const own = index.windows.filter((_, i) => index.labels[i] === episode).join("");
    assert.equal(text, own);
  }
  const hits = questions.filter(({ text, answer }) => {
    const fact = `#${text.slice(1)}${answer}`;
    return index.episodeText(index.match(`#${text.slice(1)}`)).includes(fact);
  });
  assert.ok(hits.length >= 0.8 * questions.length, `${hits.length} of ${questions.length}`);
  assert.equal(new EpisodeIndex(texts, { embed, episodes: 99 }).episodes, texts.length);
});

test("layer budgets: less similar layers get more, the sum is exact, alpha 0 is uniform, the published floors exceed it", () => {
  const random = new RandomStream(6);
  for (let i = 0; i < 200; i++) {
    const layers = 2 + random.below(20);
    const similarity = Array.from({ length: layers }, () => random.uniform());
    const slots = 8 + random.below(200);
    const budgets = sensitivityBudgets(selection, { similarity, slots });
    assert.equal(
      budgets.reduce((a, b) => a + b, 0),
      slots * layers,
    );
    assert.ok(budgets.every((budget) => budget >= Math.floor(slots / 4)));
    for (let a = 0; a < layers; a++)
      for (let b = 0; b < layers; b++) if (similarity[a] < similarity[b]) assert.ok(budgets[a] >= budgets[b]);
    assert.ok(
      sensitivityBudgets(selection, { similarity, slots, alpha: 0 }).every((budget) => budget === slots),
    );
    const floors = sensitivityBudgets(selection, { similarity, slots, strict: false });
    const range = Math.max(...similarity) - Math.min(...similarity);
    const weights = similarity.map((value) => (1 - (value - Math.min(...similarity)) / range) ** 1.1);
    const sum = weights.reduce((a, b) => a + b, 0);
    floors.forEach((budget, layer) =>
      assert.equal(
        budget,
        Math.max(Math.floor((weights[layer] / sum) * slots * layers), Math.max(1, Math.floor(slots / 4))),
      ),
    );
  }
});

test("a blockwise prefill holds budget + block + probe at most, each layer its budget, and nested sets", async (t) => {
  const { text, windows } = makeConversation(11);
  const tokens = [BOS, ...tokensOf(text + text.slice(0, 200))];
  const probe = tokensOf(windows[0].text);
  for (const [level, similarity] of [
    ["pair", undefined],
    ["pair", [0.9, 0.5, 0.2]],
    ["pair-uniform", undefined],
  ] as const) {
    const policy = epicache({ budget: 60, level, ...(similarity && { similarity: [...similarity] }) });
    const sequence = lab.open(policy, tokens.length);
    const { cap } = policy.budgetFor(lab.shape, tokens.length);
    let before: Set<number>[] | undefined;
    const blocks = watchBlocks(lab);
    for (let from = 0; from < tokens.length; from += 80) {
      const part = tokens.slice(from, from + 80);
      const peak = await prefillBlockwise(sequence, part, { block: 80, probe });
      // Heads that compete may take their neighbour's slots as well.
      const most = 2 * Math.max(...cap);
      assert.ok(peak.slots <= most + 80 && peak.withProbe <= most + 80 + probe.length);
      const { kvHeads, layers } = sequence.lanes;
      for (let layer = 0; layer < layers; layer++) {
        const lengths = Array.from({ length: kvHeads }, (_, head) => sequence.lanes.lane(layer, head).length);
        const total = lengths.reduce((a, b) => a + b, 0);
        assert.equal(total, Math.min(kvHeads * cap[layer * kvHeads], (from + part.length) * kvHeads));
        assert.ok(lengths.every((length) => length >= 1));
      }
      const sets = Array.from(
        { length: layers * kvHeads },
        (_, lane) => new Set(sequence.lanes.positions(lane)),
      );
      before?.forEach((old, lane) =>
        sets[lane].forEach((position) => assert.ok(position >= from || old.has(position))),
      );
      before = sets;
    }
    const blocksFor = (slots: number): number => Math.ceil((slots + 80 + probe.length) / lab.blockSize);
    const [bound, taken] = [blocksFor(Math.max(...cap)), blocks.end()];
    t.diagnostic(`${level}: ${taken} blocks at most, ${bound} for budget + block + probe of a head`);
    // A block holds a slot of every head: where heads compete, the longest of a layer's two decides.
    assert.ok(taken <= (level === "pair" ? blocksFor(2 * Math.max(...cap)) : bound));
    sequence.close();
    const folded = lab.open(
      epicache({ budget: 60, level, ...(similarity && { similarity: [...similarity] }) }),
      tokens.length,
      "folded",
    );
    const foldedBlocks = watchBlocks(lab);
    await prefillBlockwise(folded, tokens, { block: 80, probe });
    const peak = foldedBlocks.end();
    // The sum over layers counts, in places for a layer's 16 slots: heads of a layer still share them.
    t.diagnostic(`${level}, a table a layer: ${peak} blocks at most, ${folded.table.length} after`);
    assert.ok(peak <= taken);
    assert.deepEqual(folded.lanes.lengths(), sequence.lanes.lengths());
    folded.close();
  }
  assert.equal(lab.freeBlocks, 256);
});

test("scores: the largest probability over probe queries and the group's heads, softmax over cached keys only", async () => {
  const { text } = makeConversation(12);
  const tokens = [BOS, ...tokensOf(text.slice(0, 99))];
  const sequence = lab.open(null, tokens.length);
  await sequence.run(tokens, undefined);
  const views = await sequence.probe(tokensOf("?ab#cd"), { mask: StatMask.PROBE_MAX });
  assert.equal(sequence.lanes.longest, 100, "the probe leaves nothing");
  // One probe query alone after the cache: its full row, renormalised without its own key.
  const single = await sequence.probe(tokensOf("?"), { mask: StatMask.PROBE_MAX | StatMask.LAST_ROW });
  for (const { layer, heads, kvHeads, stride, probeMax, lastRow } of single) {
    for (let kvHead = 0; kvHead < kvHeads; kvHead++)
      for (let slot = 0; slot < 100; slot++) {
        const wanted = Math.max(
          ...Array.from({ length: heads / kvHeads }, (_, g) => {
            const at = (kvHead * (heads / kvHeads) + g) * stride;
            return lastRow![at + slot] / (1 - lastRow![at + 100]);
          }),
        );
        assert.ok(Math.abs(probeMax![kvHead * stride + slot] - wanted) < 1e-4);
        const all = views[layer].probeMax![kvHead * views[layer].stride + slot];
        assert.ok(all >= probeMax![kvHead * stride + slot] - 1e-5, "more probe queries never lower it");
      }
  }
  sequence.close();
});

/** Whether a fact is answered from a copy of a cache. */
async function answers(cache: LabSequence, text: string, answer: string): Promise<boolean> {
  const copy = await cache.fork(cache.policy && epicache({ budget: 120 }));
  let logits: Float32Array = new Float32Array(0);
  for (const token of tokensOf(text)) logits = await copy.feed(token);
  let isRight = true;
  for (const token of tokensOf(answer)) {
    isRight &&= argmax(logits) === token;
    if (isRight) logits = await copy.feed(token);
  }
  copy.close();
  return isRight;
}

const BUDGET = 120;

test("conversations of four topics: its own episode's cache answers nearly all, one cache for all or another's does not", async (t) => {
  const right = { full: 0, own: 0, routed: 0, one: 0, wrong: 0, snapkv: 0, streaming: 0, random: 0 };
  let [asked, found] = [0, 0];
  let read = { slots: 0, bytes: 0, full: 0 };
  const serve = async (
    policy: ReturnType<typeof epicache> | null,
    tokens: number[],
    probe?: Parameters<typeof prefillBlockwise>[2]["probe"],
  ) => {
    const sequence = lab.open(policy, tokens.length);
    await prefillBlockwise(sequence, tokens, { block: 128, ...(probe && { probe }) });
    return sequence;
  };
  for (const seed of [21, 22, 23, 24]) {
    const conversation: Conversation = makeConversation(seed);
    const tokens = [BOS, ...tokensOf(conversation.text)];
    const textOf = (topic: number): string =>
      conversation.windows
        .filter((window) => window.topic === topic)
        .map(({ text }) => text)
        .join("");
    const full = await serve(null, tokens);
    const episodes: LabSequence[] = [];
    for (let topic = 0; topic < 4; topic++)
      episodes.push(await serve(epicache({ budget: BUDGET }), tokens, tokensOf(textOf(topic))));
    const texts = conversation.windows.map(({ text }) => text);
    const embed = ngramEmbedder(texts);
    // All windows one episode, 4 of them its text.
    const all = new EpisodeIndex(texts, { embed, episodes: 1, medoids: 4 });
    const one = await serve(epicache({ budget: BUDGET }), tokens, tokensOf(all.episodeText(0)));
    const snapkv = await serve(epicache({ budget: BUDGET }), tokens, (block) => block.slice(-64));
    const plain = (name: string) => createPolicy(selection, name, { budget: BUDGET });
    const streaming = await serve(plain("streaming-llm"), tokens);
    const random = await serve(plain("random"), tokens);
    const index = new EpisodeIndex(texts, { embed, episodes: 4 });
    const routes: LabSequence[] = [];
    for (let episode = 0; episode < index.episodes; episode++)
      routes.push(await serve(epicache({ budget: BUDGET }), tokens, tokensOf(index.episodeText(episode))));
    read = { slots: episodes[0].lanes.slots, bytes: episodes[0].payloadBytes, full: full.lanes.slots };
    const clusterTopics = Array.from({ length: index.episodes }, (_, episode) => {
      const counts = [0, 0, 0, 0];
      conversation.windows.forEach(({ topic }, i) => index.labels[i] === episode && (counts[topic] += 1));
      return counts.indexOf(Math.max(...counts));
    });
    for (const { text, answer, topic } of conversation.questions) {
      asked += 1;
      right.full += Number(await answers(full, text, answer));
      right.own += Number(await answers(episodes[topic], text, answer));
      right.wrong += Number(await answers(episodes[(topic + 1) % 4], text, answer));
      right.one += Number(await answers(one, text, answer));
      right.snapkv += Number(await answers(snapkv, text, answer));
      const matched = index.match(`#${text.slice(1)}`);
      found += Number(clusterTopics[matched] === topic);
      right.routed += Number(await answers(routes[matched], text, answer));
      for (const [name, cache] of [
        ["streaming", streaming],
        ["random", random],
      ] as const) {
        const copy = await cache.copyTo(null).catch(() => undefined);
        if (!copy) continue;
        let logits: Float32Array = new Float32Array(0);
        for (const token of tokensOf(text)) logits = await copy.feed(token);
        let isRight = true;
        for (const token of tokensOf(answer)) {
          isRight &&= argmax(logits) === token;
          logits = await copy.feed(token);
        }
        right[name] += Number(isRight);
        copy.close();
      }
    }
    for (const cache of [full, one, snapkv, streaming, random, ...episodes, ...routes]) cache.close();
  }
  const share = Object.fromEntries(Object.entries(right).map(([name, count]) => [name, count / asked]));
  t.diagnostic(
    `${asked} questions: full ${share.full.toFixed(2)}, own episode ${share.own.toFixed(2)}, episode by the index ${share.routed.toFixed(2)}, one episode ${share.one.toFixed(2)}, ` +
      `SnapKV probe ${share.snapkv.toFixed(2)}, wrong episode ${share.wrong.toFixed(2)}, streaming ${share.streaming.toFixed(2)}, ` +
      `random ${share.random.toFixed(2)}; episode found by n-grams ${(found / asked).toFixed(2)}`,
  );
  t.diagnostic(
    `a question reads ${read.slots} slots over all lanes (${read.bytes} bytes), of ${read.full} of the full cache; 4 prefills instead of 1`,
  );
  assert.ok(read.slots <= 0.3 * read.full, "an episode's budget is what is loaded for a question");
  assert.ok(share.own >= share.full - 0.07);
  assert.ok(share.own >= share.one + 0.25);
  assert.ok(share.wrong <= 0.5);
  assert.ok(share.routed >= share.one + 0.25, "the product's own episodes and routing");
});

test("topic words planted in the filler: windows cluster by topic, and a question finds its episode by its key or a word of it", (t) => {
  let [asked, named, bare] = [0, 0, 0];
  for (const seed of [21, 22, 23, 24, 25, 26]) {
    const { windows, questions, words } = makeConversation(seed, { planted: 3 });
    const texts = windows.map(({ text }) => text);
    const index = new EpisodeIndex(texts, { embed: ngramEmbedder(texts), episodes: 4 });
    const topics = Array.from({ length: index.episodes }, (_, episode) => {
      const counts = [0, 0, 0, 0];
      windows.forEach(({ topic }, i) => index.labels[i] === episode && (counts[topic] += 1));
      return counts.indexOf(Math.max(...counts));
    });
    questions.forEach(({ text, topic }, i) => {
      asked += 1;
      const word = words[topic][i % words[topic].length];
      named += Number(topics[index.match(`${word} #${text.slice(1)}`)] === topic);
      bare += Number(topics[index.match(`#${text.slice(1)}`)] === topic);
    });
  }
  t.diagnostic(
    `${asked} questions: ${(named / asked).toFixed(2)} with a word of the topic, ${(bare / asked).toFixed(2)} by the key alone`,
  );
  assert.ok(
    named / asked >= 0.9 && bare / asked >= 0.9,
    "what helps is the windows' clusters, not the question's word",
  );
});

test("keys of the small model without distant context", async (t) => {
  const tokens = [BOS, ...tokensOf(makeTask("needle", { seed: 4, length: 512 }).context)];
  const similarity = await layerSimilarity(lab, tokens, { block: 128, sinks: 16 });
  t.diagnostic(`cosine by layer: ${similarity.map((value) => value.toFixed(4)).join(" ")}`);
  assert.ok(Math.abs(similarity[0] - 1) < 1e-5, "keys of the first layer see no context");
  assert.ok(similarity.every((value) => value > 0 && value <= 1 + 1e-6) && similarity[2] < similarity[0]);
});
