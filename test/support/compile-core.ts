/** Compiles the core's source with edits: builds that are broken on purpose, for checks that must notice. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import asc from "assemblyscript/asc";
import { root } from "./package-root.js";

export interface Edit {
  readonly file: string;
  /** Must be there exactly once. */
  readonly find: string;
  readonly replace: string;
}

const ENTRY = "edited-entry.ts";

function edited(text: string, edits: readonly Edit[]): string {
  return edits.reduce((before, { file, find, replace }) => {
    assert.equal(before.split(find).length, 2, `${file} has what is replaced once: ${find}`);
    return before.replace(find, () => replace);
  }, text);
}

/** `entry`: source that exports what the build has. `files`: sources beside those of the package. */
export async function compileCore(
  entry: string,
  edits: readonly Edit[],
  options: { threads: boolean; optimizeLevel: number; files?: Readonly<Record<string, string>> },
): Promise<Uint8Array<ArrayBuffer>> {
  let output: Uint8Array | undefined;
  const flags =
    `${ENTRY} --baseDir ${root} -o out.wasm --runtime stub -O${options.optimizeLevel} --use abort= --importMemory ` +
    "--zeroFilledMemory --initialMemory 1 --maximumMemory 65536 --enable simd" +
    (options.threads ? " --enable threads --sharedMemory" : "");
  const { error, stderr } = await asc.main(flags.split(" "), {
    readFile: (name) => {
      if (name === ENTRY) return entry;
      const given = options.files?.[name];
      if (given !== undefined) return given;
      let text: string;
      try {
        text = readFileSync(join(root, name), "utf8");
      } catch {
        return null;
      }
      return edited(
        text,
        edits.filter(({ file }) => file === name),
      );
    },
    writeFile: (name, contents) => {
      if (name.endsWith(".wasm")) output = contents as Uint8Array;
    },
    listFiles: () => [],
  });
  if (error || !output)
    throw new Error(`the edited core does not compile: ${stderr.toString()}`, { cause: error });
  return new Uint8Array(output);
}
