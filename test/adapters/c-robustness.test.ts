/**
 * Random calls of the C library, right and wrong: whatever is asked, the answer is a documented one, a refusal has changed nothing, and
 * nothing is read or written beyond what a call is given, as far as the compiler's sanitizers see.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { root } from "../support/package-root.js";

const adapter = join(root, "adapters", "c");
const library = join(root, "build", "c", "scalar", "installed", "lib", "libquartermaster.a");
const SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"];

const folder = mkdtempSync(join(tmpdir(), "quartermaster-robustness-"));
after(() => rmSync(folder, { recursive: true, force: true }));

const run = (command: string, args: readonly string[]): { status: number | null; output: string } => {
  const { status, stdout, stderr } = spawnSync(command, args, { encoding: "utf8" });
  return { status, output: `${stdout}${stderr}` };
};

/** Whether the compiler has the sanitizers, and a program with them runs. */
function sanitizes(): boolean {
  const [source, program] = [join(folder, "probe.c"), join(folder, "probe")];
  writeFileSync(source, "int main(void) { return 0; }\n");
  return run("cc", [...SANITIZERS, source, "-o", program]).status === 0 && run(program, []).status === 0;
}

/** The program with the library's own sources; the translated core comes from the library, as it is. */
function compiled(name: string, flags: readonly string[]): string {
  const program = join(folder, name);
  const sources = readdirSync(join(adapter, "src")).filter((file) => file.endsWith(".c"));
  const { status, output } = run("cc", [
    ...["-std=gnu11", "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-clobbered", ...flags],
    ...["include", "src"].map((part) => `-I${join(adapter, part)}`),
    `-I${join(root, "build", "c", "core-scalar")}`,
    join(adapter, "robustness.c"),
    ...sources.map((file) => join(adapter, "src", file)),
    ...[library, "-lm", "-o", program],
  ]);
  assert.equal(status, 0, output);
  return program;
}

/** What a run printed: each answer and how often it was given, and calls that never got one that is no refusal. */
function answersOf(program: string, seed: number, rounds: number): [[string, number][], Set<string>] {
  const { status, output } = run(program, [String(seed), String(rounds)]);
  assert.equal(status, 0, `seed ${seed}: ${output}`);
  const given = [...output.matchAll(/^([A-Z_]+) (\d+)$/gm)].map(([, name, count]): [string, number] => [
    name,
    Number(count),
  ]);
  return [given, new Set([...output.matchAll(/^never (.*)$/gm)].map(([, call]) => call))];
}

const skip = existsSync(library) ? false : `${library} was not built: npm run build:c`;

test(
  "random calls of the C headers get documented answers, and a refused one changes nothing",
  { skip },
  (t) => {
    const sanitized = sanitizes();
    if (!sanitized) t.diagnostic(`SKIPPED the sanitizers: cc does not offer ${SANITIZERS[0]}`);
    const program = compiled("robustness", sanitized ? SANITIZERS : []);
    const total = new Map<string, number>();
    const refused: Set<string>[] = [];
    for (let seed = 1; seed <= 6; seed++) {
      const [given, never] = answersOf(program, seed, 8000);
      for (const [name, count] of given) total.set(name, (total.get(name) ?? 0) + count);
      refused.push(never);
    }
    assert.ok((total.get("OK") ?? 0) > 12000, "many calls are right");
    const always = [...refused[0]].filter((call) => refused.every((never) => never.has(call)));
    assert.ok(
      always.length <= 16,
      `all but a few, which are wrong on purpose, are right some time: ${always.join("\n")}`,
    );
    for (const name of [
      "INVALID_ARGUMENT",
      "OUT_OF_BLOCKS",
      "UNKNOWN_SEQUENCE",
      "UNKNOWN_REQUEST",
      "TOO_LONG",
    ])
      assert.ok((total.get(name) ?? 0) > 50, `${name}: ${total.get(name)}`);
    assert.ok(total.size >= 18, [...total.keys()].join(" "));
  },
);

test("the program notices a refused call that has changed the core's memory", { skip }, () => {
  const program = compiled("careless", ["-DCARELESS"]);
  const { status, output } = run(program, ["1", "6000"]);
  assert.equal(status, 1, output);
  assert.match(output, /round \d+, .*: [A-Z_]+ \(\d+\)/);
});
