// Cosines and sines of rotary positions (RoFormer, arXiv 2104.09864), computed in double, stored in float.
#ifndef QUARTERMASTER_CPU_ROPE_H
#define QUARTERMASTER_CPU_ROPE_H

#include <quartermaster_host.h>

#include <vector>

namespace qm {

class RopeTable {
 public:
  RopeTable(const qmh_rope& rope, uint32_t headDim);

  // Makes pairs() cover positions below `positions`; the table doubles, so that a long sequence pays a
  // constant each.
  void cover(uint32_t positions);

  // [position][headDim / 2] pairs (cos, sin). Valid until the next cover().
  const float* pairs() const { return pairs_.data(); }

 private:
  std::vector<double> frequencies_;  // radians a position, [headDim / 2], after scaling
  std::vector<float> pairs_;
};

}  // namespace qm

#endif  // QUARTERMASTER_CPU_ROPE_H
