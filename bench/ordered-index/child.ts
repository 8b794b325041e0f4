/** Replays a workload file against one JavaScript or WebAssembly map; prints its figures as one JSON line. */
import { readFileSync } from "node:fs";
import type { IndexMode } from "../../bindings/main.js";
import { NUMBER_MAPS, NumberMapReplayer } from "../peer/ordered-maps.js";
import { INTERFACES, type IndexShape, ours } from "./ours.js";
import { type MakeReplayer, replay } from "./replay.js";
import { team } from "./team.js";
import { decodeWorkload } from "./workload.js";

/** A package's name, or `mode:interface:threads`, and `:nodeBytes:keysPerPromotion` or `:touched` behind it. */
function makerOf(subject: string): MakeReplayer {
  if (subject in NUMBER_MAPS) return async () => new NumberMapReplayer(new NUMBER_MAPS[subject]());
  const [mode, through, threads, ...numbers] = subject.split(":");
  const touched = numbers[0] === "touched";
  const [nodeBytes, keysPerPromotion] = numbers.map(Number);
  const shape: IndexShape = {
    mode: mode as IndexMode,
    touched,
    ...(nodeBytes && { nodeBytes }),
    ...(keysPerPromotion && { keysPerPromotion }),
  };
  return Number(threads) > 1 ? team(shape, Number(threads)) : ours(shape, through as keyof typeof INTERFACES);
}

const [file, subject] = process.argv.slice(2);
const bytes = readFileSync(file);
const workload = decodeWorkload(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
console.log(JSON.stringify(await replay(makerOf(subject), workload)));
process.exit(0);
