/**
 * The addresses that a call of the shipped module reads, in order: the module with a hook in front of every load
 * (Binaryen's instrument-memory), over the memory of a core that was filled at full speed.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import binaryen from "binaryen";
import type { Core, CoreExports } from "../../bindings/main.js";
import { root } from "./package-root.js";

export interface MemoryTrace {
  readonly exports: CoreExports;
  /** Addresses read since this was last emptied. */
  readonly reads: number[];
}

/** Traces calls into a core of build "core"; the core must not be used meanwhile. */
export async function traceMemory(core: Core): Promise<MemoryTrace> {
  const module = binaryen.readBinary(new Uint8Array(readFileSync(join(root, "build", "core.wasm"))));
  module.runPasses(["instrument-memory"]);
  const bytes = new Uint8Array(module.emitBinary());
  module.dispose();
  const reads: number[] = [];
  const hooks: Record<string, unknown> = { memory: core.memory };
  const compiled = await WebAssembly.compile(bytes);
  for (const { name, kind } of WebAssembly.Module.imports(compiled)) {
    if (kind !== "function") continue;
    hooks[name] =
      name === "load_ptr"
        ? (_site: number, _bytes: number, offset: number, address: number) => {
            reads.push((address >>> 0) + (offset >>> 0));
            return address;
          }
        : name.endsWith("_ptr")
          ? (_site: number, _bytes: number, _offset: number, address: number) => address
          : (_site: number, value: unknown) => value;
  }
  const { exports } = await WebAssembly.instantiate(compiled, { env: hooks } as WebAssembly.Imports);
  return { exports: exports as unknown as CoreExports, reads };
}
