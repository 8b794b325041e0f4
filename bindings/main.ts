/** quartermaster: what stays in memory and what runs next, for LLM inference engines. */
export { type BlockOrderKind, type BlockOrderOptions } from "./block-order.js";
export { type KeyedAllocation, KeyedPool, type KeyedPoolOptions } from "./keyed-pool.js";
export { type Advice, PageSet, type PageSetOptions } from "./page-set.js";
export {
  type ChunkExtras,
  type ContentItem,
  type ContentKeyOptions,
  ContentKeys,
  type ContentScope,
  modelFingerprint,
  type ModelFingerprint,
} from "./content-keys.js";
export { ABI_VERSION, Core, type CoreOptions, type SharedCore } from "./core.js";
export type { BatchRegion } from "./batch-region.js";
export type { CacheGroup, CacheGroupKind, CacheGroupOptions, CacheGroupStats } from "./cache-groups.js";
export { type Drafter, promptLookup, type PromptLookupOptions } from "./drafting.js";
export { BlockTableStore } from "./block-table-store.js";
export { Engine } from "./engine.js";
export {
  type EngineOptions,
  type FinishReason,
  type GenerateRequest,
  type StepReport,
  type TokenEvent,
} from "./engine-options.js";
export { QuartermasterError, type ErrorDetails, type HostCode, type StatusCode } from "./errors.js";
export {
  ChunkBank,
  ChunkSelector,
  salientTokens,
  type ChunkBankOptions,
  type ChunkMoves,
} from "./eviction/chunk-bank.js";
export {
  BlockDiffusionSession,
  type BlockDiffusionOptions,
  type ChunkAttention,
  type ChunkExecutor,
  type ChunkPart,
  type MadeChunk,
} from "./eviction/block-diffusion.js";
export { denoisingTimes, noiseLevel, shuffleNoise, type NoiseLevels } from "./eviction/chunk-noise.js";
export { apportion, type ApportionOptions, type ApportionStrategy } from "./eviction/apportion.js";
export { evict, type Evicted } from "./eviction/evict.js";
export { LazyLanes } from "./eviction/lazy-lanes.js";
export { KeptCache } from "./eviction/kept-cache.js";
export type { SavedLanes } from "./eviction/saved-lanes.js";
export { CompactionPlan, CoreLanes, LaneArena, type LaneArenaOptions } from "./eviction/lanes.js";
export {
  createPolicy,
  EVICTION_POLICIES,
  policyFromText,
  type EvictionPolicyName,
} from "./eviction/create-policy.js";
export {
  ClusterSelector,
  TokenSelector,
  type ClusterMetric,
  type ClusterSelectorOptions,
} from "./eviction/cluster-selector.js";
export { EpisodeIndex, ngramEmbedder, conversationWindows, type Embedder } from "./eviction/episodes.js";
export { readHeadProfile, RetrievalHeadScores, type HeadProfile } from "./eviction/head-profile.js";
export { MpcVm, mpcBytes, type MpcMethod } from "./eviction/mpc.js";
export { parsePolicy, type PolicyOptions, type PolicySpec } from "./eviction/options.js";
export {
  PlaneMask,
  type BudgetAllocator,
  type BudgetPlan,
  type BudgetScope,
  type EvictionPolicy,
  type KeepPlan,
  type LaneShape,
  type LaneView,
  type LayerSignals,
  type SequenceLanes,
  type SlotMerge,
  type SlotReuse,
  type SparseSelector,
  type StatisticsNeeds,
} from "./eviction/policy.js";
export {
  Selection,
  type AggregateName,
  type LayerRows,
  type PooledOptions,
  type Scores,
  type SelectionOptions,
  type SelectOptions,
} from "./eviction/select.js";
export type { Executor, ExecutorDescription, RowContext, SamplingOptions, StepResult } from "./executor.js";
export type { CoreExports } from "./exports.js";
export { BlockRuns, type BlockRunOptions, type BlockRunStats } from "./block-runs.js";
export { FreeExtents, type Extent, type Fit, type FreeExtentsOptions } from "./free-extents.js";
export { encodeKvEvents, type KvEventEncoding } from "./kv-events-msgpack.js";
export { type BlockItem, type BlockMarks } from "./kv-event-marks.js";
export { KvEventLog } from "./kv-event-log.js";
export {
  type KvEvent,
  type KvEventBatch,
  type KvEventOptions,
  KvEvents,
  type KvMedium,
  type KvReaderOptions,
  type KvRemoved,
  type KvStored,
  type TierEvent,
} from "./kv-events.js";
export { keyedHash } from "./keyed-hash.js";
export { KvCache } from "./kv-cache.js";
export {
  type BlockId,
  type KvCacheOptions,
  type RetentionTerms,
  type KvCacheStats,
  type TenantAccount,
  type TenantQuota,
  type OpenOptions,
  type SequenceId,
} from "./kv-cache-options.js";
export { loadModule, type Build } from "./module.js";
export { Operations } from "./operations.js";
export { OrderedIndex, type Found } from "./ordered-index.js";
export type { IndexMode, OrderedIndexOptions, OrderedIndexStats } from "./ordered-index-options.js";
export {
  EvictionOrder,
  ExpiryOrder,
  MAX_ORDER,
  OrderedView,
  TenantOrder,
  ViewOrder,
  type EvictionPlace,
  type OrderedViewOptions,
  type TenantPlace,
} from "./ordered-view.js";
export {
  NO_BLOCK,
  Phase,
  type PlanGroup,
  TRANSFER_WORDS,
  TransferMark,
  TransferOp,
  type StepPlan,
} from "./plan.js";
export { type HostTierOptions, type HostTierStats } from "./host-tier.js";
export { blockTableOf, planDigest } from "./plan-digest.js";
export type { PrefixProbe } from "./prefix-probe.js";
export { createScheduler, recordLanes, recordScheduler, type SchedulerSetup } from "./record.js";
export {
  replay,
  type ReplayedStep,
  type ReplayMismatch,
  type ReplayOptions,
  type ReplayReport,
} from "./replay.js";
export { resolveSampling } from "./sampling.js";
export { PlanHeader, Scheduler } from "./scheduler.js";
export {
  POLICIES,
  type CommitResults,
  type Outcome,
  type PolicyName,
  type RequestId,
  type RequestOptions,
  type TurnOptions,
  type SchedulerOptions,
} from "./scheduler-options.js";
export {
  APPEND_SLOT,
  MOVE_WORDS,
  StatMask,
  type LaneRow,
  type RunOptions,
  type StatisticsRequest,
  type StatView,
} from "./statistics.js";
export {
  VirtualKVCache,
  type KVStore,
  type MapBackend,
  type StepMemory,
  type VirtualKVCacheOptions,
} from "./virtual-kv-cache.js";
export {
  CHANGE_WORDS,
  ChangeOp,
  type SharedPrefix,
  VirtualMemory,
  type VirtualMemoryOptions,
} from "./virtual-memory.js";
export { releaseTime } from "./ttft-bucket.js";
export { TextStream, type Detokenizer } from "./text-stream.js";
export { type PinId, type PinOptions, type PinRoom, type RequestPin } from "./kv-pins.js";
export { type PromptItem, type PromptMarks, type TokenRange, type Wide } from "./prompt-marks.js";
