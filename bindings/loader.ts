/**
 * The convenience entry: a Core whose module is instantiated by @assemblyscript/loader.
 *
 * Same classes, same behaviour; every export is wrapped by the loader, which costs some nanoseconds a call.
 * Hot paths use the main entry.
 */
import { instantiate } from "@assemblyscript/loader";
import { Core, type CoreOptions } from "./core.js";
import type { CoreExports } from "./exports.js";

/** As `Core.create`, through the loader. */
export function createCore(options: CoreOptions = {}): Promise<Core> {
  return Core.create({
    ...options,
    instantiate: async (module, imports) =>
      (await instantiate(module, imports)).exports as unknown as CoreExports,
  });
}

export * from "./main.js";
