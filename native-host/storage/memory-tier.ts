/**
 * MemoryTier: blocks of K and V in memory of this process: below one engine's pool, or between the engine that computes
 * prompts and those that answer (remote-tier.ts). The least recently used go when the capacity is reached, ends of prefixes
 * before what they stand on.
 */
import { requireInteger } from "../../bindings/errors.js";
import { flagsOf, groupIn, keyBytes, keyText, LOSSY, requireKey, requireKeys } from "./records.js";
import type { BlockInfo, StoredBlock, TierBackend, TierChange, TierStat } from "./tier-backend.js";
import { TierIndex } from "./tier-index.js";

export interface MemoryTierOptions {
  /** Bytes of payloads to keep at most. */
  capacityBytes: number;
}

export class MemoryTier implements TierBackend {
  readonly capacityBytes: number;
  readonly #index = new TierIndex();
  readonly #payloads = new Map<string, Uint8Array>();
  #evictions = 0;
  #failedWrites = 0;

  constructor({ capacityBytes }: MemoryTierOptions) {
    this.capacityBytes = requireInteger("capacityBytes", capacityBytes, 1, Number.MAX_SAFE_INTEGER);
  }

  /** Also false when the payload is larger than the whole tier. */
  put(key: Uint8Array, payload: Uint8Array, info: BlockInfo = {}): Promise<boolean> {
    const text = keyText(requireKey("key", key));
    const flags = flagsOf(info);
    if (this.#index.get(text) !== undefined) return Promise.resolve(false);
    const bytes = payload.length;
    if (bytes > this.capacityBytes) {
      this.#failedWrites += 1;
      return Promise.resolve(false);
    }
    while (this.#index.liveBytes + bytes > this.capacityBytes) {
      this.#forget(this.#index.victim()!.key);
      this.#evictions += 1;
    }
    const { fingerprint = 0, tenant = 0 } = info;
    const parent = info.parent && keyText(requireKey("parent", info.parent));
    this.#payloads.set(text, payload.slice());
    this.#index.set({ key: text, parent, fingerprint, tenant, flags, segment: 0, offset: 0, bytes });
    return Promise.resolve(true);
  }

  /** The payload is the tier's own: not to be written to. */
  get(key: Uint8Array): Promise<StoredBlock | undefined> {
    const text = keyText(requireKey("key", key));
    const entry = this.#index.get(text);
    if (entry === undefined) return Promise.resolve(undefined);
    this.#index.touch(text);
    const { parent, fingerprint, tenant, flags } = entry;
    return Promise.resolve({
      payload: this.#payloads.get(text)!,
      parent: parent === undefined ? undefined : keyBytes(parent),
      fingerprint,
      tenant,
      group: groupIn(flags),
      lossy: (flags & LOSSY) !== 0,
      orphan: this.#index.isOrphan(text),
    });
  }

  del(key: Uint8Array): Promise<boolean> {
    return Promise.resolve(this.#forget(keyText(requireKey("key", key))));
  }

  match(keys: readonly Uint8Array[], { lossy = false }: { readonly lossy?: boolean } = {}): number {
    const names = requireKeys(keys).map(keyText);
    const gap = names.findIndex((name) => {
      const entry = this.#index.get(name);
      return entry === undefined || this.#index.isOrphan(name) || ((entry.flags & LOSSY) !== 0 && !lossy);
    });
    const found = gap < 0 ? names.length : gap;
    // From the tail on: what two prefixes share is used last.
    for (let i = found - 1; i >= 0; i--) this.#index.touch(names[i]);
    return found;
  }

  has(keys: readonly Uint8Array[]): boolean[] {
    return requireKeys(keys).map((key) => this.match([key]) === 1);
  }

  watch(listener: (change: TierChange) => void): () => void {
    return this.#index.watch(listener);
  }

  stat(): TierStat {
    const { size, liveBytes, orphans } = this.#index;
    return {
      blocks: size,
      liveBytes,
      usedBytes: liveBytes,
      capacityBytes: this.capacityBytes,
      orphans,
      evictions: this.#evictions,
      corrupt: 0,
      failedWrites: this.#failedWrites,
    };
  }

  #forget(key: string): boolean {
    this.#payloads.delete(key);
    return this.#index.delete(key) !== undefined;
  }
}
