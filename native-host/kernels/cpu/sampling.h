// Picks a token from a row of logits.
//
// The rule, which the TypeScript sampler repeats word for word:
//   1. repetition penalty p (arXiv 1909.05858): each distinct token of the history: logit > 0 ? logit / p :
//      logit * p
//   2. temperature 0: the largest logit, ties to the smaller id; else l = double(logit) / double(temperature)
//   3. order by l descending, id ascending; keep the first topK
//   4. w = exp(l - largest l)
//   5. topP (arXiv 1904.09751): the smallest prefix whose share of the sum reaches it; minP (arXiv
//      2407.01082): drop w < minP * w[0]
//   6. the first token at which the running sum exceeds u * total, u drawn from (seed, position) alone
// Sums run in that order, so that the same logits and record give the same token everywhere.
#ifndef QUARTERMASTER_CPU_SAMPLING_H
#define QUARTERMASTER_CPU_SAMPLING_H

#include <quartermaster_host.h>
#include <stdint.h>

#include <vector>

namespace qm {

// Room for one row at a time; one per thread.
struct SamplingScratch {
  explicit SamplingScratch(uint32_t vocab);

  std::vector<float> logits;
  std::vector<uint64_t> order, swap;
  std::vector<double> weights;
  std::vector<bool> penalized;
};

// Throws Refusal (QMH_INVALID_ARGUMENT) naming the field that is outside its range.
void checkSampling(const qmh_sampling& s, uint32_t vocab, const uint32_t* history, size_t historyCount);

// REQUIRES: checkSampling passed; scratch was made for `vocab`. Allocates nothing.
uint32_t sampleRow(const float* logits, uint32_t vocab, const qmh_sampling& s, const uint32_t* history,
                   SamplingScratch* scratch);

}  // namespace qm

#endif  // QUARTERMASTER_CPU_SAMPLING_H
