/**
 * MemoryTier: blocks of K and V in memory of this process: below one engine's pool, or between the engine that computes
 * prompts and those that answer (remote-tier.ts). The least recently used go when the capacity is reached, ends of prefixes
 * before what they stand on.
 */
import { requireInteger } from "../../bindings/errors.js";
import { keyText, requireKey } from "./records.js";
import type { BlockInfo, StoredBlock, TierBackend, TierStat } from "./tier-backend.js";

export interface MemoryTierOptions {
  /** Bytes of payloads to keep at most. */
  capacityBytes: number;
}

type Kept = Omit<StoredBlock, "orphan">;

export class MemoryTier implements TierBackend {
  readonly capacityBytes: number;
  /** In order of use, the least recent first. */
  readonly #blocks = new Map<string, Kept>();
  #bytes = 0;
  #evictions = 0;
  #failedWrites = 0;

  constructor({ capacityBytes }: MemoryTierOptions) {
    this.capacityBytes = requireInteger("capacityBytes", capacityBytes, 1, Number.MAX_SAFE_INTEGER);
  }

  /** Also false when the payload is larger than the whole tier. */
  put(key: Uint8Array, payload: Uint8Array, info: BlockInfo = {}): Promise<boolean> {
    const name = keyText(requireKey("key", key));
    if (this.#blocks.has(name)) return Promise.resolve(false);
    if (payload.length > this.capacityBytes) {
      this.#failedWrites += 1;
      return Promise.resolve(false);
    }
    for (const [oldest, { payload: given }] of this.#blocks) {
      if (this.#bytes + payload.length <= this.capacityBytes) break;
      this.#blocks.delete(oldest);
      this.#bytes -= given.length;
      this.#evictions += 1;
    }
    const { parent, fingerprint = 0, tenant = 0, lossy = false } = info;
    this.#blocks.set(name, { parent: parent?.slice(), fingerprint, tenant, lossy, payload: payload.slice() });
    this.#bytes += payload.length;
    return Promise.resolve(true);
  }

  /** The payload is the tier's own: not to be written to. */
  get(key: Uint8Array): Promise<StoredBlock | undefined> {
    const name = keyText(requireKey("key", key));
    const block = this.#blocks.get(name);
    if (block === undefined) return Promise.resolve(undefined);
    this.#touch(name, block);
    return Promise.resolve({ ...block, orphan: this.#isOrphan(block) });
  }

  del(key: Uint8Array): Promise<boolean> {
    const name = keyText(requireKey("key", key));
    this.#bytes -= this.#blocks.get(name)?.payload.length ?? 0;
    return Promise.resolve(this.#blocks.delete(name));
  }

  match(keys: readonly Uint8Array[], { lossy = false }: { readonly lossy?: boolean } = {}): number {
    const names = keys.map((key) => keyText(requireKey("keys", key)));
    const gap = names.findIndex((name) => {
      const block = this.#blocks.get(name);
      return block === undefined || (block.lossy && !lossy);
    });
    const found = gap < 0 ? names.length : gap;
    // From the tail on: a prefix is forgotten from its end.
    for (let i = found - 1; i >= 0; i--) this.#touch(names[i], this.#blocks.get(names[i])!);
    return found;
  }

  has(keys: readonly Uint8Array[]): boolean[] {
    return keys.map((key) => this.match([key]) === 1);
  }

  stat(): TierStat {
    return {
      blocks: this.#blocks.size,
      liveBytes: this.#bytes,
      usedBytes: this.#bytes,
      capacityBytes: this.capacityBytes,
      orphans: [...this.#blocks.values()].filter((block) => this.#isOrphan(block)).length,
      evictions: this.#evictions,
      corrupt: 0,
      failedWrites: this.#failedWrites,
    };
  }

  #touch(name: string, block: Kept): void {
    this.#blocks.delete(name);
    this.#blocks.set(name, block);
  }

  #isOrphan({ parent }: Kept): boolean {
    for (let seen = 0; parent !== undefined; seen++) {
      const before = this.#blocks.get(keyText(parent));
      if (before === undefined || seen > this.#blocks.size) return true;
      parent = before.parent;
    }
    return false;
  }
}
