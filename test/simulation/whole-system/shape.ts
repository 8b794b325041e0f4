/** What a world is made of, drawn from its seed: small pools and small queues, so that everything runs out. */
import type {
  Build,
  CacheGroupOptions,
  KvCacheOptions,
  SchedulerOptions,
  TenantQuota,
} from "../../../bindings/main.js";
import { ORDER_KINDS } from "../../../bindings/block-order.js";
import { POLICIES } from "../../../bindings/scheduler-options.js";
import { Random } from "../../support/random.js";

type Known =
  | "maxRequests"
  | "maxRunning"
  | "maxBatchTokens"
  | "maxChunkTokens"
  | "maxDraftTokens"
  | "policy"
  | "tokenCapacity"
  | "agingTokens"
  | "tenants"
  | "queueTimeoutUs"
  | "watermarkBlocks"
  | "preemptive";

export interface WorldShape {
  readonly build: Build;
  readonly cache: KvCacheOptions & { blockSize: number; maxSequences: number; maxSequenceTokens: number };
  readonly scheduler: Omit<SchedulerOptions, "cache"> & Required<Pick<SchedulerOptions, Known>>;
  /** Requests that come in ten steps. */
  readonly load: number;
  /** One step in so many is not executed; 0: none. */
  readonly failures: number;
  /** One step in so many sees an abort; 0: none. */
  readonly aborts: number;
  /** Whether tenants have quotas of the pool. */
  readonly quotas: boolean;
  /** Of so many blocks on their way to or from the host tier one does not arrive; 0: all do. */
  readonly transferFailures: number;
  /** Whether prefixes are stored, and read back while steps go on; and whether that is on disk, through crashes. */
  readonly archive: boolean;
  readonly disk: boolean;
  /** A mistake of the host: files are missing after a crash. */
  readonly losesFiles?: boolean;
  /** A mistake of the host: it records what its checksum says is damaged. */
  readonly believesDamage?: boolean;
  /** Whether prompts have marks, priorities change, and requests have several turns. */
  readonly marks: boolean;
  readonly priorities: boolean;
  readonly turns: boolean;
  /** Whether sequences beside the scheduler's use the cache. */
  readonly outsiders: boolean;
  /** Tokens of the longest prompt and the longest answer. */
  readonly longestPrompt: number;
  readonly longestAnswer: number;
  /** Texts that prompts begin with. */
  readonly families: number;
  readonly namespaces: number;
}

const OUTSIDERS = 3;
/** Loads from the archive at a time. */
export const LOADS = 2;
export const TENANTS = 3;
const CONTENT_KEYS = { domainKey: new Uint8Array(32), fingerprint: new Uint8Array(32).fill(1) };

/** Limits in blocks; all floors together take at most half of the pool. */
export function drawQuota(random: Random, tenant: number, blocks: number): Required<TenantQuota> {
  const floor = random.below(Math.floor(blocks / (2 * TENANTS)) + 1);
  const ceiling = random.below(2) === 0 ? blocks : floor + random.below(blocks - floor + 1);
  return { tenant, floor, watermark: floor + random.below(ceiling - floor + 1), ceiling };
}

function drawGroups(random: Random, blockSize: number): CacheGroupOptions[] {
  return Array.from({ length: 1 + random.below(3) }, () => {
    const kind = random.pick(["full", "window", "window", "recurrent"] as const);
    const size = { blockSize: blockSize << random.below(3) };
    return kind === "window" ? { kind, window: 1 + random.below(20), ...size } : { kind, ...size };
  });
}

export function drawShape(seed: number): WorldShape {
  const random = new Random(seed);
  const build = random.pick(["core", "core", "core", "core-scalar", "core-threads"] as const);
  const maxRunning = 1 + random.below(8);
  const outsiders = random.below(3) === 0;
  const blockSize = 2 ** random.below(5);
  const kinds = ["plain", "plain", "tier", "tier", "quotas", "quotas, tier", "groups", "groups, quotas"];
  const kind = random.pick([...kinds, "groups, tier", "groups, tier, quotas"]);
  const [grouped, tiered, quotas] = ["groups", "tier", "quotas"].map((part) => kind.includes(part));
  // Little room, so that somebody is always preempted where that means more than to compute again.
  const room = 24 + random.below(tiered ? 60 : 140);
  const blocks = Math.ceil(room / blockSize) * (grouped ? 3 : 1);
  const prefixCache = random.below(6) !== 0;
  const maxRequests = 2 + random.below(30);
  const archive = prefixCache && !grouped && random.below(4) === 0;
  const events = prefixCache && random.below(5) === 0;
  const tenants = [0, 1, 2].map((tenant) => drawQuota(random, tenant, blocks));
  const groups = drawGroups(random, blockSize);
  const auto = random.below(4) === 0;
  const hostTier = {
    blocks: (1 + random.below(60)) * (grouped ? 3 : 1),
    copies: 1 + random.below(maxRequests),
    preemption: auto ? "auto" : "swap",
    blocking: random.below(4) === 0,
    reuse: random.below(4) !== 0,
    swapIn: random.pick(["async", "sync", "adaptive"] as const),
    prefillUs: auto ? 1 + random.below(4) : 0,
    inUs: random.below(4),
    outUs: random.below(4),
  } as const;
  const marks = random.below(3) === 0;
  const priorities = random.below(3) === 0;
  const turns = random.below(3) === 0;
  const blockRuns = !grouped && random.below(4) === 0 ? { reserve: 1 + random.below(blocks) } : undefined;
  const pinned = prefixCache && random.below(3) === 0;
  const pins = pinned ? { capacity: 1 + random.below(12), share: random.below(5) / 10 } : undefined;
  const preemptive = random.below(5) === 0;
  return {
    build,
    cache: {
      blocks,
      blockSize,
      maxSequences: maxRunning + (outsiders ? OUTSIDERS : 0) + (archive ? LOADS : 0),
      maxSequenceTokens: 64,
      prefixCache,
      keyBits: random.pick([64, 64, 64, 6, 0]),
      evictionOrder: prefixCache ? random.pick(ORDER_KINDS) : "lru",
      retainBlocks: random.below(4) === 0 ? random.below(blocks + 1) : blocks,
      sharedProbe: build === "core-threads" && prefixCache && !grouped && random.below(2) === 0,
      partialReuse: prefixCache && !grouped && random.below(3) === 0 ? 1 + random.below(blockSize) : 0,
      ...(marks && { marks: random.pick([4, 40, 4000]) }),
      ...(blockRuns && { blockRuns }),
      ...(pins && { pins }),
      ...(grouped && { groups }),
      ...(quotas && { tenants: TENANTS, quotas: tenants }),
      ...(events && { contentKeys: CONTENT_KEYS, events: { ring: 2 ** random.below(8) } }),
    },
    scheduler: {
      vocabSize: random.pick([3, 9, 50]),
      maxRequests,
      maxRunning,
      maxBatchTokens: maxRunning + random.below(40),
      maxChunkTokens: random.below(3) === 0 ? 1 + random.below(8) : 0,
      watermarkBlocks: random.below(3) === 0 ? random.below(Math.ceil(blocks / 4)) : 0,
      policy: preemptive ? "priority" : random.pick(POLICIES),
      preemptive,
      tokenCapacity: 256 * Math.max(1, maxRequests - random.below(3)),
      agingTokens: 1 + random.below(8),
      tenants: TENANTS,
      inputWeight: 1 + random.below(3),
      outputWeight: random.below(3),
      queueTimeoutUs: random.below(3) === 0 ? 50 + random.below(1500) : 0,
      maxDraftTokens: random.pick([0, 0, 1, 4]),
      ...(tiered && { hostTier }),
    },
    load: 1 + random.below(7),
    failures: random.pick([0, 5, 20]),
    aborts: random.pick([0, 10, 40]),
    quotas,
    transferFailures: random.pick([0, 8, 40]),
    archive,
    disk: archive && random.below(2) === 0,
    marks,
    priorities,
    turns,
    outsiders,
    longestPrompt: 4 + random.below(44),
    longestAnswer: 1 + random.below(40),
    families: 1 + random.below(4),
    namespaces: 1 + random.below(3),
  };
}
