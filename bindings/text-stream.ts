/**
 * TextStream: what of a growing text may be shown already.
 *
 * Text that could still turn out to be the beginning of a stop string is held back until it cannot be one any
 * more, so a stop string is never shown, not even in part.
 */

/** Turns token ids into text piece by piece; never gives half a character. */
export interface Detokenizer {
  /** Text that `token` completes; "" while a character is incomplete. */
  push(token: number): string;
  /** What is left at the end. */
  finish(): string;
}

export class TextStream {
  readonly #stops: readonly string[];
  #held = "";
  #stopped = false;

  constructor(stops: readonly string[]) {
    this.#stops = stops;
  }

  /** Whether a stop string has been reached. */
  get stopped(): boolean {
    return this.#stopped;
  }

  /** Adds text and returns what may be shown now. */
  push(text: string): string {
    if (this.#stopped) return "";
    this.#held += text;
    const stop = this.#firstStop();
    if (stop >= 0) {
      this.#stopped = true;
      return this.#release(stop);
    }
    return this.#release(this.#held.length - this.#possibleStop());
  }

  /** The end: what was held back is shown after all, unless a stop string was reached. */
  finish(): string {
    return this.#stopped ? "" : this.#release(this.#held.length);
  }

  #release(length: number): string {
    const shown = this.#held.slice(0, length);
    this.#held = this.#held.slice(length);
    return shown;
  }

  #firstStop(): number {
    let first = -1;
    for (const stop of this.#stops) {
      const at = this.#held.indexOf(stop);
      if (at >= 0 && (first < 0 || at < first)) first = at;
    }
    return first;
  }

  /** Length of the longest tail that begins a stop string. */
  #possibleStop(): number {
    let longest = 0;
    for (const stop of this.#stops) {
      for (let length = Math.min(stop.length - 1, this.#held.length); length > longest; length--) {
        if (this.#held.endsWith(stop.slice(0, length))) longest = length;
      }
    }
    return longest;
  }
}
