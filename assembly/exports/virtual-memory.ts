/**
 * The virtually contiguous allocator as the host sees it. `vm` is the pointer of a region of kind VirtualMemory; its
 * header words and the records of the map plan are in docs/abi.md, enough for a host to check every invariant, as the
 * bindings do.
 */
import { ARENA, arenaTake, RegionKind } from "../memory/arena";
import {
  INVALID_ARGUMENT,
  OK,
  OUT_OF_MEMORY,
  Status,
  STEP_IN_FLIGHT,
  TOO_LONG,
  UNKNOWN_SEQUENCE,
} from "../memory/status";
import { slotAt, VirtualMemory, vmBytes, vmCreate, vmShapeValid } from "../vmm/layout";
import { ringHasRoom } from "../vmm/mapping";
import {
  allocateSlot,
  availableBlocks,
  checkLengths,
  freeSlot,
  isActive,
  sharePrefix,
  trimSlots,
} from "../vmm/slots";
import { background, stepLengths } from "../vmm/step";

// @ts-ignore: decorator
@inline
function at(vm: usize): VirtualMemory {
  return changetype<VirtualMemory>(vm);
}

/**
 * Bytes of the tables of a virtual memory, or INVALID_ARGUMENT: `slots` 1 to 4096 of up to `maxTokens` tokens of
 * `tokenBytes` bytes in each tensor, page-groups of `pageBytes` (a power of two from 4096), `blocks` KV blocks of
 * physical memory.
 */
export function virtualMemoryBytes(
  slots: u32,
  maxTokens: u32,
  tokenBytes: u32,
  pageBytes: u32,
  blocks: u32,
): f64 {
  if (!vmShapeValid(slots, maxTokens, tokenBytes, pageBytes, blocks)) return INVALID_ARGUMENT;
  return <f64>vmBytes(slots, maxTokens, tokenBytes, pageBytes, blocks);
}

/** Creates one with nothing mapped, afterwards the arena's last region. `tensors` is the host's, kept for it. */
export function virtualMemoryCreate(
  slots: u32,
  maxTokens: u32,
  tokenBytes: u32,
  pageBytes: u32,
  blocks: u32,
  tensors: u32,
  eagerSteps: u32,
  eagerBlocks: u32,
  eagerReclaim: u32,
): Status {
  const bytes = virtualMemoryBytes(slots, maxTokens, tokenBytes, pageBytes, blocks);
  if (bytes < 0) return INVALID_ARGUMENT;
  const region = arenaTake(ARENA, RegionKind.VirtualMemory, <u64>bytes);
  if (region == 0) return OUT_OF_MEMORY;
  const vm = changetype<VirtualMemory>(region);
  vmCreate(vm, slots, maxTokens, tokenBytes, pageBytes, blocks);
  vm.tensors = tensors;
  vm.eagerSteps = min(eagerSteps, maxTokens);
  vm.eagerBlocks = eagerBlocks;
  vm.eagerReclaim = u32(eagerReclaim != 0);
  return OK;
}

/** Whether two slots can have the first `tokens` tokens in common: neither is shorter. */
// @ts-ignore: decorator
@inline
function canShare(vm: usize, from: u32, length: u32, tokens: u32): bool {
  return tokens <= length && tokens <= slotAt(at(vm), from).length;
}

/**
 * Gives a slot to a sequence of `tokens` tokens, of which it reads the first `prefix` where slot `from` has them, as
 * far as whole pages go. OUT_OF_SEQUENCES, OUT_OF_BLOCKS, TOO_LONG, UNKNOWN_SEQUENCE.
 */
export function virtualMemoryAllocate(vm: usize, tokens: u32, from: u32, prefix: u32): i32 {
  if (tokens == 0) return INVALID_ARGUMENT;
  if (tokens > at(vm).maxTokens) return TOO_LONG;
  if (prefix > 0) {
    if (!isActive(at(vm), from)) return UNKNOWN_SEQUENCE;
    if (!canShare(vm, from, tokens, prefix)) return INVALID_ARGUMENT;
  }
  if (!ringHasRoom(at(vm))) return STEP_IN_FLIGHT;
  return allocateSlot(at(vm), tokens, from, prefix);
}

/** Ends a slot's sequence; its pages stay mapped unless `unmap` is set. */
export function virtualMemoryFree(vm: usize, slot: u32, unmap: u32): Status {
  if (!isActive(at(vm), slot)) return UNKNOWN_SEQUENCE;
  if (!ringHasRoom(at(vm))) return STEP_IN_FLIGHT;
  freeSlot(at(vm), slot, unmap != 0);
  return OK;
}

/**
 * Maps what the lengths at `lengths` need (u32 a slot; 0 exactly for inactive slots); overwrites them. Returns how many
 * slots there was no memory for: they are listed at `short`, keep their length, and the others are served. TOO_LONG and
 * INVALID_ARGUMENT (also where a slot would end before a shared prefix of its own) change nothing.
 */
export function virtualMemoryStep(vm: usize): i32 {
  if (!ringHasRoom(at(vm))) return STEP_IN_FLIGHT;
  const status = checkLengths(at(vm));
  return status == OK ? <i32>stepLengths(at(vm)) : status;
}

/** Plans what the steps to come will need; to be executed while the kernels run. */
export function virtualMemoryBackground(vm: usize): Status {
  if (!ringHasRoom(at(vm))) return STEP_IN_FLIGHT;
  background(at(vm));
  return OK;
}

/** Lets `to` read the first pages of `from`; returns how many tokens that is, at most `tokens`. */
export function virtualMemoryShare(vm: usize, from: u32, to: u32, tokens: u32): i32 {
  if (!isActive(at(vm), from) || !isActive(at(vm), to)) return UNKNOWN_SEQUENCE;
  if (from == to || !canShare(vm, from, slotAt(at(vm), to).length, tokens)) return INVALID_ARGUMENT;
  if (!ringHasRoom(at(vm))) return STEP_IN_FLIGHT;
  return sharePrefix(at(vm), from, to, tokens);
}

/** Unmaps all that no token lies in. */
export function virtualMemoryTrim(vm: usize): Status {
  if (!ringHasRoom(at(vm))) return STEP_IN_FLIGHT;
  trimSlots(at(vm));
  return OK;
}

/** KV blocks that can be had, free or by unmapping. */
export function virtualMemoryAvailable(vm: usize): u32 {
  return availableBlocks(at(vm));
}
