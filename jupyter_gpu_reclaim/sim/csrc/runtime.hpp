// One in-order stream per device, the device guard and torch's hooks.
//
// Copies are immediate. Under MODE_DELAY_COPIES a non_blocking copy between host and device runs only when something
// that CUDA orders after it comes: an operator or a blocking copy on that device, a synchronize, a wait for its event,
// empty_cache. It reads its source then, not earlier, so a host that looks (or writes) without synchronizing sees it.
#pragma once
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/alloc_cpu.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include <deque>

#include "allocator.hpp"

namespace simgpu {
using at::Tensor;

// memcpy that goes past the caches, as a device's copy engine does; libc's does so for very large copies only.
inline void copy_bytes(char* target, const char* source, size_t n) {
#ifdef __SSE2__
  if (n >= 16384) {
    size_t head = -(uintptr_t)target & 63;
    memcpy(target, source, head);
    target += head, source += head, n -= head;
    for (; n >= 64; target += 64, source += 64, n -= 64) {
      const auto* from = (const __m128i*)source;
      auto a = _mm_loadu_si128(from), b = _mm_loadu_si128(from + 1), c = _mm_loadu_si128(from + 2), d = _mm_loadu_si128(from + 3);
      auto* to = (__m128i*)target;
      _mm_stream_si128(to, a), _mm_stream_si128(to + 1, b), _mm_stream_si128(to + 2, c), _mm_stream_si128(to + 3, d);
    }
    _mm_sfence();
  }
#endif
  memcpy(target, source, n);
}

// ---------------------------------------------------------------- the stream
struct Copy {
  Tensor to, from;               // host aliases of the bytes as they lay when the copy was asked for
  Tensor keep_to, keep_from;     // the owners, so that the bytes stay
  void run(DeviceIndex d) const;
  // Whether it only moves bytes, as a device's copy engine does: at memory speed, which copy_ does not reach.
  bool plain() const {
    if (to.dtype() != from.dtype() || to.sizes() != from.sizes() || to.is_neg() != from.is_neg() || to.is_conj() != from.is_conj() ||
        !to.is_contiguous() || !from.is_contiguous())
      return false;
    auto *a = (const char*)to.const_data_ptr(), *b = (const char*)from.const_data_ptr();
    return a + to.nbytes() <= b || b + to.nbytes() <= a;
  }
  static constexpr int64_t kCopyGrain = 4 << 20;
};
struct Queue {
  std::recursive_mutex mutex;
  std::deque<Copy> waiting;
  uint64_t asked = 0, done = 0;
};
inline Queue& queue(DeviceIndex d) {
  static Queue* q = new Queue[BOARD_DEVICES];
  return q[d];
}
inline void Copy::run(DeviceIndex d) const {
  // A delayed copy may run under other modes (inference, dispatch) than the ones it was asked for under.
  at::AutoDispatchBelowADInplaceOrView no_autograd;
  c10::impl::ExcludeDispatchKeyGuard no_modes(c10::DispatchKeySet({c10::DispatchKey::Python, c10::DispatchKey::PythonTLSSnapshot}));
  Access access;
  uint64_t began = board_now_us();
  if (plain()) {
    auto* target = (char*)to.data_ptr();
    auto* source = (const char*)from.const_data_ptr();
    at::parallel_for(0, (int64_t)to.nbytes(), kCopyGrain, [&](int64_t start, int64_t end) {
      copy_bytes(target + start, source + start, end - start);
    });
  } else {
    Tensor target = to;
    target.copy_(from);
  }
  if (connection().row[d]) board_note_busy(connection().row[d], began, board_now_us(), 1);
}
inline void run_until(DeviceIndex d, uint64_t ticket) {
  Queue& q = queue(d);
  std::lock_guard<std::recursive_mutex> guard(q.mutex);
  while (q.done < ticket && !q.waiting.empty()) {
    Copy next = std::move(q.waiting.front());
    q.waiting.pop_front();
    q.done++;
    next.run(d);
  }
}
inline void drain(DeviceIndex d) {   // whatever comes next on this stream comes after all that was asked before
  if (queue(d).asked != queue(d).done) run_until(d, UINT64_MAX);
}
inline void synchronize(DeviceIndex d) { drain(d); }

struct Event { DeviceIndex device; uint64_t ticket, at_us; };

// ---------------------------------------------------------------- the guard
struct Guard final : c10::impl::DeviceGuardImplInterface {
  static c10::Device device(DeviceIndex d) { return {kSimGpu, d}; }
  static DeviceIndex or_current(DeviceIndex d) { return d < 0 ? current_device : d; }
  static c10::Stream only_stream(c10::Device d) { return c10::Stream(c10::Stream::DEFAULT, device(or_current(d.index()))); }

  c10::DeviceType type() const override { return kSimGpu; }
  c10::Device getDevice() const override { return device(current_device); }
  void uncheckedSetDevice(c10::Device d) const noexcept override { current_device = or_current(d.index()); }
  void setDevice(c10::Device d) const override {
    if (d.index() >= 0) connection().check(d.index());
    uncheckedSetDevice(d);
  }
  c10::Device exchangeDevice(c10::Device d) const override {
    auto before = getDevice();
    setDevice(d);
    return before;
  }
  DeviceIndex deviceCount() const noexcept override { return connection().count(); }
  c10::DeviceCapability getDeviceCapability(c10::Device) const override { return {}; }

  c10::Stream getStream(c10::Device d) const noexcept override { return only_stream(d); }
  c10::Stream getDefaultStream(c10::Device d) const override { return only_stream(d); }
  c10::Stream getNewStream(c10::Device d, int) const override { return only_stream(d); }
  c10::Stream getStreamFromGlobalPool(c10::Device d, bool) const override { return only_stream(d); }
  c10::Stream exchangeStream(c10::Stream s) const noexcept override { return only_stream(s.device()); }
  bool queryStream(const c10::Stream& s) const override { return queue(s.device_index()).waiting.empty(); }
  void synchronizeStream(const c10::Stream& s) const override { synchronizeDevice(s.device_index()); }
  void synchronizeDevice(const DeviceIndex d) const override {
    connection().refuse_forked();
    connection().check(or_current(d));
    connection().fail_if_scripted("synchronize", or_current(d));
    synchronize(or_current(d));
  }

  void record(void** event, const c10::Stream& s, const DeviceIndex, const c10::EventFlag) const override {
    if (!*event) *event = new Event;
    *static_cast<Event*>(*event) = {s.device_index(), queue(s.device_index()).asked, board_now_us()};
  }
  void destroyEvent(void* event, const DeviceIndex) const noexcept override { delete static_cast<Event*>(event); }
  bool queryEvent(void* event) const override {
    auto* e = static_cast<Event*>(event);
    return !e || queue(e->device).done >= e->ticket;
  }
  void synchronizeEvent(void* event) const override {
    if (auto* e = static_cast<Event*>(event)) run_until(e->device, e->ticket);
  }
  void block(void* event, const c10::Stream&) const override { synchronizeEvent(event); }
  double elapsedTime(void* first, void* second, const DeviceIndex) const override {
    return ((double)static_cast<Event*>(second)->at_us - (double)static_cast<Event*>(first)->at_us) / 1000;
  }
  void recordDataPtrOnStream(const c10::DataPtr&, const c10::Stream&) const override {}
};

// ---------------------------------------------------------------- page-locked host memory: ordinary, but known as such
struct PageLocked final : c10::Allocator {
  std::mutex mutex;
  std::map<char*, size_t> ranges;
  static PageLocked& instance() {
    static PageLocked* one = new PageLocked;
    return *one;
  }
  at::DataPtr allocate(size_t n) override {
    if (!n) return {nullptr, nullptr, &drop, at::kCPU};
    void* at = c10::alloc_cpu(n);
    std::lock_guard<std::mutex> guard(mutex);
    ranges[(char*)at] = n;
    return {at, at, &drop, at::kCPU};
  }
  static void drop(void* at) {
    if (!at) return;
    {
      std::lock_guard<std::mutex> guard(instance().mutex);
      instance().ranges.erase((char*)at);
    }
    c10::free_cpu(at);
  }
  at::DeleterFnPtr raw_deleter() const override { return &drop; }
  void copy_data(void* to, const void* from, size_t n) const override { memcpy(to, from, n); }
  bool holds(const void* p) {
    std::lock_guard<std::mutex> guard(mutex);
    auto it = ranges.upper_bound((char*)p);
    return it != ranges.begin() && (char*)p < std::prev(it)->first + std::prev(it)->second;
  }
};

// ---------------------------------------------------------------- torch's hooks
struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return connection().count() > 0; }
  bool hasPrimaryContext(DeviceIndex d) const override { return d >= 0 && d < connection().count() && connection().row[d]; }
  void init() const override {}
  DeviceIndex deviceCount() const override { return connection().count(); }
  void setCurrentDevice(DeviceIndex d) const override {
    connection().check(d);
    current_device = d;
  }
  DeviceIndex getCurrentDevice() const override { return current_device; }
  DeviceIndex exchangeDevice(DeviceIndex d) const override {
    auto before = current_device;
    if (d >= 0) setCurrentDevice(d);
    return before;
  }
  DeviceIndex maybeExchangeDevice(DeviceIndex d) const override { return exchangeDevice(d); }
  at::Allocator* getPinnedMemoryAllocator() const override { return &PageLocked::instance(); }
  bool isPinnedPtr(const void* p) const override { return PageLocked::instance().holds(p); }
  at::Device getDeviceFromPtr(void* p) const override {
    DeviceIndex d = allocator().device_of(p);
    TORCH_CHECK(d >= 0, "simgpu: not a device pointer");
    return {kSimGpu, d};
  }
  // Device operators draw from the CPU's generator: a seeded run gives the CPU's numbers.
  const at::Generator& getDefaultGenerator(DeviceIndex) const override { return at::detail::getDefaultCPUGenerator(); }
  at::Generator getNewGenerator(DeviceIndex) const override { return at::detail::createCPUGenerator(); }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
    auto* impl = storage.unsafeGetStorageImpl();
    TORCH_CHECK(impl->resizable(), "Trying to resize storage that is not resizable");
    c10::DeviceGuard guard(impl->device());
    drain(impl->device().index());
    at::DataPtr fresh = allocator().allocate(bytes);
    if (bytes && impl->nbytes()) allocator().copy_data(fresh.get(), impl->data_ptr().get(), std::min(bytes, impl->nbytes()));
    impl->set_data_ptr_noswap(std::move(fresh));
    impl->set_nbytes(bytes);
  }
};
}  // namespace simgpu
