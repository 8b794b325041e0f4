/**
 * Content keys of a KV cache: 256-bit names of its cached blocks for the outside, equal in every process that caches the
 * same tokens for the same model in the same scope (docs/abi.md has the bytes that are hashed).
 */
import type { Core } from "./core.js";
import { invalidArgument, requireInteger } from "./errors.js";
import type { KvCache } from "./kv-cache.js";
import { type PromptMarks, withMarks } from "./prompt-marks.js";
import type { BlockId, SequenceId } from "./kv-cache-options.js";
import { DIGEST_BYTES, keyedHash, requireBytes } from "./keyed-hash.js";

/** What K and V of a token depend on beside the tokens: caches that differ in any of it never have a key in common. */
export interface ModelFingerprint {
  /** Name of the model, and which revision of its weights. */
  model: string;
  revision?: string;
  tokenizer?: string;
  /** Of K and V: "f16", "bf16", ... */
  dtype: string;
  quantisation?: string;
  layers: number;
  kvHeads: number;
  headDim: number;
  /** Order of a block's dimensions. */
  layout?: string;
  /** Whether keys are stored rotated, and by what. */
  rope?: string;
  /** Which part of the heads this cache holds. Default 0 of 1. */
  tensorParallelRank?: number;
  tensorParallelSize?: number;
}

export interface ContentKeyOptions {
  /**
   * 32 bytes, the key of the hash: secret where an outsider must not be able to tell from a key what is cached. Processes
   * that share keys have the same.
   */
  domainKey: Uint8Array;
  /** The model, or 32 bytes that stand for it. */
  fingerprint: ModelFingerprint | Uint8Array;
  /** Namespaces that can be given a scope, 0 to 2^20, 80 bytes or more each. Default 64. */
  scopes?: number;
}

/** Options, checked. */
export interface ContentKeyShape {
  domainKey: Uint8Array;
  fingerprint: ModelFingerprint | Uint8Array;
  scopes: number;
}

/** What a namespace stands for outside: text or bytes. Two scopes are equal only if all of their parts are. */
export interface ContentScope {
  tenant?: string | Uint8Array;
  adapter?: string | Uint8Array;
  salt?: string | Uint8Array;
}

/** An image or other item whose embeddings stand in a chunk in place of tokens. */
export interface ContentItem {
  /** Hash of what it shows. */
  hash: Uint8Array;
  /** Token of the chunk where it begins. */
  offset: number;
}

export interface ChunkExtras extends ContentScope {
  items?: readonly ContentItem[];
}

/** Types of the entries of a scope or of extras (docs/abi.md); 1 is the number of a namespace without a scope. */
const EntryType = { tenant: 2, adapter: 3, salt: 4, item: 5 } as const;
/** Types of the entries of a fingerprint, in this order. */
const FINGERPRINT_FIELDS = [
  "model",
  "revision",
  "tokenizer",
  "dtype",
  "quantisation",
  "layers",
  "kvHeads",
  "headDim",
  "layout",
  "rope",
  "tensorParallelRank",
  "tensorParallelSize",
] as const;
const FINGERPRINT_NUMBERS: readonly string[] = [
  "layers",
  "kvHeads",
  "headDim",
  "tensorParallelRank",
  "tensorParallelSize",
];
const MAX_LIST_BYTES = 32_768;

const utf8 = new TextEncoder();

function entry(type: number, content: Uint8Array): number[] {
  const { length } = content;
  return [type, length & 255, (length >> 8) & 255, (length >> 16) & 255, length >>> 24, ...content];
}

function word(value: number): Uint8Array {
  return Uint8Array.of(value & 255, (value >> 8) & 255, (value >> 16) & 255, value >>> 24);
}

function contentOf(argument: string, value: unknown): Uint8Array {
  if (typeof value === "string") return utf8.encode(value);
  if (value instanceof Uint8Array) return value;
  throw invalidArgument(argument, value, "a string or a Uint8Array");
}

/** The bytes of a scope, or of a chunk's extras: a list of { type u8, bytes u32, content }, types ascending. */
export function encodeExtras(argument: string, extras: ChunkExtras): Uint8Array {
  if (typeof extras !== "object" || extras === null) throw invalidArgument(argument, extras, "an object");
  const bytes: number[] = [];
  for (const part of ["tenant", "adapter", "salt"] as const) {
    if (extras[part] === undefined) continue;
    bytes.push(...entry(EntryType[part], contentOf(`${argument}.${part}`, extras[part])));
  }
  for (const [i, item] of (extras.items ?? []).entries()) {
    const offset = requireInteger(`${argument}.items[${i}].offset`, item?.offset, 0, 2 ** 32 - 1);
    const hash = requireBytes(`${argument}.items[${i}].hash`, item.hash);
    bytes.push(...entry(EntryType.item, Uint8Array.of(...word(offset), ...hash)));
  }
  if (bytes.length > MAX_LIST_BYTES)
    throw invalidArgument(argument, bytes.length, `at most ${MAX_LIST_BYTES} bytes`);
  return Uint8Array.from(bytes);
}

function encodeFingerprint(model: ModelFingerprint): Uint8Array {
  const bytes: number[] = [];
  const filled = { tensorParallelRank: 0, tensorParallelSize: 1, ...model };
  FINGERPRINT_FIELDS.forEach((field, type) => {
    const value: unknown = filled[field];
    if (FINGERPRINT_NUMBERS.includes(field))
      bytes.push(...entry(type, word(requireInteger(`fingerprint.${field}`, value, 0, 2 ** 32 - 1))));
    else if (value !== undefined || field === "model" || field === "dtype") {
      if (typeof value !== "string") throw invalidArgument(`fingerprint.${field}`, value, "a string");
      bytes.push(...entry(type, utf8.encode(value)));
    }
  });
  return Uint8Array.from(bytes);
}

/** The 32 bytes that stand for a model: the hash of its fields under a key of zeros. */
export function modelFingerprint(core: Core, model: ModelFingerprint): Uint8Array {
  if (typeof model !== "object" || model === null)
    throw invalidArgument("fingerprint", model, "an object or a Uint8Array of 32 bytes");
  return keyedHash(core, new Uint8Array(DIGEST_BYTES), encodeFingerprint(model));
}

/** Checks options and fills in defaults. */
export function contentKeyShape(options: ContentKeyOptions | undefined): ContentKeyShape | undefined {
  if (options === undefined) return undefined;
  if (typeof options !== "object" || options === null)
    throw invalidArgument("contentKeys", options, "an object");
  const { fingerprint } = options;
  if (fingerprint instanceof Uint8Array) requireBytes("fingerprint", fingerprint, DIGEST_BYTES);
  else encodeFingerprint(fingerprint ?? {});
  return {
    domainKey: requireBytes("domainKey", options.domainKey, DIGEST_BYTES),
    fingerprint,
    scopes: requireInteger("scopes", options.scopes ?? 64, 0, 2 ** 20),
  };
}

/** Gives a new cache its content keys; there must be room for the region. Returns a status. */
export function createContentKeys(core: Core, cache: number, shape: ContentKeyShape): number {
  const { domainKey, fingerprint, scopes } = shape;
  const model = fingerprint instanceof Uint8Array ? fingerprint : modelFingerprint(core, fingerprint);
  const at = core.scratch(2 * DIGEST_BYTES);
  const memory = new Uint8Array(core.memory.buffer);
  memory.set(domainKey, at);
  memory.set(model, at + DIGEST_BYTES);
  return core.exports.kvContentCreate(cache, scopes, at, at + DIGEST_BYTES);
}

/** The content keys of one cache. Keys are copied out, 32 bytes each. */
export class ContentKeys {
  readonly cache: KvCache;
  /** Scopes that were said through this object; the core keeps only their hashes. */
  readonly scopes = new Map<number, ContentScope>();

  /** Made by the cache: `cache.content`. */
  constructor(cache: KvCache) {
    this.cache = cache;
  }

  /**
   * Says what a namespace stands for outside; it must not have been used. Without a scope it stands for its number, and
   * namespace 0 for nothing: the scope of what is public. May be said again. Throws INVALID_ARGUMENT when it has
   * another scope, OUT_OF_MEMORY when `scopes` of them are taken.
   */
  scope(namespace: number, scope: ContentScope): void {
    requireInteger("namespace", namespace, 0, 2 ** 31 - 2);
    const list = encodeExtras("scope", scope);
    const { core, pointer } = this.cache;
    const at = core.scratch(DIGEST_BYTES + list.length);
    new Uint8Array(core.memory.buffer).set(list, at + DIGEST_BYTES);
    core.call(
      () => core.exports.kvContentScope(pointer, namespace, at + DIGEST_BYTES, list.length, at),
      `scope of namespace ${namespace}`,
    );
    this.scopes.set(namespace, { ...scope });
  }

  /** Keys of a sequence's cached blocks from table entry `from` on, [n][32]. Throws UNKNOWN_SEQUENCE. */
  ofSequence(sequence: SequenceId, from = 0): Uint8Array {
    const { core, pointer } = this.cache;
    this.cache.length(sequence);
    requireInteger("from", from, 0, 2 ** 24);
    const room = Math.floor(core.scratchBytes / DIGEST_BYTES);
    const pieces: Uint8Array[] = [];
    for (let count = room; count === room; from += count) {
      const at = core.scratch(core.scratchBytes);
      const first = from;
      count = core.call(
        () => core.exports.kvContentKeys(pointer, sequence, first, room, at),
        `contentKeys(sequence ${sequence})`,
      );
      pieces.push(new Uint8Array(core.memory.buffer).slice(at, at + count * DIGEST_BYTES));
    }
    return pieces.length === 1 ? pieces[0] : joined(pieces);
  }

  /**
   * Keys of the whole blocks of a prompt, cached or not, [n][32]: those that a sequence's blocks have which was opened so.
   * Throws what `KvCache.match` does.
   */
  ofPrompt(tokens: ArrayLike<number>, namespace = 0, marks: PromptMarks = {}): Uint8Array {
    const { core, pointer } = this.cache;
    const { exports } = core;
    requireInteger("namespace", namespace, 0, 2 ** 31 - 2);
    const count = this.cache.writeInput("tokens", tokens);
    const keys = new Uint8Array(Math.floor(count / this.cache.blockSize) * DIGEST_BYTES);
    const limit = Math.floor(core.scratchBytes / DIGEST_BYTES) - 1;
    return withMarks(this.cache, marks, (list) => {
      const at = core.scratch(core.scratchBytes);
      for (let from = 0; from * DIGEST_BYTES < keys.length;) {
        const first = from;
        const found = core.call(
          () => exports.kvContentPrompt(pointer, namespace, count, list, first, limit, at),
          "content keys of a prompt",
        );
        const memory = new Uint8Array(core.memory.buffer);
        keys.set(memory.subarray(at + DIGEST_BYTES, at + (found + 1) * DIGEST_BYTES), from * DIGEST_BYTES);
        memory.copyWithin(at, at + found * DIGEST_BYTES, at + (found + 1) * DIGEST_BYTES);
        from += found;
      }
      return keys;
    });
  }

  /** Key of a cached block, 32 bytes. Throws NOT_FOUND when it is not cached. */
  ofBlock(block: BlockId): Uint8Array {
    const { core, pointer } = this.cache;
    requireInteger("block", block, 0, this.cache.blocks - 1);
    const at = core.scratch(DIGEST_BYTES);
    core.call(() => core.exports.kvContentKey(pointer, block, at), `contentKey(block ${block})`);
    return new Uint8Array(core.memory.buffer).slice(at, at + DIGEST_BYTES);
  }

  /**
   * Key of tokens by themselves, whatever stands before them: for chunks that are reused at any place. At most
   * maxSequenceTokens; never equal to a block's key.
   */
  ofChunk(tokens: ArrayLike<number>, extras: ChunkExtras = {}): Uint8Array {
    const { core, pointer } = this.cache;
    const count = this.cache.writeInput("tokens", tokens);
    const list = encodeExtras("extras", extras);
    const at = core.scratch(DIGEST_BYTES + list.length);
    const memory = new Uint8Array(core.memory.buffer);
    memory.set(list, at + DIGEST_BYTES);
    const { exports } = core;
    core.call(
      () =>
        exports.kvContentChunk(pointer, exports.kvInput(pointer), count, at + DIGEST_BYTES, list.length, at),
      "chunk key",
    );
    return memory.slice(at, at + DIGEST_BYTES);
  }
}

function joined(pieces: readonly Uint8Array[]): Uint8Array {
  const keys = new Uint8Array(pieces.reduce((bytes, { length }) => bytes + length, 0));
  let at = 0;
  for (const piece of pieces) {
    keys.set(piece, at);
    at += piece.length;
  }
  return keys;
}
