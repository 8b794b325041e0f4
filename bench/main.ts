/** npm run -s bench -- NAME [--json] [--quick]: one question, ours and peers in the same run. */
import { parseArgs } from "node:util";
import { Report } from "./measure.js";

interface Bench {
  readonly title: string;
  run(report: Report): Promise<void>;
}

const BENCHES: Readonly<Record<string, () => Promise<Bench>>> = {
  "prefix-match": () => import("./prefix-match.js"),
  "allocate-free": () => import("./allocate-free.js"),
  "decode-step": () => import("./decode-step.js"),
  admit: () => import("./admit.js"),
  "bytes-per-block": () => import("./bytes-per-block.js"),
  forward: () => import("./forward.js"),
  "index-choice": () => import("./index-choice.js"),
  calls: () => import("./calls.js"),
};

const HELP = `npm run -s bench -- NAME [NAME ...] [options]

  --list     names and questions
  --all      every bench
  --quick    fewer repetitions: whether it runs, not how fast
  --json     JSON lines on standard output`;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    json: { type: "boolean" },
    quick: { type: "boolean" },
    list: { type: "boolean" },
    all: { type: "boolean" },
    help: { type: "boolean", short: "h" },
  },
});

async function main(): Promise<number> {
  if (values.list) {
    for (const [name, load] of Object.entries(BENCHES))
      console.log(`${name.padEnd(18)}${(await load()).title}`);
    return 0;
  }
  const names = values.all ? Object.keys(BENCHES) : positionals;
  const unknown = names.find((name) => !(name in BENCHES));
  if (values.help || names.length === 0 || unknown !== undefined) {
    if (unknown !== undefined) console.error(`unknown bench "${unknown}"; --list names them`);
    console.error(HELP);
    return values.help ? 0 : 2;
  }
  for (const name of names) {
    const bench = await BENCHES[name]();
    if (!values.json) console.log(`${name}: ${bench.title}`);
    await bench.run(new Report(name, values.json ?? false, values.quick ?? false));
  }
  return 0;
}

process.exitCode = await main();
