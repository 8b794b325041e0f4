/**
 * Reuse of copies is exact: a preempted request, or one whose turn has ended, sends the blocks of which the host has no valid
 * copy and no others. Beside it a brute-force account that knows, block by block, what was sent, what has been added since
 * and what was overwritten.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { Core, type RequestId, type StepPlan, TRANSFER_WORDS } from "../../bindings/main.js";
import { Random } from "../support/random.js";
import { type Flight, SwapHost } from "../support/swap-host.js";

const BLOCK_SIZE = 4;
const VOCAB = 7;
const SWAP_OUT = 1;
const SWAP_IN = 2;

class Account {
  /** Of each request, by block: where its copy is and how many tokens it has. */
  readonly copies = new Map<RequestId, Map<number, { slot: number; tokens: number }>>();
  /** Which block of which request a device block is. */
  readonly owners = new Map<number, { request: RequestId; index: number }>();
  readonly inFlight = new Map<number, RequestId>();
  host!: SwapHost;
  sent = 0;
  kept = 0;

  constructor(
    readonly blocks: number,
    readonly exact: boolean,
  ) {}

  onPlan(plan: StepPlan): void {
    const { scheduler, idle } = this.host;
    const sending = new Map<RequestId, Set<number>>();
    const records: { request: RequestId; index: number; slot: number; id: number }[] = [];
    for (let at = 0; at < plan.transferCount * TRANSFER_WORDS; at += TRANSFER_WORDS) {
      const [op, , source, , target, tokens, , id] = plan.transfers.subarray(at, at + TRANSFER_WORDS);
      if (op !== SWAP_OUT) continue;
      for (let k = 0; k * BLOCK_SIZE < tokens; k++) {
        const { request, index } = this.owners.get(source + k)!;
        records.push({ request, index, slot: target + k, id });
        sending.set(request, (sending.get(request) ?? new Set()).add(index));
      }
    }
    const swapped = new Map<RequestId, number>();
    for (const { kind, request, swappedTokens } of scheduler.outcomes())
      if (kind === "preempted") swapped.set(request, swappedTokens);
    // The others are those whose turn has ended, unless they have been aborted since.
    // How much of it a host without room has taken is not told.
    for (const request of sending.keys())
      if (this.exact && !swapped.has(request) && idle.has(request))
        swapped.set(request, idle.get(request)!.tokens.length - 1);
    const busy = new Set(this.inFlight.values());
    for (const [request, tokens] of swapped) {
      if (busy.has(request)) continue;
      const copies = this.copies.get(request);
      const missing: number[] = [];
      for (let i = 0; i * BLOCK_SIZE < tokens; i++) {
        const filled = Math.min(BLOCK_SIZE, tokens - i * BLOCK_SIZE);
        if ((copies?.get(i)?.tokens ?? 0) < filled) missing.push(i);
      }
      const blocks = [...(sending.get(request) ?? [])].sort((a, b) => a - b);
      if (this.exact) assert.deepEqual(blocks, missing, `blocks of ${tokens} tokens that are sent`);
      else
        for (const index of missing)
          assert.ok(blocks.includes(index), "a contaminated copy is never relied on");
      this.sent += blocks.length;
      this.kept += Math.ceil(tokens / BLOCK_SIZE) - blocks.length;
    }
    for (const { request, slot, id } of records) {
      this.inFlight.set(id, request);
      for (const [other, copies] of this.copies)
        for (const [index, copy] of copies)
          if (copy.slot === slot && (other !== request || !this.exact)) copies.delete(index);
    }
    this.#see(plan);
  }

  /** The tables that requests run with now, and the blocks that they are read back into. */
  #see(plan: StepPlan): void {
    const slots = new Map<number, { request: RequestId; index: number }>();
    for (const [request, copies] of this.copies)
      for (const [index, { slot }] of copies) slots.set(slot, { request, index });
    for (let at = 0; at < plan.transferCount * TRANSFER_WORDS; at += TRANSFER_WORDS) {
      const [op, , source, , target, tokens] = plan.transfers.subarray(at, at + TRANSFER_WORDS);
      if (op !== SWAP_IN) continue;
      for (let k = 0; k * BLOCK_SIZE < tokens; k++) this.owners.set(target + k, slots.get(source + k)!);
    }
    for (let row = 0; row < plan.rows; row++)
      for (let index = 0; index < plan.tableCount[row]; index++)
        this.owners.set(plan.tables[plan.tableStart[row] + index], { request: plan.requests[row], index });
  }

  onEnd({ id, out, blocks, done }: Flight): void {
    if (!out) return;
    const request = this.inFlight.get(id)!;
    this.inFlight.delete(id);
    const copies = this.copies.get(request) ?? new Map<number, { slot: number; tokens: number }>();
    this.copies.set(request, copies);
    assert.equal(done, blocks.length);
    for (const [source, slot, tokens] of blocks) {
      const { index } = this.sources.get(`${id} ${source}`)!;
      copies.set(index, { slot, tokens });
    }
  }

  /** What the records of transfers in flight named. */
  readonly sources = new Map<string, { index: number }>();
}

async function runOne(seed: number, operations: number, blocks: number, exact: boolean): Promise<Account> {
  const random = new Random(seed);
  const core = await Core.create({ seed: seed >>> 0 });
  const cache = core.kvCache({
    blocks: 24,
    blockSize: BLOCK_SIZE,
    maxSequences: 16,
    maxSequenceTokens: 96,
    prefixCache: false,
    ...(random.below(2) === 0 && { blockRuns: { reserve: 1 + random.below(12) } }),
  });
  const scheduler = core.scheduler({
    cache,
    vocabSize: VOCAB,
    maxRequests: 12,
    maxBatchTokens: 24,
    tokenCapacity: 12 * 256,
    watermarkBlocks: 1,
    preemptive: true,
    hostTier: {
      blocks,
      blocking: random.below(3) === 0,
      swapIn: random.pick(["async", "sync", "adaptive"] as const),
    },
  });
  const account = new Account(blocks, exact);
  const host = new SwapHost(scheduler, random, {
    vocab: VOCAB,
    onPlan: (plan) => {
      const before = new Map(account.owners);
      account.onPlan(plan);
      for (let at = 0; at < plan.transferCount * TRANSFER_WORDS; at += TRANSFER_WORDS) {
        const [op, , source, , , tokens, , id] = plan.transfers.subarray(at, at + TRANSFER_WORDS);
        if (op !== SWAP_OUT) continue;
        for (let k = 0; k * BLOCK_SIZE < tokens; k++)
          account.sources.set(`${id} ${source + k}`, before.get(source + k)!);
      }
    },
    onEnd: (flight) => account.onEnd(flight),
  });
  account.host = host;
  for (let i = 0; i < operations; i++) {
    const choice = random.below(10);
    if (choice < 2)
      host.submit(1 + random.below(30), 1 + random.below(24), 0, random.below(4), random.below(2) === 0);
    else if (choice === 2 && host.idle.size > 0)
      host.nextTurn(random.pick([...host.idle.keys()]), 1 + random.below(8), 1 + random.below(8), false);
    else if (choice === 3 && host.live.size > 0)
      scheduler.setPriority(random.pick([...host.live.keys()]), random.below(4));
    else if (choice === 4) host.drift(8);
    else host.step();
    scheduler.validate();
  }
  const { sentBlocks } = scheduler.hostTier!;
  host.drain();
  assert.ok(sentBlocks >= 0);
  return account;
}

test("what is sent is exactly what has no valid copy, block by block, when the host has room", async () => {
  let [sent, kept] = [0, 0];
  await fc.assert(
    fc.asyncProperty(fc.integer(), fc.integer({ min: 50, max: 400 }), async (seed, operations) => {
      const account = await runOne(seed, operations, 12 * 24, true);
      sent += account.sent;
      kept += account.kept;
    }),
    { numRuns: 60 },
  );
  assert.ok(kept > 0.2 * sent, `${sent} blocks sent, ${kept} not`);
});

test("on a host that is too small no copy is relied on that was overwritten for another request", async () => {
  let kept = 0;
  await fc.assert(
    fc.asyncProperty(fc.integer(), fc.integer({ min: 50, max: 400 }), async (seed, operations) => {
      kept += (await runOne(seed, operations, 12 + (seed & 15), false)).kept;
    }),
    { numRuns: 60 },
  );
  assert.ok(kept > 0, "and some copies are used");
});
