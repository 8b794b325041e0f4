/** Creation of a Scheduler over its region. */
import { indexCreate, indexNodesFor } from "../index/ordered-index";
import { KvCache } from "../paging/layout";
import { MAX_BATCH_TOKENS, MAX_REQUESTS, MAX_TENANTS, Scheduler, schedulerLayOut } from "./layout";
import { planLayOut, StepPlan } from "./plan-layout";
import { requestsCreate } from "./requests";
import { tokensCreate } from "./tokens";

/**
 * Whether the shape is within range; every running request must fit the token budget with its one decode
 * token.
 */
export function schedulerShapeValid(
  kv: KvCache,
  maxRequests: u32,
  maxRunning: u32,
  maxBatchTokens: u32,
  tokenCapacity: u32,
  tenants: u32,
): bool {
  return (
    maxRequests >= 1 &&
    maxRequests <= MAX_REQUESTS &&
    maxRunning >= 1 &&
    maxRunning <= kv.maxSequences &&
    maxBatchTokens >= maxRunning &&
    maxBatchTokens <= MAX_BATCH_TOKENS &&
    tokenCapacity >= 1 &&
    tenants >= 1 &&
    tenants <= MAX_TENANTS
  );
}

/**
 * Lays out and fills a scheduler at `s`, a zeroed region of `schedulerBytes` bytes; the shape has been
 * checked.
 */
export function schedulerCreate(
  s: Scheduler,
  kv: KvCache,
  maxRequests: u32,
  maxRunning: u32,
  maxBatchTokens: u32,
  maxChunkTokens: u32,
  watermarkBlocks: u32,
  vocabSize: u32,
  policy: u32,
  tokenCapacity: u32,
  queueTimeoutUs: f64,
  agingTokens: u32,
  tenants: u32,
  inputWeight: f64,
  outputWeight: f64,
  seed: u64,
): void {
  schedulerLayOut(s, kv, maxRequests, maxRunning, maxBatchTokens, tokenCapacity, tenants);
  s.maxChunkTokens = maxChunkTokens;
  s.watermarkBlocks = watermarkBlocks;
  s.vocabSize = vocabSize;
  s.policy = policy;
  s.queueTimeoutUs = queueTimeoutUs;
  s.agingTokens = agingTokens;
  s.inputWeight = inputWeight;
  s.outputWeight = outputWeight;
  s.lastTenant = 0;
  s.drafts = 0;
  s.tier = 0;
  s.loadingCount = 0;
  s.preemptive = 0;
  s.nextDeadlineUs = Infinity;
  const nodes = indexNodesFor(maxRequests, 4);
  indexCreate(s.waiting, nodes, 4, seed);
  indexCreate(s.ids, nodes, 4, seed ^ 1);
  requestsCreate(s);
  tokensCreate(s);
  const tableWords = kv.maxSequences * kv.tableStride;
  planLayOut(changetype<StepPlan>(s.plan), maxRunning, maxBatchTokens, kv.tables, tableWords, kv.copies);
}
