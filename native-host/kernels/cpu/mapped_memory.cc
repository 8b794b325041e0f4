#include "mapped_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "refusal.h"

namespace qm {

MappedMemory MappedMemory::file(const char* path) {
  const int descriptor = open(path, O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) refuse(QMH_IO, "cannot open %.160s: %s", path, strerror(errno));
  struct stat status;
  if (fstat(descriptor, &status) != 0 || status.st_size <= 0) {
    close(descriptor);
    refuse(QMH_IO, "%.160s is empty or not a plain file", path);
  }
  const size_t bytes = static_cast<size_t>(status.st_size);
  void* data = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, descriptor, 0);
  const int error = errno;
  close(descriptor);  // the mapping keeps the file
  if (data == MAP_FAILED) refuse(QMH_IO, "cannot map %.160s: %s", path, strerror(error));
  madvise(data, bytes, MADV_WILLNEED);  // advice only
  return {static_cast<uint8_t*>(data), bytes};
}

MappedMemory MappedMemory::zeroed(size_t bytes) {
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) refuse(QMH_OUT_OF_MEMORY, "the system refuses %zu bytes", bytes);
#ifdef MADV_HUGEPAGE
  madvise(data, bytes, MADV_HUGEPAGE);
#endif
  return {static_cast<uint8_t*>(data), bytes};
}

MappedMemory::MappedMemory(MappedMemory&& other) noexcept : data_(other.data_), bytes_(other.bytes_) {
  other.data_ = nullptr;
}

MappedMemory::~MappedMemory() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

}  // namespace qm
