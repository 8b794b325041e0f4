/** Tokenizer of a Hugging Face directory, by @huggingface/tokenizers, and text that grows token by token. */
import { Tokenizer as Library } from "@huggingface/tokenizers";
import { QuartermasterError } from "../../bindings/errors.js";
import type { Detokenizer } from "../../bindings/text-stream.js";
import { modelFileError, type ModelSource } from "./model-source.js";

export interface Tokenizer {
  /** Token ids of a text, with the special tokens that the tokenizer adds (a leading begin-of-text, say). */
  encode(text: string): Uint32Array;
  /** Text of token ids, special tokens left out. */
  decode(tokens: ArrayLike<number>): string;
  /** A detokenizer for one growing text. */
  detokenizer(): Detokenizer;
}

/** What stands where a character is incomplete. */
const INCOMPLETE = "\ufffd";

/**
 * Decodes a growing list of tokens. A token's text may depend on the token before it (word boundaries), and a
 * character may be spread over several tokens: the tokens since the last safe point are decoded again
 * together, and nothing is given out while the result ends in an incomplete character.
 */
export class StreamingDetokenizer implements Detokenizer {
  readonly #decode: (tokens: number[]) => string;
  readonly #tokens: number[] = [];
  /** Tokens from here on are decoded together; those before `#read` have been given out. */
  #prefix = 0;
  #read = 0;

  constructor(decode: (tokens: number[]) => string) {
    this.#decode = decode;
  }

  push(token: number): string {
    this.#tokens.push(token);
    const text = this.#pending();
    if (text.endsWith(INCOMPLETE)) return "";
    this.#advance();
    return text;
  }

  finish(): string {
    const text = this.#pending();
    this.#advance();
    return text;
  }

  #pending(): string {
    const before = this.#decode(this.#tokens.slice(this.#prefix, this.#read));
    return this.#decode(this.#tokens.slice(this.#prefix)).slice(before.length);
  }

  #advance(): void {
    this.#prefix = this.#read;
    this.#read = this.#tokens.length;
  }
}

class LibraryTokenizer implements Tokenizer {
  readonly #library: Library;

  constructor(library: Library) {
    this.#library = library;
  }

  encode(text: string): Uint32Array {
    return Uint32Array.from(this.#library.encode(text).ids);
  }

  decode(tokens: ArrayLike<number>): string {
    const ids = Array.from(tokens);
    return ids.length === 0
      ? ""
      : this.#library.decode(ids, { skip_special_tokens: true, clean_up_tokenization_spaces: false });
  }

  detokenizer(): Detokenizer {
    return new StreamingDetokenizer((tokens) => this.decode(tokens));
  }
}

/**
 * Reads tokenizer.json and tokenizer_config.json. Throws MODEL_FILE when they are missing or not understood.
 */
export async function openTokenizer(source: ModelSource): Promise<Tokenizer> {
  const text = await source.text("tokenizer.json");
  if (text === undefined) throw modelFileError(source.name, "tokenizer.json", "is not there");
  const config = (await source.text("tokenizer_config.json")) ?? "{}";
  try {
    return new LibraryTokenizer(new Library(JSON.parse(text) as object, JSON.parse(config) as object));
  } catch (error) {
    if (error instanceof QuartermasterError) throw error;
    throw modelFileError(
      source.name,
      "tokenizer.json",
      `is not understood: ${(error as Error).message}`,
      error,
    );
  }
}
