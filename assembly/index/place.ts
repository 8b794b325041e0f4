/**
 * The way to a key's place on a level, in each mode, with the locks that a change needs.
 *
 * Locks are taken higher level before lower and left before right, by all operations alike; hence no deadlock.
 * Source of the protocol: "Bridging Cache-Friendliness and Concurrency" (arXiv 2507.21492); optimistic descent
 * and upgrade are ours.
 */
import { NO_VERSION, readVersion, releaseExclusive, tryUpgrade, unchanged } from "../memory/locks";
import { workerId } from "../memory/workers";
import { capacityOf, childAt, head, Index, isNode, isOptimistic, isShared, node, stripe } from "./layout";
import { rank, rankAmong } from "./rank";
import { enterShared, leaveShared, lockNode } from "./reading";

/** Optimistic attempts before an operation takes locks all the way. */
// @ts-ignore: decorator
@inline export const ATTEMPTS: u32 = 8;

/** Second results of `lockPlace` and of the optimistic walk, which a call cannot return beside the first. */
let leftFound: u32 = 0;
let leftVersionFound: u64 = 0;
let versionFound: u64 = 0;

/** Left neighbour of the node that `lockPlace` returned, locked like it; 0 if that was reached from above. */
// @ts-ignore: decorator
@inline
export function leftOfPlace(): u32 {
  return leftFound;
}

/** Version of the node that `walkOptimistic` returned. */
// @ts-ignore: decorator
@inline
export function versionOfPlace(): u64 {
  return versionFound;
}

// @ts-ignore: decorator
@inline
export function goRight(at: u32, key: u64): u32 {
  while (node(at).nextHeader <= key) at = node(at).next;
  return at;
}

/** Node of `level` where the search for `key` arrives, without locks; its place is there or to the right. */
// @ts-ignore: decorator
@inline
export function descend(index: Index, key: u64, level: u32): u32 {
  let at = head(index, index.levels - 1);
  for (let above = index.levels - 1; above > level; above--) {
    at = goRight(at, key);
    at = childAt(index, at, rank(at, key));
  }
  return at;
}

/**
 * Node of `level` whose range holds `key`; in a shared index it and its left neighbour (if the walk came from
 * there) are locked exclusively.
 */
export function lockPlace(index: Index, key: u64, level: u32): u32 {
  if (isOptimistic(index)) {
    for (let attempt: u32 = 0; attempt < ATTEMPTS; attempt++) {
      const at = upgradedPlace(index, key, level);
      if (at != 0) return at;
      stripe(index, workerId()).retries += 1;
    }
    stripe(index, workerId()).fallbacks += 1;
  }
  if (isShared(index)) return lockedPlace(index, key, level);
  return walkRight(index, 0, descend(index, key, level), key);
}

/** The paper's descent: shared hand over hand, exclusive on the level that will change. */
function lockedPlace(index: Index, key: u64, level: u32): u32 {
  let above = index.levels - 1;
  let at = head(index, above);
  if (above == level) lockNode(index, at);
  else enterShared(index, at);
  while (above > level) {
    at = sharedRight(index, at, key);
    const child = childAt(index, at, rank(at, key));
    above -= 1;
    if (above == level) lockNode(index, child);
    else enterShared(index, child);
    leaveShared(index, at);
    at = child;
  }
  return walkRight(index, 0, at, key);
}

/** Moves right hand over hand while the neighbour starts at or before `key`. */
// @ts-ignore: decorator
@inline
function sharedRight(index: Index, at: u32, key: u64): u32 {
  while (node(at).nextHeader <= key) {
    const next = node(at).next;
    enterShared(index, next);
    leaveShared(index, at);
    at = next;
  }
  return at;
}

/**
 * Moves right while the neighbour starts at or before `key`, with exclusive locks hand over hand in a shared
 * index, keeping the last two nodes; sets `leftOfPlace`.
 */
export function walkRight(index: Index, left: u32, at: u32, key: u64): u32 {
  while (node(at).nextHeader <= key) {
    const next = node(at).next;
    if (isShared(index)) {
      lockNode(index, next);
      if (left != 0) releaseExclusive(left);
    }
    left = at;
    at = next;
  }
  leftFound = left;
  return at;
}

/** Leaf whose range holds `key`, locked shared. */
export function lockLeafShared(index: Index, key: u64): u32 {
  let at = head(index, index.levels - 1);
  enterShared(index, at);
  for (let level = index.levels - 1; level > 0; level--) {
    at = sharedRight(index, at, key);
    const child = childAt(index, at, rank(at, key));
    enterShared(index, child);
    leaveShared(index, at);
    at = child;
  }
  return sharedRight(index, at, key);
}

/**
 * Node of `level` whose range held `key` while nothing was locked, or 0 when a writer came in between. Each
 * address is used only after the node it was read from has proved unchanged since before its target's version
 * was read: so the target was the right one, and alive, at that moment.
 */
export function walkOptimistic(index: Index, key: u64, level: u32): u32 {
  let above = index.levels - 1;
  let at = head(index, above);
  let version = readVersion(at);
  let left: u32 = 0;
  let leftVersion: u64 = 0;
  while (version != NO_VERSION) {
    const n = node(at);
    const right = n.nextHeader <= key;
    if (!right && above == level) {
      leftFound = left;
      leftVersionFound = leftVersion;
      versionFound = version;
      return at;
    }
    const target = right ? n.next : childAt(index, at, boundedRank(index, at, key, above));
    if (!isNode(index, target)) return 0;
    const targetVersion = readVersion(target);
    if (!unchanged(at, version)) return 0;
    if (right) {
      left = at;
      leftVersion = version;
    } else {
      left = 0;
      above -= 1;
    }
    at = target;
    version = targetVersion;
  }
  return 0;
}

/** As `rank`, for a node whose count may be from another life of it. */
// @ts-ignore: decorator
@inline
export function boundedRank(index: Index, at: u32, key: u64, level: u32): u32 {
  return rankAmong(at, key, min(<u32>node(at).count, capacityOf(index, level)));
}

/** `walkOptimistic`, then the locks, which fail if a version has moved on. */
function upgradedPlace(index: Index, key: u64, level: u32): u32 {
  const at = walkOptimistic(index, key, level);
  if (at == 0) return 0;
  const left = leftFound;
  if (left != 0 && !tryUpgrade(left, leftVersionFound)) return 0;
  if (tryUpgrade(at, versionFound)) return at;
  if (left != 0) releaseExclusive(left);
  return 0;
}
