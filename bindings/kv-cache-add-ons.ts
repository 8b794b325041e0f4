/** Parts of a KV cache that only those pay for who ask for them: a region of memory each. */
import { writeGroups } from "./cache-groups.js";
import { createContentKeys } from "./content-keys.js";
import type { Core } from "./core.js";
import type { KvCacheShape } from "./kv-cache-options.js";

export interface AddOn {
  /** Bytes of its region. */
  readonly bytes: number;
  /** Makes it for the new cache at `kv`, behind all that has been made before; a status. */
  create(kv: number): number;
}

/** The add-ons that options ask for, in the order in which they are to be made. */
export function addOnsOf(core: Core, shape: KvCacheShape): AddOn[] {
  const { exports } = core;
  const addOns: AddOn[] = [];
  if (shape.partialReuse > 0)
    addOns.push({
      bytes: exports.kvChildrenBytes(shape.blocks),
      create: (kv) => exports.kvChildrenCreate(kv, shape.partialReuse),
    });
  const { contentKeys } = shape;
  if (contentKeys)
    addOns.push({
      bytes: exports.kvContentBytes(shape.blocks, contentKeys.scopes),
      create: (kv) => createContentKeys(core, kv, contentKeys),
    });
  const { events } = shape;
  if (events)
    addOns.push({
      bytes: exports.kvEventsBytes(shape.blocks, events.ring),
      create: (kv) => exports.kvEventsCreate(kv, events.ring, 0, events.group),
    });
  const { groups, blocks, blockSize, maxSequences, maxSequenceTokens } = shape;
  if (groups.length > 0) {
    const specs = writeGroups(core, groups);
    addOns.push({
      bytes: exports.kvGroupsBytes(blocks, blockSize, maxSequences, maxSequenceTokens, specs, groups.length),
      create: (kv) => exports.kvGroupsCreate(kv, writeGroups(core, groups), groups.length),
    });
  }
  return addOns;
}
