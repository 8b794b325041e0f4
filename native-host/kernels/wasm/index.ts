/** Entry of the wasm kernels: the forward pass where no native addon can be built, and in browsers. */
export { attention, writeKv } from "./attention";
export { attentionLanes, copyKeys, writeLanes } from "./lanes";
export { addTo, embed, rmsNorm, rope, swiglu, toF32 } from "./layers";
export { matmul } from "./matmul";
