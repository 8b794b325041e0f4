#include "isa.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace qm {
namespace {

#if defined(__x86_64__)
bool hasF16c() {
  unsigned a, b, c = 0, d;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}
#endif

// __builtin_cpu_supports also asks whether the system saves the wide registers. Asked once: a virtual machine
// may take microseconds for an answer.
bool machineHas(qmh_isa isa) {
#if defined(__x86_64__)
  static const bool avx2 = hasF16c() && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  static const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                             __builtin_cpu_supports("avx512vl");
  if (isa == QMH_AVX2) return avx2;
  if (isa == QMH_AVX512) return avx512;
#endif
  return isa == QMH_PORTABLE || isa == QMH_REFERENCE;
}

}  // namespace

qmh_isa resolveIsa(qmh_isa isa) {
  if (isa != QMH_AUTO) return isa;
  if (kernelsFor(QMH_AVX512)) return QMH_AVX512;
  return kernelsFor(QMH_AVX2) ? QMH_AVX2 : QMH_PORTABLE;
}

const Kernels* kernelsFor(qmh_isa isa) {
  if (isa == QMH_AUTO) isa = resolveIsa(isa);
  if (!machineHas(isa)) return nullptr;
  switch (isa) {
    case QMH_AVX512:
      return avx512Kernels();
    case QMH_AVX2:
      return avx2Kernels();
    case QMH_REFERENCE:
      return referenceKernels();
    default:
      return portableKernels();
  }
}

}  // namespace qm
