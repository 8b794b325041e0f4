// An instrumented build of the portable attention kernel: how many rows of K it reads, and what tiles are chosen.
//
//   attention-tiles rows WORDS HEAD_DIM GROUP                        rows of a call
//   attention-tiles count ROWS QUERIES KEYS HEAD_DIM GROUP BLOCK     rows of K read for the last QUERIES of KEYS positions
//   attention-tiles time ROWS,ROWS,... QUERIES KEYS HEAD_DIM GROUP   best thread time of each, microseconds
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <algorithm>
#include <vector>

#include "cpu/attention_tiles.h"

namespace {
uint64_t rowsOfK = 0;
}

#ifdef QM_COUNT_KV_ROWS
namespace qm {
void countKvRows(uint32_t rows) { rowsOfK += rows; }
}  // namespace qm
#endif

namespace {

struct Problem {
  uint32_t queries, keys, headDim, group, block;
  std::vector<float> kv, q, out, scratch;
  std::vector<uint32_t> table;

  Problem(uint32_t queries, uint32_t keys, uint32_t headDim, uint32_t group, uint32_t block)
      : queries(queries), keys(keys), headDim(headDim), group(group), block(block) {
    const uint32_t blocks = (keys + block - 1) / block;
    const auto fill = [](std::vector<float>* floats, size_t count) {
      for (size_t i = 0; i < count; i++) floats->push_back(static_cast<float>(i * 2654435761u % 1024) / 1024);
    };
    fill(&kv, size_t{2} * blocks * block * headDim);
    fill(&q, size_t{queries} * group * headDim);
    out.resize(q.size());
    scratch.resize(qm::ATTEND_SCRATCH);
    for (uint32_t i = 0; i < blocks; i++) table.push_back(blocks - 1 - i);
  }

  void attend(const qm::Kernels& kernels, uint32_t rows) {
    qm::AttendArgs args = {};
    const size_t width = size_t{group} * headDim;
    args.qStride = args.outStride = width;
    args.group = group;
    args.kv = reinterpret_cast<const uint8_t*>(kv.data());
    args.shape = {static_cast<uint32_t>(table.size()), 1, 1, headDim, block, qm::NumberType::F32};
    args.table = table.data();
    args.scratch = scratch.data();
    const uint32_t most = std::max(rows / group, 1u);
    for (uint32_t first = 0; first < queries; first += most) {
      args.queries = std::min(most, queries - first);
      args.firstPosition = keys - queries + first;
      args.q = q.data() + first * width;
      args.out = out.data() + first * width;
      kernels.attend(args);
    }
  }
};

uint32_t number(const char* text) { return static_cast<uint32_t>(strtoul(text, nullptr, 10)); }

double threadMicroseconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) / 1e3;
}

}  // namespace

int main(int argc, char** argv) {
  const char* what = argc > 1 ? argv[1] : "";
  if (argc == 5 && strcmp(what, "rows") == 0) {
    printf("%u\n", qm::attendRows(strtoull(argv[2], nullptr, 10), number(argv[3]), number(argv[4])));
    return 0;
  }
  if (argc == 8 && strcmp(what, "count") == 0) {
    Problem problem(number(argv[3]), number(argv[4]), number(argv[5]), number(argv[6]), number(argv[7]));
    problem.attend(*qm::portableKernels(), number(argv[2]));
    printf("%llu\n", static_cast<unsigned long long>(rowsOfK));
    return 0;
  }
  if (argc == 7 && strcmp(what, "time") == 0) {
    const qm::Kernels* kernels = qm::avx512Kernels() && __builtin_cpu_supports("avx512vl") ? qm::avx512Kernels()
                                                                                           : qm::portableKernels();
    std::vector<uint32_t> rows;
    for (char* part = strtok(argv[2], ","); part; part = strtok(nullptr, ",")) rows.push_back(number(part));
    std::vector<double> best(rows.size(), 1e300);
    Problem problem(number(argv[3]), number(argv[4]), number(argv[5]), number(argv[6]), 16);
    for (int round = 0; round < 15; round++) {
      for (size_t i = 0; i < rows.size(); i++) {
        const double start = threadMicroseconds();
        problem.attend(*kernels, rows[i]);
        best[i] = std::min(best[i], threadMicroseconds() - start);
      }
    }
    for (size_t i = 0; i < rows.size(); i++) printf("%u %.1f\n", rows[i], best[i]);
    return 0;
  }
  return 2;
}
