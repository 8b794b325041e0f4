/**
 * DiskTier: blocks of K and V in a directory of this machine, through restarts and crashes.
 *
 *   const tier = await DiskTier.open("/var/cache/kv", { capacityBytes: 64 * 2 ** 30 });
 *   await tier.put(key, payload, { parent });
 *   const block = await tier.get(key);         // verified, or undefined
 *   await tier.close();
 *
 * Records are appended to files of 64 MiB, and what is live is written to a checkpoint now and then, so that opening reads
 * a checkpoint and the records after it (recovery.ts). When the capacity is reached the least recently used blocks are
 * forgotten, ends of prefixes first; files in which little is live are rewritten. Nothing here is ever needed for a right
 * answer: whatever is missing, damaged or cannot be written is computed again.
 */
import { mkdir, open, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { invalidArgument, QuartermasterError, requireInteger } from "../../bindings/errors.js";
import { checkpointNumbers, encodeCheckpoint, writeCheckpoint } from "./checkpoint.js";
import type { TierIndex, Entry } from "./tier-index.js";
import {
  decodeHeader,
  encodeRecord,
  flagsOf,
  groupIn,
  HEADER_BYTES,
  keyText,
  LOSSY,
  RECORD_OVERHEAD,
  recordIntact,
  requireKey,
  requireKeys,
  TOMBSTONE,
} from "./records.js";
import { recover, type RecoveryReport } from "./recovery.js";
import { SegmentLog, type Write } from "./segments.js";
import type { BlockInfo, StoredBlock, TierBackend, TierChange, TierStat } from "./tier-backend.js";

/**
 * When what was stored survives a loss of power: once the system has written it; after a second; before `put` returns.
 * Under "never" a checkpoint may be newer than records that it names: those are found damaged when they are read.
 */
export type FsyncPolicy = "never" | "interval" | "always";

const POLICIES: readonly FsyncPolicy[] = ["never", "interval", "always"];

export interface DiskTierOptions {
  /** Bytes of live records to keep at most. Files take up to 2.5 times that and one segment more. */
  capacityBytes: number;
  /** Default "interval". Crashes of the process alone lose nothing that was stored under any of them. */
  fsync?: FsyncPolicy;
  /** Default 1000. */
  fsyncIntervalMs?: number;
  /** Bytes of a file, 4096 to 2^31. Default 64 MiB. */
  segmentBytes?: number;
  /** Write a checkpoint after that many bytes of records, or that many milliseconds. Default 256 MiB, 60,000. */
  checkpointBytes?: number;
  checkpointMs?: number;
  /** Rewrite a file of which less than this share is live. Default 0.4. */
  rewriteBelow?: number;
  /** Writes to a file; for tests of devices that fail. */
  write?: Write;
}

type Options = Required<Omit<DiskTierOptions, "write">>;

function checkOptions(options: DiskTierOptions): Options {
  if (typeof options !== "object" || options === null) throw invalidArgument("options", options, "an object");
  const fsync = options.fsync ?? "interval";
  if (!POLICIES.includes(fsync)) throw invalidArgument("fsync", fsync, POLICIES.join(", "));
  const rewriteBelow = options.rewriteBelow ?? 0.4;
  if (typeof rewriteBelow !== "number" || !(rewriteBelow >= 0 && rewriteBelow <= 0.9))
    throw invalidArgument("rewriteBelow", rewriteBelow, "a number from 0 to 0.9");
  const most = Number.MAX_SAFE_INTEGER;
  return {
    capacityBytes: requireInteger("capacityBytes", options.capacityBytes, RECORD_OVERHEAD, most),
    fsync,
    fsyncIntervalMs: requireInteger("fsyncIntervalMs", options.fsyncIntervalMs ?? 1000, 1, 2 ** 31 - 1),
    segmentBytes: requireInteger("segmentBytes", options.segmentBytes ?? 64 * 2 ** 20, 4096, 2 ** 31),
    checkpointBytes: requireInteger("checkpointBytes", options.checkpointBytes ?? 256 * 2 ** 20, 1, most),
    checkpointMs: requireInteger("checkpointMs", options.checkpointMs ?? 60_000, 1, 2 ** 31 - 1),
    rewriteBelow,
  };
}

export class DiskTier implements TierBackend {
  readonly directory: string;
  /** What opening found. */
  readonly recovery: RecoveryReport;
  readonly #options: Options;
  readonly #log: SegmentLog;
  readonly #index: TierIndex;
  readonly #timer: NodeJS.Timeout | undefined;
  /** Changes run one behind the other. */
  #queue: Promise<unknown> = Promise.resolve();
  #checkpoint: number;
  #sinceCheckpoint = 0;
  #checkpointAt = performance.now();
  #evictions = 0;
  #corrupt = 0;
  #failedWrites = 0;
  #closed = false;

  private constructor(
    directory: string,
    options: Options,
    log: SegmentLog,
    index: TierIndex,
    recovery: RecoveryReport,
    checkpoint: number,
  ) {
    this.directory = directory;
    this.recovery = recovery;
    this.#options = options;
    this.#log = log;
    this.#index = index;
    this.#checkpoint = checkpoint;
    if (options.fsync === "interval") {
      this.#timer = setInterval(() => {
        this.#enqueue(() => this.#log.sync()).catch(() => (this.#failedWrites += 1));
      }, options.fsyncIntervalMs);
      this.#timer.unref();
    }
  }

  /**
   * Opens a directory, made if need be, and recovers what is in it; what exceeds the capacity is forgotten. Throws BUSY
   * when a live process has it open.
   */
  static async open(directory: string, options: DiskTierOptions): Promise<DiskTier> {
    const checked = checkOptions(options);
    await mkdir(directory, { recursive: true });
    await takeLock(directory);
    try {
      const log = await SegmentLog.open(
        directory,
        checked.segmentBytes,
        checked.fsync !== "never",
        options.write,
      );
      const { index, report } = await recover(directory, log);
      const [newest = 0] = await checkpointNumbers(directory);
      const tier = new DiskTier(directory, checked, log, index, report, newest);
      tier.#makeRoom(0);
      return tier;
    } catch (error) {
      await rm(join(directory, LOCK), { force: true });
      throw error;
    }
  }

  /**
   * Rejects with DISK_FULL or IO when the device does not take it: the tier goes on serving what it has. Throws
   * INVALID_ARGUMENT, also for a block larger than the capacity.
   */
  put(key: Uint8Array, payload: Uint8Array, info: BlockInfo = {}): Promise<boolean> {
    const record = encodeRecord(key, payload, info);
    if (record.length > this.#options.capacityBytes)
      throw invalidArgument(
        "payload",
        payload,
        `at most ${this.#options.capacityBytes - RECORD_OVERHEAD} bytes`,
      );
    const text = keyText(key);
    const parent = info.parent === undefined ? undefined : keyText(info.parent);
    return this.#enqueue(async () => {
      if (this.#index.get(text) !== undefined) {
        this.#index.touch(text);
        return false;
      }
      this.#makeRoom(record.length);
      const place = await this.#append(record);
      this.#index.set({
        key: text,
        parent,
        fingerprint: info.fingerprint ?? 0,
        tenant: info.tenant ?? 0,
        flags: flagsOf(info),
        ...place,
        bytes: record.length,
      });
      await this.#maintain();
      return true;
    });
  }

  async get(key: Uint8Array): Promise<StoredBlock | undefined> {
    const text = keyText(requireKey("key", key));
    this.#requireOpen();
    for (;;) {
      const entry = this.#index.get(text);
      if (entry === undefined) return undefined;
      const record = await this.#log.read(entry, entry.bytes);
      if (intact(record, entry)) {
        this.#index.touch(text);
        return stored(record, entry, this.#index.isOrphan(text));
      }
      // A rewrite may have moved it meanwhile.
      const now = this.#index.get(text);
      if (now !== undefined && now.segment === entry.segment && now.offset === entry.offset) {
        this.#index.delete(text);
        this.#corrupt += 1;
        return undefined;
      }
    }
  }

  del(key: Uint8Array): Promise<boolean> {
    const record = encodeRecord(key, new Uint8Array(0), {}, TOMBSTONE);
    const text = keyText(key);
    return this.#enqueue(async () => {
      if (this.#index.delete(text) === undefined) return false;
      await this.#append(record);
      await this.#maintain();
      return true;
    });
  }

  match(keys: readonly Uint8Array[], options: { readonly lossy?: boolean } = {}): number {
    for (const [i, key] of requireKeys(keys).entries()) {
      const text = keyText(key);
      const entry = this.#index.get(text);
      if (entry === undefined || this.#index.isOrphan(text)) return i;
      if (!options.lossy && (entry.flags & LOSSY) !== 0) return i;
    }
    return keys.length;
  }

  has(keys: readonly Uint8Array[]): boolean[] {
    return requireKeys(keys).map((key) => this.match([key]) === 1);
  }

  watch(listener: (change: TierChange) => void): () => void {
    return this.#index.watch(listener);
  }

  stat(): TierStat {
    return {
      blocks: this.#index.size,
      liveBytes: this.#index.liveBytes,
      usedBytes: this.#log.usedBytes,
      capacityBytes: this.#options.capacityBytes,
      orphans: this.#index.orphans,
      evictions: this.#evictions,
      corrupt: this.#corrupt,
      failedWrites: this.#failedWrites,
    };
  }

  /** Writes a checkpoint now. */
  checkpoint(): Promise<void> {
    return this.#enqueue(() => this.#writeCheckpoint());
  }

  /** Writes a checkpoint and lets go of the directory; may be repeated. */
  async close(): Promise<void> {
    if (this.#closed) return;
    const last = this.#enqueue(() => this.#writeCheckpoint());
    this.#closed = true;
    clearInterval(this.#timer);
    try {
      await last;
    } finally {
      await this.#log.close();
      await rm(join(this.directory, LOCK), { force: true });
    }
  }

  #requireOpen(): void {
    if (this.#closed)
      throw new QuartermasterError("CLOSED", `the disk tier in ${this.directory} has been closed`);
  }

  #enqueue<T>(job: () => Promise<T>): Promise<T> {
    this.#requireOpen();
    const result = this.#queue.then(job);
    this.#queue = result.catch(() => undefined);
    return result;
  }

  async #append(record: Uint8Array): Promise<{ segment: number; offset: number }> {
    try {
      const place = await this.#log.append(record);
      if (this.#options.fsync === "always") await this.#log.sync();
      this.#sinceCheckpoint += record.length;
      return place;
    } catch (error) {
      this.#failedWrites += 1;
      const full = ["ENOSPC", "EDQUOT"].includes((error as NodeJS.ErrnoException).code ?? "");
      throw new QuartermasterError(full ? "DISK_FULL" : "IO", `append: ${(error as Error).message}`, {
        cause: error,
      });
    }
  }

  /** Forgets blocks until `bytes` more fit. Nothing is written: recovery may find them again, and forget them again. */
  #makeRoom(bytes: number): void {
    while (this.#index.liveBytes + bytes > this.#options.capacityBytes) {
      const victim = this.#index.victim();
      if (victim === undefined) return;
      this.#index.delete(victim.key);
      this.#evictions += 1;
    }
  }

  /** What falls due after a change: at most one file is rewritten. The change stands where the device refuses. */
  async #maintain(): Promise<void> {
    const { checkpointBytes, checkpointMs } = this.#options;
    try {
      await this.#rewriteOne();
      if (this.#sinceCheckpoint >= checkpointBytes || performance.now() - this.#checkpointAt >= checkpointMs)
        await this.#writeCheckpoint();
    } catch {
      this.#failedWrites += 1;
    }
  }

  async #writeCheckpoint(): Promise<void> {
    // Records first: a checkpoint names only what is on the device.
    await this.#log.sync();
    const { segment, offset } = this.#log.end;
    const bytes = encodeCheckpoint(segment, offset, [...this.#index.entries()]);
    await writeCheckpoint(this.directory, this.#checkpoint + 1, bytes, this.#options.fsync !== "never");
    this.#checkpoint += 1;
    this.#sinceCheckpoint = 0;
    this.#checkpointAt = performance.now();
  }

  /** Rewrites the oldest file of which too little is live, and deletes it once a checkpoint knows the new places. */
  async #rewriteOne(): Promise<void> {
    const found = this.#log
      .sizes()
      .find(
        ([segment, bytes]) =>
          !this.#log.isLast(segment) && this.#index.liveIn(segment) < bytes * this.#options.rewriteBelow,
      );
    if (found === undefined) return;
    const [segment] = found;
    const live = [...this.#index.entries()].filter((entry) => entry.segment === segment);
    for (const entry of live) {
      const record = await this.#log.read(entry, entry.bytes);
      if (!intact(record, entry)) {
        this.#index.delete(entry.key);
        this.#corrupt += 1;
        continue;
      }
      const place = await this.#append(record);
      this.#index.moved(entry.key, place.segment, place.offset);
    }
    await this.#writeCheckpoint();
    await this.#log.remove(segment);
  }
}

/** Whether the bytes are the whole record of that block. */
function intact(record: Buffer, entry: Entry): boolean {
  const header = record.length === entry.bytes ? decodeHeader(record, 0) : undefined;
  return (
    header !== undefined &&
    RECORD_OVERHEAD + header.payloadBytes === entry.bytes &&
    header.key === entry.key &&
    (header.flags & TOMBSTONE) === 0 &&
    recordIntact(record, 0, header.payloadBytes)
  );
}

function stored(record: Buffer, entry: Entry, orphan: boolean): StoredBlock {
  const { fingerprint, tenant, parent, flags } = entry;
  return {
    payload: record.subarray(HEADER_BYTES, entry.bytes - (RECORD_OVERHEAD - HEADER_BYTES)),
    parent: parent === undefined ? undefined : Buffer.from(parent, "latin1"),
    fingerprint,
    tenant,
    group: groupIn(flags),
    lossy: (flags & LOSSY) !== 0,
    orphan,
  };
}

const LOCK = "lock";

/** Makes this process the directory's; a lock that a dead process has left is taken over. */
async function takeLock(directory: string): Promise<void> {
  const path = join(directory, LOCK);
  for (let attempt = 0; attempt < 2; attempt++) {
    try {
      const handle = await open(path, "wx");
      await handle.writeFile(String(process.pid));
      await handle.close();
      return;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
      const owner = Number(await readFile(path, "utf8").catch(() => "0"));
      if (isAlive(owner)) throw new QuartermasterError("BUSY", `${directory} is open in process ${owner}`);
      await rm(path, { force: true });
    }
  }
  throw new QuartermasterError("BUSY", `${directory} is being opened by another process`);
}

function isAlive(process_: number): boolean {
  if (!Number.isInteger(process_) || process_ <= 0) return false;
  try {
    process.kill(process_, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}
