/** Lines of a record on their way to a file. */
import { closeSync, openSync, writeSync } from "node:fs";

/** Characters gathered before they are written. */
const GATHERED = 1 << 16;

export class RecordFile {
  readonly #file: number;
  #text = "";

  /** Creates the file, or empties it. Throws what opening it throws. */
  constructor(path: string) {
    this.#file = openSync(path, "w");
  }

  write(line: string): void {
    this.#text += `${line}\n`;
    if (this.#text.length >= GATHERED) this.#flush();
  }

  close(): void {
    this.#flush();
    closeSync(this.#file);
  }

  #flush(): void {
    writeSync(this.#file, this.#text);
    this.#text = "";
  }
}
