/**
 * Reading nodes under locks, in the paper's protocol. Readers of a leaf count in its lock word. Above the leaves all
 * workers read the same few nodes, and a count would go from processor to processor with each of them: there a
 * reader names the node in its own stripe, and a writer, which comes for one inserted key in many, looks at all
 * stripes. (The authors' locks keep a count for each processor in every inner node.)
 *
 * Invariant: who reads a node has named it before it saw no writer; who writes it has shown itself before it saw no
 * reader. Both are sequentially consistent, so never do both go on.
 */
import { lockExclusive, lockShared, unlockShared, WRITER } from "../memory/locks";
import { waitTurn, workerId } from "../memory/workers";
import { Index, Mode, node, Stripe, stripe, stripeCount } from "./layout";

/** Nodes that a worker reads at a time: one, and the next while it goes from one to the other. */
// @ts-ignore: decorator
@inline const NAMED: usize = 2;

/** Whether the readers of a node are named in stripes; the level of a node that can be reached does not change. */
// @ts-ignore: decorator
@inline
function isNamed(index: Index, at: u32): bool {
  return index.mode == Mode.Locked && node(at).level > 0;
}

/** Where a worker names the nodes that it reads: u32 [NAMED]. */
// @ts-ignore: decorator
@inline
function namesOf(index: Index, worker: u32): usize {
  return changetype<usize>(stripe(index, worker)) + offsetof<Stripe>("reading");
}

/** Locks a node for reading. The caller has its parent or left neighbour locked, or it is a head. */
// @ts-ignore: decorator
@inline
export function enterShared(index: Index, at: u32): void {
  if (isNamed(index, at)) nameReader(index, at);
  else lockShared(at);
}

function nameReader(index: Index, at: u32): void {
  if (ASC_FEATURE_THREADS) {
    let name = namesOf(index, workerId());
    if (load<u32>(name) != 0) name += 4;
    let waited: u32 = 0;
    for (;;) {
      atomic.store<u32>(name, at);
      let seen = atomic.load<u64>(at);
      if ((seen & WRITER) == 0) return;
      atomic.store<u32>(name, 0);
      for (; (seen & WRITER) != 0; seen = atomic.load<u64>(at)) waited = waitTurn(at, seen, waited);
    }
  }
}

// @ts-ignore: decorator
@inline
export function leaveShared(index: Index, at: u32): void {
  if (!isNamed(index, at)) unlockShared(at);
  else if (ASC_FEATURE_THREADS) {
    const name = namesOf(index, workerId());
    atomic.store<u32>(load<u32>(name) == at ? name : name + 4, 0);
  }
}

/** Locks a node for a change, once nobody reads it. */
export function lockNode(index: Index, at: u32): void {
  lockExclusive(at);
  if (isNamed(index, at)) awaitReaders(index, at);
}

function awaitReaders(index: Index, at: u32): void {
  if (ASC_FEATURE_THREADS) {
    for (let worker: u32 = 0; worker < stripeCount(index); worker++) {
      const names = namesOf(index, worker);
      for (let name = names; name < names + 4 * NAMED; name += 4) {
        let waited: u32 = 0;
        while (atomic.load<u32>(name) == at) waited = waitTurn(name, at, waited);
      }
    }
  }
}
