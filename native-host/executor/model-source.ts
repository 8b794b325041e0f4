/** Where a model's files come from: a directory, or a web server. */
import { QuartermasterError } from "../../bindings/errors.js";

export interface ModelSource {
  /** For messages and, in a directory, for the native executor. */
  readonly name: string;
  /** Bytes of a file; throws MODEL_FILE when it is not there. */
  size(file: string): Promise<number>;
  /** Fills `into` from byte `offset` of a file. */
  read(file: string, offset: number, into: Uint8Array): Promise<void>;
  /** Text of a file, or undefined when it is not there. */
  text(file: string): Promise<string | undefined>;
  /** Path of a file on this machine, if it has one. */
  path(file: string): string | undefined;
  close(): Promise<void>;
}

export function modelFileError(
  source: string,
  file: string,
  problem: string,
  cause?: unknown,
): QuartermasterError {
  return new QuartermasterError("MODEL_FILE", `${source}/${file}: ${problem}`, { argument: file, cause });
}

/** A Hugging Face directory on disk (Node, Deno). */
export async function directorySource(directory: string): Promise<ModelSource> {
  const fs = await import("node:fs/promises");
  const { join } = await import("node:path");
  type Handle = Awaited<ReturnType<typeof fs.open>>;
  const handles = new Map<string, Handle>();
  const open = async (file: string): Promise<Handle> => {
    let handle = handles.get(file);
    if (handle === undefined) {
      try {
        handle = await fs.open(join(directory, file), "r");
      } catch (error) {
        throw modelFileError(directory, file, "cannot be opened", error);
      }
      handles.set(file, handle);
    }
    return handle;
  };
  return {
    name: directory,
    size: async (file) => (await (await open(file)).stat()).size,
    async read(file, offset, into) {
      const handle = await open(file);
      for (let done = 0; done < into.length;) {
        const { bytesRead } = await handle.read(into, done, into.length - done, offset + done);
        if (bytesRead === 0)
          throw modelFileError(directory, file, `ends before byte ${offset + into.length}`);
        done += bytesRead;
      }
    },
    async text(file) {
      try {
        return await fs.readFile(join(directory, file), "utf8");
      } catch {
        return undefined;
      }
    },
    path: (file) => join(directory, file),
    async close() {
      for (const handle of handles.values()) await handle.close();
      handles.clear();
    },
  };
}

/**
 * A Hugging Face directory behind a URL. Uses range requests; a server without them is read whole, once a
 * file.
 */
export function urlSource(base: string | URL): ModelSource {
  const root = String(base).replace(/\/?$/, "/");
  const whole = new Map<string, Uint8Array>();
  const fetchFile = async (file: string, headers: Record<string, string> = {}): Promise<Response> => {
    const response = await fetch(new URL(file, root), { headers });
    if (!response.ok) throw modelFileError(root, file, `HTTP ${response.status}`);
    return response;
  };
  return {
    name: root.slice(0, -1),
    async size(file) {
      const response = await fetch(new URL(file, root), { method: "HEAD" });
      const length = response.headers.get("content-length");
      if (response.ok && length !== null) return Number(length);
      const bytes = new Uint8Array(await (await fetchFile(file)).arrayBuffer());
      whole.set(file, bytes);
      return bytes.length;
    },
    async read(file, offset, into) {
      const cached = whole.get(file);
      if (cached === undefined) {
        const response = await fetchFile(file, { Range: `bytes=${offset}-${offset + into.length - 1}` });
        const bytes = new Uint8Array(await response.arrayBuffer());
        if (response.status === 206) {
          if (bytes.length !== into.length)
            throw modelFileError(root, file, `ends before byte ${offset + into.length}`);
          into.set(bytes);
          return;
        }
        whole.set(file, bytes);
      }
      const bytes = whole.get(file)!;
      if (offset + into.length > bytes.length)
        throw modelFileError(root, file, `ends before byte ${offset + into.length}`);
      into.set(bytes.subarray(offset, offset + into.length));
    },
    async text(file) {
      const response = await fetch(new URL(file, root));
      return response.ok ? response.text() : undefined;
    },
    path: () => undefined,
    async close() {
      whole.clear();
    },
  };
}
