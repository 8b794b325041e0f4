/**
 * KV events in MessagePack, as consumers of vLLM's events read them (vllm/distributed/kv_events.py: EventBatch, BlockStored,
 * BlockRemoved, AllBlocksCleared), with fields of our own behind theirs.
 *
 * Its versions differ in whether records are arrays or maps; both are here. What its union of events does not know (gaps,
 * snapshots) is left out or said in its words, unless `extended` is asked for.
 */
import type { BlockMarks } from "./kv-event-marks.js";
import type { KvEvent, KvEventBatch, KvStored } from "./kv-events.js";
import { Float, packMessage, type Packable } from "./msgpack.js";

export interface KvEventEncoding {
  /** Batches as [ts, events, rank, ...] or as maps. Default "array". */
  batch?: "array" | "map";
  /** Events as [tag, block_hashes, ...] or as maps with their tag in "type". Default "map". */
  events?: "array" | "map";
  /** Keys whole, or as the u64 of their last 8 bytes. Default "bytes". */
  hashes?: "bytes" | "u64";
  /**
   * Gaps and snapshots as events "Gap", "SnapshotBegin" and "SnapshotEnd", and the fields `namespace`, `block_count`,
   * instance, epoch and sequence number. Without: a gap and the beginning of a snapshot are AllBlocksCleared, so that a
   * consumer that knows only vLLM's events forgets what it can no longer trust and learns it again. Default true.
   */
  extended?: boolean;
  /** What kind of layers the group has, and their window in tokens. Default: what the cache's `groups` say. */
  specKind?: string;
  specSlidingWindow?: number;
}

/** vLLM's names of what the layers of a group are. */
const SPEC_KINDS = { full: "full_attention", window: "sliding_window", recurrent: "mamba" } as const;

type Fields = Readonly<Record<string, Packable | undefined>>;

/** Behind these fields of a record everything may be left out when it is null. */
const REQUIRED: Readonly<Record<string, number>> = { BlockStored: 7, BlockRemoved: 2 };

/** Bytes of a batch. */
export function encodeKvEvents(batch: KvEventBatch, encoding: KvEventEncoding = {}): Uint8Array {
  const { events: form = "map", extended = true } = encoding;
  const events = batch.events
    .map((event) => fieldsOf(event, encoding))
    .filter((event) => event !== undefined)
    .map(([tag, fields]) => (form === "map" ? { type: tag, ...whole(tag, fields) } : listed(tag, fields)));
  const head: Fields = {
    ts: new Float(batch.ts),
    events,
    data_parallel_rank: batch.dataParallelRank ?? null,
    ...(extended && { instance: batch.instance, epoch: batch.epoch, seq: batch.seq }),
  };
  return packMessage(encoding.batch === "map" ? (head as Packable) : (Object.values(head) as Packable[]));
}

/** A record as a map: fields that are null by default are left out. */
function whole(tag: string, fields: Fields): Fields {
  const required = REQUIRED[tag] ?? 0;
  return Object.fromEntries(Object.entries(fields).filter(([, value], i) => i < required || value !== null));
}

/** A record as an array, without the nulls at its end that may be left out. */
function listed(tag: string, fields: Fields): Packable[] {
  const values = Object.values(fields) as Packable[];
  while (values.length > (REQUIRED[tag] ?? 0) && values.at(-1) === null) values.pop();
  return [tag, ...values];
}

/** Tag and fields of an event, in vLLM's order; undefined when it is not to be told. */
function fieldsOf(event: KvEvent, encoding: KvEventEncoding): [tag: string, fields: Fields] | undefined {
  const { extended = true } = encoding;
  const named = (keys: readonly Uint8Array[]): Packable[] => keys.map((key) => hashOf(key, encoding));
  if (event.type === "stored") return ["BlockStored", storedFields(event, named(event.keys), encoding)];
  if (event.type === "removed")
    return [
      "BlockRemoved",
      { block_hashes: named(event.keys), medium: event.medium, group_idx: event.group },
    ];
  if (event.type === "cleared")
    return ["AllBlocksCleared", extended ? { medium: event.medium, group_idx: event.group } : {}];
  if (event.type === "gap") return extended ? ["Gap", { from_seq: event.fromSeq }] : ["AllBlocksCleared", {}];
  if (event.type === "snapshot-begin") return [extended ? "SnapshotBegin" : "AllBlocksCleared", {}];
  return extended ? ["SnapshotEnd", { seq: event.seq }] : undefined;
}

function storedFields(event: KvStored, block_hashes: Packable[], encoding: KvEventEncoding): Fields {
  const { extended = true } = encoding;
  const { kind = undefined, window = 0 } = event.layers ?? {};
  const specKind = encoding.specKind ?? (kind === undefined ? null : SPEC_KINDS[kind]);
  const specSlidingWindow = encoding.specSlidingWindow ?? (window > 0 ? window : null);
  const marked = event.marks?.find((own) => own?.adapter !== undefined)?.adapter;
  const adapter = event.scope?.adapter ?? marked?.toString();
  return {
    block_hashes,
    parent_block_hash: event.parentKey && hashOf(event.parentKey, encoding),
    token_ids: event.tokenIds,
    block_size: event.blockTokens,
    lora_id: marked !== undefined && marked <= Number.MAX_SAFE_INTEGER ? Number(marked) : null,
    medium: event.medium,
    lora_name: typeof adapter === "string" ? adapter : null,
    extra_keys: event.marks?.map(extraKeys) ?? null,
    group_idx: event.group,
    kv_cache_spec_kind: specKind,
    kv_cache_spec_sliding_window: specSlidingWindow,
    ...(extended && { namespace: event.namespace, block_count: event.keys.length }),
  };
}

/** A block's extra keys as vLLM lists them: its adapter, then [content, first token in the block] of each item. */
function extraKeys(marks: BlockMarks | null): Packable {
  if (marks === null) return null;
  const { adapter, scope, items } = marks;
  return [
    ...(adapter === undefined ? [] : [adapter.toString()]),
    ...items.map(({ hash, offset }) => [hash.toString(), offset]),
    ...(scope === "public" ? [] : [scope]),
  ];
}

function hashOf(key: Uint8Array, { hashes = "bytes" }: KvEventEncoding): Packable {
  if (hashes === "bytes") return key;
  return new DataView(key.buffer, key.byteOffset).getBigUint64(key.length - 8);
}
