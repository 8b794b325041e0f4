/* Memory and traps of the translated core; wasm-rt.h says how. */
#define _DEFAULT_SOURCE
#include "core_calls.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#define PAGE 65536u
/* Address and offset of an access are 32 bits each; one access reads up to 16 bytes. */
#define RESERVED ((2ull << 32) + PAGE)

_Thread_local qm_trap_frame* qm_innermost_frame = NULL;

void wasm_rt_trap(wasm_rt_trap_t code) {
  if (qm_innermost_frame == NULL) {
    fprintf(stderr, "quartermaster: trap %d outside of a call\n", (int)code);
    abort();
  }
  qm_innermost_frame->code = code;
  longjmp(qm_innermost_frame->registers, 1);
}

bool wasm_rt_is_initialized(void) { return true; }

bool wasm_rt_reserve_memory(wasm_rt_memory_t* memory, uint64_t pages, uint64_t max_pages) {
  void* base = mmap(NULL, RESERVED, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) return false;
  *memory = (wasm_rt_memory_t){.data = base, .max_pages = max_pages};
  if (wasm_rt_extend_memory(memory, pages)) return true;
  wasm_rt_release_memory(memory);
  return false;
}

bool wasm_rt_extend_memory(wasm_rt_memory_t* memory, uint64_t pages) {
  if (pages <= memory->pages) return true;
  if (pages > memory->max_pages) return false;
  const uint64_t bytes = pages * PAGE;
  if (mprotect(memory->data + memory->size, bytes - memory->size, PROT_READ | PROT_WRITE) != 0) return false;
  memory->pages = pages;
  memory->size = bytes;
  return true;
}

void wasm_rt_release_memory(wasm_rt_memory_t* memory) {
  if (memory->data != NULL) munmap(memory->data, RESERVED);
  *memory = (wasm_rt_memory_t){0};
}
