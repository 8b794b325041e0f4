/**
 * The machine of the context-switch experiment: what a step, a copy and a dispatch cost. Microseconds and bytes throughout.
 *
 * An A10-like card of 24 GB beside a host over PCIe 4.0, serving Llama-3-8B in 16 bits: the hardware of "FastSwitch" (arXiv
 * 2411.18424). What it does not model: contention of links with kernels, and the interpreter's lock.
 */

export interface Machine {
  readonly layers: number;
  /** Bytes of K, or of V, of one token in one layer. */
  readonly tokenBytes: number;
  readonly blockSize: number;
  /** Blocks of KV memory on the device, and of swap memory on the host. */
  readonly blocks: number;
  readonly hostBlocks: number;
  /** Bytes a microsecond of a link in one direction; least time of a copy on it. */
  readonly linkBytesPerUs: number;
  readonly copyLatencyUs: number;
  /** Host time to dispatch one copy: from an interpreter, and from a native thread that is given the whole list. */
  readonly dispatchUs: number;
  readonly nativeDispatchUs: number;
  /** Bytes of weights, read once a step; device memory bandwidth, in bytes a microsecond. */
  readonly weightBytes: number;
  readonly memoryBytesPerUs: number;
  /** Time to compute a token when arithmetic is what limits; what a step costs beside. */
  readonly tokenUs: number;
  readonly stepUs: number;
}

const LAYERS = 32;
/** 8 KV heads of 128, 16 bits each. */
const TOKEN_BYTES = 8 * 128 * 2;
const BLOCK_SIZE = 16;
const BLOCK_BYTES = 2 * LAYERS * TOKEN_BYTES * BLOCK_SIZE;

/** 7 GB of KV memory and 60 GB of swap, as there; 125 TFLOP/s at half of which 16 GFLOP a token are done; 600 GB/s. */
export const EIGHT_B: Machine = {
  layers: LAYERS,
  tokenBytes: TOKEN_BYTES,
  blockSize: BLOCK_SIZE,
  blocks: Math.floor(7e9 / BLOCK_BYTES),
  hostBlocks: Math.floor(60e9 / BLOCK_BYTES),
  linkBytesPerUs: 25_000,
  copyLatencyUs: 2,
  dispatchUs: 8,
  nativeDispatchUs: 2,
  weightBytes: 16.06e9,
  memoryBytesPerUs: 600_000,
  tokenUs: 16.06e9 / (125e6 * 0.5),
  stepUs: 2_000,
};

/** Time of a step that computes `tokens` tokens over sequences of `contextTokens` tokens together. */
export function stepTimeUs(machine: Machine, tokens: number, contextTokens: number): number {
  const bytes = machine.weightBytes + contextTokens * machine.tokenBytes * 2 * machine.layers;
  return machine.stepUs + Math.max(bytes / machine.memoryBytesPerUs, tokens * machine.tokenUs);
}
