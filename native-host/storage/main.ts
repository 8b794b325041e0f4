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
export { PrefixStore, type PrefixStoreOptions } from "./prefix-store.js";
export type { RecoveryReport } from "./recovery.js";
export {
  type BlockInfo,
  KEY_BYTES,
  type StoredBlock,
  type TierBackend,
  type TierStat,
} from "./tier-backend.js";
