#include "copy_engine.h"

#include <algorithm>
#include <chrono>
#include <system_error>

#include "refusal.h"

namespace qm {
namespace {

constexpr uint32_t MOST_THREADS = 16;
constexpr uint64_t MOST_BLOCKS = uint64_t{1} << 32;

void within(const char* field, uint64_t value, uint64_t lowest, uint64_t highest) {
  if (value >= lowest && value <= highest) return;
  refuse(QMH_INVALID_ARGUMENT, "%s is %llu; allowed: %llu to %llu", field,
         static_cast<unsigned long long>(value), static_cast<unsigned long long>(lowest),
         static_cast<unsigned long long>(highest));
}

const qmh_copier_config& checked(const qmh_copier_config& c) {
  if (c.device == nullptr) refuse(QMH_INVALID_ARGUMENT, "device is not there");
  within("deviceBlocks", c.device_blocks, 1, MOST_BLOCKS);
  within("hostBlocks", c.host_blocks, 1, MOST_BLOCKS);
  within("blockBytes", c.block_bytes, 1, uint64_t{1} << 40);
  within("outThreads", c.out_threads, 1, MOST_THREADS);
  within("inThreads", c.in_threads, 1, MOST_THREADS);
  if (static_cast<double>(c.host_blocks) * static_cast<double>(c.block_bytes) > 0x1p46)
    refuse(QMH_OUT_OF_MEMORY, "%llu host blocks of %llu bytes", static_cast<unsigned long long>(c.host_blocks),
           static_cast<unsigned long long>(c.block_bytes));
  return c;
}

// A 64-bit step of SplitMix (Steele, Lea and Flood, OOPSLA 2014).
uint64_t next(uint64_t* state) {
  uint64_t z = *state += 0x9e3779b97f4a7c15;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

// An array that nobody frees, for memory of the caller.
std::shared_ptr<uint8_t> borrowed(void* memory) {
  return std::shared_ptr<uint8_t>(std::shared_ptr<uint8_t>(), static_cast<uint8_t*>(memory));
}

}  // namespace

CopyEngine::CopyEngine(const qmh_copier_config& config)
    : config_(checked(config)),
      backend_(copyBackend(config.backend)),
      host_(config.host ? borrowed(config.host) : backend_.takeHost(config.host_blocks * config.block_bytes)) {
  touched_[0].resize(config.device_blocks);
  touched_[1].resize(config.host_blocks);
  const uint32_t counts[COPY_DIRECTIONS] = {config.out_threads, config.in_threads};
  threads_.reserve(size_t{config.out_threads} + config.in_threads);
  for (const CopyDirection direction : {COPY_OUT, COPY_IN}) {
    for (uint32_t i = 0; i < counts[direction]; i++) start(direction, i);
  }
}

CopyEngine::~CopyEngine() {
  stop();
  for (const auto& entry : unfinished_) entry.second->done(entry.second->context, 0);
}

void CopyEngine::start(CopyDirection direction, uint32_t thread) {
  try {
    threads_.emplace_back(&CopyEngine::work, this, direction, thread);
  } catch (const std::system_error&) {
    // With one of its direction fewer batches run at a time; without any none would.
    if (thread > 0) return;
    stop();
    refuse(QMH_OUT_OF_MEMORY, "the system gives no thread for copies");
  }
}

void CopyEngine::stop() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  for (std::condition_variable& wake : wake_) wake.notify_all();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

void CopyEngine::check(const qmh_copy& c, size_t i, CopyDirection direction) const {
  const bool out = direction == COPY_OUT;
  if (c.source_tier != (out ? 0u : 1u) || c.target_tier != (out ? 1u : 0u)) {
    refuse(QMH_INVALID_ARGUMENT, "copy %zu goes from tier %u to tier %u; allowed: all from 0 to 1, or from 1 to 0",
           i, c.source_tier, c.target_tier);
  }
  const uint64_t sources = out ? config_.device_blocks : config_.host_blocks;
  const uint64_t targets = out ? config_.host_blocks : config_.device_blocks;
  if (uint64_t{c.source} + c.blocks > sources || uint64_t{c.target} + c.blocks > targets) {
    refuse(QMH_INVALID_ARGUMENT, "copy %zu has %u blocks from %u to %u; there are %llu and %llu", i, c.blocks,
           c.source, c.target, static_cast<unsigned long long>(sources),
           static_cast<unsigned long long>(targets));
  }
}

// The unfinished batches that touched its blocks last. REQUIRES: the mutex is held.
std::vector<CopyEngine::Batch*> CopyEngine::conflicts(const Batch& batch) const {
  std::vector<uint64_t> tickets;
  const bool out = batch.direction == COPY_OUT;
  const auto find = [&](const std::vector<uint64_t>& touched, uint64_t first, uint64_t blocks) {
    for (uint64_t block = first; block < first + blocks; block++) {
      // Runs mostly meet whole batches.
      if (touched[block] != 0 && (tickets.empty() || tickets.back() != touched[block]))
        tickets.push_back(touched[block]);
    }
  };
  for (const Run& run : batch.runs) {
    find(touched_[out ? 0 : 1], run.source, run.blocks);
    find(touched_[out ? 1 : 0], run.target, run.blocks);
  }
  std::sort(tickets.begin(), tickets.end());
  tickets.erase(std::unique(tickets.begin(), tickets.end()), tickets.end());
  std::vector<Batch*> found;
  for (const uint64_t ticket : tickets) {
    const auto unfinished = unfinished_.find(ticket);
    if (unfinished != unfinished_.end()) found.push_back(unfinished->second.get());
  }
  return found;
}

void CopyEngine::touch(const Batch& batch, uint64_t ticket) {
  const bool out = batch.direction == COPY_OUT;
  for (const Run& run : batch.runs) {
    std::fill_n(touched_[out ? 0 : 1].begin() + run.source, run.blocks, ticket);
    std::fill_n(touched_[out ? 1 : 0].begin() + run.target, run.blocks, ticket);
  }
}

void CopyEngine::enqueue(const qmh_copy* copies, size_t count, qmh_copy_done done, void* context) {
  std::unique_ptr<Batch> batch(new Batch());
  batch->direction = count > 0 && copies[0].source_tier != 0 ? COPY_IN : COPY_OUT;
  batch->done = done;
  batch->context = context;
  for (size_t i = 0; i < count; i++) {
    const qmh_copy& c = copies[i];
    check(c, i, batch->direction);
    if (c.blocks == 0) continue;
    Run* last = batch->runs.empty() ? nullptr : &batch->runs.back();
    if (last && last->source + last->blocks == c.source && last->target + last->blocks == c.target) {
      last->blocks += c.blocks;
    } else {
      batch->runs.push_back({c.source, c.target, c.blocks});
    }
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<Batch*> before;
  if (config_.unordered == 0) before = conflicts(*batch);
  for (Batch* const earlier : before) earlier->waiters.reserve(earlier->waiters.size() + 1);
  Batch* const entered = batch.get();
  unfinished_.emplace(tickets_ + 1, std::move(batch));
  // Nothing fails from here on.
  entered->ticket = ++tickets_;
  touch(*entered, entered->ticket);
  for (Batch* const earlier : before) earlier->waiters.push_back(entered);
  entered->waitsFor = before.size();
  if (before.empty()) ready(entered);
}

// REQUIRES: the mutex is held.
void CopyEngine::ready(Batch* batch) {
  ready_[batch->direction].push_back(batch);
  wake_[batch->direction].notify_one();
}

void CopyEngine::work(CopyDirection direction, uint32_t thread) {
  const std::unique_ptr<CopyStream> stream = backend_.openStream(direction);
  uint64_t random = (uint64_t{config_.seed} << 32) + direction * MOST_THREADS + thread;
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    wake_[direction].wait(lock, [&] { return stopping_ || !ready_[direction].empty(); });
    if (stopping_) return;
    Batch* const batch = ready_[direction].front();
    ready_[direction].pop_front();
    lock.unlock();
    const uint64_t blocks = carryOut(*batch, stream.get(), &random);
    lock.lock();
    const auto held = unfinished_.find(batch->ticket);
    std::unique_ptr<Batch> finished = std::move(held->second);
    unfinished_.erase(held);
    for (Batch* const waiter : finished->waiters) {
      if (--waiter->waitsFor == 0) ready(waiter);
    }
    lock.unlock();
    finished->done(finished->context, blocks);
    finished.reset();
    lock.lock();
  }
}

uint64_t CopyEngine::carryOut(const Batch& batch, CopyStream* stream, uint64_t* random) {
  uint8_t* const device = static_cast<uint8_t*>(config_.device);
  const bool out = batch.direction == COPY_OUT;
  const uint8_t* const sources = out ? device : host_.get();
  uint8_t* const targets = out ? host_.get() : device;
  const uint64_t bytes = config_.block_bytes;
  for (const Run& run : batch.runs) {
    if (config_.delay_us != 0)
      std::this_thread::sleep_for(std::chrono::microseconds(next(random) % (config_.delay_us + uint64_t{1})));
    stream->copy(targets + run.target * bytes, sources + run.source * bytes, run.blocks * bytes);
  }
  const size_t arrived = stream->finish();
  uint64_t blocks = 0;
  for (size_t i = 0; i < arrived; i++) blocks += batch.runs[i].blocks;
  return blocks;
}

}  // namespace qm
