/** Ordered index, block pool, prefix index and block tables, inside wasm. */
import { indexDelete } from "../../assembly/index/delete";
import { indexBytes, indexCreate, indexNodesFor, indexSize } from "../../assembly/index/ordered-index";
import { indexPut } from "../../assembly/index/put";
import { indexFind } from "../../assembly/index/read";
import { indexSeek } from "../../assembly/index/scan";
import { indexValidate } from "../../assembly/index/validate";
import {
  INVALID_ARGUMENT,
  NOT_RESERVED,
  OK,
  OUT_OF_BLOCKS,
  UNKNOWN_SEQUENCE,
} from "../../assembly/memory/status";
import { settleCopies } from "../../assembly/paging/copies";
import { kvCreate } from "../../assembly/paging/cache";
import { block, kvBytes, KvCache, sequenceOf, SLOT_MASK, tableOf } from "../../assembly/paging/layout";
import { availableBlocks } from "../../assembly/paging/pool";
import { append, reserve, truncate } from "../../assembly/paging/growth";
import { close, fork, open } from "../../assembly/paging/sequences";
import { kvValidate } from "../../assembly/paging/validate";

const BASE: usize = 8 << 20;
const TOKENS: usize = 15 << 20;

function tableEntry(kv: KvCache, handle: u32, i: u32): u32 {
  return load<u32>(tableOf(kv, handle & SLOT_MASK) + ((<usize>i) << 2));
}

describe("ordered index", () => {
  beforeEach(() => {
    indexCreate(BASE, indexNodesFor(1000, 8), 8, 9);
  });

  it("fits the bytes it states", () => {
    const nodes = indexNodesFor(1000, 8);
    store<u64>(BASE + <usize>indexBytes(nodes), 0x1234);
    for (let key: u64 = 1; key <= 1000; key++) expect(indexPut(BASE, key * 64, key)).toBe(1);
    expect(load<u64>(BASE + <usize>indexBytes(nodes))).toBe(0x1234);
    expect(indexValidate(BASE)).toBe(OK);
  });

  it("puts, overwrites, finds, seeks and deletes", () => {
    for (let key: u64 = 1; key <= 500; key++) indexPut(BASE, key * 2, key);
    expect(indexPut(BASE, 10, 99)).toBe(0);
    expect(indexSize(BASE)).toBe(500);
    expect(load<u64>(indexFind(BASE, 10))).toBe(99);
    expect(indexFind(BASE, 11)).toBe(0);
    expect(indexSeek(BASE, 11, TOKENS, TOKENS + 8)).toBe(1);
    expect(load<u64>(TOKENS)).toBe(12);
    expect(indexSeek(BASE, 1001, TOKENS, TOKENS + 8)).toBe(0);
    for (let key: u64 = 1; key <= 500; key++) {
      expect(indexDelete(BASE, key * 2)).toBe(1);
      expect(indexDelete(BASE, key * 2)).toBe(0);
    }
    expect(indexSize(BASE)).toBe(0);
    expect(indexValidate(BASE)).toBe(OK);
  });

  it("refuses the sentinels and keeps keys with the top bit last", () => {
    expect(indexPut(BASE, 0, 1)).toBe(INVALID_ARGUMENT);
    expect(indexPut(BASE, u64.MAX_VALUE, 1)).toBe(INVALID_ARGUMENT);
    indexPut(BASE, (<u64>1) << 63, 1);
    indexPut(BASE, ((<u64>1) << 63) - 1, 2);
    indexSeek(BASE, 1, TOKENS, TOKENS + 8);
    expect(load<u64>(TOKENS + 8)).toBe(2);
  });
});

describe("paging", () => {
  beforeEach(() => {
    memory.fill(BASE, 0, <usize>kvBytes(8, 4, 4, 32));
    kvCreate(changetype<KvCache>(BASE), 8, 4, 4, 32, 1, 64, 77);
    for (let i: u32 = 0; i < 32; i++) store<u32>(TOKENS + ((<usize>i) << 2), i);
  });

  afterEach(() => {
    expect(kvValidate(changetype<KvCache>(BASE))).toBe(OK);
  });

  it("takes new blocks in id order and gives every one back", () => {
    const kv = changetype<KvCache>(BASE);
    const handle = open(kv, 0, TOKENS, 0, 0, 0);
    expect(reserve(kv, handle, 12)).toBe(3);
    for (let i: u32 = 0; i < 3; i++) expect(tableEntry(kv, handle, i)).toBe(i);
    expect(reserve(kv, handle, 33)).not.toBe(OK);
    expect(close(kv, handle)).toBe(OK);
    expect(close(kv, handle)).toBe(UNKNOWN_SEQUENCE);
    expect(availableBlocks(kv)).toBe(8);
  });

  it("reuses a cached prefix but leaves the last token to compute", () => {
    const kv = changetype<KvCache>(BASE);
    const first = open(kv, 0, TOKENS, 12, 0, 0);
    reserve(kv, first, 12);
    expect(append(kv, first, TOKENS, 12)).toBe(OK);
    const same = open(kv, 0, TOKENS, 12, 0, 0);
    expect(sequenceOf(kv, same).length).toBe(8);
    expect(tableEntry(kv, same, 1)).toBe(tableEntry(kv, first, 1));
    const other = open(kv, 1, TOKENS, 12, 0, 0);
    expect(sequenceOf(kv, other).length).toBe(0);
  });

  it("evicts the tail of a closed sequence before its head", () => {
    const kv = changetype<KvCache>(BASE);
    const first = open(kv, 0, TOKENS, 16, 0, 0);
    reserve(kv, first, 16);
    append(kv, first, TOKENS, 16);
    const head = tableEntry(kv, first, 0);
    close(kv, first);
    const second = open(kv, 1, TOKENS, 0, 0, 0);
    reserve(kv, second, 28);
    const again = open(kv, 0, TOKENS, 16, 0, 0);
    expect(sequenceOf(kv, again).length).toBe(4);
    expect(tableEntry(kv, again, 0)).toBe(head);
    expect(reserve(kv, again, 4)).toBe(OUT_OF_BLOCKS);
  });

  it("copies a shared, partly filled block for the one who writes first", () => {
    const kv = changetype<KvCache>(BASE);
    const parent = open(kv, 0, TOKENS, 0, 0, 0);
    reserve(kv, parent, 6);
    append(kv, parent, TOKENS, 6);
    const twin = fork(kv, parent);
    const shared = tableEntry(kv, parent, 1);
    expect(append(kv, twin, TOKENS, 1)).toBe(NOT_RESERVED);
    reserve(kv, twin, 1);
    expect(kv.copyCount).toBe(1);
    expect(tableEntry(kv, twin, 1)).not.toBe(shared);
    expect(block(kv, shared).refs).toBe(2);
    settleCopies(kv);
    expect(block(kv, shared).refs).toBe(1);
    reserve(kv, parent, 1);
    expect(tableEntry(kv, parent, 1)).toBe(shared);
  });

  it("merges two blocks with the same content into one", () => {
    const kv = changetype<KvCache>(BASE);
    const first = open(kv, 0, TOKENS, 5, 0, 0);
    const second = open(kv, 0, TOKENS, 5, 0, 0);
    reserve(kv, first, 5);
    reserve(kv, second, 5);
    append(kv, first, TOKENS, 5);
    append(kv, second, TOKENS, 5);
    expect(tableEntry(kv, second, 0)).toBe(tableEntry(kv, first, 0));
    expect(tableEntry(kv, second, 1)).not.toBe(tableEntry(kv, first, 1));
    expect(availableBlocks(kv)).toBe(5);
    truncate(kv, second, 2);
    expect(availableBlocks(kv)).toBe(6);
  });
});
