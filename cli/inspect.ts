/** quartermaster inspect: what a model needs, from its headers alone. */
import { parseArgs } from "node:util";
import { invalidArgument } from "../bindings/errors.js";
import { directorySource, modelRequirements } from "../native-host/executor/main.js";
import { bytes, integer, showBytes } from "./options.js";

export const INSPECT_HELP = `quartermaster inspect MODEL_DIR [options]

What a Hugging Face directory needs to be served: weights, KV bytes a token, blocks that fit.

  --memory SIZE        memory to plan for, e.g. 512M, 8G (default 8G)
  --block-size N       tokens a block (default 16)
  --json               print one JSON object`;

export async function inspect(args: string[]): Promise<void> {
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: { memory: { type: "string" }, "block-size": { type: "string" }, json: { type: "boolean" } },
  });
  if (positionals.length !== 1) throw invalidArgument("MODEL_DIR", positionals.join(" "), "one directory");
  const blockSize = integer("block-size", values["block-size"], 16, 1, 256);
  const memory = bytes("memory", values.memory, 8 * 2 ** 30);
  const source = await directorySource(positionals[0]);
  try {
    const { config, parameters, weightBytes, kvBytesPerToken, types } = await modelRequirements(source);
    const blockBytes = kvBytesPerToken * blockSize;
    const blocks = Math.max(0, Math.floor((memory - weightBytes) / blockBytes));
    const report = {
      architecture: config.architecture,
      parameters,
      weightTypes: types,
      weightBytes,
      layers: config.layers,
      heads: config.heads,
      kvHeads: config.kvHeads,
      headDim: config.headDim,
      maxSequenceTokens: config.maxPositions,
      kvBytesPerToken,
      blockSize,
      blockBytes,
      memory,
      blocks,
      tokens: blocks * blockSize,
    };
    if (values.json) console.log(JSON.stringify(report));
    else print(report);
  } finally {
    await source.close();
  }
}

function print(report: {
  architecture: string;
  parameters: number;
  weightTypes: readonly string[];
  weightBytes: number;
  layers: number;
  heads: number;
  kvHeads: number;
  headDim: number;
  maxSequenceTokens: number;
  kvBytesPerToken: number;
  blockSize: number;
  blockBytes: number;
  memory: number;
  blocks: number;
  tokens: number;
}): void {
  const rows: [string, string][] = [
    ["architecture", report.architecture],
    ["parameters", report.parameters.toLocaleString("en")],
    ["weights", `${showBytes(report.weightBytes)} (${report.weightTypes.join(", ")})`],
    ["layers, heads, KV heads", `${report.layers}, ${report.heads}, ${report.kvHeads} of ${report.headDim}`],
    ["longest sequence", `${report.maxSequenceTokens} tokens`],
    ["KV a token", `${showBytes(report.kvBytesPerToken)} (f32)`],
    [`KV a block of ${report.blockSize}`, showBytes(report.blockBytes)],
    [
      `blocks in ${showBytes(report.memory)}`,
      `${report.blocks.toLocaleString("en")} = ${report.tokens.toLocaleString("en")} tokens`,
    ],
  ];
  const width = Math.max(...rows.map(([name]) => name.length));
  for (const [name, value] of rows) console.log(`${name.padEnd(width)}   ${value}`);
}
