// A refused call, inside the library: thrown anywhere, turned into a status at the C boundary (c_api.cc).
#ifndef QUARTERMASTER_CPU_REFUSAL_H
#define QUARTERMASTER_CPU_REFUSAL_H

#include <quartermaster_host.h>

namespace qm {

struct Refusal {
  qmh_status status;
  char message[256];
};

#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
[[noreturn]] void refuse(qmh_status status, const char* format, ...);

}  // namespace qm

#endif  // QUARTERMASTER_CPU_REFUSAL_H
