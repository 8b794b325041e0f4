/* Virtual memory of quartermaster.h. */
#include "core_calls.h"

/* Words of the header, and of a slot: docs/abi.md. */
enum {
  VM_SLOT_COUNT = 0,
  VM_SLOT_PAGES = 4,
  VM_SLOTS = 11,
  VM_TABLE = 12,
  VM_LENGTHS = 15,
  VM_SHORT = 16,
  VM_RING = 17,
  VM_RING_MASK = 18,
  VM_TAKEN = 19,
  VM_MADE = 20,
  VM_SLOT_BYTES = 16,
  VM_SLOT_MAPPED = 2
};

int qm_virtual_memory_create(qm_core* core, const qm_virtual_memory_options* options, qm_virtual_memory* memory) {
  if (core == NULL || options == NULL || memory == NULL) return QM_INVALID_ARGUMENT;
  const qm_virtual_memory_options o = *options;
  const uint32_t page_bytes = o.page_bytes ? o.page_bytes : 65536, tensors = o.tensors ? o.tensors : 1;
  double bytes = 0;
  QM_CALL(core, bytes,
          w2c_qm_virtualMemoryBytes(instance, o.slots, o.max_tokens, o.token_bytes, page_bytes, o.blocks));
  int status = qm_make_room(core, bytes);
  if (status == QM_OK)
    QM_CALL(core, status,
            (int)w2c_qm_virtualMemoryCreate(instance, o.slots, o.max_tokens, o.token_bytes, page_bytes, o.blocks,
                                            tensors, o.eager_steps, o.eager_blocks, o.eager_reclaim != 0));
  return status < 0 ? status : qm_last_region(core, memory);
}

int qm_virtual_memory_allocate(qm_core* core, qm_virtual_memory memory, uint32_t tokens, uint32_t from,
                               uint32_t prefix) {
  REQUIRE(core, QM_VIRTUAL_MEMORY, memory);
  RESULT(core, w2c_qm_virtualMemoryAllocate(instance, memory, tokens, from, prefix));
}

int qm_virtual_memory_free(qm_core* core, qm_virtual_memory memory, uint32_t slot, int unmap) {
  REQUIRE(core, QM_VIRTUAL_MEMORY, memory);
  RESULT(core, w2c_qm_virtualMemoryFree(instance, memory, slot, unmap != 0));
}

static uint32_t vm_word(const qm_core* core, qm_virtual_memory memory, uint32_t index) {
  return word(core, memory + 4 * index);
}

int qm_virtual_memory_step(qm_core* core, qm_virtual_memory memory, const uint32_t* lengths, const uint32_t** refused) {
  REQUIRE(core, QM_VIRTUAL_MEMORY, memory);
  if (lengths == NULL || refused == NULL) return QM_INVALID_ARGUMENT;
  memcpy(at(core, vm_word(core, memory, VM_LENGTHS)), lengths, 4ull * vm_word(core, memory, VM_SLOT_COUNT));
  *refused = (const uint32_t*)at(core, vm_word(core, memory, VM_SHORT));
  RESULT(core, w2c_qm_virtualMemoryStep(instance, memory));
}

int qm_virtual_memory_background(qm_core* core, qm_virtual_memory memory) {
  REQUIRE(core, QM_VIRTUAL_MEMORY, memory);
  RESULT(core, w2c_qm_virtualMemoryBackground(instance, memory));
}

int qm_virtual_memory_share(qm_core* core, qm_virtual_memory memory, uint32_t from, uint32_t to, uint32_t tokens) {
  REQUIRE(core, QM_VIRTUAL_MEMORY, memory);
  RESULT(core, w2c_qm_virtualMemoryShare(instance, memory, from, to, tokens));
}

int qm_virtual_memory_trim(qm_core* core, qm_virtual_memory memory) {
  REQUIRE(core, QM_VIRTUAL_MEMORY, memory);
  RESULT(core, w2c_qm_virtualMemoryTrim(instance, memory));
}

int qm_virtual_memory_take(qm_core* core, qm_virtual_memory memory, qm_page_change* changes, uint32_t capacity) {
  REQUIRE(core, QM_VIRTUAL_MEMORY, memory);
  if (core->poisoned) return QM_POISONED;
  if (changes == NULL && capacity > 0) return QM_INVALID_ARGUMENT;
  const uint32_t ring = vm_word(core, memory, VM_RING), mask = vm_word(core, memory, VM_RING_MASK);
  uint32_t taken = vm_word(core, memory, VM_TAKEN);
  const uint32_t count = least(capacity, vm_word(core, memory, VM_MADE) - taken);
  for (uint32_t i = 0; i < count; i++, taken++)
    memcpy(changes + i, at(core, ring) + sizeof *changes * (taken & mask), sizeof *changes);
  memcpy(at(core, memory + 4 * VM_TAKEN), &taken, sizeof taken);
  return (int)count;
}

int qm_virtual_memory_pages(qm_core* core, qm_virtual_memory memory, uint32_t slot, const uint32_t** blocks) {
  REQUIRE(core, QM_VIRTUAL_MEMORY, memory);
  if (core->poisoned) return QM_POISONED;
  if (blocks == NULL || slot >= vm_word(core, memory, VM_SLOT_COUNT)) return QM_INVALID_ARGUMENT;
  const uint32_t row = 4 * slot * vm_word(core, memory, VM_SLOT_PAGES);
  *blocks = (const uint32_t*)at(core, vm_word(core, memory, VM_TABLE) + row);
  return (int)word(core, vm_word(core, memory, VM_SLOTS) + slot * VM_SLOT_BYTES + 4 * VM_SLOT_MAPPED);
}

int qm_virtual_memory_available(qm_core* core, qm_virtual_memory memory) {
  REQUIRE(core, QM_VIRTUAL_MEMORY, memory);
  RESULT(core, w2c_qm_virtualMemoryAvailable(instance, memory));
}
