#include "virtual_memory.h"

#include <errno.h>
#include <string.h>

#include <algorithm>
#include <chrono>

#include "refusal.h"

#ifdef __linux__

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace qm {
namespace {

constexpr uint32_t CHANGE_WORDS = 4;
constexpr uint32_t UNMAP = 0, MAP = 1;
constexpr uint64_t MOST_BYTES = uint64_t{1} << 46;

// Throws unless the counts are there and their product is an address range.
uint64_t rangeBytes(const qmh_virtual_shape& s) {
  const uint64_t system = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  if (s.slots == 0 || s.slot_pages == 0 || s.tensors == 0 || s.blocks == 0)
    refuse(QMH_INVALID_ARGUMENT, "a count of the shape is 0");
  if (s.page_bytes == 0 || s.page_bytes % system != 0 || s.page_bytes > MOST_BYTES)
    refuse(QMH_INVALID_ARGUMENT, "page_bytes is %llu; allowed: a multiple of %llu",
           static_cast<unsigned long long>(s.page_bytes), static_cast<unsigned long long>(system));
  const double range = static_cast<double>(s.slots) * s.slot_pages * s.tensors * s.page_bytes;
  const double file = static_cast<double>(s.blocks) * s.tensors * s.page_bytes;
  if (range > MOST_BYTES || file > MOST_BYTES)
    refuse(QMH_OUT_OF_MEMORY, "%.3g bytes of addresses and %.3g of memory; at most 2^46", range, file);
  return uint64_t{s.slots} * s.slot_pages * s.tensors * s.page_bytes;
}

}  // namespace

VirtualMemory::VirtualMemory(const qmh_virtual_shape& shape) : shape_(shape), bytes_(rangeBytes(shape)) {
  file_ = memfd_create("quartermaster", MFD_CLOEXEC);
  if (file_ < 0) refuse(QMH_UNSUPPORTED, "no anonymous files here: %s", strerror(errno));
  const uint64_t physical = uint64_t{shape.blocks} * shape.tensors * shape.page_bytes;
  void* range = MAP_FAILED;
  if (ftruncate(file_, static_cast<off_t>(physical)) == 0)
    range = mmap(nullptr, bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (range == MAP_FAILED) {
    const int error = errno;
    close(file_);
    refuse(QMH_OUT_OF_MEMORY, "the system refuses %llu bytes of addresses or a file of %llu: %s",
           static_cast<unsigned long long>(bytes_), static_cast<unsigned long long>(physical), strerror(error));
  }
  base_ = static_cast<uint8_t*>(range);
}

VirtualMemory::~VirtualMemory() {
  munmap(base_, bytes_);
  close(file_);
}

uint8_t* VirtualMemory::address(uint32_t slot, uint32_t tensor, uint32_t page) const {
  return base_ +
         ((uint64_t{slot} * shape_.tensors + tensor) * shape_.slot_pages + page) * shape_.page_bytes;
}

// Tensor by tensor, so that consecutive KV blocks behind consecutive pages are one mapping.
uint64_t VirtualMemory::offset(uint32_t tensor, uint32_t block) const {
  return (uint64_t{tensor} * shape_.blocks + block) * shape_.page_bytes;
}

void VirtualMemory::map(uint32_t slot, uint32_t page, uint32_t block, uint32_t pages) {
  const uint64_t bytes = pages * shape_.page_bytes;
  for (uint32_t tensor = 0; tensor < shape_.tensors; tensor++) {
    void* at = address(slot, tensor, page);
    if (mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file_,
             static_cast<off_t>(offset(tensor, block))) == MAP_FAILED)
      refuse(QMH_OUT_OF_MEMORY, "mapping fails: %s%s", strerror(errno),
             errno == ENOMEM ? " (more mappings than vm.max_map_count? take larger page-groups)" : "");
  }
}

void VirtualMemory::unmap(uint32_t slot, uint32_t page, uint32_t pages) {
  const uint64_t bytes = pages * shape_.page_bytes;
  for (uint32_t tensor = 0; tensor < shape_.tensors; tensor++) {
    void* at = address(slot, tensor, page);
    if (mmap(at, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) ==
        MAP_FAILED)
      refuse(QMH_OUT_OF_MEMORY, "unmapping fails: %s", strerror(errno));
  }
}

qmh_map_cost VirtualMemory::execute(const uint32_t* changes, size_t count) {
  using Clock = std::chrono::steady_clock;
  for (size_t i = 0; i < count; i++) {
    const uint32_t* c = changes + i * CHANGE_WORDS;
    if (c[0] > MAP || c[1] >= shape_.slots || c[2] >= shape_.slot_pages || c[3] >= shape_.blocks)
      refuse(QMH_INVALID_ARGUMENT, "change %zu is op %u, slot %u, page %u, KV block %u", i, c[0], c[1], c[2],
             c[3]);
  }
  qmh_map_cost cost = {0, 0};
  const Clock::time_point start = Clock::now();
  for (size_t i = 0, next; i < count; i = next) {
    const uint32_t *first = changes + i * CHANGE_WORDS, slot = first[1];
    uint32_t low = first[2], pages = 1;
    // Neighbours become one call: upwards as memory grows, downwards as it goes.
    for (next = i + 1; next < count; next++) {
      const uint32_t* c = changes + next * CHANGE_WORDS;
      if (c[0] != first[0] || c[1] != slot) break;
      if (first[0] == MAP && (c[2] != low + pages || c[3] != first[3] + pages)) break;
      if (first[0] == UNMAP && c[2] + 1 != low) break;
      low -= first[0] == UNMAP ? 1 : 0;
      pages++;
    }
    if (first[0] == MAP)
      map(slot, low, first[3], pages);
    else
      unmap(slot, low, pages);
    cost.calls += shape_.tensors;
  }
  cost.us = std::chrono::duration<double, std::micro>(Clock::now() - start).count();
  return cost;
}

void VirtualMemory::trim(const uint32_t* blocks, size_t count) {
  for (size_t i = 0; i < count; i++)
    if (blocks[i] >= shape_.blocks)
      refuse(QMH_INVALID_ARGUMENT, "KV block %u of %u", blocks[i], shape_.blocks);
  for (size_t i = 0, next; i < count; i = next) {
    for (next = i + 1; next < count && blocks[next] == blocks[next - 1] + 1;) next++;
    for (uint32_t tensor = 0; tensor < shape_.tensors; tensor++) {
      const off_t bytes = static_cast<off_t>((next - i) * shape_.page_bytes);
      if (fallocate(file_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                    static_cast<off_t>(offset(tensor, blocks[i])), bytes) != 0)
        refuse(QMH_IO, "the system does not take memory back: %s", strerror(errno));
    }
  }
}

uint64_t VirtualMemory::resident() const {
  struct stat status;
  if (fstat(file_, &status) != 0) refuse(QMH_IO, "%s", strerror(errno));
  return static_cast<uint64_t>(status.st_blocks) * 512;
}

}  // namespace qm

#else

namespace qm {

VirtualMemory::VirtualMemory(const qmh_virtual_shape& shape) : shape_(shape) {
  refuse(QMH_UNSUPPORTED, "memory is mapped page by page on Linux only");
}
VirtualMemory::~VirtualMemory() {}
qmh_map_cost VirtualMemory::execute(const uint32_t*, size_t) { return {0, 0}; }
void VirtualMemory::trim(const uint32_t*, size_t) {}
uint64_t VirtualMemory::resident() const { return 0; }

}  // namespace qm

#endif
