/** The groups' part of a plan, put together from the rows and the tables in core memory. */
import { type GroupRecord, readGroups } from "./cache-groups.js";
import type { KvCache } from "./kv-cache.js";
import type { PlanGroup, StepPlan } from "./plan.js";

/** Low bits of a sequence handle: its slot. */
const SLOT_MASK = 2 ** 20 - 1;

type Rows = Pick<
  StepPlan,
  "rows" | "sequences" | "computedBefore" | "newTokens" | "tokenStart" | "totalTokens"
>;

export function planGroups(cache: KvCache, plan: Rows): PlanGroup[] {
  return readGroups(cache.core, cache.pointer).map((group) => groupOf(cache, group, plan));
}

function groupOf(cache: KvCache, group: GroupRecord, plan: Rows): PlanGroup {
  const { kind, window, blockSize, stride } = group;
  const { memory } = cache.core;
  const tables = new Uint32Array(memory.buffer, group.tables, stride * cache.maxSequences);
  const tableStart = plan.sequences.map((sequence) => (sequence & SLOT_MASK) * stride);
  const ends = plan.computedBefore.map((computed, row) => computed + plan.newTokens[row]);
  const slots = new Uint32Array(plan.totalTokens);
  for (let row = 0; row < plan.rows; row++) {
    const first = plan.computedBefore[row];
    for (let position = first; position < ends[row]; position++) {
      const block = tables[tableStart[row] + Math.floor(position / blockSize)];
      slots[plan.tokenStart[row] + position - first] = block * blockSize + (position % blockSize);
    }
  }
  const tableCount = ends.map((end) => Math.ceil(end / blockSize));
  return { kind, window, blockSize, tableStart, tableCount, tables, slots };
}
