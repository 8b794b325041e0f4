/** The compiled module: where it comes from and what its host provides. */
import { invalidArgument, QuartermasterError } from "./errors.js";
import type { CoreExports } from "./exports.js";

/**
 * Builds of the core: SIMD, SIMD over shared memory, no SIMD, and one with assertions and a full check a
 * call.
 */
export type Build = "core" | "core-threads" | "core-scalar" | "debug";

export const BUILDS: readonly Build[] = ["core", "core-threads", "core-scalar", "debug"];

export interface HostImports extends WebAssembly.Imports {
  env: {
    memory: WebAssembly.Memory;
    /**
     * How a worker waits for another; only the threads build imports it. Blocks while the 32-bit word at
     * `address` is `expected`, at most `timeoutUs`; returns the microseconds that have passed, from which the
     * core tells a lock whose holder has died.
     */
    park(address: number, expected: number, timeoutUs: number): number;
  };
}

/** Loads and compiles one of the package's modules: from disk in Node and Deno, by fetch in a browser. */
export async function loadModule(build: Build = "core"): Promise<WebAssembly.Module> {
  if (!BUILDS.includes(build)) throw invalidArgument("build", build, BUILDS.join(", "));
  const url = new URL(`../../build/${build}.wasm`, import.meta.url);
  if (url.protocol === "file:") {
    const { readFile } = await import("node:fs/promises");
    return WebAssembly.compile(await readFile(url));
  }
  const response = await fetch(url);
  if (!response.ok)
    throw new QuartermasterError("UNSUPPORTED", `cannot load ${url}: HTTP ${response.status}`);
  return WebAssembly.compile(await response.arrayBuffer());
}

export async function instantiateRaw(module: WebAssembly.Module, imports: HostImports): Promise<CoreExports> {
  return (await WebAssembly.instantiate(module, imports)).exports as unknown as CoreExports;
}

/** Imports of a module over `memory`. Parking is Atomics.wait where this thread may block, else spinning. */
export function hostImports(memory: WebAssembly.Memory): HostImports {
  let words = new Int32Array(0);
  let mayBlock = true;
  const park = (address: number, expected: number, timeoutUs: number): number => {
    const at = address >>> 2;
    if (at >= words.length) words = new Int32Array(memory.buffer);
    const start = performance.now();
    try {
      if (mayBlock) Atomics.wait(words, at, expected, timeoutUs / 1000);
    } catch {
      mayBlock = false; // a browser's main thread
    }
    if (!mayBlock) {
      const end = start + timeoutUs / 1000;
      while (Atomics.load(words, at) === expected && performance.now() < end);
    }
    return (performance.now() - start) * 1000;
  };
  return { env: { memory, park } };
}

/** Whether this machine never reorders loads, as far as the host tells: then optimistic reads need no fence. */
export function ordersLoads(): boolean {
  const { process, Deno } = globalThis as {
    process?: { arch?: string };
    Deno?: { build?: { arch?: string } };
  };
  return process?.arch === "x64" || process?.arch === "ia32" || Deno?.build?.arch === "x86_64";
}
