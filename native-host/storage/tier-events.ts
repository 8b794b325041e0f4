/**
 * A tier's blocks among the KV events of a cache: who applies the events knows what the tier has, as it knows the cache.
 *
 *   const events = cache.events();
 *   tellTier(events, tier, "STORAGE");
 *
 * Blocks go by the keys that they have in the tier: the cache's content keys, if it has any and a PrefixStore fills the tier. A
 * group's block goes by the key of the block that it ends with and the number of its group, as in the cache's own events.
 */
import { invalidArgument, QuartermasterError } from "../../bindings/errors.js";
import type { KvEvents, KvMedium, TierEvent } from "../../bindings/kv-events.js";
import { keyBytes, keyText } from "./records.js";
import type { TierBackend, TierBlock, TierChange } from "./tier-backend.js";
import { ancestorsFirst } from "./tier-watch.js";

interface Known {
  readonly parent: string | undefined;
  readonly group: number;
}

/**
 * Tells what a tier has, and from now on what comes and goes, and puts it into snapshots: about 250 bytes a block. Returns
 * what ends that: the tier is then told as empty. A medium stands for one tier. Throws UNSUPPORTED for a tier that does not
 * say what it has.
 */
export function tellTier(events: KvEvents, tier: TierBackend, medium: KvMedium): () => void {
  if (typeof medium !== "string" || medium === "") throw invalidArgument("medium", medium, "a name");
  if (tier.watch === undefined)
    throw new QuartermasterError("UNSUPPORTED", "tellTier: the tier does not say what it has");
  const told = new ToldTier(events, medium);
  events.addTier(medium, () => told.stored());
  const end = tier.watch((change) => told.apply(change));
  return () => {
    end();
    told.apply({ type: "cleared" });
  };
}

class ToldTier {
  readonly #blocks = new Map<string, Known>();

  constructor(
    readonly events: KvEvents,
    readonly medium: KvMedium,
  ) {}

  /** Events of all blocks, ancestors first. */
  *stored(): Generator<TierEvent> {
    for (const [key, known] of ancestorsFirst(this.#blocks, ({ parent }) => parent))
      yield this.#storedEvent(key, known);
  }

  apply(change: TierChange): void {
    const { events, medium } = this;
    if (change.type === "cleared") {
      this.#blocks.clear();
      for (let group = 0; group <= events.cache.groups.length; group++)
        events.tell({ type: "cleared", medium, group: events.group + group });
    } else if (change.type === "removed") {
      for (const key of change.keys) {
        const text = keyText(key);
        const known = this.#blocks.get(text);
        if (!this.#blocks.delete(text)) continue;
        const { keys, group } = this.#named(text, known!);
        events.tell({ type: "removed", keys, medium, group });
      }
    } else for (const block of change.blocks) this.#store(block);
  }

  #store({ key, parent, group }: TierBlock): void {
    const text = keyText(key);
    const known = { parent: parent && keyText(parent), group };
    this.#blocks.set(text, known);
    this.events.tell(this.#storedEvent(text, known));
  }

  /** What a block is called outside. */
  #named(key: string, { parent, group }: Known): { keys: Uint8Array[]; group: number } {
    const name = group > 0 && parent !== undefined ? parent : key;
    return { keys: [keyBytes(name)], group: this.events.group + group };
  }

  #storedEvent(key: string, known: Known): TierEvent {
    const { cache } = this.events;
    let { parent } = known;
    if (known.group > 0) {
      // From the block that it ends with to the one before its first token; to one that is not there, where a chain is broken.
      const tokens = cache.groups[known.group - 1]?.blockSize ?? cache.blockSize;
      for (let at = 0; at < tokens && parent !== undefined; at += cache.blockSize) {
        const before = this.#blocks.get(parent);
        if (before === undefined) break;
        parent = before.parent;
      }
    }
    const parentKey = parent === undefined ? null : keyBytes(parent);
    return { type: "stored", ...this.#named(key, known), parentKey, medium: this.medium };
  }
}
