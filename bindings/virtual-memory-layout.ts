/** The records of a virtual memory in core memory (assembly/vmm/layout.ts), and the full check of what they say. */
import { QuartermasterError } from "./errors.js";

/** Words of the header (docs/abi.md; a test compares). */
export const VirtualMemoryHeader = {
  slotCount: 0,
  maxTokens: 1,
  tokenBytes: 2,
  pageShift: 3,
  slotPages: 4,
  blockCount: 5,
  tensors: 6,
  sharePages: 7,
  slots: 11,
  table: 12,
  free: 14,
  lengths: 15,
  short: 16,
  ring: 17,
  ringMask: 18,
  taken: 19,
  made: 20,
  freeCount: 21,
  heldCount: 22,
  entries: 23,
} as const;

/** u32 words of a slot: length, needed, mapped, shared. */
export const SLOT_WORDS = 4;

/** Word of the header that has the address of [blockCount] { refs, held }. */
const PHYSICAL = 13;

/**
 * Checks every invariant of assembly/vmm/mapping.ts by counting again, O(pages + KV blocks); throws CORRUPT with what is
 * wrong.
 */
export function validateVirtualMemory(buffer: ArrayBufferLike, pointer: number): void {
  const words = new Uint32Array(buffer);
  const header = (name: keyof typeof VirtualMemoryHeader): number =>
    words[pointer / 4 + VirtualMemoryHeader[name]];
  const require = (sound: boolean, what: string): void => {
    if (!sound) throw new QuartermasterError("CORRUPT", `virtualMemory: ${what}`);
  };
  const [blockCount, slotPages, tokenBytes] = [
    header("blockCount"),
    header("slotPages"),
    header("tokenBytes"),
  ];
  const pageBytes = 2 ** header("pageShift");
  const physical = words[pointer / 4 + PHYSICAL] / 4;
  const refs = new Uint32Array(blockCount);
  const held = new Uint32Array(blockCount);
  let entries = 0;
  for (let slot = 0; slot < header("slotCount"); slot++) {
    const [length, needed, mapped, shared] = words.subarray(header("slots") / 4 + slot * SLOT_WORDS);
    require(mapped <= slotPages && length <= header("maxTokens"), `slot ${slot} is out of bounds`);
    require(needed === Math.ceil((length * tokenBytes) / pageBytes), `slot ${slot} needs other pages`);
    entries += mapped;
    const filled = length === 0 ? slotPages : Math.floor((length * tokenBytes) / pageBytes);
    const table = header("table") / 4 + slot * slotPages;
    for (let page = 0; page < mapped; page++) {
      const block = words[table + page];
      require(block < blockCount, `page ${page} of slot ${slot} has KV block ${block}`);
      refs[block] += 1;
      if (page < needed) held[block] += 1;
      const written = page >= shared || page >= filled;
      require(!written ||
        words[physical + block * 2] === 1, `slot ${slot} may write to a shared page ${page}`);
    }
  }
  for (let block = 0; block < blockCount; block++) {
    require(words[physical + block * 2] === refs[block], `references of KV block ${block}`);
    require(words[physical + block * 2 + 1] === held[block], `holders of KV block ${block}`);
  }
  const free = words.subarray(header("free") / 4, header("free") / 4 + header("freeCount"));
  require(new Set(free).size === free.length, "a KV block is free twice");
  require(free.every((block) => refs[block] === 0), "a KV block is free and mapped");
  require(free.length ===
    refs.filter((count) => count === 0).length, "a KV block is neither free nor mapped");
  require(header("heldCount") === held.filter((count) => count > 0).length, "count of held KV blocks");
  require(header("entries") === entries, "count of pages");
  require((header("made") - header("taken")) >>> 0 <=
    header("ringMask") + 1, "more changes than the ring holds");
}
