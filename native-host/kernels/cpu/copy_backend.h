// What carries bytes between a device's memory and the host's: memcpy where both are the same; a device with its own
// memory brings a file beside memcpy_backend.cc and a line in copyBackend().
#ifndef QUARTERMASTER_CPU_COPY_BACKEND_H
#define QUARTERMASTER_CPU_COPY_BACKEND_H

#include <quartermaster_copy.h>

#include <memory>

namespace qm {

enum CopyDirection : uint32_t { COPY_OUT, COPY_IN, COPY_DIRECTIONS };

// Used by one thread, which is the one that opened it.
class CopyStream {
 public:
  virtual ~CopyStream() = default;
  // Begins a copy. Both sides are left alone until finish().
  virtual void copy(uint8_t* target, const uint8_t* source, size_t bytes) = 0;
  // Waits for the copies begun since the last call. Returns how many of them, from the first on, have arrived.
  virtual size_t finish() = 0;
};

class CopyBackend {
 public:
  virtual ~CopyBackend() = default;
  // Host memory that the device copies from and to at its best. Throws Refusal (QMH_OUT_OF_MEMORY).
  virtual std::shared_ptr<uint8_t> takeHost(size_t bytes) const = 0;
  virtual std::unique_ptr<CopyStream> openStream(CopyDirection direction) const = 0;
};

const CopyBackend& memcpyBackend();

// Throws Refusal (QMH_UNSUPPORTED).
const CopyBackend& copyBackend(qmh_copy_backend which);

}  // namespace qm

#endif  // QUARTERMASTER_CPU_COPY_BACKEND_H
