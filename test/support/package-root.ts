/** Folder of the package: tests run from dist/test/support. */
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

export const root = join(dirname(fileURLToPath(import.meta.url)), "..", "..", "..");

/** The embedded model. */
export const TINY_RETRIEVAL = join(root, "native-host", "models", "tiny-retrieval");

/** Data that is not part of the project; tests that need it skip when it is not there. */
export const DATA = join(process.env.QUARTERMASTER_DATA ?? join(root, "..", "shared"), "data");
