/** The kernels that a test of both runs on: the native ones where the addon was built. */
import { type Backend, loadAddon } from "../../native-host/executor/main.js";

const addon = loadAddon();

export interface TestBackend {
  readonly backend: Backend;
  /** What a title ends with. */
  readonly on: string;
  readonly skip: string | false;
}

export const TEST_BACKENDS: readonly TestBackend[] = [
  { backend: "wasm", on: "", skip: false },
  { backend: "cpu", on: ", on the native kernels", skip: "reason" in addon ? addon.reason : false },
];
