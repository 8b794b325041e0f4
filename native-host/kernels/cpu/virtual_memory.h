// Reserved ranges and the anonymous file behind them (quartermaster_virtual.h).
#ifndef QUARTERMASTER_CPU_VIRTUAL_MEMORY_H
#define QUARTERMASTER_CPU_VIRTUAL_MEMORY_H

#include <quartermaster_virtual.h>

#include <atomic>

namespace qm {

class VirtualMemory {
 public:
  // Throws Refusal.
  explicit VirtualMemory(const qmh_virtual_shape& shape);
  VirtualMemory(const VirtualMemory&) = delete;
  VirtualMemory& operator=(const VirtualMemory&) = delete;
  ~VirtualMemory();

  uint8_t* base() const { return base_; }
  qmh_map_cost execute(const uint32_t* changes, size_t count);
  void trim(const uint32_t* blocks, size_t count);
  uint64_t resident() const;

  std::atomic<bool> busy{false};

 private:
  uint8_t* address(uint32_t slot, uint32_t tensor, uint32_t page) const;
  uint64_t offset(uint32_t tensor, uint32_t block) const;
  void map(uint32_t slot, uint32_t page, uint32_t block, uint32_t pages);
  void unmap(uint32_t slot, uint32_t page, uint32_t pages);

  qmh_virtual_shape shape_;
  uint8_t* base_ = nullptr;
  uint64_t bytes_ = 0;
  int file_ = -1;
};

}  // namespace qm

#endif  // QUARTERMASTER_CPU_VIRTUAL_MEMORY_H
