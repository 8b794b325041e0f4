/*
 * The runtime that the translated core (wasm2c's output) is compiled against: one plain memory, no tables, no
 * threads, traps that unwind to the call that entered the core.
 *
 * Memory: 8 GiB of address space are reserved without access; the first `size` bytes are readable and writable.
 * A 32-bit address plus a 32-bit offset stays inside the reservation, so loads and stores need no bounds check
 * (WASM_RT_MEMCHECK_GUARD_PAGES). Growing changes the protection of further pages: the base never moves.
 */
#ifndef QM_WASM_RT_H
#define QM_WASM_RT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#error "the core's records are little-endian"
#endif

#define WABT_BIG_ENDIAN 0
#define WASM_RT_USE_SEGUE 0
#define WASM_RT_SANITY_CHECKS 0
#define WASM_RT_STACK_DEPTH_COUNT 0
#define WASM_RT_MEMCHECK_GUARD_PAGES 1

#define LIKELY(x) __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)
#define wasm_rt_memcpy memcpy
#define wasm_rt_unreachable __builtin_unreachable

typedef enum {
  WASM_RT_TRAP_NONE,
  WASM_RT_TRAP_OOB,
  WASM_RT_TRAP_INT_OVERFLOW,
  WASM_RT_TRAP_DIV_BY_ZERO,
  WASM_RT_TRAP_INVALID_CONVERSION,
  WASM_RT_TRAP_UNREACHABLE,
  WASM_RT_TRAP_CALL_INDIRECT,
  WASM_RT_TRAP_UNCAUGHT_EXCEPTION,
  WASM_RT_TRAP_EXHAUSTION
} wasm_rt_trap_t;

typedef enum { WASM_RT_I32, WASM_RT_I64, WASM_RT_F32, WASM_RT_F64, WASM_RT_V128 } wasm_rt_type_t;

typedef void (*wasm_rt_function_ptr_t)(void);
typedef struct {
  void (*fn)(void** instance, void* stack, void* next);
} wasm_rt_tailcallee_t;
typedef const char* wasm_rt_func_type_t;

/* The generated file declares helpers over tables; the core has none. */
typedef struct {
  wasm_rt_func_type_t func_type;
  wasm_rt_function_ptr_t func;
  wasm_rt_tailcallee_t func_tailcallee;
  void* module_instance;
} wasm_rt_funcref_t;
typedef void* wasm_rt_externref_t;
#define wasm_rt_funcref_null_value ((wasm_rt_funcref_t){NULL, NULL, {NULL}, NULL})
#define wasm_rt_externref_null_value ((wasm_rt_externref_t){NULL})
typedef struct {
  wasm_rt_funcref_t* data;
  uint32_t size, max_size;
} wasm_rt_funcref_table_t;
typedef struct {
  wasm_rt_externref_t* data;
  uint32_t size, max_size;
} wasm_rt_externref_table_t;

typedef struct {
  uint8_t* data;
  uint64_t pages, max_pages; /* of 64 KiB */
  uint64_t size;             /* bytes */
  bool is64;
} wasm_rt_memory_t;

/* Leaves the call into the core that is running on this thread; see core_calls.h. */
__attribute__((noreturn)) void wasm_rt_trap(wasm_rt_trap_t code);
bool wasm_rt_is_initialized(void);

/* Reserves the address space and makes `pages` pages usable. False: the system has no room. */
bool wasm_rt_reserve_memory(wasm_rt_memory_t* memory, uint64_t pages, uint64_t max_pages);
/* Makes `pages` pages usable in all. False, and nothing changed, past max_pages or when the system refuses. */
bool wasm_rt_extend_memory(wasm_rt_memory_t* memory, uint64_t pages);
void wasm_rt_release_memory(wasm_rt_memory_t* memory);

#endif
