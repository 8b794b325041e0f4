/** A model that cannot be served says why in one clear error. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { pathToFileURL } from "node:url";
import { QuartermasterError } from "../../bindings/main.js";
import { openModel } from "../../native-host/executor/main.js";
import { safetensors, smallConfig, writeModel } from "../support/model-fixtures.js";
import { root, TINY_RETRIEVAL } from "../support/package-root.js";

const good = writeModel();
const folders = [good.directory];
after(() => folders.forEach((folder) => rmSync(folder, { recursive: true })));

/** A copy of the good model after `damage`. */
function damaged(damage: (directory: string) => void): string {
  const directory = mkdtempSync(join(tmpdir(), "quartermaster-damaged-"));
  folders.push(directory);
  cpSync(good.directory, directory, { recursive: true });
  damage(directory);
  return directory;
}

const withConfig = (changes: Record<string, unknown>): string =>
  damaged((directory) => writeFileSync(join(directory, "config.json"), JSON.stringify(smallConfig(changes))));

/** The weights file with its header changed; the data stays. */
function withHeader(
  change: (header: Record<string, { dtype: string; shape: number[]; data_offsets: number[] }>) => void,
): string {
  return damaged((directory) => {
    const path = join(directory, "model.safetensors");
    const file = readFileSync(path);
    const length = Number(file.readBigUInt64LE(0));
    const header = JSON.parse(file.subarray(8, 8 + length).toString()) as never;
    change(header);
    const text = Buffer.from(JSON.stringify(header));
    const prefix = Buffer.alloc(8);
    prefix.writeBigUInt64LE(BigInt(text.length));
    writeFileSync(path, Buffer.concat([prefix, text, file.subarray(8 + length)]));
  });
}

const weights = (bytes: Uint8Array): string =>
  damaged((directory) => writeFileSync(join(directory, "model.safetensors"), bytes));
const Q = "model.layers.1.self_attn.q_proj.weight";

const CASES: readonly [what: string, directory: string, code: string, message: RegExp][] = [
  [
    "an unknown architecture",
    withConfig({ architectures: ["GPT2LMHeadModel"] }),
    "UNKNOWN_ARCHITECTURE",
    /"GPT2LMHeadModel"; known: LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM/,
  ],
  [
    "another activation",
    withConfig({ hidden_act: "gelu" }),
    "MODEL_CONFIG",
    /hidden_act is "gelu"; allowed: silu/,
  ],
  [
    "an unknown rope scaling",
    withConfig({ rope_scaling: { rope_type: "yarn" } }),
    "MODEL_CONFIG",
    /rope_type is "yarn"; allowed: default, linear, llama3/,
  ],
  [
    "heads that do not group",
    withConfig({ num_key_value_heads: 3 }),
    "MODEL_CONFIG",
    /num_key_value_heads is 3/,
  ],
  ["a missing size", withConfig({ hidden_size: undefined }), "MODEL_CONFIG", /hidden_size is undefined/],
  [
    "a config that is not JSON",
    damaged((d) => writeFileSync(join(d, "config.json"), "{")),
    "MODEL_CONFIG",
    /config\.json is not JSON/,
  ],
  ["no config", damaged((d) => rmSync(join(d, "config.json"))), "MODEL_FILE", /config\.json: is not there/],
  [
    "no tokenizer",
    damaged((d) => rmSync(join(d, "tokenizer.json"))),
    "MODEL_FILE",
    /tokenizer\.json: is not there/,
  ],
  [
    "no weights",
    damaged((d) => rmSync(join(d, "model.safetensors"))),
    "MODEL_FILE",
    /model\.safetensors: cannot be opened/,
  ],
  [
    "a missing tensor",
    withConfig({ num_hidden_layers: 3 }),
    "MISSING_TENSOR",
    /model\.layers\.2\.input_layernorm\.weight/,
  ],
  [
    "a tensor of the wrong shape",
    withConfig({ intermediate_size: 64 }),
    "TENSOR_SHAPE",
    /mlp\.gate_proj\.weight has shape \[48, 32\]; the config asks for \[64, 32\]/,
  ],
  [
    "a tensor of another type",
    withHeader((h) => (h[Q].dtype = "I8")),
    "MODEL_FILE",
    /q_proj\.weight: type I8; known: F32, F16, BF16/,
  ],
  [
    "sizes that do not match the shape",
    withHeader((h) => (h[Q].data_offsets[1] -= 4)),
    "MODEL_FILE",
    /4092 bytes for shape \[32,32\]/,
  ],
  [
    "a tensor past the end of the file",
    withHeader((h) => (h[Q].data_offsets = [1e9, 1e9 + 4096])),
    "MODEL_FILE",
    /ends at byte 1000\d+ of a file/,
  ],
  [
    "offsets that are no offsets",
    withHeader((h) => (h[Q].data_offsets = [-1, 5])),
    "MODEL_FILE",
    /data_offsets/,
  ],
  [
    "a header longer than the file",
    weights(Uint8Array.of(255, 255, 0, 0, 0, 0, 0, 0, 123)),
    "MODEL_FILE",
    /header of 65535 bytes in a file of 9/,
  ],
  [
    "a header that is not JSON",
    weights(Uint8Array.of(2, 0, 0, 0, 0, 0, 0, 0, 63, 63)),
    "MODEL_FILE",
    /header is not JSON/,
  ],
  ["an empty weights file", weights(new Uint8Array(3)), "MODEL_FILE", /shorter than a safetensors header/],
  ["no tensors at all", weights(safetensors(new Map())), "MISSING_TENSOR", /embed_tokens/],
  [
    "a shard index without a map",
    damaged((d) => writeFileSync(join(d, "model.safetensors.index.json"), "{}")),
    "MODEL_FILE",
    /weight_map/,
  ],
];

for (const [what, directory, code, message] of CASES) {
  test(`${what} is refused as ${code}`, async () => {
    for (const backend of ["wasm", "auto"] as const) {
      await assert.rejects(openModel(directory, { backend, blocks: 8 }), (error) => {
        assert.ok(error instanceof QuartermasterError, String(error));
        assert.equal(error.code, code);
        assert.match(error.message, message);
        return true;
      });
    }
  });
}

test("options out of range are named", async () => {
  const refused = (options: object, message: RegExp): Promise<void> =>
    assert.rejects(openModel(good.directory, { blocks: 8, ...options } as never), message);
  await refused({ backend: "gpu" }, /backend is "gpu"; allowed: auto, cpu, wasm/);
  await refused({ backend: "wasm", blocks: 0 }, /blocks is 0/);
  await refused({ backend: "wasm", blockSize: 300 }, /blockSize is 300/);
  await refused({ backend: "wasm", blockSize: 12 }, /blockSize is 12/);
  await refused(
    { backend: "wasm", maxSequenceTokens: 257 },
    /maxSequenceTokens is 257; allowed: an integer from 1 to 256/,
  );
  await refused({ backend: "wasm", blocks: 2 ** 25 }, /KV pool of \d+ bytes does not fit/);
});

test("backend cpu without the addon is refused, and says why", () => {
  const main = pathToFileURL(join(root, "dist", "native-host", "executor", "main.js")).href;
  const script = `import { openModel } from ${JSON.stringify(main)};
    await openModel(${JSON.stringify(TINY_RETRIEVAL)}, { backend: "cpu", blocks: 8 }).catch((e) => console.log(e.code, e.message));
    const { executor } = await openModel(${JSON.stringify(TINY_RETRIEVAL)}, { blocks: 8 });
    console.log(executor.describe().backend);`;
  const { stdout } = spawnSync(process.execPath, ["--input-type=module", "-e", script], {
    encoding: "utf8",
    env: { ...process.env, QUARTERMASTER_ADDON: "off" },
  });
  assert.match(stdout, /^UNSUPPORTED backend cpu: .*QUARTERMASTER_ADDON=off.*\nwasm\n$/);
});
