#include "sampling.h"

#include <math.h>
#include <string.h>

#include <algorithm>

#include "refusal.h"

namespace qm {
namespace {

// Below this many candidates a comparison sort beats three passes of counting.
constexpr uint32_t COUNTING_SORT_FROM = 4096;

// u in [0, 1): draw `position` of the stream of `seed`. SplitMix64 (Steele, Lea, Flood 2014).
double uniform(uint64_t seed, uint32_t position) {
  uint64_t z = seed + (uint64_t{position} + 1) * 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  z ^= z >> 31;
  return static_cast<double>(z >> 11) * 0x1p-53;
}

uint32_t largestLogit(const float* logits, uint32_t vocab) {
  // Sixteen independent maxima, which compilers keep in vector registers; then the first place that has the
  // largest.
  constexpr uint32_t LANES = 16;
  float most[LANES];
  for (float& m : most) m = -INFINITY;
  uint32_t i = 0;
  for (; i + LANES <= vocab; i += LANES) {
    for (uint32_t j = 0; j < LANES; j++) most[j] = logits[i + j] > most[j] ? logits[i + j] : most[j];
  }
  for (; i < vocab; i++) most[0] = logits[i] > most[0] ? logits[i] : most[0];
  for (uint32_t j = 1; j < LANES; j++) most[0] = most[j] > most[0] ? most[j] : most[0];
  const float* first = std::find(logits, logits + vocab, most[0]);
  return first == logits + vocab ? 0 : static_cast<uint32_t>(first - logits);
}

// High word: ascends as the logit descends; low word: the id. Ascending order is the order of rule 3.
uint64_t orderKey(float logit, uint32_t id) {
  uint32_t bits;
  const float value = logit == 0 ? 0.0f : logit;  // -0 and 0 are equal
  memcpy(&bits, &value, sizeof bits);
  const uint32_t ascending = bits ^ ((bits >> 31) != 0 ? 0xffffffffu : 0x80000000u);
  return (uint64_t{~ascending} << 32) | id;
}

// Sorts by the high word, three passes of 11 bits; stable, and ids are ascending already.
void countingSort(std::vector<uint64_t>* keys, std::vector<uint64_t>* swap, uint32_t count) {
  constexpr uint32_t BITS = 11, BUCKETS = 1 << BITS;
  for (uint32_t shift = 32; shift < 64; shift += BITS) {
    uint32_t starts[BUCKETS + 1] = {};
    for (uint32_t i = 0; i < count; i++) starts[(((*keys)[i] >> shift) & (BUCKETS - 1)) + 1]++;
    for (uint32_t b = 0; b < BUCKETS; b++) starts[b + 1] += starts[b];
    for (uint32_t i = 0; i < count; i++)
      (*swap)[starts[((*keys)[i] >> shift) & (BUCKETS - 1)]++] = (*keys)[i];
    keys->swap(*swap);
  }
}

// Orders the candidates; returns how many are kept.
uint32_t orderCandidates(const float* logits, uint32_t vocab, uint32_t topK, SamplingScratch* scratch) {
  std::vector<uint64_t>& order = scratch->order;
  for (uint32_t i = 0; i < vocab; i++) order[i] = orderKey(logits[i], i);
  const uint32_t kept = topK == 0 ? vocab : std::min(topK, vocab);
  if (kept < vocab) std::nth_element(order.begin(), order.begin() + kept, order.begin() + vocab);
  if (kept == vocab && vocab >= COUNTING_SORT_FROM) {
    countingSort(&order, &scratch->swap, vocab);
  } else {
    std::sort(order.begin(), order.begin() + kept);
  }
  return kept;
}

// Rule 1, into scratch.
void penalize(const float* logits, uint32_t vocab, float penalty, const uint32_t* tokens, uint32_t count,
              SamplingScratch* scratch) {
  std::copy(logits, logits + vocab, scratch->logits.begin());
  for (uint32_t i = 0; i < count; i++) {
    if (scratch->penalized[tokens[i]]) continue;
    scratch->penalized[tokens[i]] = true;
    float& logit = scratch->logits[tokens[i]];
    logit = logit > 0 ? logit / penalty : logit * penalty;
  }
  for (uint32_t i = 0; i < count; i++) scratch->penalized[tokens[i]] = false;
}

// Rule 5: how many of the ordered weights stay.
uint32_t truncate(const double* weights, uint32_t count, double topP, double minP) {
  uint32_t kept = count;
  if (topP < 1) {
    double sum = 0, running = 0;
    for (uint32_t i = 0; i < count; i++) sum += weights[i];
    for (uint32_t i = 0; i < kept; i++) {
      running += weights[i];
      if (running / sum >= topP) kept = i + 1;
    }
  }
  while (kept > 1 && weights[kept - 1] < minP * weights[0]) kept--;
  return kept;
}

}  // namespace

SamplingScratch::SamplingScratch(uint32_t vocab)
    : logits(vocab), order(vocab), swap(vocab), weights(vocab), penalized(vocab) {}

void checkSampling(const qmh_sampling& s, uint32_t vocab, const uint32_t* history, size_t historyCount) {
  const auto outside = [](const char* field, double value, const char* range) {
    refuse(QMH_INVALID_ARGUMENT, "%s is %g; allowed: %s", field, value, range);
  };
  if (!(s.temperature >= 0 && isfinite(s.temperature))) outside("temperature", s.temperature, "0 or more");
  if (!(s.top_p > 0 && s.top_p <= 1)) outside("topP", s.top_p, "above 0, at most 1");
  if (!(s.min_p >= 0 && s.min_p <= 1)) outside("minP", s.min_p, "from 0 to 1");
  if (!(s.repetition_penalty > 0 && isfinite(s.repetition_penalty))) {
    outside("repetitionPenalty", s.repetition_penalty, "above 0");
  }
  if (s.history_start > historyCount || s.history_count > historyCount - s.history_start) {
    refuse(QMH_INVALID_ARGUMENT, "history [%u, +%u) is outside the %zu tokens given", s.history_start,
           s.history_count, historyCount);
  }
  if (s.repetition_penalty == 1) return;
  for (uint32_t i = 0; i < s.history_count; i++) {
    const uint32_t token = history[s.history_start + i];
    if (token >= vocab)
      refuse(QMH_INVALID_ARGUMENT, "history token %u is not below the vocabulary of %u", token, vocab);
  }
}

uint32_t sampleRow(const float* logits, uint32_t vocab, const qmh_sampling& s, const uint32_t* history,
                   SamplingScratch* scratch) {
  if (s.repetition_penalty != 1 && s.history_count != 0) {
    penalize(logits, vocab, s.repetition_penalty, history + s.history_start, s.history_count, scratch);
    logits = scratch->logits.data();
  }
  if (s.temperature == 0) return largestLogit(logits, vocab);

  const uint32_t ordered = orderCandidates(logits, vocab, s.top_k, scratch);
  const auto idAt = [&](uint32_t i) { return static_cast<uint32_t>(scratch->order[i]); };
  const double temperature = double{s.temperature};
  const double largest = double{logits[idAt(0)]} / temperature;
  double* weights = scratch->weights.data();
  for (uint32_t i = 0; i < ordered; i++) weights[i] = exp(double{logits[idAt(i)]} / temperature - largest);

  const uint32_t kept = truncate(weights, ordered, double{s.top_p}, double{s.min_p});
  double total = 0;
  for (uint32_t i = 0; i < kept; i++) total += weights[i];
  const double drawn = uniform((uint64_t{s.seed_high} << 32) | s.seed_low, s.position) * total;
  double running = 0;
  for (uint32_t i = 0; i < kept; i++) {
    running += weights[i];
    if (running > drawn) return idAt(i);
  }
  return idAt(kept - 1);
}

}  // namespace qm
