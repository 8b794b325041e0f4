/**
 * Live progress of a run on standard error: one line rewritten on a terminal, a plain line a second
 * elsewhere.
 */
import type { StepReport } from "../bindings/engine-options.js";

export interface ProgressState {
  readonly tokens: number;
  readonly finished: number;
  readonly requests: number;
  readonly usedBlocks: number;
  readonly blocks: number;
  readonly hitRate: number;
}

export class Progress {
  readonly #terminal = process.stderr.isTTY === true;
  readonly #startMs = performance.now();
  #shownMs = -Infinity;

  update(report: StepReport, state: ProgressState): void {
    const now = performance.now();
    if (now - this.#shownMs < (this.#terminal ? 100 : 1000)) return;
    this.#shownMs = now;
    const seconds = (now - this.#startMs) / 1000;
    const line =
      `${state.finished}/${state.requests} done  ` +
      `${(state.tokens / seconds).toFixed(0)} tokens/s  ` +
      `running ${report.running}  waiting ${report.waiting}  ` +
      `blocks ${state.usedBlocks}/${state.blocks}  ` +
      `cache hits ${(100 * state.hitRate).toFixed(0)} %`;
    process.stderr.write(this.#terminal ? `\r\x1b[2K${line}` : `${line}\n`);
  }

  end(): void {
    if (this.#terminal && this.#shownMs > -Infinity) process.stderr.write("\r\x1b[2K");
  }
}
