// Memory from the system: weight files mapped read-only, and zeroed pages for the KV pool.
//
// Pages are taken when first touched, so that a large pool or model costs nothing until used. Weights stay in
// the page cache and are shared by processes that run the same model.
#ifndef QUARTERMASTER_CPU_MAPPED_MEMORY_H
#define QUARTERMASTER_CPU_MAPPED_MEMORY_H

#include <stddef.h>
#include <stdint.h>

namespace qm {

class MappedMemory {
 public:
  // Throws Refusal (QMH_IO) naming the file.
  static MappedMemory file(const char* path);
  // Zeroed, writable, page-aligned. Throws Refusal (QMH_OUT_OF_MEMORY) with the bytes wanted.
  static MappedMemory zeroed(size_t bytes);

  MappedMemory(MappedMemory&& other) noexcept;
  MappedMemory& operator=(MappedMemory&&) = delete;
  ~MappedMemory();

  uint8_t* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  MappedMemory(uint8_t* data, size_t bytes) : data_(data), bytes_(bytes) {}

  uint8_t* data_;
  size_t bytes_;
};

}  // namespace qm

#endif  // QUARTERMASTER_CPU_MAPPED_MEMORY_H
