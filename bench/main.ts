/** npm run -s bench -- NAME [--json] [--quick]: one question, ours and peers in the same run. */
import { spawnSync } from "node:child_process";
import { parseArgs } from "node:util";
import { Report } from "./measure.js";

interface Bench {
  readonly title: string;
  run(report: Report): Promise<void>;
}

const BENCHES: Readonly<Record<string, () => Promise<Bench>>> = {
  "prefix-match": () => import("./prefix-match.js"),
  "content-keys": () => import("./content-keys.js"),
  "kv-events": () => import("./kv-events.js"),
  "allocate-free": () => import("./allocate-free.js"),
  "decode-step": () => import("./decode-step.js"),
  admit: () => import("./admit.js"),
  "admission-order": () => import("./admission-order.js"),
  "context-switch": () => import("./context-switch.js"),
  vattention: () => import("./vattention.js"),
  "swap-copies": () => import("./swap-copies.js"),
  "disk-tier": () => import("./disk-tier.js"),
  "bytes-per-block": () => import("./bytes-per-block.js"),
  anchors: () => import("./anchors.js"),
  forward: () => import("./forward.js"),
  "index-choice": () => import("./index-choice.js"),
  "ordered-index": () => import("./ordered-index.js"),
  "ordered-index-shapes": () => import("./ordered-index-shapes.js"),
  "node-search": () => import("./node-search.js"),
  "cache-policies": () => import("./cache-policies.js"),
  "ordered-views": () => import("./ordered-views.js"),
  "page-set": () => import("./page-set.js"),
  calls: () => import("./calls.js"),
  "eviction-cost": () => import("./eviction-cost.js"),
  "eviction-lab": () => import("./eviction-lab.js"),
  "shared-context": () => import("./shared-context.js"),
  select: () => import("./select.js"),
  "attention-io": () => import("./attention-io.js"),
  blockvid: () => import("./blockvid.js"),
};

const HELP = `npm run -s bench -- NAME [NAME ...] [options]

  --list     names and questions
  --all      every bench
  --quick    fewer repetitions: whether it runs, not how fast
  --check    exit code 1 when a figure misses its bar; without it a miss is only said
  --json     JSON lines on standard output
  --full     every size and distribution, however long it takes (ordered-index)
  --keys S   1M, 1M-zipf, 10M, 10M-zipf, separated by commas (ordered-index)
  --threads N  sizes of the teams that share an index, 2 to 64, separated by commas (ordered-index; default 2)
  --touched  also in memory whose pages were touched before: loading without page faults (ordered-index)
  --plot F   writes an SVG plot to file F (ordered-index, eviction-lab, cache-policies, attention-io)
  --only S   subjects to run, separated by commas (ordered-index), by spaces (eviction-lab)`;

const OPTIONS = {
  allowPositionals: true,
  options: {
    json: { type: "boolean" },
    quick: { type: "boolean" },
    check: { type: "boolean" },
    list: { type: "boolean" },
    all: { type: "boolean" },
    full: { type: "boolean" },
    plot: { type: "string" },
    keys: { type: "string" },
    threads: { type: "string" },
    touched: { type: "boolean" },
    only: { type: "string" },
    help: { type: "boolean", short: "h" },
  },
} as const;

function parsed(): ReturnType<typeof parseArgs<typeof OPTIONS>> {
  try {
    return parseArgs(OPTIONS);
  } catch (error) {
    // A name or value that parseArgs knows nothing of: its message says which.
    console.error(`${(error as Error).message}\n\n${HELP}`);
    process.exit(2);
  }
}

const { values, positionals } = parsed();

async function main(): Promise<number> {
  if (values.list) {
    for (const [name, load] of Object.entries(BENCHES))
      console.log(`${name.padEnd(22)}${(await load()).title}`);
    return 0;
  }
  const names = values.all ? Object.keys(BENCHES) : positionals;
  const unknown = names.find((name) => !(name in BENCHES));
  if (values.help || names.length === 0 || unknown !== undefined) {
    if (unknown !== undefined) console.error(`unknown bench "${unknown}"; --list names them`);
    console.error(HELP);
    return values.help ? 0 : 2;
  }
  if (names.length > 1) return inProcessesOfTheirOwn(names);
  const bench = await BENCHES[names[0]]();
  if (!values.json) console.log(`${names[0]}: ${bench.title}`);
  const { full, plot, keys, threads, touched, only } = values;
  const report = new Report(names[0], values.json ?? false, values.quick ?? false, {
    full,
    plot,
    keys,
    threads,
    touched,
    only,
  });
  try {
    await bench.run(report);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    console.error(error.message);
    return 2;
  }
  return values.check && report.missed > 0 ? 1 : 0;
}

/** What one bench taught the compiler about the peers must not slow them down in the next. */
function inProcessesOfTheirOwn(names: readonly string[]): number {
  const flags = (["json", "quick", "check"] as const)
    .filter((flag) => values[flag])
    .map((flag) => `--${flag}`);
  let worst = 0;
  for (const name of names) {
    const { status } = spawnSync(process.execPath, [process.argv[1], name, ...flags], { stdio: "inherit" });
    // A missed bar does not keep the benches after it from running.
    if (status !== 0 && !values.check) return status ?? 1;
    worst = Math.max(worst, status ?? 1);
  }
  return worst;
}

// Whoever reads may have seen enough (`| head`).
process.stdout.on("error", (error: NodeJS.ErrnoException) => process.exit(error.code === "EPIPE" ? 0 : 1));

process.exitCode = await main();
