// Every kernel agrees with its plain reference, for every instruction set and number type, at odd sizes too.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { NumberType } from "../../native-host/executor/addon.js";
import type { RopeScaling } from "../../native-host/executor/model-config.js";
import { isas, largestError, needsAddon, numbersAs, randomFloats, theAddon } from "./native-support.js";

const TYPES: NumberType[] = ["f32", "f16", "bf16"];
const SETS = isas.length > 0 ? isas : (["portable"] as const);

for (const isa of SETS) {
  for (const dtype of TYPES) {
    test(`${isa} ${dtype}: matmul`, needsAddon, () => {
      const { kernels } = theAddon();
      for (const [tokens, inputs, outputs] of [
        [1, 1, 1],
        [1, 128, 256],
        [2, 33, 17],
        [3, 100, 7],
        [5, 64, 50],
        [8, 129, 31],
        [13, 15, 3],
        [70, 48, 20],
      ]) {
        const x = randomFloats(tokens * inputs, 1 + tokens);
        const weight = numbersAs(dtype, randomFloats(outputs * inputs, 2 + inputs));
        const bias = tokens % 2 === 0 ? numbersAs(dtype, randomFloats(outputs, 3)) : null;
        const wanted = new Float32Array(tokens * outputs);
        const got = new Float32Array(tokens * outputs).fill(NaN);
        kernels.matmul("reference", x, weight, dtype, inputs, bias, wanted);
        kernels.matmul(isa, x, weight, dtype, inputs, bias, got);
        assert.ok(
          largestError(got, wanted) < 2e-5,
          `${tokens} x ${inputs} x ${outputs}: ${largestError(got, wanted)}`,
        );
      }
    });

    test(`${isa} ${dtype}: embedding and RMSNorm`, needsAddon, () => {
      const { kernels } = theAddon();
      for (const width of [1, 7, 16, 33, 128]) {
        const table = numbersAs(dtype, randomFloats(9 * width, width));
        const tokens = Uint32Array.of(8, 0, 3, 3);
        const wanted = new Float32Array(4 * width);
        const got = new Float32Array(4 * width);
        kernels.embed("reference", table, dtype, width, tokens, wanted);
        kernels.embed(isa, table, dtype, width, tokens, got);
        assert.deepEqual(got, wanted);

        const weight = numbersAs(dtype, randomFloats(width, 5));
        const x = randomFloats(4 * width, 6);
        kernels.rmsnorm("reference", x, weight, dtype, width, 1e-5, wanted);
        kernels.rmsnorm(isa, x, weight, dtype, width, 1e-5, got);
        assert.ok(largestError(got, wanted) < 1e-5, `width ${width}: ${largestError(got, wanted)}`);
      }
    });
  }

  test(`${isa}: rope, both layouts and every scaling`, needsAddon, () => {
    const { kernels } = theAddon();
    const scalings: RopeScaling[] = [
      { type: "none" },
      { type: "linear", factor: 4 },
      { type: "llama3", factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalMaxPositions: 64 },
    ];
    const positions = Uint32Array.of(0, 1, 77, 1000);
    for (const headDim of [2, 6, 32, 80]) {
      for (const layout of ["half", "interleaved"] as const) {
        for (const scaling of scalings) {
          const wanted = randomFloats(4 * 3 * headDim, headDim);
          const got = wanted.slice();
          const given = wanted.slice();
          kernels.rope("reference", wanted, positions, 3, headDim, 10000, layout, scaling);
          kernels.rope(isa, got, positions, 3, headDim, 10000, layout, scaling);
          assert.ok(largestError(got, wanted) < 1e-6);
          assert.ok(largestError(got, rotated(given, positions, 3, headDim, layout, scaling)) < 1e-5);
        }
      }
    }
  });

  test(`${isa}: SwiGLU, far tails included`, needsAddon, () => {
    const { kernels } = theAddon();
    for (const count of [1, 15, 64, 101]) {
      const wanted = randomFloats(count, count, 30);
      wanted.set([-500, 500, 0].slice(0, count));
      const got = wanted.slice();
      const up = randomFloats(count, 9);
      kernels.swiglu("reference", wanted, up);
      kernels.swiglu(isa, got, up);
      assert.ok(largestError(got, wanted) < 1e-5, `${count}: ${largestError(got, wanted)}`);
    }
  });
}

test("canary: the comparison sees a wrong number", () => {
  assert.ok(largestError([1, 2, 3], [1, 2, 3.001]) > 1e-4);
  assert.ok(Number.isNaN(largestError([NaN], [1])) || largestError([NaN], [1]) > 0);
});

test("kernels refuse shapes that do not fit", needsAddon, () => {
  const { kernels } = theAddon();
  const four = new Float32Array(4);
  const bytes = new Uint8Array(16);
  const refused = { code: "INVALID_ARGUMENT" };
  assert.throws(() => kernels.matmul("auto", four, bytes, "f32", 3, null, four), refused);
  assert.throws(() => kernels.matmul("auto", four, bytes, "f32", 2, null, new Float32Array(5)), refused);
  assert.throws(
    () => kernels.embed("auto", bytes, "f32", 2, Uint32Array.of(2), new Float32Array(2)),
    refused,
  );
  assert.throws(() => kernels.rmsnorm("auto", four, bytes, "f16", 4, 1e-5, four), refused);
  assert.throws(() => kernels.swiglu("auto", four, new Float32Array(3)), refused);
  assert.throws(() => kernels.swiglu("sse9" as never, four, four), refused);
});

/** RoPE written from the formula, with the Hugging Face rule for llama3. */
function rotated(
  x: Float32Array,
  positions: Uint32Array,
  heads: number,
  headDim: number,
  layout: "half" | "interleaved",
  scaling: RopeScaling,
): Float32Array {
  const half = headDim / 2;
  const frequencies = Array.from({ length: half }, (_, i) => {
    const frequency = 10000 ** ((-2 * i) / headDim);
    if (scaling.type === "none") return frequency;
    if (scaling.type === "linear") return frequency / scaling.factor;
    const wavelength = (2 * Math.PI) / frequency;
    const { factor, lowFreqFactor, highFreqFactor, originalMaxPositions } = scaling;
    if (wavelength > originalMaxPositions / lowFreqFactor) return frequency / factor;
    if (wavelength < originalMaxPositions / highFreqFactor) return frequency;
    const smooth = (originalMaxPositions / wavelength - lowFreqFactor) / (highFreqFactor - lowFreqFactor);
    return ((1 - smooth) * frequency) / factor + smooth * frequency;
  });
  const out = x.slice();
  positions.forEach((position, t) => {
    for (let h = 0; h < heads; h++) {
      for (let i = 0; i < half; i++) {
        const base = (t * heads + h) * headDim;
        const [a, b] = layout === "half" ? [base + i, base + i + half] : [base + 2 * i, base + 2 * i + 1];
        const angle = position * frequencies[i];
        out[a] = x[a] * Math.cos(angle) - x[b] * Math.sin(angle);
        out[b] = x[b] * Math.cos(angle) + x[a] * Math.sin(angle);
      }
    }
  });
  return out;
}
