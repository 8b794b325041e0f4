/**
 * Layer groups: which layers of a model share a cache group, and where their K and V lie in a page. Group 0 holds the layers
 * that no group names; pages are as large as the largest group needs.
 *
 *   page of group g   [layers of g][K, V][kvHead][blockSize of g][headDim]
 */
import type { CacheGroup } from "../../bindings/cache-groups.js";
import { invalidArgument, requireInteger } from "../../bindings/errors.js";
import { type ModelConfig, windowOf } from "./model-config.js";

export interface LayerGroup {
  /** Layers of the group, all with the same window or all without one. */
  readonly layers: readonly number[];
  /** Tokens a block: the executor's `blockSize` times a power of two. Default: the same. */
  readonly blockSize?: number;
}

/** Where a layer's K and V lie. */
export interface LayerPlacement {
  readonly group: number;
  /** Its place among the layers of its group. */
  readonly index: number;
  readonly window: number;
  readonly blockSize: number;
}

export interface GroupLayout {
  /** Groups 1, 2, ... as a cache must have them. */
  readonly groups: readonly CacheGroup[];
  readonly layers: readonly LayerPlacement[];
  /** Numbers of a page. */
  readonly pageElements: number;
}

/** Checks the groups against the model. Throws INVALID_ARGUMENT. */
export function layOutGroups(
  config: ModelConfig,
  blockSize: number,
  groups: readonly LayerGroup[],
): GroupLayout {
  const groupOf = new Array<number>(config.layers).fill(0);
  const sizes = [blockSize];
  const cacheGroups = groups.map(({ layers, blockSize: size = blockSize }, i): CacheGroup => {
    const at = `groups[${i}]`;
    const windows = new Set(layers.map((layer) => windowOf(config, layer)));
    if (windows.size !== 1)
      throw invalidArgument(`${at}.layers`, layers, "layers that all have the same window, or none");
    for (const layer of layers) {
      requireInteger(`${at}.layers`, layer, 0, config.layers - 1);
      if (groupOf[layer] !== 0) throw invalidArgument(`${at}.layers`, layer, "a layer of one group only");
      groupOf[layer] = i + 1;
    }
    if (size < blockSize || !Number.isInteger(Math.log2(size / blockSize)))
      throw invalidArgument(`${at}.blockSize`, size, `${blockSize} times a power of two`);
    sizes.push(size);
    const [window] = windows;
    return { kind: window > 0 ? "window" : "full", window, blockSize: size };
  });
  const counts = sizes.map(() => 0);
  const layers = groupOf.map((group, layer) => ({
    group,
    index: counts[group]++,
    window: windowOf(config, layer),
    blockSize: sizes[group],
  }));
  const perToken = 2 * config.kvHeads * config.headDim;
  const pageElements = Math.max(...sizes.map((size, group) => counts[group] * size * perToken));
  return { groups: cacheGroups, layers, pageElements };
}
