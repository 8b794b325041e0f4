/** Answers calls about structures beside the KV cache: the keyed pool and virtual memory. */
import { type KeyedPool, QuartermasterError, type VirtualMemory } from "../../bindings/main.js";
import type { ConformanceHost } from "./host.js";
import type { Answer } from "./script.js";

type Operations = Readonly<Record<string, (args: never) => Answer>>;

const bytesOf = (words: readonly number[]): Uint8Array => new Uint8Array(Uint32Array.from(words).buffer);

export function poolOperations(host: ConformanceHost): Operations {
  const pool = (): KeyedPool => host.pool;
  return {
    keyed: ([blocks, keyBytes, batch]: number[]) => [
      ((host.pool = host.core.keyedPool({ blocks, keyBytes, batch })), 0),
    ],
    "keyed-fits": ([needed, touched]: [number, number[]]) => [+pool().fits(needed, touched)],
    "keyed-take": ([count, touched]: [number, number[]]) => {
      const { blocks, lost } = pool().allocate(count, touched);
      return [lost.length, ...blocks, ...lost];
    },
    "keyed-release": ([blocks]: [number[]]) => [(pool().release(blocks), 0)],
    "keyed-enter": ([group, blocks, words]: [number, number[], number[]]) => [
      (pool().enterKeys(group, blocks, bytesOf(words)), 0),
    ],
    "keyed-find": ([group, all, length, words]: [number, number, number, number[]]) => {
      const keys = bytesOf(words);
      const found =
        all === 0 ? pool().find(group, keys, 4 * length) : pool().findAll(group, keys, 4 * length);
      return [found.length, ...found];
    },
    "keyed-drop": ([blocks]: [number[]]) => {
      const lost = pool().dropKeys(blocks);
      return [lost.length, ...lost];
    },
    "keyed-aside": ([block, aside]: number[]) => [
      (aside === 0 ? pool().putBack(block) : pool().setAside(block), 0),
    ],
    "keyed-counts": () => [0, pool().free, pool().held, pool().keys.blocks, pool().keys.different],
  };
}

export function virtualOperations(host: ConformanceHost): Operations {
  const memory = (): VirtualMemory => host.virtual;
  return {
    virtual: ([slots, maxTokens, tokenBytes, tensors, pageBytes, blocks, ...eager]: number[]) => {
      const [eagerSteps, eagerBlocks, reclaim] = eager;
      const shape = { slots, maxTokens, tokenBytes, tensors, pageBytes, blocks };
      host.virtual = host.core.virtualMemory({
        ...shape,
        eagerSteps,
        eagerBlocks,
        eagerReclaim: reclaim !== 0,
      });
      return [0];
    },
    "virtual-allocate": ([tokens, from, prefix]: number[]) => [
      memory().allocate(tokens, prefix === 0 ? undefined : { from, tokens: prefix }),
    ],
    "virtual-free": ([slot, unmap]: number[]) => [(memory().free(slot, unmap !== 0), 0)],
    "virtual-step": ([lengths]: [number[]]) => {
      const refused = memory().step(lengths);
      return [refused.length, ...refused];
    },
    "virtual-ahead": () => [(memory().background(), 0)],
    "virtual-share": ([from, to, tokens]: number[]) => [memory().sharePrefix(from, to, tokens)],
    "virtual-trim": () => [(memory().trim(), 0)],
    "virtual-changes": () => {
      const changes = memory().takePlan();
      return [changes.length / 4, ...changes];
    },
    "virtual-pages": ([slot]: number[]) => {
      if (slot >= memory().slots) throw new QuartermasterError("INVALID_ARGUMENT", "no such slot");
      const pages = memory().pages(slot);
      return [pages.length, ...pages];
    },
    "virtual-available": () => [memory().freeBlocks],
  };
}
