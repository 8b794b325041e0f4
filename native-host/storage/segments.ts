/**
 * SegmentLog: the files that records are appended to, `segment-N`, each until it is full; the last one is written to. What
 * is written is never changed. A file is deleted once nothing in it is wanted and nobody reads it.
 */
import { type FileHandle, open, readdir, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { syncDirectory } from "./checkpoint.js";

export interface Place {
  readonly segment: number;
  readonly offset: number;
}

/** Writes all of `bytes` at `position`. */
export type Write = (handle: FileHandle, bytes: Uint8Array, position: number) => Promise<void>;

interface Segment {
  bytes: number;
  handle: Promise<FileHandle> | undefined;
  readers: number;
  doomed: boolean;
}

const NAME = /^segment-(\d{8})$/;
/** Handles that are kept open for reading. */
const OPEN_SEGMENTS = 64;

async function writeAll(handle: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < bytes.length;)
    done += (await handle.write(bytes, done, bytes.length - done, position + done)).bytesWritten;
}

export class SegmentLog {
  readonly #directory: string;
  readonly #segmentBytes: number;
  readonly #durable: boolean;
  readonly #write: Write;
  readonly #segments: Map<number, Segment>;
  /** The one that is written to. */
  #last: { readonly number: number; readonly handle: FileHandle } | undefined;
  #dirty = false;
  /** Numbers below it have been used: a checkpoint may know a file of theirs that is gone. */
  #fresh: number;

  private constructor(
    directory: string,
    segmentBytes: number,
    durable: boolean,
    write: Write,
    sizes: Map<number, number>,
  ) {
    this.#directory = directory;
    this.#segmentBytes = segmentBytes;
    this.#durable = durable;
    this.#write = write;
    this.#segments = new Map(
      [...sizes].map(([number, bytes]) => [number, { bytes, handle: undefined, readers: 0, doomed: false }]),
    );
    this.#fresh = Math.max(0, ...sizes.keys()) + 1;
  }

  /** New files get numbers from `number` on. */
  startAt(number: number): void {
    this.#fresh = Math.max(this.#fresh, number);
  }

  /**
   * Takes up what is in a directory; the first append begins a new file, so that nothing follows a torn record. Unless
   * `durable`, nothing is ever synced.
   */
  static async open(
    directory: string,
    segmentBytes: number,
    durable: boolean,
    write: Write = writeAll,
  ): Promise<SegmentLog> {
    const sizes = new Map<number, number>();
    for (const name of (await readdir(directory)).sort()) {
      const match = NAME.exec(name);
      if (match !== null) sizes.set(Number(match[1]), (await stat(join(directory, name))).size);
    }
    return new SegmentLog(directory, segmentBytes, durable, write, sizes);
  }

  /** Segments and their bytes, oldest first. */
  sizes(): [number, number][] {
    return [...this.#segments].map(([number, { bytes }]) => [number, bytes]);
  }

  get usedBytes(): number {
    let sum = 0;
    for (const { bytes } of this.#segments.values()) sum += bytes;
    return sum;
  }

  /** Where the next record goes at the earliest. */
  get end(): Place {
    if (this.#last !== undefined)
      return { segment: this.#last.number, offset: this.#segments.get(this.#last.number)!.bytes };
    return { segment: this.#fresh, offset: 0 };
  }

  isLast(segment: number): boolean {
    return this.#last?.number === segment;
  }

  path(segment: number): string {
    return join(this.#directory, `segment-${String(segment).padStart(8, "0")}`);
  }

  /** Appends a record. When that fails nothing of it is left to be found, and the next one begins a new file. */
  async append(record: Uint8Array): Promise<Place> {
    const { offset } = this.end;
    if (this.#last === undefined || (offset > 0 && offset + record.length > this.#segmentBytes))
      await this.#roll();
    const { number, handle } = this.#last!;
    const segment = this.#segments.get(number)!;
    try {
      await this.#write(handle, record, segment.bytes);
    } catch (error) {
      await handle.truncate(segment.bytes).catch(() => undefined);
      await this.#seal();
      throw error;
    }
    const place = { segment: number, offset: segment.bytes };
    segment.bytes += record.length;
    this.#dirty = true;
    return place;
  }

  /** Bytes of a record; fewer when the file is shorter. */
  async read(place: Place, bytes: number): Promise<Buffer> {
    const segment = this.#segments.get(place.segment);
    if (segment === undefined) return Buffer.alloc(0);
    segment.readers += 1;
    try {
      const handle = await this.#reading(place.segment, segment);
      const buffer = Buffer.allocUnsafe(bytes);
      let done = 0;
      while (done < bytes) {
        const { bytesRead } = await handle.read(buffer, done, bytes - done, place.offset + done);
        if (bytesRead === 0) break;
        done += bytesRead;
      }
      return buffer.subarray(0, done);
    } finally {
      segment.readers -= 1;
      if (segment.doomed && segment.readers === 0) await this.#closeReading(segment);
    }
  }

  /** Makes what has been appended last. */
  async sync(): Promise<void> {
    if (!this.#durable || !this.#dirty || this.#last === undefined) return;
    this.#dirty = false;
    await this.#last.handle.datasync();
  }

  /** Deletes a segment, not the last one. Reads that are under way end well. */
  async remove(number: number): Promise<void> {
    const segment = this.#segments.get(number);
    if (segment === undefined || this.isLast(number)) return;
    this.#segments.delete(number);
    segment.doomed = true;
    if (segment.readers === 0) await this.#closeReading(segment);
    await rm(this.path(number), { force: true });
  }

  async close(): Promise<void> {
    await this.#seal();
    for (const segment of this.#segments.values()) await this.#closeReading(segment);
  }

  async #roll(): Promise<void> {
    await this.#seal();
    const number = this.#fresh;
    const handle = await open(this.path(number), "wx");
    this.#fresh += 1;
    this.#segments.set(number, { bytes: 0, handle: undefined, readers: 0, doomed: false });
    this.#last = { number, handle };
    if (this.#durable) await syncDirectory(this.#directory);
  }

  /** Ends the file that is written to. */
  async #seal(): Promise<void> {
    if (this.#last === undefined) return;
    await this.sync();
    const { handle } = this.#last;
    this.#last = undefined;
    await handle.close();
  }

  #reading(number: number, segment: Segment): Promise<FileHandle> {
    if (segment.handle === undefined) {
      segment.handle = open(this.path(number), "r");
      this.#closeIdle(segment);
    }
    return segment.handle;
  }

  /** Keeps the handles below their limit. */
  #closeIdle(except: Segment): void {
    const held = [...this.#segments.values()].filter(({ handle }) => handle !== undefined);
    if (held.length <= OPEN_SEGMENTS) return;
    const idle = held.find((segment) => segment !== except && segment.readers === 0);
    if (idle !== undefined) void this.#closeReading(idle);
  }

  async #closeReading(segment: Segment): Promise<void> {
    const { handle } = segment;
    segment.handle = undefined;
    if (handle !== undefined) await (await handle.catch(() => undefined))?.close();
  }
}
