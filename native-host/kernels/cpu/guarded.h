// What stands between C++ and the C boundary: a body that throws becomes a status and a sentence.
#ifndef QUARTERMASTER_CPU_GUARDED_H
#define QUARTERMASTER_CPU_GUARDED_H

#include <new>

#include "refusal.h"

namespace qm {

// Keeps the sentence for qmh_last_error of this thread; returns the status.
int remember(qmh_status status, const char* message);

template <class Body>
int guarded(Body body) {
  try {
    body();
    return QMH_OK;
  } catch (const Refusal& refusal) {
    return remember(refusal.status, refusal.message);
  } catch (const std::bad_alloc&) {
    return remember(QMH_OUT_OF_MEMORY, "the system refuses more memory");
  } catch (...) {
    return remember(QMH_UNSUPPORTED, "an unexpected failure of the C++ library");
  }
}

}  // namespace qm

#endif  // QUARTERMASTER_CPU_GUARDED_H
