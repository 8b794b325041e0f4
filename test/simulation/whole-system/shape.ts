/** What a world is made of, drawn from its seed: small pools and small queues, so that everything runs out. */
import type { Build, KvCacheOptions, SchedulerOptions } from "../../../bindings/main.js";
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
  | "queueTimeoutUs";

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
const CONTENT_KEYS = { domainKey: new Uint8Array(32), fingerprint: new Uint8Array(32).fill(1) };

export function drawShape(seed: number): WorldShape {
  const random = new Random(seed);
  const build = random.pick(["core", "core", "core", "core-scalar", "core-threads"] as const);
  const maxRunning = 1 + random.below(8);
  const outsiders = random.below(3) === 0;
  const blockSize = 2 ** random.below(5);
  const blocks = Math.ceil((24 + random.below(140)) / blockSize);
  const prefixCache = random.below(6) !== 0;
  const maxRequests = 2 + random.below(30);
  const events = prefixCache && random.below(5) === 0;
  return {
    build,
    cache: {
      blocks,
      blockSize,
      maxSequences: maxRunning + (outsiders ? OUTSIDERS : 0),
      maxSequenceTokens: 64,
      prefixCache,
      keyBits: random.pick([64, 64, 64, 6, 0]),
      evictionOrder: prefixCache ? random.pick(ORDER_KINDS) : "lru",
      retainBlocks: random.below(4) === 0 ? random.below(blocks + 1) : blocks,
      sharedProbe: build === "core-threads" && prefixCache && random.below(2) === 0,
      partialReuse: prefixCache && random.below(3) === 0 ? 1 + random.below(blockSize) : 0,
      ...(events && { contentKeys: CONTENT_KEYS, events: { ring: 2 ** random.below(8) } }),
    },
    scheduler: {
      vocabSize: random.pick([3, 9, 50]),
      maxRequests,
      maxRunning,
      maxBatchTokens: maxRunning + random.below(40),
      maxChunkTokens: random.below(3) === 0 ? 1 + random.below(8) : 0,
      watermarkBlocks: random.below(3) === 0 ? random.below(Math.ceil(blocks / 4)) : 0,
      policy: random.pick(POLICIES),
      tokenCapacity: 256 * Math.max(1, maxRequests - random.below(3)),
      agingTokens: 1 + random.below(8),
      tenants: 3,
      inputWeight: 1 + random.below(3),
      outputWeight: random.below(3),
      queueTimeoutUs: random.below(3) === 0 ? 50 + random.below(1500) : 0,
      maxDraftTokens: random.pick([0, 0, 1, 4]),
    },
    load: 1 + random.below(7),
    failures: random.pick([0, 5, 20]),
    aborts: random.pick([0, 10, 40]),
    outsiders,
    longestPrompt: 4 + random.below(44),
    longestAnswer: 1 + random.below(40),
    families: 1 + random.below(4),
    namespaces: 1 + random.below(3),
  };
}
