// The device's memory: a share of the board, cached in segments as CUDA's allocator does (512-byte rounding; 2 MiB, 20 MiB
// or exact segments; split, merge; one retry after giving the cache back). "Device memory" is anonymous host memory.
// Before it gives up it asks the agent of this process, if there is one, for room, and tries again when told to.
#pragma once
#include <ATen/ATen.h>
#include <c10/core/CachingDeviceAllocator.h>

#include <map>
#include <mutex>
#include <set>

#include "ask_for_room.h"
#include "connection.hpp"

namespace simgpu {
// ---------------------------------------------------------------- the caching allocator
struct Block { char* at; size_t bytes, requested; char* segment; bool live; };
struct Segment { size_t bytes; bool small; DeviceIndex device; };
using Stats = c10::CachingDeviceAllocator::DeviceStats;
using c10::CachingAllocator::StatArray;
using c10::CachingAllocator::StatType;

void synchronize(DeviceIndex);   // runtime.hpp

struct Allocator final : c10::DeviceAllocator {
  static constexpr size_t kSmall = 1 << 20, kSmallSegment = 2 << 20, kLargeSegment = 20 << 20, kExactFrom = 10 << 20;
  std::recursive_mutex mutex;
  std::map<char*, Segment> segments;
  std::map<char*, Block> blocks;
  std::set<std::pair<size_t, char*>> idle[BOARD_DEVICES][2];   // by size; [][1]: of small segments
  std::multimap<size_t, char*> warm;   // MODE_WARM_PAGES: segments given back to the board, still mapped here, by size
  Stats stats[BOARD_DEVICES];
  int open_depth = 0;   // MODE_PROTECT: how many operators may touch device memory now

  static size_t up(size_t n, size_t to) { return (n + to - 1) / to * to; }
  static void count(StatArray& a, bool small, int64_t by) {
    for (auto which : {StatType::AGGREGATE, small ? StatType::SMALL_POOL : StatType::LARGE_POOL})
      by > 0 ? a[(size_t)which].increase(by) : a[(size_t)which].decrease(-by);
  }

  Block* from_cache(DeviceIndex d, size_t n, bool small) {
    auto& free = idle[d][small];
    auto it = free.lower_bound({n, nullptr});
    if (it == free.end()) return nullptr;
    Block* b = &blocks[it->second];
    free.erase(it);
    return b;
  }
  // Host memory for a segment; under MODE_WARM_PAGES with every page there, from a former segment if one has the size.
  void* mapped(size_t bytes, int access) {
    auto former = warm.find(bytes);
    if (former != warm.end()) {
      void* at = former->second;
      warm.erase(former);
      mprotect(at, bytes, access);
      return at;
    }
    void* at = mmap(nullptr, bytes, access, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) return nullptr;
    if (bytes >= (4u << 20)) madvise(at, bytes, MADV_HUGEPAGE);
    if (connection().mode(MODE_WARM_PAGES) && access != PROT_NONE) memset(at, 0, bytes);
    return at;
  }
  static size_t segment_bytes(size_t n, bool small) {
    return small ? kSmallSegment : n < kExactFrom ? kLargeSegment : up(n, kSmallSegment);
  }
  Block* from_board(DeviceIndex d, size_t n, bool small) {
    size_t bytes = segment_bytes(n, small);
    auto& board = connection();
    if (!board.take(d, bytes)) return nullptr;
    int access = board.mode(MODE_PROTECT) && !open_depth ? PROT_NONE : PROT_READ | PROT_WRITE;
    void* at = mapped(bytes, access);
    if (!at) { board.give(d, bytes); return nullptr; }
    segments[(char*)at] = {bytes, small, d};
    count(stats[d].reserved_bytes, small, (int64_t)bytes);
    count(stats[d].segment, small, 1);
    stats[d].num_device_alloc++;
    return &(blocks[(char*)at] = Block{(char*)at, bytes, 0, (char*)at, false});
  }
  void* get(DeviceIndex d, size_t requested) {
    auto& board = connection();
    board.refuse_forked();
    board.check(d);
    if (!requested) return nullptr;
    std::unique_lock<std::recursive_mutex> guard(mutex);
    size_t n = up(requested, 512);
    bool small = n <= kSmall;
    Block* b = nullptr;
    if (!board.fault("alloc", d)) {
      b = from_cache(d, n, small);
      if (!b) b = from_board(d, n, small);
      if (!b) {
        guard.unlock();   // a copy that waits may drop tensors, which comes back here
        synchronize(d);
        guard.lock();
        release(d);
        stats[d].num_alloc_retries++;
        b = from_board(d, n, small);
      }
      for (double since = room_seconds(); !b;) {
        auto missing = segment_bytes(n, small) + (board.row[d] ? 0 : board.shared().context_bytes);
        guard.unlock();   // others go on allocating and freeing meanwhile
        bool again = ask_for_room(d, missing, room_seconds() - since);
        guard.lock();
        if (!again) break;
        b = from_cache(d, n, small);
        if (!b) b = from_board(d, n, small);
      }
    }
    if (!b) out_of_memory(d, segment_bytes(n, small));
    if (b->bytes - n >= (small ? 512 : kSmall)) {
      char* rest = b->at + n;
      blocks[rest] = Block{rest, b->bytes - n, 0, b->segment, false};
      idle[d][small].insert({b->bytes - n, rest});
      b->bytes = n;
    }
    b->live = true;
    b->requested = requested;
    note(d, small, *b, 1);
    return b->at;
  }
  void note(DeviceIndex d, bool small, const Block& b, int sign) {
    for (auto* a : {&stats[d].allocated_bytes, &stats[d].active_bytes}) count(*a, small, sign * (int64_t)b.bytes);
    count(stats[d].requested_bytes, small, sign * (int64_t)b.requested);
    for (auto* a : {&stats[d].allocation, &stats[d].active}) count(*a, small, sign);
  }
  [[noreturn]] void out_of_memory(DeviceIndex d, size_t bytes) {
    stats[d].num_ooms++;
    auto& board = connection();
    auto now = [](const StatArray& a) { return a[0].current; };
    TORCH_CHECK_WITH(OutOfMemoryError, false, "simgpu out of memory. Tried to allocate ", bytes, " bytes. GPU ", (int)d,
      " has a total capacity of ", board.shared().device[d].total_bytes, " bytes of which ", board.free_bytes(d),
      " are free. This process has ", board.row[d] ? board.row[d]->used_bytes : 0, " bytes in use; ", now(stats[d].allocated_bytes),
      " allocated by PyTorch, ", now(stats[d].reserved_bytes), " reserved. (simulated GPU)");
  }
  void put(void* at) {
    if (!at || forked) return;   // a forked child holds copies of the parent's bookkeeping, no memory
    std::lock_guard<std::recursive_mutex> guard(mutex);
    auto it = blocks.find((char*)at);
    if (it == blocks.end() || !it->second.live) return;
    Segment& s = segments[it->second.segment];
    if (connection().mode(MODE_POISON)) poison((char*)at, it->second.bytes);
    it->second.live = false;
    note(s.device, s.small, it->second, -1);
    auto& free = idle[s.device][s.small];
    auto absorb = [&](auto into, auto from) { into->second.bytes += from->second.bytes; blocks.erase(from); };
    auto next = std::next(it);
    if (next != blocks.end() && next->second.segment == it->second.segment && !next->second.live) {
      free.erase({next->second.bytes, next->first});
      absorb(it, next);
    }
    if (it != blocks.begin()) {
      auto before = std::prev(it);
      if (before->second.segment == it->second.segment && !before->second.live) {
        free.erase({before->second.bytes, before->first});
        absorb(before, it);
        it = before;
      }
    }
    free.insert({it->second.bytes, it->first});
  }
  // Gives wholly idle segments back to the board; d < 0: of every device. Synchronize first.
  void release(DeviceIndex d) {
    std::lock_guard<std::recursive_mutex> guard(mutex);
    for (auto it = segments.begin(); it != segments.end();) {
      auto& [at, s] = *it;
      auto b = blocks.find(at);
      if ((d >= 0 && d != s.device) || b->second.live || b->second.bytes != s.bytes) { ++it; continue; }
      idle[s.device][s.small].erase({s.bytes, at});
      if (connection().mode(MODE_KEEP_MAPPED)) poison(at, s.bytes);
      else if (connection().mode(MODE_WARM_PAGES)) warm.insert({s.bytes, at});
      else munmap(at, s.bytes);
      connection().give(s.device, s.bytes);
      count(stats[s.device].reserved_bytes, s.small, -(int64_t)s.bytes);
      count(stats[s.device].segment, s.small, -1);
      stats[s.device].num_device_free++;
      blocks.erase(b);
      it = segments.erase(it);
    }
  }
  // MODE_PROTECT: every segment readable and writable, or neither.
  void protect(bool closed) {
    for (auto& [at, s] : segments) mprotect(at, s.bytes, closed ? PROT_NONE : PROT_READ | PROT_WRITE);
  }
  void poison(char* at, size_t bytes);
  DeviceIndex device_of(const void* p) {
    std::lock_guard<std::recursive_mutex> guard(mutex);
    auto it = segments.upper_bound((char*)p);
    if (it == segments.begin()) return -1;
    --it;
    return (char*)p < it->first + it->second.bytes ? it->second.device : -1;
  }

  // --- c10::Allocator
  static void drop(void* at);
  at::DataPtr allocate(size_t n) override {
    DeviceIndex d = current_device;
    void* at = get(d, n);
    return {at, at, &drop, c10::Device(kSimGpu, d)};
  }
  at::DeleterFnPtr raw_deleter() const override { return &drop; }
  void copy_data(void* to, const void* from, size_t n) const override;

  // --- c10::DeviceAllocator
  bool initialized() override { return true; }
  void emptyCache(c10::MempoolId_t) override {
    if (!in_use || forked) return;
    connection().fail_if_scripted("empty_cache", -1);
    for (DeviceIndex d = 0; d < connection().count(); ++d) synchronize(d);
    release(-1);
  }
  void recordStream(const at::DataPtr&, c10::Stream) override {}
  Stats getDeviceStats(DeviceIndex d) override {
    connection().check(d);
    std::lock_guard<std::recursive_mutex> guard(mutex);
    return stats[d];
  }
  template <class F> void each_stat(DeviceIndex d, F reset) {
    connection().check(d);
    std::lock_guard<std::recursive_mutex> guard(mutex);
    auto& s = stats[d];
    for (auto* a : {&s.allocation, &s.segment, &s.active, &s.allocated_bytes, &s.reserved_bytes, &s.active_bytes, &s.requested_bytes})
      for (auto& one : *a) reset(one);
  }
  void resetAccumulatedStats(DeviceIndex d) override { each_stat(d, [](auto& one) { one.reset_accumulated(); }); }
  void resetPeakStats(DeviceIndex d) override { each_stat(d, [](auto& one) { one.reset_peak(); }); }
  std::pair<size_t, size_t> getMemoryInfo(DeviceIndex d) override {
    connection().check(d);
    return {connection().free_bytes(d), connection().shared().device[d].total_bytes};
  }
};
inline Allocator& allocator() {
  static Allocator* a = new Allocator;
  return *a;
}
inline void Allocator::drop(void* at) { allocator().put(at); }

// While one lives, operators of this process may touch device memory (matters under MODE_PROTECT only).
struct Access {
  bool protecting = connection().mode(MODE_PROTECT);
  Access() {
    if (!protecting) return;
    std::lock_guard<std::recursive_mutex> guard(allocator().mutex);
    if (allocator().open_depth++ == 0) allocator().protect(false);
  }
  ~Access() {
    if (!protecting) return;
    std::lock_guard<std::recursive_mutex> guard(allocator().mutex);
    if (--allocator().open_depth == 0) allocator().protect(true);
  }
  Access(const Access&) = delete;
};
inline void Allocator::poison(char* at, size_t bytes) {
  Access access;
  memset(at, 0xCD, bytes);
}
inline void Allocator::copy_data(void* to, const void* from, size_t n) const {
  Access access;
  memcpy(to, from, n);
}
}  // namespace simgpu
