/**
 * Status codes: how an exported function refuses.
 *
 * A result is `>= 0`; a refusal is one of these negative numbers, and the refused call has changed no state.
 * The bindings map each code to a typed error (`bindings/errors.ts` mirrors this list; a test compares them).
 */
export type Status = i32;

// @ts-ignore: decorator
@inline export const OK: Status = 0;

/** An argument is outside the range that the function documents. */
// @ts-ignore: decorator
@inline export const INVALID_ARGUMENT: Status = -1;
/** The arena has no room for the structure; grow the memory first. */
// @ts-ignore: decorator
@inline export const OUT_OF_MEMORY: Status = -2;
/** Fewer free and evictable blocks than the call needs. */
// @ts-ignore: decorator
@inline export const OUT_OF_BLOCKS: Status = -3;
/** Every sequence slot is in use. */
// @ts-ignore: decorator
@inline export const OUT_OF_SEQUENCES: Status = -4;
/** Every request slot is in use. */
// @ts-ignore: decorator
@inline export const OUT_OF_REQUESTS: Status = -5;
/** The token store cannot hold prompt + new tokens of one more request. */
// @ts-ignore: decorator
@inline export const OUT_OF_TOKENS: Status = -6;
/** The handle names no open sequence (never opened, or closed since). */
// @ts-ignore: decorator
@inline export const UNKNOWN_SEQUENCE: Status = -7;
/** The handle names no live request (never submitted, or ended since). */
// @ts-ignore: decorator
@inline export const UNKNOWN_REQUEST: Status = -8;
/** A live request carries this id already. */
// @ts-ignore: decorator
@inline export const DUPLICATE_ID: Status = -9;
/** The prompt is empty. */
// @ts-ignore: decorator
@inline export const EMPTY_PROMPT: Status = -10;
/** Prompt plus new tokens exceed the longest sequence this core was created for. */
// @ts-ignore: decorator
@inline export const TOO_LONG: Status = -11;
/** The request alone needs more blocks than the pool has. */
// @ts-ignore: decorator
@inline export const POOL_TOO_SMALL: Status = -12;
/** A time is NaN, infinite or negative. */
// @ts-ignore: decorator
@inline export const INVALID_TIME: Status = -13;
/** A token id is not below the vocabulary size. */
// @ts-ignore: decorator
@inline export const INVALID_TOKEN: Status = -14;
/** `commit` or `abandon` names another step than the one in flight, or none is in flight. */
// @ts-ignore: decorator
@inline export const UNKNOWN_STEP: Status = -15;
/** A step is in flight: commit or abandon it first. */
// @ts-ignore: decorator
@inline export const STEP_IN_FLIGHT: Status = -16;
/** More tokens appended than slots were reserved for. */
// @ts-ignore: decorator
@inline export const NOT_RESERVED: Status = -17;
/** The sequence belongs to a scheduler and may be changed only through it. */
// @ts-ignore: decorator
@inline export const SEQUENCE_OWNED: Status = -18;
/** The key is not in the index. */
// @ts-ignore: decorator
@inline export const NOT_FOUND: Status = -19;
/** The request waited longer than the scheduler's queue timeout. */
// @ts-ignore: decorator
@inline export const QUEUE_TIMEOUT: Status = -20;
/** The bytes are not a snapshot of this ABI version, or they are damaged. */
// @ts-ignore: decorator
@inline export const BAD_SNAPSHOT: Status = -21;
/** `validate` found a broken invariant. */
// @ts-ignore: decorator
@inline export const CORRUPT: Status = -22;
/** The sequence's last block is the target of a copy that has not been settled; or a batch reads what has not been read back. */
// @ts-ignore: decorator
@inline export const COPIES_PENDING: Status = -23;
/** All 64 worker ids are in use. */
// @ts-ignore: decorator
@inline export const OUT_OF_WORKERS: Status = -24;
/** A worker died or trapped while it held a lock: restore the core from a snapshot. */
// @ts-ignore: decorator
@inline export const POISONED: Status = -25;
/** A block of the range given back is free already. */
// @ts-ignore: decorator
@inline export const ALREADY_FREE: Status = -26;
/** A block that the next token would go to is shared: compact the sequence's lanes first. */
// @ts-ignore: decorator
@inline export const LANES_SHARED: Status = -27;
/** A compaction is planned: commit it or roll it back first. */
// @ts-ignore: decorator
@inline export const COMPACTION_PENDING: Status = -28;
/** The sequence has dropped tokens, or may at any time: it cannot be shortened. */
// @ts-ignore: decorator
@inline export const LOSSY_SEQUENCE: Status = -29;
/** More blocks than the tenant's ceiling allows, its own cached ones given up. */
// @ts-ignore: decorator
@inline export const QUOTA_EXCEEDED: Status = -30;
/** More hard-pinned blocks than their share of the pool, or more pins than there is room for. */
// @ts-ignore: decorator
@inline export const PIN_LIMIT: Status = -31;
/** More distinct scopes, adapters and items than the cache has room for. */
// @ts-ignore: decorator
@inline export const OUT_OF_SCOPES: Status = -32;
