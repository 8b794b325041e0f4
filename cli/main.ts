#!/usr/bin/env node
/** The `quartermaster` command. */
import { QuartermasterError } from "../bindings/errors.js";
import { INSPECT_HELP, inspect } from "./inspect.js";
import { replayRecord, REPLAY_HELP } from "./replay.js";
import { run, RUN_HELP } from "./run.js";

const HELP = `quartermaster <command> [options]

Commands
  run                  serve a workload on a model and report latency, cache hits and correctness
  replay FILE          plan again what run --record wrote, and say whether every plan is the same
  inspect MODEL_DIR    what a model needs: weights, KV bytes a token, blocks that fit a given memory

quartermaster <command> --help lists a command's options.`;

/** `main` returns the exit status; nothing means 0. */
const COMMANDS: Readonly<Record<string, { help: string; main: (args: string[]) => Promise<number | void> }>> =
  {
    run: { help: RUN_HELP, main: run },
    replay: { help: REPLAY_HELP, main: replayRecord },
    inspect: { help: INSPECT_HELP, main: inspect },
  };

async function main(args: string[]): Promise<number> {
  const [name, ...rest] = args;
  if (name === undefined || name === "--help" || name === "-h" || name === "help") {
    console.log(HELP);
    return name === undefined ? 2 : 0;
  }
  const command = COMMANDS[name];
  if (command === undefined) {
    console.error(`unknown command "${name}"\n\n${HELP}`);
    return 2;
  }
  if (rest.includes("--help") || rest.includes("-h")) {
    console.log(command.help);
    return 0;
  }
  try {
    return (await command.main(rest)) ?? 0;
  } catch (error) {
    const code = (error as { code?: unknown }).code;
    const expected =
      error instanceof QuartermasterError ||
      (typeof code === "string" && /^ERR_PARSE_ARGS|^E[A-Z]+$/.test(code));
    console.error(expected ? `quartermaster ${name}: ${(error as Error).message}` : error);
    return expected ? 2 : 1;
  }
}

// Whoever reads may have seen enough (`| head`).
process.stdout.on("error", (error: NodeJS.ErrnoException) => process.exit(error.code === "EPIPE" ? 0 : 1));

process.exitCode = await main(process.argv.slice(2));
