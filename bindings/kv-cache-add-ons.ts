/** Parts of a KV cache that only those pay for who ask for them: a region of memory each. */
import type { CoreExports } from "./exports.js";
import type { KvCacheShape } from "./kv-cache-options.js";

export interface AddOn {
  /** Bytes of its region. */
  readonly bytes: number;
  /** Makes it for the new cache at `kv`, behind all that has been made before; a status. */
  create(kv: number): number;
}

/** The add-ons that options ask for, in the order in which they are to be made. */
export function addOnsOf(exports: CoreExports, shape: KvCacheShape): AddOn[] {
  const addOns: AddOn[] = [];
  if (shape.partialReuse > 0)
    addOns.push({
      bytes: exports.kvChildrenBytes(shape.blocks),
      create: (kv) => exports.kvChildrenCreate(kv, shape.partialReuse),
    });
  return addOns;
}
