/**
 * RemoteTier: a tier behind a channel: in another thread, or, over a channel of the host's own, in another process or on
 * another machine. With one between them, an engine that computes prompts hands K and V to an engine that answers:
 *
 *   const tier = new MemoryTier({ capacityBytes: 2 ** 32 });
 *   serveTier(port, tier);                                    // where the blocks are kept
 *
 *   const remote = new RemoteTier(port);                      // where they are computed, or used
 *   const store = new PrefixStore({ engine, tier: remote, model });
 *
 * What cannot be reached is not there: a call that gets no answer in time finds nothing, and the prompt is computed. Only
 * `put` and `del` say so (UNREACHABLE), since their caller may want to stop.
 */
import { invalidArgument, QuartermasterError, requireInteger } from "../../bindings/errors.js";
import { present } from "./prompt-blocks.js";
import { requireKey, requireKeys } from "./records.js";
import type { BlockInfo, StoredBlock, TierBackend, TierChange, TierStat } from "./tier-backend.js";

/** A `MessagePort`, a `Worker`, `parentPort`: values arrive once, in order, copied or transferred. */
export interface TierChannel {
  postMessage(value: unknown, transfer?: ArrayBuffer[]): void;
  on(event: "message", listener: (value: unknown) => void): unknown;
  on(event: "close", listener: () => void): unknown;
  off(event: "message", listener: (value: unknown) => void): unknown;
}

export interface RemoteTierOptions {
  /** Milliseconds to wait for an answer, 1 to 2^31 - 1. Default 10,000. */
  timeoutMs?: number;
}

type Call =
  | { readonly name: "put"; readonly key: Uint8Array; readonly payload: Uint8Array; readonly info: BlockInfo }
  | { readonly name: "get" | "del"; readonly key: Uint8Array }
  | { readonly name: "match"; readonly keys: readonly Uint8Array[]; readonly lossy: boolean }
  | { readonly name: "has"; readonly keys: readonly Uint8Array[] }
  | { readonly name: "watch" }
  | { readonly name: "unwatch"; readonly watch: number }
  | { readonly name: "stat" };

/** Both ends keep off messages that are not theirs: the channel may carry others. */
interface Question {
  readonly tierCall: number;
  readonly call: Call;
}

interface Answer {
  readonly tierAnswer: number;
  readonly result?: unknown;
  readonly failure?: { readonly code: string; readonly message: string };
}

/** What the tier behind the channel says to who has asked to watch it, with the number of that call. */
interface Told {
  readonly tierWatch: number;
  readonly change: TierChange;
}

interface Waiting {
  readonly resolve: (result: unknown) => void;
  readonly reject: (error: QuartermasterError) => void;
  readonly timer: NodeJS.Timeout;
}

export class RemoteTier implements TierBackend {
  readonly #channel: TierChannel;
  readonly #timeoutMs: number;
  readonly #waiting = new Map<number, Waiting>();
  readonly #watching = new Map<number, (change: TierChange) => void>();
  #calls = 0;
  #unanswered = 0;
  #closed = false;

  constructor(channel: TierChannel, { timeoutMs = 10_000 }: RemoteTierOptions = {}) {
    if (typeof channel?.postMessage !== "function" || typeof channel.on !== "function")
      throw invalidArgument(
        "channel",
        channel,
        "a MessagePort, a Worker, or what has their postMessage and on",
      );
    this.#timeoutMs = requireInteger("timeoutMs", timeoutMs, 1, 2 ** 31 - 1);
    this.#channel = channel;
    channel.on("message", this.#hear);
    channel.on("close", () => this.close());
  }

  /** Calls that were not answered in time, or failed on the other side. */
  get unanswered(): number {
    return this.#unanswered;
  }

  /** Throws UNREACHABLE, and what the other side's tier throws. */
  async put(key: Uint8Array, payload: Uint8Array, info: BlockInfo = {}): Promise<boolean> {
    // Of its own: what is posted with a part of a buffer is the whole of it.
    const copy = payload.slice();
    const call: Call = { name: "put", key: requireKey("key", key).slice(), payload: copy, info };
    return (await this.#ask(call, [copy.buffer])) as boolean;
  }

  async get(key: Uint8Array): Promise<StoredBlock | undefined> {
    const call: Call = { name: "get", key: requireKey("key", key).slice() };
    return this.#ask(call).catch(nothing) as Promise<StoredBlock | undefined>;
  }

  /** Throws UNREACHABLE. */
  async del(key: Uint8Array): Promise<boolean> {
    return (await this.#ask({ name: "del", key: requireKey("key", key).slice() })) as boolean;
  }

  async match(
    keys: readonly Uint8Array[],
    { lossy = false }: { readonly lossy?: boolean } = {},
  ): Promise<number> {
    const copies = requireKeys(keys).map((key) => key.slice());
    return (
      ((await this.#ask({ name: "match", keys: copies, lossy }).catch(nothing)) as number | undefined) ?? 0
    );
  }

  async has(keys: readonly Uint8Array[]): Promise<boolean[]> {
    const copies = requireKeys(keys).map((key) => key.slice());
    const there = (await this.#ask({ name: "has", keys: copies }).catch(nothing)) as boolean[] | undefined;
    return there ?? keys.map(() => false);
  }

  /**
   * As the tier behind the channel tells it, later than it happens there; nothing if that tier does not say what it has. When
   * the channel closes nothing is there any more.
   */
  watch(listener: (change: TierChange) => void): () => void {
    const watch = this.#calls;
    if (!this.#closed) this.#watching.set(watch, listener);
    this.#ask({ name: "watch" }).catch(nothing);
    return () => {
      if (this.#watching.delete(watch)) this.#ask({ name: "unwatch", watch }).catch(nothing);
    };
  }

  /** Throws UNREACHABLE. */
  async stat(): Promise<TierStat> {
    return (await this.#ask({ name: "stat" })) as TierStat;
  }

  /** Gives up what waits for an answer, and asks no more. The channel stays open. Idempotent. */
  close(): void {
    this.#closed = true;
    this.#channel.off("message", this.#hear);
    for (const id of [...this.#waiting.keys()]) this.#settle(id, { tierAnswer: id, failure: UNREACHABLE });
    const watching = [...this.#watching.values()];
    this.#watching.clear();
    for (const listener of watching) listener({ type: "cleared" });
  }

  #ask(call: Call, transfer: ArrayBuffer[] = []): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const id = this.#calls++;
      const late = (): void => this.#settle(id, { tierAnswer: id, failure: UNREACHABLE });
      this.#waiting.set(id, { resolve, reject, timer: setTimeout(late, this.#timeoutMs) });
      if (this.#closed) return late();
      try {
        this.#channel.postMessage({ tierCall: id, call } satisfies Question, transfer);
      } catch {
        late();
      }
    });
  }

  readonly #hear = (value: unknown): void => {
    const answer = value as Partial<Answer & Told> | null;
    if (typeof answer?.tierWatch === "number") this.#watching.get(answer.tierWatch)?.(answer.change!);
    if (typeof answer?.tierAnswer === "number") this.#settle(answer.tierAnswer, answer as Answer);
  };

  #settle(id: number, { result, failure }: Answer): void {
    const waiting = this.#waiting.get(id);
    if (waiting === undefined) return; // it came too late
    this.#waiting.delete(id);
    clearTimeout(waiting.timer);
    if (failure === undefined) return waiting.resolve(result);
    this.#unanswered += 1;
    waiting.reject(new QuartermasterError(failure.code, failure.message));
  }
}

const UNREACHABLE = { code: "UNREACHABLE", message: "the tier behind the channel does not answer" };

function nothing(): undefined {
  return undefined;
}

/** Answers the calls of a RemoteTier at the other end of `channel` from `tier`. Returns what ends that. */
export function serveTier(channel: TierChannel, tier: TierBackend): () => void {
  const served = new ServedTier(channel, tier);
  const hear = (value: unknown): void => {
    const question = value as Partial<Question> | null;
    if (typeof question?.tierCall === "number") void served.reply(question as Question);
  };
  const end = (): void => {
    channel.off("message", hear);
    served.end();
  };
  channel.on("message", hear);
  channel.on("close", end);
  return end;
}

class ServedTier {
  /** What ends each watch, by the number of the call that began it. */
  readonly #watches = new Map<number, () => void>();

  constructor(
    readonly channel: TierChannel,
    readonly tier: TierBackend,
  ) {}

  async reply({ tierCall, call }: Question): Promise<void> {
    const { channel } = this;
    try {
      const result = await this.#run(tierCall, call);
      channel.postMessage({ tierAnswer: tierCall, result } satisfies Answer);
    } catch (error) {
      const code = error instanceof QuartermasterError ? error.code : "UNREACHABLE";
      const failure = { code, message: String((error as Error).message) };
      channel.postMessage({ tierAnswer: tierCall, failure } satisfies Answer);
    }
  }

  end(): void {
    for (const end of this.#watches.values()) end();
    this.#watches.clear();
  }

  #run(tierCall: number, call: Call): unknown {
    const { tier } = this;
    switch (call.name) {
      case "put":
        return tier.put(call.key, call.payload, call.info);
      case "get":
        return tier.get(call.key);
      case "del":
        return tier.del(call.key);
      case "match":
        return tier.match(call.keys, { lossy: call.lossy });
      case "has":
        return present(tier, call.keys);
      case "watch":
        return this.#watch(tierCall);
      case "unwatch":
        this.#watches.get(call.watch)?.();
        return this.#watches.delete(call.watch);
      case "stat":
        return tier.stat();
    }
  }

  #watch(tierCall: number): boolean {
    const { channel, tier } = this;
    if (tier.watch === undefined) return false;
    const tell = (change: TierChange): void => {
      try {
        channel.postMessage({ tierWatch: tierCall, change } satisfies Told);
      } catch {
        this.#watches.get(tierCall)?.(); // nobody hears it any more
      }
    };
    this.#watches.set(tierCall, tier.watch(tell));
    return true;
  }
}
