/** Storage of blocks outside the process's memory. */
export { DiskTier, type DiskTierOptions, type FsyncPolicy } from "./disk-tier.js";
export {
  LinkMeter,
  type LinkSpeed,
  type LoadPlan,
  type LoadQuery,
  planLoad,
  type StoredRun,
} from "./load-or-recompute.js";
export { MemoryTier, type MemoryTierOptions } from "./memory-tier.js";
export type { PrefixOptions } from "./cache-copies.js";
export { PrefixStore, type PrefixStoreOptions } from "./prefix-store.js";
export type { RecoveryReport } from "./recovery.js";
export { RemoteTier, type RemoteTierOptions, serveTier, type TierChannel } from "./remote-tier.js";
export { tellTier } from "./tier-events.js";
export {
  type BlockInfo,
  KEY_BYTES,
  type StoredBlock,
  type TierBackend,
  type TierBlock,
  type TierChange,
  type TierStat,
} from "./tier-backend.js";
