/** Text in, tokens through, text out: never half a character, nothing lost. */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import fc from "fast-check";
import { directorySource, openTokenizer, type Tokenizer } from "../../native-host/executor/main.js";
import { TINY_RETRIEVAL } from "../support/package-root.js";

/** The printable stand-ins of byte-level tokenizers for the 256 bytes. */
function byteSymbols(): string[] {
  const direct = (byte: number): boolean =>
    (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(direct(byte) ? byte : next++));
}

async function tokenizerFrom(json: object): Promise<Tokenizer> {
  const directory = mkdtempSync(join(tmpdir(), "quartermaster-tokenizer-"));
  writeFileSync(join(directory, "tokenizer.json"), JSON.stringify(json));
  try {
    return await openTokenizer(await directorySource(directory));
  } finally {
    rmSync(directory, { recursive: true });
  }
}

function byteLevel(): Promise<Tokenizer> {
  const symbols = byteSymbols();
  const merges = [
    ["t", "h"],
    ["th", "e"],
    ["\u0120", "the"],
    ["a", "n"],
  ];
  const vocab = [...symbols, ...merges.map(([a, b]) => a + b)];
  const step = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true };
  return tokenizerFrom({
    version: "1.0",
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: step,
    post_processor: null,
    decoder: step,
    model: {
      type: "BPE",
      vocab: Object.fromEntries(vocab.map((token, id) => [token, id])),
      merges: merges.map((pair) => pair.join(" ")),
    },
  });
}

/** A tokenizer of the Llama 2 kind: spaces are part of the word behind them, and the first one is dropped. */
function metaspace(): Promise<Tokenizer> {
  const words = ["<unk>", "\u2581", "\u2581a", "\u2581cat", "\u2581sat", "s", "."];
  return tokenizerFrom({
    version: "1.0",
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: { type: "Metaspace", replacement: "\u2581", prepend_scheme: "always", split: true },
    post_processor: null,
    decoder: { type: "Metaspace", replacement: "\u2581", prepend_scheme: "always", split: true },
    model: {
      type: "WordLevel",
      vocab: Object.fromEntries(words.map((word, id) => [word, id])),
      unk_token: "<unk>",
    },
  });
}

function pieces(tokenizer: Tokenizer, tokens: ArrayLike<number>): string[] {
  const stream = tokenizer.detokenizer();
  return [...Array.from(tokens, (token) => stream.push(token)), stream.finish()];
}

test("the embedded tokenizer takes every recorded prompt to tokens and back", async () => {
  const tokenizer = await openTokenizer(await directorySource(TINY_RETRIEVAL));
  const { prompts } = JSON.parse(readFileSync(join(TINY_RETRIEVAL, "test_prompts.json"), "utf8")) as {
    prompts: { context: string }[];
  };
  for (const { context } of prompts) {
    const tokens = tokenizer.encode(context);
    assert.equal(tokens[0], 1, "begins with begin-of-text");
    assert.equal(tokens.length, context.length + 1);
    assert.equal(tokenizer.decode(tokens), context);
    assert.equal(pieces(tokenizer, tokens).join(""), context);
  }
});

test("characters of several tokens come out whole, at the token that completes them", async () => {
  const tokenizer = await byteLevel();
  for (const text of ["é", "日本語", "🙂", "👩‍🚀 flies", "naïve café", "a🙂b", "the cat and the 猫"]) {
    const tokens = tokenizer.encode(text);
    const shown = pieces(tokenizer, tokens);
    assert.equal(shown.join(""), text);
    for (const piece of shown) assert.ok(!piece.includes("\ufffd"), JSON.stringify(shown));
  }
  assert.deepEqual(pieces(tokenizer, tokenizer.encode("🙂")), ["", "", "", "🙂", ""]);
  assert.ok(tokenizer.encode("the the").length < 7, "merges are used");
});

test("any text streams out exactly as it decodes as a whole", async () => {
  const tokenizer = await byteLevel();
  fc.assert(
    fc.property(fc.string({ unit: "grapheme", maxLength: 20 }), (text) => {
      const tokens = tokenizer.encode(text);
      const shown = pieces(tokenizer, tokens);
      assert.equal(shown.join(""), tokenizer.decode(tokens));
      for (const piece of shown.slice(0, -1)) assert.ok(!piece.endsWith("\ufffd"));
    }),
    { numRuns: 500 },
  );
});

test("an unfinished character at the end is shown when the text ends", async () => {
  const tokenizer = await byteLevel();
  const tokens = tokenizer.encode("ok🙂").slice(0, -1);
  const shown = pieces(tokenizer, tokens);
  assert.equal(shown.slice(0, -1).join(""), "ok");
  assert.match(shown.at(-1)!, /^\ufffd+$/);
});

test("spaces between words survive streaming where decoding drops the first", async () => {
  const tokenizer = await metaspace();
  const tokens = [2, 3, 5, 4, 6];
  assert.equal(tokenizer.decode(tokens), "a cats sat.");
  assert.deepEqual(pieces(tokenizer, tokens), ["a", " cat", "s", " sat", ".", ""]);
});

test("a tokenizer that is not understood is refused by name", async () => {
  await assert.rejects(tokenizerFrom({ model: { type: "Telepathy" } }), {
    code: "MODEL_FILE",
    message: /tokenizer\.json/,
  });
});
