/** The command as a user runs it. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { replay } from "../../bindings/replay.js";
import { DATA, root, TINY_RETRIEVAL } from "../support/package-root.js";

const folder = mkdtempSync(join(tmpdir(), "quartermaster-"));
after(() => rmSync(folder, { recursive: true }));

function quartermaster(
  args: string[],
  env: Record<string, string> = {},
): { status: number | null; stdout: string; stderr: string } {
  const main = join(root, "dist", "cli", "main.js");
  return spawnSync(process.execPath, [main, ...args], { encoding: "utf8", env: { ...process.env, ...env } });
}

test("run --json prints one object: all answers as expected, blocks evicted and requests preempted", () => {
  const { status, stdout } = quartermaster(["run", "--json", "--blocks", "100"]);
  assert.equal(status, 0);
  const report = JSON.parse(stdout) as Record<string, never>;
  const names = [
    "requests",
    "correct",
    "expected",
    "tokensPerSecond",
    "ttftMs",
    "tbtMs",
    "prefixHitRate",
    "preemptions",
  ];
  assert.deepEqual(Object.keys(report), [...names, "peakBlocks", "blocks", "backend", "build"]);
  assert.equal(report.correct, report.expected);
  assert.equal(report.requests, 240);
  assert.ok(report.prefixHitRate > 0.1);
  assert.ok(report.peakBlocks <= 100);
});

test("run --preemption takes recompute, swap and auto, with the size of the host tier; a bad one is refused by name", () => {
  const { stdout: help } = quartermaster(["run", "--help"]);
  const options = [
    "--preemption",
    "--host-blocks",
    "--host-copies",
    "--prefill-us",
    "--swap-in",
    "--block-runs",
  ];
  for (const option of options) assert.ok(help.includes(option), option);
  const file = join(folder, "swapped.jsonl");
  const line = (i: number): string =>
    JSON.stringify({ prompt: `${String.fromCharCode(97 + i)}b12;cd34;?cd`, maxNewTokens: 40 });
  writeFileSync(file, Array.from({ length: 8 }, (_, i) => line(i)).join("\n"));
  const pressed = [
    "run",
    "--json",
    "--prompts",
    file,
    "--blocks",
    "40",
    "--block-size",
    "4",
    "--block-runs",
    "8",
  ];
  const modes = [
    ["--preemption", "recompute"],
    ["--preemption", "swap", "--host-blocks", "200", "--host-copies", "6"],
    ["--preemption", "auto", "--prefill-us", "500"],
    ["--preemption", "swap", "--host-blocks", "200", "--swap-in", "adaptive"],
  ];
  for (const mode of modes) {
    const { status, stdout, stderr } = quartermaster([...pressed, ...mode]);
    assert.equal(status, 0, stderr);
    const report = JSON.parse(stdout) as Record<string, number>;
    assert.equal(report.requests, 8);
    assert.ok(report.preemptions > 0, `${mode.join(" ")}: there is pressure`);
  }
  for (const [args, named] of [
    [["--preemption", "flip"], "--preemption"],
    [["--preemption", "swap", "--host-blocks", "0"], "--host-blocks"],
    [["--preemption", "swap", "--host-copies", "9"], "--host-copies"],
    [["--preemption", "auto", "--prefill-us", "-1"], "--prefill-us"],
    [["--host-blocks", "9"], "--host-blocks"],
    [["--preemption", "swap", "--swap-in", "later"], "--swap-in"],
    [["--swap-in", "sync"], "--swap-in"],
    [["--block-runs", "0"], "--block-runs"],
  ] as const) {
    const { status, stderr } = quartermaster([...pressed.slice(0, 6), ...args]);
    assert.equal(status, 2);
    assert.ok(stderr.includes(named), stderr);
  }
});

test("run --swap-in sync has a request in the batch of the step that reads it back; async does not", async () => {
  const file = join(folder, "read-back.jsonl");
  const line = (i: number): string =>
    JSON.stringify({ prompt: `${String.fromCharCode(97 + i)}b12;cd34;?cd`, maxNewTokens: 40 });
  writeFileSync(file, Array.from({ length: 8 }, (_, i) => line(i)).join("\n"));
  for (const [mode, joins] of [
    ["async", false],
    ["sync", true],
  ] as const) {
    const record = join(folder, `read-back-${mode}.jsonl`);
    const pressed = ["--prompts", file, "--blocks", "40", "--block-size", "4", "--preemption", "swap"];
    const ran = quartermaster(["run", "--json", ...pressed, "--swap-in", mode, "--record", record]);
    assert.equal(ran.status, 0, ran.stderr);
    let joined = 0;
    const { mismatch } = await replay(readFileSync(record, "utf8").split("\n"), {
      onPlan: (plan, { scheduler }) => (joined = scheduler.hostTier!.joins),
    });
    assert.equal(mismatch, undefined);
    assert.equal(joined > 0, joins);
  }
});

test("replay --step tells swaps from copies, which way they go, and when", () => {
  const file = join(folder, "swapped-steps.jsonl");
  const line = (i: number): string =>
    JSON.stringify({ prompt: `${String.fromCharCode(97 + i)}b12;cd34;?cd`, maxNewTokens: 40 });
  writeFileSync(file, Array.from({ length: 8 }, (_, i) => line(i)).join("\n"));
  const record = join(folder, "swapped-steps.record");
  const pressed = ["--prompts", file, "--blocks", "40", "--block-size", "4", "--preemption", "swap"];
  const ran = quartermaster(["run", "--json", ...pressed, "--swap-in", "sync", "--record", record]);
  assert.equal(ran.status, 0, ran.stderr);
  const swapped = { out: false, in: false };
  for (let step = 1; !(swapped.out && swapped.in); step++) {
    assert.ok(step < 200, "a step that swaps");
    const { stdout } = quartermaster(["replay", record, "--step", `${step}`, "--json"]);
    const { plan } = JSON.parse(stdout) as {
      plan: { copies: unknown[]; swaps: { direction: "in" | "out"; blocks: number; when: string }[] };
    };
    assert.deepEqual(plan.copies, [], "nothing is forked here");
    const fresh = plan.swaps.find(({ direction }) => !swapped[direction]);
    if (fresh === undefined) continue;
    swapped[fresh.direction] = true;
    assert.ok(["before", "after", "beside"].includes(fresh.when));
    const printed = quartermaster(["replay", record, "--step", `${step}`]).stdout;
    const ends = fresh.direction === "in" ? "host block \\d+ to block" : "block \\d+ to host block";
    const said = `swap ${fresh.direction}, transfer \\d+, ${fresh.when} the batch: ${fresh.blocks} blocks from ${ends} \\d+`;
    assert.match(printed, new RegExp(said));
    assert.doesNotMatch(printed, /copy block/);
  }
});

test("run --evict serves with a policy in fewer blocks", () => {
  const file = join(folder, "long.jsonl");
  const fact = (i: number): string => `${String.fromCharCode(97 + (i % 26))}b${10 + i};`;
  const prompt = `${Array.from({ length: 80 }, (_, i) => fact(i)).join("")}?ab`;
  const line = JSON.stringify({ prompt, maxNewTokens: 4 });
  writeFileSync(file, Array.from({ length: 6 }, () => line).join("\n"));
  const peakOf = (...args: string[]): number => {
    const { status, stdout, stderr } = quartermaster([
      "run",
      "--json",
      "--prompts",
      file,
      "--no-prefix-cache",
      ...args,
    ]);
    assert.equal(status, 0, stderr);
    const report = JSON.parse(stdout) as Record<string, never>;
    assert.equal(report.requests, 6);
    return report.peakBlocks;
  };
  const [whole, dropping] = [peakOf(), peakOf("--evict", "local:ratio=0.2")];
  assert.ok(dropping < whole, `${dropping} blocks at most, ${whole} with every token`);
  const record = join(folder, "dropping.jsonl");
  peakOf("--evict", "h2o:ratio=0.3", "--record", record);
  assert.match(readFileSync(record, "utf8"), /"lane":"plan"/);
  const replayed = quartermaster(["replay", record]);
  assert.equal(replayed.status, 0, replayed.stderr);
  assert.match(replayed.stdout, /6 requests: every plan as recorded/);
  const wrong = quartermaster(["run", "--evict", "h3o"]);
  assert.equal(wrong.status, 2);
  assert.match(wrong.stderr, /h3o/);
});

test("run without the addon falls back to the wasm kernels, says why, and plots", () => {
  const plot = join(folder, "timeline.svg");
  const { status, stdout, stderr } = quartermaster(["run", "--plot", plot], { QUARTERMASTER_ADDON: "off" });
  assert.equal(status, 0, stderr);
  assert.match(stdout, /wasm kernels: .*QUARTERMASTER_ADDON/);
  assert.match(stdout, /240 of 240/);
  assert.match(stderr, /running \d+ {2}waiting \d+ {2}blocks \d+\/128/);
  assert.match(readFileSync(plot, "utf8"), /<svg/);
});

test("run takes prompts from a file", () => {
  const prompts = join(folder, "prompts.jsonl");
  writeFileSync(prompts, '{"prompt":"ab3712;cd0588;ef9071;?cd","answer":"0588","maxNewTokens":4}\n');
  const own = JSON.parse(quartermaster(["run", "--json", "--prompts", prompts]).stdout) as {
    correct: number;
  };
  assert.equal(own.correct, 1);
});

const azure = join(DATA, "azure", "AzureLLMInferenceTrace_conv.csv");
test("run takes arrivals from a trace", { skip: existsSync(azure) ? false : `${azure} is not there` }, () => {
  const { status, stderr, stdout } = quartermaster(["run", "--json", "--trace", azure, "--speed", "100"]);
  assert.equal(status, 0, stderr);
  assert.equal((JSON.parse(stdout) as { correct: number }).correct, 240);
});

test("replay of the embedded workload is identical, in another build too; a tampered record is noticed", () => {
  const record = join(folder, "run.jsonl");
  const served = quartermaster(["run", "--json", "--blocks", "100", "--record", record]);
  assert.equal(served.status, 0, served.stderr);
  for (const build of ["core", "core-threads"]) {
    const { status, stdout } = quartermaster(["replay", record, "--build", build, "--json"]);
    assert.equal(status, 0);
    const report = JSON.parse(stdout) as { steps: number; requests: number };
    assert.ok(report.steps > 100);
    assert.equal(report.requests, 240);
  }
  const printed = quartermaster(["replay", record, "--step", "2"]).stdout;
  assert.match(printed, /step 2 at .* us[\s\S]*request \d+, (decode|last chunk|prefill chunk)[\s\S]*slots/);
  const { plan } = JSON.parse(quartermaster(["replay", record, "--step", "2", "--json"]).stdout) as {
    plan: { stepId: number; rows: { tokens: number[]; slots: number[] }[] };
  };
  assert.equal(plan.stepId, 2);
  assert.ok(plan.rows.length > 0 && plan.rows.every((row) => row.tokens.length === row.slots.length));

  const text = readFileSync(record, "utf8");
  const seventh = /"step":[^,]*,"id":7,"plan":"(.)/.exec(text)!;
  const digit = seventh[1] === "0" ? "1" : "0";
  const tampered = join(folder, "tampered.jsonl");
  writeFileSync(tampered, text.replace(seventh[0], seventh[0].slice(0, -1) + digit));
  const noticed = quartermaster(["replay", tampered]);
  assert.equal(noticed.status, 1);
  assert.match(noticed.stdout, /^step 7 differs/);
});

test("inspect says what a model needs", () => {
  const { stdout } = quartermaster(["inspect", TINY_RETRIEVAL, "--memory", "64M", "--json"]);
  const report = JSON.parse(stdout) as Record<string, number>;
  assert.equal(report.parameters, 459_648);
  assert.equal(report.weightBytes, 4 * 459_648);
  assert.equal(report.kvBytesPerToken, 3 * 2 * 2 * 32 * 4);
  assert.equal(report.blocks, Math.floor((64 * 2 ** 20 - report.weightBytes) / report.blockBytes));
});

test("every command has help, and bad options are named", () => {
  assert.match(quartermaster(["--help"]).stdout, /run[\s\S]*replay[\s\S]*inspect/);
  assert.match(quartermaster(["run", "--help"]).stdout, /--max-batch-tokens/);
  assert.match(quartermaster(["inspect", "--help"]).stdout, /--memory/);
  const refused = (args: string[], message: RegExp): void => {
    const { status, stderr } = quartermaster(args);
    assert.equal(status, 2, stderr);
    assert.match(stderr, message);
  };
  refused([], /^$/);
  refused(["serve"], /unknown command "serve"/);
  refused(["run", "--blocks", "many"], /--blocks is "many"; allowed: an integer from 1/);
  refused(
    ["run", "--policy", "best"],
    /--policy is "best"; allowed: fcfs, priority, shortest-first, longest-prefix, fair, earliest-deadline/,
  );
  refused(["run", "--bogus"], /--bogus/);
  refused(["run", "--blocks", "4"], /pool has 4 blocks/);
  refused(["run", "--model", join(folder, "nowhere")], /config\.json/);
  refused(["run", "--prompts", join(folder, "nowhere")], /no such file/);
  refused(["replay"], /FILE/);
  refused(["replay", join(folder, "nowhere")], /no such file/);
  refused(["run", "--record", join(folder, "no", "folder")], /no such file/);
  refused(["inspect", TINY_RETRIEVAL, "--memory", "lots"], /--memory is "lots"/);
});
