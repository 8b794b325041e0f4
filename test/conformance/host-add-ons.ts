/** Answers calls about what a cache and a scheduler may have besides: quotas, marks, pins, groups, runs, drafts, a host tier, turns. */
import {
  BlockRuns,
  type CacheGroupOptions,
  type CacheGroupStats,
  type KvCache,
  POLICIES,
  type PromptItem,
  type PromptMarks,
  type Scheduler,
  type TokenRange,
} from "../../bindings/main.js";
import { STATUS_CODES } from "../../bindings/errors.js";
import type { ConformanceHost } from "./host.js";
import type { Answer } from "./script.js";

type Operations = Readonly<Record<string, (args: never) => Answer>>;

const STATUS_OF = new Map(Object.entries(STATUS_CODES).map(([number, code]) => [code as string, +number]));
const KINDS = ["", "finished", "preempted", "rejected", "expired"];
const GROUP_KINDS = ["full", "window", "recurrent"] as const;
export const SWAP_INS = ["async", "sync", "adaptive"] as const;
const SCOPES = ["", "public", "group", "tenant"] as const;
/** Kinds of marks that are no scopes. */
const [ADAPTER, ITEM] = [4, 5];

/** Words of the records that docs/conformance.md describes, in rows of `width`. */
function rows(words: readonly number[], width: number): number[][] {
  return Array.from({ length: words.length / width }, (_, i) => words.slice(i * width, (i + 1) * width));
}

/** Groups as the TypeScript API takes them. */
function cacheGroups(words: readonly number[]): CacheGroupOptions[] {
  return rows(words, 3).map(([kind, window, tokens]) => ({
    kind: GROUP_KINDS[kind],
    blockSize: tokens,
    ...(GROUP_KINDS[kind] === "window" && { window }),
  }));
}

/** Marks as the TypeScript API takes them. */
function promptMarks(words: readonly number[]): PromptMarks {
  const ranges: TokenRange[] = [];
  const items: PromptItem[] = [];
  let adapter: bigint | undefined;
  for (const [offset, kind, length, , ...parts] of rows(words, 8)) {
    const content = parts.reduceRight((high, part) => (high << 32n) | BigInt(part), 0n);
    if (kind === ADAPTER) adapter = content;
    else if (kind === ITEM) items.push({ offset, length, hash: content });
    else ranges.push({ offset, scope: SCOPES[kind] as "public", ...(kind > 1 && { salt: content }) });
  }
  return { ranges, items, ...(adapter !== undefined && { adapter }) };
}

export function cacheAddOns(host: ConformanceHost): Operations {
  const cache = (): KvCache => host.cache;
  return {
    isolated: ([blocks, blockSize, maxSequences, maxSequenceTokens, ...rest]: number[]) => {
      const [tenants, marks, pins, hardBlocks, partialReuse] = rest;
      const specs = (rest[5] ?? []) as unknown as readonly number[];
      host.cache = host.core.kvCache({
        blocks,
        blockSize,
        maxSequences,
        maxSequenceTokens,
        tenants,
        marks,
        partialReuse,
        groups: cacheGroups(specs),
        ...(pins > 0 && { pins: { capacity: pins, share: hardBlocks / blocks } }),
      });
      return [0];
    },
    quota: ([account, floor, watermark, ceiling]: number[]) => {
      const tenant = account === cache().tenants ? "common" : account;
      return [(cache().setQuota({ tenant: tenant as number, floor, watermark, ceiling }), 0)];
    },
    account: ([account]: number[]) => [
      cache().account(account === cache().tenants ? "common" : account).used,
    ],
    "account-figures": ([account]: number[]) => {
      const { floor, watermark, ceiling, used, evictable, ...since } = cache().account(
        account === cache().tenants ? "common" : account,
      );
      const { evictedOwn, evictedByOthers, refused } = since;
      return [0, floor, watermark, ceiling, used, evictable, evictedOwn, evictedByOthers, refused];
    },
    "available-to": ([account]: number[]) => [
      cache().availableTo(account === cache().tenants ? "common" : account),
    ],
    "match-marked": ([namespace, marks, tokens]: [number, number[], number[]]) => [
      cache().match(tokens, namespace, promptMarks(marks)),
    ],
    "pin-figures": () => {
      const { hard, soft, pins, gaveWay } = cache().pinned();
      return [0, hard, soft, pins, gaveWay];
    },
    "open-as": ([namespace, isPrivate, tenant, tokens]: [number, number, number, number[]]) => [
      cache().open({ tokens, namespace, tenant, private: isPrivate !== 0 }),
    ],
    "open-marked": ([namespace, tenant, marks, tokens]: [number, number, number[], number[]]) => [
      cache().open({ tokens, namespace, tenant, ...promptMarks(marks) }),
    ],
    pin: ([sequence, hard, priority, untilUs]: number[]) => [
      cache().pin(sequence, { hard: hard !== 0, priority, ...(untilUs >= 0 && { untilUs }) }),
    ],
    unpin: ([pin]: number[]) => [(cache().unpin(pin), 0)],
    grouped: ([blocks, blockSize, maxSequences, maxSequenceTokens, specs]: [
      number,
      number,
      number,
      number,
      number[],
    ]) => {
      const groups = cacheGroups(specs);
      host.cache = host.core.kvCache({ blocks, blockSize, maxSequences, maxSequenceTokens, groups });
      return [0];
    },
    runs: ([blocks, blockSize, maxSequences, maxSequenceTokens, reserve, tenants = 0]: number[]) => {
      const shape = { blocks, blockSize, maxSequences, maxSequenceTokens, tenants };
      host.cache = host.core.kvCache({ ...shape, blockRuns: reserve === 0 ? true : { reserve } });
      return [0];
    },
    "run-figures": () => {
      const { group, reserved, splits } = new BlockRuns(cache()).stats();
      return [0, group, reserved, splits];
    },
    "run-tail": ([sequence]: number[]) => {
      const { start, length } = new BlockRuns(cache()).tail(sequence);
      return [0, start, length];
    },
    comb: ([blocks, limit]: number[]) => {
      const [first, second] = [0, 1].map(() => cache().open({ tokens: [], private: true }));
      for (let i = 1; i <= blocks; i++) for (const sequence of [first, second]) cache().reserve(sequence, i);
      cache().close(first);
      const found = new BlockRuns(cache()).free().slice(0, limit);
      const sum = (of: (run: (typeof found)[0]) => number): number =>
        found.reduce((all, run) => all + of(run), 0);
      return [found.length, sum(({ start }) => start), sum(({ length }) => length)];
    },
    "run-free": ([from, limit]: number[]) => {
      const all = new BlockRuns(cache()).free().filter(({ start }) => start >= from);
      const runs = all.slice(0, limit).map(({ start, length }) => [start, length]);
      return [runs.length, ...runs.flat()];
    },
    connected: ([blocks, blockSize, maxSequences, maxSequenceTokens, marks, specs]: [
      number,
      number,
      number,
      number,
      number,
      number[],
    ]) => {
      const bytes = Uint8Array.from({ length: 64 }, (_, i) => i);
      const contentKeys = { domainKey: bytes.subarray(0, 32), fingerprint: bytes.subarray(32), scopes: 4 };
      const shape = { blocks, blockSize, maxSequences, maxSequenceTokens, marks, contentKeys };
      host.cache = host.core.kvCache({ ...shape, groups: cacheGroups(specs) });
      return [0];
    },
    "append-loaded": ([sequence, whole, tokens]: [number, number, number[]]) => [
      (cache().appendLoaded(sequence, tokens, whole), 0),
    ],
    "prompt-keys": ([namespace, marks, tokens]: [number, number[], number[]]) => {
      const keys = cache().content!.ofPrompt(tokens, namespace, promptMarks(marks));
      return [keys.length / 32, ...new Uint32Array(keys.buffer)];
    },
    slots: ([sequence]: number[]) => [cache().slots(sequence)],
    deadline: () => {
      const { core, pointer } = cache();
      const deadline = core.exports.kvNextDeadlineUs(pointer);
      return [deadline === Infinity ? -1 : deadline];
    },
    "group-figures": ([group]: number[]) => {
      const figures: CacheGroupStats | undefined = cache().groupStats()[group - 1];
      if (figures === undefined) return [STATUS_OF.get("INVALID_ARGUMENT")!];
      const { window, blockSize, held, cached, evictions } = figures;
      return [0, GROUP_KINDS.indexOf(figures.kind), window, blockSize, held, cached, evictions];
    },
    "group-cached": ([sequence, group]: number[]) => {
      const blocks = cache().groupCached(sequence, group);
      return [blocks.length, ...blocks];
    },
    "group-table": ([sequence, group]: number[]) => {
      const table = cache().groupTable(sequence, group);
      return [table.length, ...table];
    },
  };
}

export function schedulerAddOns(host: ConformanceHost): Operations {
  const scheduler = (): Scheduler => host.scheduler;
  return {
    "scheduler-as": ([maxDraftTokens, preemptive, shape, tier]: [number, number, number[], number[]]) => {
      const [vocabSize, maxRequests, maxRunning, maxBatchTokens, maxChunkTokens, watermarkBlocks, ...rest] =
        shape;
      const [tokenCapacity, policy, queueTimeoutUs, agingTokens, tenants, inputWeight, outputWeight] = rest;
      const [blocks, copies, byCost, blocking, noReuse, outUs, inUs, prefillUs, swapIn = 0] = tier;
      const hostTier = {
        blocks,
        copies,
        preemption: byCost === 0 ? "swap" : "auto",
        blocking: blocking !== 0,
        reuse: noReuse === 0,
        outUs,
        inUs,
        prefillUs,
        swapIn: SWAP_INS[swapIn],
      } as const;
      host.scheduler = host.core.scheduler({
        cache: host.cache,
        ...{ vocabSize, maxRequests, maxRunning, maxBatchTokens, maxChunkTokens, watermarkBlocks },
        ...{ tokenCapacity, policy: POLICIES[policy], queueTimeoutUs, agingTokens, tenants },
        ...{ inputWeight, outputWeight, maxDraftTokens, preemptive: preemptive !== 0 },
        ...(tier.length > 0 && { hostTier }),
      });
      return [0];
    },
    "submit-as": ([numbers, marks, tokens]: [number[], number[], number[]]) => {
      const [id, namespace, priority, arrivalUs, maxNewTokens, tenant, kind, pinPriority, forUs, stays = 0] =
        numbers;
      const turns = stays !== 0;
      const pin = { hard: kind === 2, priority: pinPriority, ...(forUs > 0 && { forUs }) };
      return [
        scheduler().submit({
          ...{ id, namespace, priority, arrivalUs, maxNewTokens, tenant, tokens, turns },
          ...promptMarks(marks),
          ...(kind > 0 && { pin }),
        }),
      ];
    },
    "next-turn": ([request, maxNewTokens, last, tokens]: [number, number, number, number[]]) => [
      (scheduler().nextTurn(request, { tokens, maxNewTokens, last: last !== 0 }), 0),
    ],
    propose: ([request, tokens]: [number, number[]]) => [scheduler().propose(request, tokens)],
    "commit-drafts": ([stepId, nowUs, tokens, finished, accepted]: [
      number,
      number,
      number[],
      number[],
      number[],
    ]) => [(scheduler().commit(stepId, nowUs, { tokens, finished, accepted }), 0)],
    outcomes: () => {
      const outcomes = scheduler().outcomes();
      const status = (code: string | undefined): number =>
        code === undefined ? 0 : (STATUS_OF.get(code) ?? 0);
      const words = outcomes.map((one) => [
        one.request,
        KINDS.indexOf(one.kind),
        status(one.code),
        one.generated,
        one.cachedTokens,
        one.preemptions,
        one.evictedOwn,
        one.swappedTokens || one.pin || status(one.pinRefusal),
      ]);
      return [outcomes.length, ...words.flat()];
    },
    transferred: ([transfer, blocks, us]: number[]) => [
      Number(scheduler().transferred(transfer, blocks, us)),
    ],
    progress: ([request]: number[]) => {
      const [computed, generated] = [scheduler().computed(request), scheduler().generated(request)];
      return computed < 0 ? [STATUS_OF.get("UNKNOWN_REQUEST")!] : [0, computed, generated];
    },
    "scheduler-figures": () => {
      const { running, waiting, arriving, core, pointer } = scheduler();
      const inFlight = core.exports.schedulerStepInFlight(pointer);
      const words = new Uint32Array(core.memory.buffer, pointer, 23);
      return [0, running, waiting, arriving, inFlight, words[9], words[22]];
    },
    "draft-figures": () => [0, scheduler().drafted.fed, scheduler().drafted.right],
    "tier-figures": () => {
      const tier = scheduler().hostTier;
      if (tier === undefined) return [STATUS_OF.get("NOT_FOUND")!];
      const { blocks, free, inFlight, pendingBlocks, swapOuts, swapIns, joins, ...rest } = tier;
      const { sentBlocks, keptBlocks, loadedBlocks, failures, conflicts, outUs, inUs, stepUs } = rest;
      const now = [blocks, free, inFlight, pendingBlocks];
      const since = [swapOuts, swapIns, joins, sentBlocks, keptBlocks, loadedBlocks, failures, conflicts];
      return [0, ...now, ...since, outUs, inUs, stepUs];
    },
    predict: ([request, tokens]: number[]) => [(scheduler().setPrediction(request, tokens), 0)],
    reprioritize: ([request, priority]: number[]) => [(scheduler().setPriority(request, priority), 0)],
  };
}
