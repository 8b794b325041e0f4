// Which kernels this machine can run.
#ifndef QUARTERMASTER_CPU_ISA_H
#define QUARTERMASTER_CPU_ISA_H

#include <quartermaster_host.h>

#include "../kernels.h"

namespace qm {

// The kernels of an instruction set, the fastest for QMH_AUTO; null where the machine or the library lacks
// them.
const Kernels* kernelsFor(qmh_isa isa);

// QMH_AUTO resolved; others as they are.
qmh_isa resolveIsa(qmh_isa isa);

}  // namespace qm

#endif  // QUARTERMASTER_CPU_ISA_H
