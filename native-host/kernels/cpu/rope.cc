#include "rope.h"

#include <math.h>

#include <algorithm>

namespace qm {
namespace {

// Llama 3.1 (arXiv 2407.21783): long wavelengths are stretched by `factor`, short ones kept, those between
// blended.
double llama3Frequency(double frequency, const qmh_rope& rope) {
  const double wavelength = 2 * M_PI / frequency;
  const double turns = rope.original_max_positions / wavelength;
  if (turns < rope.low_freq_factor) return frequency / rope.factor;
  if (turns > rope.high_freq_factor) return frequency;
  const double blend = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
  return (1 - blend) * frequency / rope.factor + blend * frequency;
}

}  // namespace

RopeTable::RopeTable(const qmh_rope& rope, uint32_t headDim) {
  for (uint32_t i = 0; i < headDim / 2; i++) {
    double frequency = pow(rope.theta, -2.0 * i / headDim);
    if (rope.scaling == QMH_SCALING_LINEAR) frequency /= rope.factor;
    if (rope.scaling == QMH_SCALING_LLAMA3) frequency = llama3Frequency(frequency, rope);
    frequencies_.push_back(frequency);
  }
}

void RopeTable::cover(uint32_t positions) {
  const size_t half = frequencies_.size();
  const size_t have = pairs_.size() / (2 * half);
  if (positions <= have) return;
  const size_t want = std::max<size_t>({positions, 2 * have, 256});
  pairs_.resize(want * 2 * half);
  for (size_t p = have; p < want; p++) {
    for (size_t i = 0; i < half; i++) {
      const double angle = static_cast<double>(p) * frequencies_[i];
      pairs_[(p * half + i) * 2] = static_cast<float>(cos(angle));
      pairs_[(p * half + i) * 2 + 1] = static_cast<float>(sin(angle));
    }
  }
}

}  // namespace qm
