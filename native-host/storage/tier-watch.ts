/** Those who listen to what comes into a tier and goes from it. */
import type { TierBlock, TierChange } from "./tier-backend.js";

type Listener = (change: TierChange) => void;

/** Blocks told at a time to who begins to listen. */
const AT_A_TIME = 1024;

export class TierWatch {
  readonly #listeners = new Set<Listener>();

  /** Tells what is there, ancestors first, then every change. Returns what ends that. */
  add(listener: Listener, there: Iterable<TierBlock>): () => void {
    let blocks: TierBlock[] = [];
    for (const block of there) {
      if (blocks.push(block) < AT_A_TIME) continue;
      listener({ type: "stored", blocks });
      blocks = [];
    }
    if (blocks.length > 0) listener({ type: "stored", blocks });
    // Of its own: a listener may be given twice.
    const own: Listener = (change) => listener(change);
    this.#listeners.add(own);
    return () => void this.#listeners.delete(own);
  }

  /** The change is made only for somebody. */
  tell(change: () => TierChange): void {
    if (this.#listeners.size === 0) return;
    const told = change();
    for (const listener of this.#listeners) listener(told);
  }
}

/** All items of a map, each behind the one that its parent names, if that is there. */
export function* ancestorsFirst<T>(
  items: ReadonlyMap<string, T>,
  parentOf: (item: T) => string | undefined,
): Generator<[string, T]> {
  const given = new Set<string>();
  for (const start of items.keys()) {
    const path: [string, T][] = [];
    let at: string | undefined = start;
    while (at !== undefined && !given.has(at)) {
      const item: T | undefined = items.get(at);
      if (item === undefined) break;
      given.add(at);
      path.push([at, item]);
      at = parentOf(item);
    }
    yield* path.reverse();
  }
}
