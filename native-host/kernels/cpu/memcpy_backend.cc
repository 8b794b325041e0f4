// Copies where the device's memory is the host's: a stream is the thread itself.
#include <string.h>

#include "copy_backend.h"
#include "mapped_memory.h"
#include "refusal.h"

namespace qm {
namespace {

class MemcpyStream : public CopyStream {
 public:
  void copy(uint8_t* target, const uint8_t* source, size_t bytes) override {
    memcpy(target, source, bytes);
    copied_++;
  }

  size_t finish() override {
    const size_t copied = copied_;
    copied_ = 0;
    return copied;
  }

 private:
  size_t copied_ = 0;
};

class MemcpyBackend : public CopyBackend {
 public:
  std::shared_ptr<uint8_t> takeHost(size_t bytes) const override {
    const auto memory = std::make_shared<MappedMemory>(MappedMemory::zeroed(bytes));
    return std::shared_ptr<uint8_t>(memory, memory->data());
  }

  std::unique_ptr<CopyStream> openStream(CopyDirection) const override {
    return std::make_unique<MemcpyStream>();
  }
};

}  // namespace

const CopyBackend& memcpyBackend() {
  static const MemcpyBackend backend;
  return backend;
}

const CopyBackend& copyBackend(qmh_copy_backend which) {
  if (which == QMH_COPY_MEMCPY) return memcpyBackend();
  refuse(QMH_UNSUPPORTED, "copies by back end %d: this library was built without it", static_cast<int>(which));
}

}  // namespace qm
