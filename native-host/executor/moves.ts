/** Checks what `Executor.move`, `merge`, `readBlocks` and `writeBlocks` are given against the pool before anything is touched. */
import { invalidArgument, requireInteger } from "../../bindings/errors.js";
import type { ExecutorDescription } from "../../bindings/executor.js";
import { MOVE_WORDS } from "../../bindings/statistics.js";

type Pool = Pick<ExecutorDescription, "layers" | "kvHeads" | "blocks" | "blockSize" | "layered" | "rotates">;

/** Throws INVALID_ARGUMENT naming the first record that leaves the pool. */
export function checkMoves(moves: Uint32Array, pool: Pool): void {
  if (moves.length % MOVE_WORDS !== 0)
    throw invalidArgument("moves", moves, `a multiple of ${MOVE_WORDS} words`);
  for (let at = 0; at < moves.length; at += MOVE_WORDS) {
    const [layer, kvHead, source, sourceOffset, target, targetOffset, slots, how] = moves.subarray(
      at,
      at + MOVE_WORDS,
    );
    const name = `moves[${at / MOVE_WORDS}]`;
    const [slices, turns] = [how & 1, how >>> 1];
    if (turns !== 0 && pool.rotates !== true) throw invalidArgument(`${name} turns`, turns, "0");
    if (slices > (pool.layered === true ? 1 : 0))
      throw invalidArgument(`${name} slices`, slices, pool.layered === true ? "0 or 1" : "0");
    const places = slices === 0 ? pool : { ...pool, blocks: pool.blocks * pool.layers };
    requireLane(name, layer, kvHead, pool);
    requireSlot(`${name} source`, source, sourceOffset, slots, places);
    requireSlot(`${name} target`, target, targetOffset, slots, places);
  }
}

/** Throws INVALID_ARGUMENT unless the blocks are of the pool and the payload, if given, has as many. */
export function checkBlocks(
  blocks: Uint32Array,
  pool: Pick<ExecutorDescription, "blocks" | "blockBytes">,
  payload?: Uint8Array,
): void {
  for (const [i, block] of blocks.entries()) requireInteger(`blocks[${i}]`, block, 0, pool.blocks - 1);
  if (payload !== undefined && payload.length !== blocks.length * pool.blockBytes)
    throw invalidArgument("payload", payload, `${pool.blockBytes} bytes for each block`);
}

/** One merge: the target's place and those of its members. */
export interface Merge {
  readonly layer: number;
  readonly kvHead: number;
  /** (block, offset) of the target, then of each member. */
  readonly places: Uint32Array;
}

/** Throws INVALID_ARGUMENT naming the first record that leaves the pool. */
export function readMerges(merges: Uint32Array, pool: Pool): Merge[] {
  const list: Merge[] = [];
  for (let at = 0; at < merges.length;) {
    const name = `merges[${list.length}]`;
    const [layer, kvHead, block, offset, members] = merges.subarray(at, at + 5);
    const end = at + 5 + 2 * members;
    if (!(end <= merges.length)) throw invalidArgument(name, members, "members within the records");
    requireLane(name, layer, kvHead, pool);
    const places = new Uint32Array(2 + 2 * members);
    places.set([block, offset]);
    places.set(merges.subarray(at + 5, end), 2);
    for (let i = 0; i < places.length; i += 2) requireSlot(name, places[i], places[i + 1], 1, pool);
    list.push({ layer, kvHead, places });
    at = end;
  }
  return list;
}

function requireLane(name: string, layer: number, kvHead: number, { layers, kvHeads }: Pool): void {
  if (layer >= layers) throw invalidArgument(`${name} layer`, layer, `below ${layers}`);
  if (kvHead >= kvHeads) throw invalidArgument(`${name} kvHead`, kvHead, `below ${kvHeads}`);
}

function requireSlot(
  name: string,
  block: number,
  offset: number,
  slots: number,
  { blocks, blockSize }: Pool,
): void {
  if (block >= blocks) throw invalidArgument(`${name} block`, block, `below ${blocks}`);
  if (offset + slots > blockSize)
    throw invalidArgument(`${name} slots`, slots, `within the block's ${blockSize} slots from ${offset} on`);
}
