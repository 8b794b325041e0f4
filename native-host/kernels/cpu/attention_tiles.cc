#include "attention_tiles.h"

#include <unistd.h>
#if defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace qm {
namespace {

// Where the machine does not say.
constexpr size_t USUAL_BYTES = 512 << 10;

size_t secondLevelBytes() {
#if defined(__APPLE__)
  uint64_t bytes = 0;
  size_t size = sizeof bytes;
  if (sysctlbyname("hw.l2cachesize", &bytes, &size, nullptr, 0) == 0 && size == sizeof bytes && bytes != 0)
    return bytes;
#elif defined(_SC_LEVEL2_CACHE_SIZE)
  const long bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
  if (bytes > 0) return static_cast<size_t>(bytes);
#endif
  return USUAL_BYTES;
}

}  // namespace

size_t cacheWords() {
  static const size_t words = secondLevelBytes() / 2 / sizeof(float);
  return words;
}

}  // namespace qm
