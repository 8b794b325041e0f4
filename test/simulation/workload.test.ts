/** Workloads, traces, reports and plots. */
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { linePlot, timelinePlot, type TimelineSample } from "../../sim/plot.js";
import { gammaArrivals, RandomStream } from "../../sim/random.js";
import { formatReport, LatencyRecorder, percentile } from "../../sim/report.js";
import { readAzureTrace, readMooncakeTrace, readTrace } from "../../sim/traces.js";
import { applyTrace, buildWorkload, readPrompts } from "../../sim/workload.js";
import { DATA, TINY_RETRIEVAL } from "../support/package-root.js";

const mean = (values: ArrayLike<number>): number =>
  Array.from(values).reduce((sum, value) => sum + value, 0) / values.length;

describe("arrivals", () => {
  for (const cv of [0.5, 1, 3]) {
    test(`have the mean and the burstiness asked for, cv ${cv}`, () => {
      const times = gammaArrivals({ requests: 100_000, meanIntervalUs: 500, cv, seed: 4 });
      const gaps = times.map((time, i) => time - (i === 0 ? 0 : times[i - 1]));
      const average = mean(gaps);
      const deviation = Math.sqrt(mean(gaps.map((gap) => (gap - average) ** 2)));
      // Standard error of the mean is cv / sqrt(n); five of them.
      assert.ok(Math.abs(average / 500 - 1) < (5 * cv) / Math.sqrt(100_000));
      assert.ok(Math.abs(deviation / average / cv - 1) < 0.06);
      assert.ok(gaps.every((gap) => gap >= 0));
    });
  }

  test("repeat with their seed", () => {
    const options = { requests: 50, meanIntervalUs: 10, cv: 2, seed: 9 };
    assert.deepEqual(gammaArrivals(options), gammaArrivals(options));
    assert.notDeepEqual(gammaArrivals(options), gammaArrivals({ ...options, seed: 10 }));
  });

  test("a shuffle keeps every item", () => {
    const items = new RandomStream(1).shuffle(Array.from({ length: 100 }, (_, i) => i));
    assert.notDeepEqual(
      items,
      [...items].sort((a, b) => a - b),
    );
    assert.equal(new Set(items).size, 100);
  });
});

describe("traces", () => {
  test("Azure times keep their 100 ns digits", () => {
    const rows = readAzureTrace(
      "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 23:59:59.9999999,10,0\n2023-11-17 00:00:00.0000001,20,5\n",
    );
    assert.ok(Math.abs(rows[1].arrivalUs - 0.2) < 0.3);
    assert.deepEqual(
      rows.map(({ promptTokens, newTokens }) => [promptTokens, newTokens]),
      [
        [10, 1],
        [20, 5],
      ],
    );
  });

  test("rows are sorted by arrival, file order among equals", () => {
    const line = (timestamp: number, input: number): string =>
      JSON.stringify({ timestamp, input_length: input, output_length: 1, hash_ids: [1] });
    const rows = readTrace([line(5, 1), line(3, 2), line(5, 3), line(3, 4)].join("\n"));
    assert.deepEqual(
      rows.map(({ promptTokens }) => promptTokens),
      [2, 4, 1, 3],
    );
    assert.deepEqual(
      rows.map(({ arrivalUs }) => arrivalUs),
      [0, 0, 2000, 2000],
    );
  });

  test("malformed lines are refused with their number", () => {
    assert.throws(
      () => readMooncakeTrace('{"timestamp":0,"input_length":1,"output_length":1}\n{"timestamp":-1}'),
      /line 2: timestamp is -1/,
    );
    assert.throws(() => readMooncakeTrace("nonsense"), /line 1 is not JSON/);
    assert.throws(() => readAzureTrace("TIMESTAMP,a,b\nyesterday,1,1"), /line 2: TIMESTAMP is yesterday/);
    assert.throws(
      () => readAzureTrace("TIMESTAMP,a,b\n2023-11-16 00:00:00.1,x,1"),
      /line 2: ContextTokens is NaN/,
    );
    assert.throws(() => readTrace("what is this"), /neither/);
  });

  const mooncake = join(DATA, "mooncake", "conversation_trace.jsonl");
  test(
    "the Mooncake conversation trace reads whole",
    { skip: existsSync(mooncake) ? false : `${mooncake} is not there` },
    () => {
      const rows = readTrace(readFileSync(mooncake, "utf8"));
      assert.equal(rows.length, 12_031);
      assert.equal(
        rows.reduce((sum, row) => sum + row.blockIds!.length, 0),
        288_500,
      );
      const inputTokens = rows.reduce((sum, row) => sum + row.promptTokens, 0);
      assert.equal((inputTokens / 1e6).toFixed(1), "144.8");
      assert.equal(Math.max(...rows.map((row) => row.promptTokens)), 126_195);
    },
  );

  const azure = join(DATA, "azure", "AzureLLMInferenceTrace_conv.csv");
  test(
    "the Azure conversation trace reads whole",
    { skip: existsSync(azure) ? false : `${azure} is not there` },
    () => {
      const rows = readTrace(readFileSync(azure, "utf8"));
      assert.equal(rows.length, 19_366);
      const gaps = rows.slice(1).map((row, i) => row.arrivalUs - rows[i].arrivalUs);
      assert.ok(Math.abs(mean(gaps) / 1e6 - 0.1808) < 0.0005);
    },
  );
});

describe("the embedded workload", () => {
  const prompts = (
    JSON.parse(readFileSync(join(TINY_RETRIEVAL, "test_prompts.json"), "utf8")) as { prompts: [] }
  ).prompts;
  const workload = buildWorkload(prompts, {});

  test("has at least 200 requests, among them every recorded question", () => {
    assert.equal(workload.length, 240);
    assert.equal(workload.filter((request) => request.golden !== undefined).length, 190);
    assert.deepEqual(workload, buildWorkload(prompts, {}));
  });

  test("shares contexts, mixes lengths, and arrives in order", () => {
    const contexts = workload.map(({ text }) => text.slice(0, 60));
    assert.ok(new Set(contexts).size < workload.length / 2, "several questions on one context");
    const lengths = workload.map(({ text }) => text.length);
    assert.ok(Math.max(...lengths) > 2 * Math.min(...lengths));
    assert.ok(new Set(workload.map(({ maxNewTokens }) => maxNewTokens)).size > 10);
    assert.ok(workload.every((request, i) => i === 0 || request.arrivalUs >= workload[i - 1].arrivalUs));
  });

  test("asks further questions only where the context has the answer", () => {
    const further = workload.filter((request) => request.golden === undefined);
    assert.ok(further.length > 0);
    for (const { text, answer } of further) assert.ok(text.includes(`${text.slice(-2)}${answer};`), text);
  });

  test("takes its times from a trace, faster if asked, repeated if short", () => {
    const rows = [0, 10, 30].map((arrivalUs) => ({ arrivalUs, promptTokens: 1, newTokens: 1 }));
    const timed = applyTrace(workload, rows, 2).map(({ arrivalUs }) => arrivalUs);
    assert.deepEqual(timed.slice(0, 6), [0, 5, 15, 15.5, 20.5, 30.5]);
    assert.throws(() => applyTrace(workload, []), /no rows/);
  });
});

test("prompt files are JSON lines, and say which line is wrong", () => {
  const [request] = readPrompts('{"prompt": "hello", "answer": "x", "maxNewTokens": 3, "arrivalUs": 7}\n');
  assert.deepEqual(request, {
    id: 0,
    text: "hello",
    answer: "x",
    golden: undefined,
    maxNewTokens: 3,
    arrivalUs: 7,
  });
  assert.throws(() => readPrompts('{"prompt":"a"}\n{"prompt":""}'), /line 2/);
  assert.throws(() => readPrompts('{"prompt":"a","maxNewTokens":0}'), /line 1: maxNewTokens is 0/);
  assert.throws(() => readPrompts('{"prompt":"a","arrivalUs":-1}'), /line 1: arrivalUs is -1/);
  assert.throws(() => readPrompts("\n"), /no prompts/);
});

test("percentiles interpolate between order statistics", () => {
  assert.equal(percentile([4, 1, 3, 2], 0.5), 2.5);
  assert.equal(percentile([1, 2], 0.99), 1.99);
  assert.equal(percentile([7], 0.99), 7);
  assert.ok(Number.isNaN(percentile([], 0.5)));
});

test("latencies: first token from arrival, then every gap", () => {
  const recorder = new LatencyRecorder();
  recorder.token(1, 1000, 3000);
  recorder.token(2, 1000, 9000);
  recorder.token(1, 1000, 4000);
  recorder.token(1, 1000, 8000);
  assert.deepEqual(recorder.ttftMs.p50, 5);
  assert.deepEqual(recorder.tbtMs.p50, 2.5);
  assert.equal(recorder.tokens, 4);
});

describe("plots", () => {
  const samples: TimelineSample[] = Array.from({ length: 2000 }, (_, i) => ({
    tUs: i * 1000,
    usedBlocks: i % 50,
    evictableBlocks: 20,
    decodeTokens: i % 7,
    prefillTokens: i % 100,
    hitTokens: i,
    queriedTokens: 2 * i,
    preemptions: i === 777 ? 3 : 0,
  }));

  /** Every tag is closed, in order. */
  function wellFormed(svg: string): void {
    const open: string[] = [];
    for (const [, closing, name, rest] of svg.matchAll(/<(\/?)([a-z]+)([^>]*)>/g)) {
      if (closing) assert.equal(open.pop(), name);
      else if (!rest.endsWith("/")) open.push(name);
    }
    assert.deepEqual(open, []);
    assert.ok(!svg.includes("NaN") && !svg.includes("Infinity"));
  }

  test("a timeline shows its panels, and every preemption survives thinning", () => {
    const svg = timelinePlot(samples, { title: "a < b", blocks: 70 });
    wellFormed(svg);
    for (const text of [
      "a &lt; b",
      "KV blocks",
      "tokens a step",
      "in use",
      "cached, evictable",
      "decode",
      "prefill",
    ]) {
      assert.ok(svg.includes(text), text);
    }
    assert.equal(svg.split('<path d="M').length - 1, 1);
    wellFormed(timelinePlot([], { title: "nothing", blocks: 1 }));
  });

  test("lines on logarithmic axes", () => {
    const series = [
      {
        name: "one",
        points: [
          [1, 10],
          [10, 1000],
        ] as const,
      },
      {
        name: "two",
        points: [
          [1, 20],
          [10, 50],
        ] as const,
      },
    ];
    const svg = linePlot({ title: "t", xLabel: "x", yLabel: "y", series, logX: true, logY: true });
    wellFormed(svg);
    assert.equal(svg.split("<polyline").length - 1, 2);
  });
});

test("a report prints every figure", () => {
  const latency = { p50: 1.234, p99: 123.4 };
  const text = formatReport({
    requests: 3,
    correct: 2,
    expected: 3,
    tokensPerSecond: 99.95,
    ttftMs: latency,
    tbtMs: latency,
    prefixHitRate: 0.5,
    preemptions: 7,
    peakBlocks: 8,
    blocks: 9,
    backend: "cpu",
    build: "core",
  });
  for (const figure of ["2 of 3", "1.23 ms", "123 ms", "50.0 %", "7", "8 of 9", "cpu, core"])
    assert.ok(text.includes(figure), figure);
});
