/** The exports of kernels.wasm (native-host/kernels/wasm). Pointers are addresses in its memory. */

/** A matrix in the kernels' memory; type 0 f32, 1 f16, 2 bf16. */
export interface Weight {
  readonly pointer: number;
  readonly type: number;
}

export interface KernelExports {
  embed(table: number, type: number, ids: number, n: number, hidden: number, out: number): void;
  rmsNorm(x: number, weight: number, n: number, hidden: number, eps: number, out: number): void;
  matmul(
    x: number,
    w: number,
    type: number,
    bias: number,
    n: number,
    rows: number,
    columns: number,
    out: number,
  ): void;
  rope(
    x: number,
    positions: number,
    n: number,
    heads: number,
    headDim: number,
    cosTable: number,
    sinTable: number,
    interleaved: number,
  ): void;
  writeKv(
    k: number,
    v: number,
    slots: number,
    n: number,
    kvHeads: number,
    headDim: number,
    blockShift: number,
    layerBase: number,
    blockBytes: number,
  ): void;
  attention(
    q: number,
    positions: number,
    tableOf: number,
    n: number,
    heads: number,
    kvHeads: number,
    headDim: number,
    blockShift: number,
    layerBase: number,
    blockBytes: number,
    window: number,
    scores: number,
    out: number,
  ): void;
  writeLanes(
    k: number,
    v: number,
    n: number,
    job: number,
    kvHeads: number,
    headDim: number,
    blockShift: number,
    layerBase: number,
    blockBytes: number,
  ): void;
  attentionLanes(
    q: number,
    n: number,
    job: number,
    heads: number,
    kvHeads: number,
    headDim: number,
    blockShift: number,
    layerBase: number,
    blockBytes: number,
    slidingWindow: number,
    scores: number,
    out: number,
  ): void;
  copyKeys(
    table: number,
    counts: number,
    kvHeads: number,
    headDim: number,
    blockShift: number,
    layerBase: number,
    blockBytes: number,
    stride: number,
    keys: number,
  ): void;
  swiglu(gate: number, up: number, count: number): void;
  addTo(x: number, y: number, count: number): void;
  toF32(from: number, type: number, count: number, to: number): void;
}
