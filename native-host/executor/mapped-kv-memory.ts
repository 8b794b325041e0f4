/**
 * MappedKVMemory: executes the map plans of a `VirtualMemory` on this machine's memory.
 *
 *   const memory = core.virtualMemory({ slots: 16, maxTokens: 4096, tokenBytes: 128, tensors: 12, blocks: 96 });
 *   const mapped = MappedKVMemory.create(memory);
 *   const cache = new VirtualKVCache(memory, mapped);
 *   ... mapped.view(slot) is [tensor][bytes]: dense, whatever lies behind it
 *
 * Physical memory is an anonymous file (memfd), page-groups are mapped from it; a prefix that two slots share is the same
 * bytes. Linux only. Page-groups of 64 KiB, unless the VirtualMemory says otherwise; every mapped run of page-groups
 * is one of the mappings that the system limits (vm.max_map_count, 65530 unless set higher).
 */
import { QuartermasterError } from "../../bindings/errors.js";
import type { MapBackend } from "../../bindings/virtual-kv-cache.js";
import type { VirtualMemory } from "../../bindings/virtual-memory.js";
import { type Addon, loadAddon, type MapCost, type NativeVirtualMemory } from "./addon.js";

/** Costs added up since creation. */
export interface MapCosts {
  /** What kernels waited for. */
  readonly waited: Readonly<MapCost>;
  /** What was done beside them. */
  readonly beside: Readonly<MapCost>;
}

export class MappedKVMemory implements MapBackend {
  readonly #native: NativeVirtualMemory;
  readonly #costs = { waited: { calls: 0, us: 0 }, beside: { calls: 0, us: 0 } };

  private constructor(native: NativeVirtualMemory) {
    this.#native = native;
  }

  /**
   * Reserves the ranges of a VirtualMemory with nothing mapped yet. Throws UNSUPPORTED without the native addon or on
   * systems other than Linux, OUT_OF_MEMORY, INVALID_ARGUMENT.
   */
  static create(memory: VirtualMemory, addon: Addon = requireAddon()): MappedKVMemory {
    const { slots, slotPages, tensors, blocks, pageBytes } = memory;
    try {
      return new MappedKVMemory(addon.createVirtualMemory({ slots, slotPages, tensors, blocks, pageBytes }));
    } catch (error) {
      throw typed(error, "createVirtualMemory");
    }
  }

  execute(plan: Uint32Array): void {
    try {
      add(this.#costs.waited, this.#native.execute(plan));
    } catch (error) {
      throw typed(error, "execute");
    }
  }

  async executeAsync(plan: Uint32Array): Promise<void> {
    try {
      add(this.#costs.beside, await this.#native.executeAsync(plan));
    } catch (error) {
      throw typed(error, "executeAsync");
    }
  }

  trim(blocks: Uint32Array): void {
    try {
      this.#native.trim(blocks.slice().sort());
    } catch (error) {
      throw typed(error, "trim");
    }
  }

  /**
   * A slot's ranges, [tensor][slotPages * pageBytes]. Reading or writing where nothing is mapped ends the process
   * (SIGSEGV): stay within the tokens of the last step.
   */
  view(slot: number): Uint8Array {
    return this.#native.view(slot);
  }

  /** Bytes of physical memory in use: what has been written to and not been trimmed. */
  get residentBytes(): number {
    return this.#native.residentBytes();
  }

  get costs(): MapCosts {
    return { waited: { ...this.#costs.waited }, beside: { ...this.#costs.beside } };
  }

  /** Frees the memory; views become empty. Throws BUSY while a plan is executed. */
  close(): void {
    this.#native.close();
  }
}

function requireAddon(): Addon {
  const loaded = loadAddon();
  if ("addon" in loaded) return loaded.addon;
  throw new QuartermasterError("UNSUPPORTED", `mapping memory needs the native addon: ${loaded.reason}`);
}

function add(total: MapCost, cost: MapCost): void {
  total.calls += cost.calls;
  total.us += cost.us;
}

function typed(error: unknown, what: string): unknown {
  const code = (error as { code?: unknown })?.code;
  if (!(error instanceof Error) || typeof code !== "string") return error;
  return new QuartermasterError(code, `${what}: ${error.message}`, { cause: error });
}
