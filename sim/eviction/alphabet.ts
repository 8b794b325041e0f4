/** The characters of the embedded model tiny-retrieval: one token each, after <pad>, <bos> and <eos>. */
import { invalidArgument } from "../../bindings/errors.js";

const CHARACTERS = "0123456789abcdefghijklmnopqrstuvwxyz=;?>:!|#[]{}. ";
const FIRST = 3;

/** Begin of text: the first token of every sequence. */
export const BOS = 1;

/** Token of each character. Throws INVALID_ARGUMENT for one that the model does not know. */
export function tokensOf(text: string): number[] {
  return Array.from(text, (character) => {
    const index = CHARACTERS.indexOf(character);
    if (index < 0) throw invalidArgument("text", character, `characters of ${JSON.stringify(CHARACTERS)}`);
    return FIRST + index;
  });
}

/** Character of a token; "" for special ones. */
export function characterOf(token: number): string {
  return CHARACTERS[token - FIRST] ?? "";
}
