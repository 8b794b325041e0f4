// Replays a workload file (bench/ordered-index/workload.ts) against a C++ ordered map; prints its figures as one JSON
// line. Usage: tree-replay FILE. Built with -DABSEIL for absl::btree_map, with -DBSKIPLIST beside a checkout of the
// B-skiplist authors' code (github.com/Ratbuyer/bskip_artifact, folder bskiplist), else it is std::map.
#include <malloc.h>
#include <time.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#if defined(BSKIPLIST)
#include "include/BSkipList.hpp"
#elif defined(ABSEIL)
#include "absl/container/btree_map.h"
#else
#include <map>
#endif

namespace {

enum Kind : uint32_t { kRead = 0, kInsert = 1, kUpdate = 2, kScan = 3 };
/** Operations timed in one batch of a latency sample. */
constexpr size_t kSample = 10;

struct Phase {
  char letter;
  size_t operations;
  size_t sampled;
  std::vector<uint64_t> keys;
  std::vector<uint32_t> codes;
};

template <typename T>
std::vector<T> ReadMany(FILE* file, size_t count) {
  std::vector<T> values(count);
  if (fread(values.data(), sizeof(T), count, file) != count) {
    fprintf(stderr, "the workload file is cut off\n");
    exit(1);
  }
  return values;
}

double Seconds(clockid_t clock) {
  timespec now;
  clock_gettime(clock, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

#if defined(BSKIPLIST)
/** As the authors' own driver sets it up: locks, 128 keys a node, one key promoted in 64. */
class OrderedMap {
 public:
  void Put(uint64_t key, uint64_t value) { list_.insert({key, value}); }
  uint32_t Find(uint64_t key) { return static_cast<uint32_t>(std::get<0>(list_.value(key))); }
  uint32_t Scan(uint64_t key, uint32_t length) {
    uint32_t sum = 0;
    list_.map_range_length(key, length,
                           [&sum](auto k, auto v) { sum += static_cast<uint32_t>(k) + static_cast<uint32_t>(std::get<0>(v)); });
    return sum;
  }
  size_t Size() {
    size_t size = 0;
    list_.map_range_length(1, SIZE_MAX, [&size](auto, auto) { size++; });
    return size;
  }

 private:
  BSkip<BSkip_traits<true, 128, 64, uint64_t, uint64_t>> list_;
};
#else
class OrderedMap {
 public:
  void Put(uint64_t key, uint64_t value) { map_.insert_or_assign(key, value); }
  uint32_t Find(uint64_t key) {
    const auto found = map_.find(key);
    return found == map_.end() ? 0 : static_cast<uint32_t>(found->second);
  }
  uint32_t Scan(uint64_t key, uint32_t length) {
    uint32_t sum = 0;
    for (auto at = map_.lower_bound(key); length > 0 && at != map_.end(); ++at, --length)
      sum += static_cast<uint32_t>(at->first) + static_cast<uint32_t>(at->second);
    return sum;
  }
  size_t Size() { return map_.size(); }

 private:
#ifdef ABSEIL
  absl::btree_map<uint64_t, uint64_t> map_;
#else
  std::map<uint64_t, uint64_t> map_;
#endif
};
#endif

uint32_t Run(OrderedMap& map, const Phase& phase, size_t from, size_t to) {
  uint32_t sum = 0;
  for (size_t i = from; i < to; i++) {
    const uint64_t key = phase.keys[i];
    const uint32_t code = phase.codes[i];
    switch (code & 0xff) {
      case kRead:
        sum += map.Find(key);
        break;
      case kScan:
        sum += map.Scan(key, code >> 8);
        break;
      case kInsert:
        map.Put(key, key);
        break;
      default:
        map.Put(key, key + 1);
    }
  }
  return sum;
}

double Quantile(const std::vector<double>& sorted, double q) {
  return sorted[std::min(sorted.size() - 1, static_cast<size_t>(static_cast<double>(sorted.size()) * q))];
}

}  // namespace

int main(int argc, char** argv) {
  FILE* file = argc == 2 ? fopen(argv[1], "rb") : nullptr;
  if (file == nullptr) {
    fprintf(stderr, "usage: tree-replay FILE\n");
    return 2;
  }
  const auto header = ReadMany<uint32_t>(file, 4);
  const auto loaded = ReadMany<uint64_t>(file, header[1]);
  std::vector<Phase> phases;
  for (uint32_t i = 0; i < header[2]; i++) {
    const auto head = ReadMany<uint32_t>(file, 4);
    const size_t length = head[1] + head[2];
    auto keys = ReadMany<uint64_t>(file, length);
    phases.push_back({static_cast<char>(head[0]), head[1], head[2], std::move(keys),
                      ReadMany<uint32_t>(file, (length + 1) / 2 * 2)});
  }
  OrderedMap map;
  const size_t before = mallinfo2().uordblks;
  double cpu = Seconds(CLOCK_PROCESS_CPUTIME_ID);
  double wall = Seconds(CLOCK_MONOTONIC);
  for (const uint64_t key : loaded) map.Put(key, key);
  printf("{\"phases\":[{\"phase\":\"load\",\"operations\":%zu,\"cpuSeconds\":%.9f,\"wallSeconds\":%.9f,\"checksum\":0}",
         loaded.size(), Seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu, Seconds(CLOCK_MONOTONIC) - wall);
  const double bytes = static_cast<double>(mallinfo2().uordblks - before);
  for (const Phase& phase : phases) {
    cpu = Seconds(CLOCK_PROCESS_CPUTIME_ID);
    wall = Seconds(CLOCK_MONOTONIC);
    uint32_t sum = Run(map, phase, 0, phase.operations);
    const double cpuSeconds = Seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    const double wallSeconds = Seconds(CLOCK_MONOTONIC) - wall;
    std::vector<double> times;
    for (size_t from = phase.operations; from < phase.operations + phase.sampled; from += kSample) {
      const double start = Seconds(CLOCK_MONOTONIC);
      sum += Run(map, phase, from, from + kSample);
      times.push_back((Seconds(CLOCK_MONOTONIC) - start) * 1e9 / kSample);
    }
    std::sort(times.begin(), times.end());
    printf(",{\"phase\":\"%c\",\"operations\":%zu,\"cpuSeconds\":%.9f,\"wallSeconds\":%.9f,\"checksum\":%u,\"p50\":%.1f,\"p99\":%.1f}",
           phase.letter, phase.operations, cpuSeconds, wallSeconds, sum, Quantile(times, 0.5), Quantile(times, 0.99));
  }
  printf("],\"bytesPerKey\":%.2f,\"size\":%zu}\n", bytes / static_cast<double>(loaded.size()), map.Size());
  return 0;
}
