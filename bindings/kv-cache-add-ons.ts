/** Parts of a KV cache that only those pay for who ask for them: a region of memory each. */
import { writeGroups } from "./cache-groups.js";
import { createContentKeys } from "./content-keys.js";
import type { Core } from "./core.js";
import { invalidArgument, requireInteger } from "./errors.js";
import type { CoreExports } from "./exports.js";
import type { KvCacheShape, TenantQuota } from "./kv-cache-options.js";

export interface AddOn {
  /** Bytes of its region. */
  readonly bytes: number;
  /** Makes it for the new cache at `kv`, behind all that has been made before; a status. */
  create(kv: number): number;
}

/** Number of a tenant's account; that of the common account comes behind all tenants'. */
export function accountOf(tenant: number | "common", tenants: number): number {
  return tenant === "common" ? tenants : requireInteger("tenant", tenant, 0, tenants - 1);
}

/** Fills in defaults; a quota that the cache cannot have throws INVALID_ARGUMENT. */
export function quotaShape(quota: TenantQuota, blocks: number): Required<Omit<TenantQuota, "tenant">> {
  const ceiling = requireInteger("ceiling", quota.ceiling ?? blocks, 0, blocks);
  const watermark = requireInteger("watermark", quota.watermark ?? ceiling, 0, ceiling);
  const floor = requireInteger("floor", quota.floor ?? 0, 0, watermark);
  return { floor, watermark, ceiling };
}

function setQuotas(exports: CoreExports, kv: number, shape: KvCacheShape): number {
  for (const quota of shape.quotas) {
    const { floor, watermark, ceiling } = quotaShape(quota, shape.blocks);
    const status = exports.kvSetQuota(kv, accountOf(quota.tenant, shape.tenants), floor, watermark, ceiling);
    if (status < 0) return status;
  }
  return 0;
}

/** Checks quotas against each other. */
export function requireQuotas(
  quotas: readonly TenantQuota[],
  tenants: number,
  blocks: number,
): readonly TenantQuota[] {
  if (!Array.isArray(quotas)) throw invalidArgument("quotas", quotas, "an array");
  let floors = 0;
  const seen = new Set<number>();
  for (const quota of quotas) {
    const account = accountOf(quota?.tenant, tenants);
    if (tenants === 0 || seen.has(account))
      throw invalidArgument("quotas", quota.tenant, "each tenant once, below `tenants`");
    seen.add(account);
    floors += quotaShape(quota, blocks).floor;
  }
  if (floors > blocks) throw invalidArgument("quotas", floors, `floors of ${blocks} blocks together at most`);
  return quotas;
}

/** The add-ons that options ask for, in the order in which they are to be made. */
export function addOnsOf(core: Core, shape: KvCacheShape): AddOn[] {
  const { exports } = core;
  const addOns: AddOn[] = [];
  if (shape.partialReuse > 0)
    addOns.push({
      bytes: exports.kvChildrenBytes(shape.blocks, +(shape.evictionOrder.kind !== "lru")),
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
  const { marks, pins, blockRuns } = shape;
  if (blockRuns)
    addOns.push({
      bytes: exports.kvRunsBytes(shape.blocks, shape.maxSequences),
      create: (kv) => exports.kvRunsCreate(kv, blockRuns.reserve),
    });
  if (marks > 0)
    addOns.push({
      bytes: exports.kvMarksBytes(shape.blocks, marks),
      create: (kv) => exports.kvMarksCreate(kv, marks),
    });
  if (pins)
    addOns.push({
      bytes: exports.kvPinsBytes(shape.blocks, pins.capacity),
      create: (kv) => exports.kvPinsCreate(kv, pins.capacity, Math.floor(shape.blocks * pins.share)),
    });
  if (shape.tenants > 0)
    addOns.push({
      bytes: exports.kvAccountsBytes(shape.blocks, shape.tenants),
      create: (kv) => exports.kvAccountsCreate(kv, shape.tenants) || setQuotas(exports, kv, shape),
    });
  return addOns;
}
