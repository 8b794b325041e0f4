/** The rewriting of optimized modules: shorter, and the same results in the same order for random conditions. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { pathToFileURL } from "node:url";
import binaryen from "binaryen";
import fc from "fast-check";
import { root } from "../support/package-root.js";

const script = async (name: string): Promise<unknown> =>
  import(pathToFileURL(join(root, "scripts", name)).href);
const { shrink } = (await script("shrink-wasm.mjs")) as { shrink: (text: string) => string };
const { outline } = (await script("outline-wasm.mjs")) as {
  outline: (module: unknown, leastOf: (name: string) => number) => unknown;
};
const { parse, print } = (await script("wasm-tree.mjs")) as {
  parse: (text: string) => unknown;
  print: (module: unknown) => string;
};

/** A condition over the bits of parameter 0. Each term leaves a trace in memory, so order and count of what runs are seen. */
const condition: fc.Memo<string> = fc.memo((depth) =>
  depth <= 1
    ? term
    : fc.oneof(
        term,
        fc
          .tuple(condition(depth - 1), condition(depth - 1))
          .chain(([a, b]) =>
            fc.constantFrom(
              `(if (result i32) ${a} (then ${b}) (else (i32.const 0)))`,
              `(if (result i32) ${a} (then (i32.const 1)) (else ${b}))`,
              `(if (result i32) ${a} (then (i32.const 0)) (else ${b}))`,
              `(if (result i32) ${a} (then (local.set $x (i32.add (local.get $x) (i32.const 3))) ${b}) (else (i32.const 1)))`,
              `(i32.eqz ${a})`,
              `(block (result i32) (drop ${a}) ${b})`,
              `(block $b (result i32) (drop (br_if $b (i32.const 0) ${a})) (if (call $t (i32.const 5)) (then (br $b (i32.const 1)))) ${b})`,
              `(block $b (result i32) (if ${a} (then (br $b ${b}))) (drop (br_if $b (i32.const 1) ${b})) (call $t (i32.const 2)))`,
            ),
          ),
      ),
);
const term = fc.nat(7).map((bit) => `(call $t (i32.const ${bit}))`);

const statement: fc.Memo<string> = fc.memo((depth) => {
  const inner = depth <= 1 ? fc.constant("(nop)") : statement(depth - 1);
  return fc
    .tuple(condition(3), inner, fc.integer({ min: -3, max: 0 }), condition(2))
    .chain(([c, body, status, other]) =>
      fc.constantFrom(
        `(if ${c} (then (return (i32.const ${status}))))`,
        `(if ${c} (then ${body} (return (i32.const ${status}))))`,
        `(if ${c} (then ${body}))`,
        `(if ${c} (then ${body}) (else (drop ${other})))`,
        `(block $out (br_if $out ${c}) ${body})`,
        `(local.set $x ${c})`,
        `(loop $again ${body} (local.set $turns (i32.add (local.get $turns) (i32.const 1))) (br_if $again (i32.and (i32.lt_u (local.get $turns) (i32.const 9)) ${c})))`,
        `(global.set $trace (i64.xor (global.get $trace) (i64.const 1234567890123456789)))`,
      ),
    );
});

const program = fc
  .tuple(
    fc.array(statement(3), { minLength: 1, maxLength: 6 }),
    condition(3),
    fc.integer({ min: -3, max: 1 }),
  )
  .chain(([statements, c, status]) =>
    fc.constantFrom(
      [...statements, c],
      [...statements, `(i32.const ${status})`],
      [
        ...statements,
        `(block $f (result i32) (drop (br_if $f (i32.const ${status}) ${c})) ${statements[0]} (local.get $x))`,
      ],
      [
        ...statements,
        `(if (result i32) ${c} (then ${statements[0]} (i32.const ${status})) (else (local.get $x)))`,
      ],
    ),
  )
  .map(
    (body) => `(module
      (global $trace (mut i64) (i64.const 7))
      (func $t (param $bit i32) (result i32) (local $v i32)
        (local.set $v (i32.and (i32.shr_u (i32.wrap_i64 (global.get $trace)) (local.get $bit)) (i32.const 1)))
        (global.set $trace (i64.add (i64.mul (global.get $trace) (i64.const 6364136223846793005))
          (i64.extend_i32_u (local.get $bit))))
        (local.get $v))
      (func (export "run") (param $seed i64) (result i32) (local $x i32) (local $turns i32)
        (global.set $trace (local.get $seed))
        ${body.join("\n")})
      (func (export "again") (param $seed i64) (result i32) (local $x i32) (local $turns i32)
        (global.set $trace (i64.add (local.get $seed) (i64.const 1)))
        ${body.join("\n")})
      (func (export "trace") (result i64) (global.get $trace))
      (func (export "floats") (param $a f64) (result f64)
        (f64.add (f64.div (local.get $a) (f64.const 0)) (f64.mul (f64.const -0) (f64.const -1)))))`,
  );

interface Program {
  run(seed: bigint): number;
  /** As `run`, from the seed behind. */
  again(seed: bigint): number;
  trace(): bigint;
  floats(a: number): number;
}

function built(text: string): Program & { bytes: number } {
  const module = binaryen.parseText(text);
  module.setFeatures(binaryen.Features.All);
  const bytes = module.emitBinary();
  module.dispose();
  const instance = new WebAssembly.Instance(new WebAssembly.Module(bytes as BufferSource));
  return { ...(instance.exports as unknown as Program), bytes: bytes.length };
}

/** As Binaryen prints it: names made plain. */
function printed(text: string): string {
  const module = binaryen.parseText(text);
  module.setFeatures(binaryen.Features.All);
  const out = module.emitText();
  module.dispose();
  return out;
}

test("a rewritten module computes the same, in the same order, in no more bytes", () => {
  fc.assert(
    fc.property(
      program,
      fc.array(fc.bigInt(0n, (1n << 62n) - 1n), { minLength: 20, maxLength: 20 }),
      (text, seeds) => {
        const plain = built(text);
        const small = built(shrink(printed(text)));
        assert.ok(small.bytes <= plain.bytes, `${small.bytes} bytes, ${plain.bytes} before`);
        for (const seed of seeds) {
          assert.equal(small.run(seed), plain.run(seed));
          assert.equal(small.trace(), plain.trace());
        }
        for (const a of [1, -1, 0, NaN]) assert.ok(Object.is(small.floats(a), plain.floats(a)));
      },
    ),
    { numRuns: 100 },
  );
});

test("what two functions share is moved into one that both call, and computes the same", () => {
  let moved = 0;
  fc.assert(
    fc.property(program, fc.bigInt(0n, (1n << 62n) - 1n), (text, seed) => {
      const plain = built(text);
      const shared = print(outline(parse(printed(text)), () => 5));
      moved += Number(shared.includes("$shared0"));
      const small = built(shrink(printed(shared)));
      for (const name of ["run", "again"] as const) {
        assert.equal(small[name](seed), plain[name](seed));
        assert.equal(small.trace(), plain.trace());
      }
    }),
    { numRuns: 100 },
  );
  assert.ok(moved > 20, `something was moved in ${moved} programs only`);
});
