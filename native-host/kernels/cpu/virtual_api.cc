// The C boundary of virtually contiguous memory.
#include <quartermaster_virtual.h>

#include "guarded.h"
#include "virtual_memory.h"

struct qmh_virtual : qm::VirtualMemory {
  using qm::VirtualMemory::VirtualMemory;
};

using namespace qm;

namespace {

// Marks the memory busy for a scope.
class Changing {
 public:
  explicit Changing(qmh_virtual* memory) : memory_(memory) {
    if (memory->busy.exchange(true)) refuse(QMH_BUSY, "a plan is being executed");
  }
  ~Changing() { memory_->busy = false; }
  Changing(const Changing&) = delete;
  Changing& operator=(const Changing&) = delete;

 private:
  qmh_virtual* memory_;
};

}  // namespace

int qmh_virtual_create(const qmh_virtual_shape* shape, qmh_virtual** memory) {
  return guarded([&] {
    *memory = nullptr;
    *memory = new qmh_virtual(*shape);
  });
}

void qmh_virtual_free(qmh_virtual* memory) { delete memory; }

void* qmh_virtual_base(const qmh_virtual* memory) { return memory->base(); }

int qmh_virtual_execute(qmh_virtual* memory, const uint32_t* changes, size_t count, qmh_map_cost* cost) {
  return guarded([&] {
    const Changing changing(memory);
    *cost = memory->execute(changes, count);
  });
}

int qmh_virtual_trim(qmh_virtual* memory, const uint32_t* blocks, size_t count) {
  return guarded([&] {
    const Changing changing(memory);
    memory->trim(blocks, count);
  });
}

int qmh_virtual_resident(const qmh_virtual* memory, uint64_t* bytes) {
  return guarded([&] { *bytes = memory->resident(); });
}
