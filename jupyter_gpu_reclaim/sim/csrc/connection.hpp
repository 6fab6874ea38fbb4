// This process on the board: its rows, the modes and faults that hold for it, and its state towards fork.
#pragma once
#include <c10/core/Device.h>
#include <c10/util/Exception.h>

#include <atomic>

#include "board.h"

namespace simgpu {
using c10::DeviceIndex;
constexpr auto kSimGpu = c10::DeviceType::PrivateUse1;
inline thread_local DeviceIndex current_device = 0;
inline std::atomic<bool> in_use{false};   // this process has touched a device
inline std::atomic<bool> forked{false};   // ... before it was forked off: the memory and the rows are its parent's

struct Connection {
  board_handle handle{nullptr, -1, 0, "", PTHREAD_MUTEX_INITIALIZER};
  const char* wrong = board_open(&handle, getenv(BOARD_VARIABLE));   // null, or why there is no board
  board_process* row[BOARD_DEVICES] = {};   // null until this process first touches the device

  board& shared() { return *handle.shared; }
  DeviceIndex count() const { return handle.shared ? (DeviceIndex)handle.shared->device_count : 0; }
  bool mode(uint32_t flag) const { return handle.shared && (__atomic_load_n(&handle.shared->modes, __ATOMIC_ACQUIRE) & flag); }
  void refuse_forked() const {
    TORCH_CHECK(!forked, "Cannot re-initialize the simulated GPU in a forked subprocess. To use it with multiprocessing, "
                "you must use the 'spawn' start method");
  }
  void check(DeviceIndex d) const {
    TORCH_CHECK(!wrong, "simgpu: ", wrong, "; ", BOARD_VARIABLE, " must name a board made by jupyter_gpu_reclaim.sim");
    TORCH_CHECK(d >= 0 && d < count(), "simgpu: invalid device ordinal ", (int)d, "; the board has ", (int)count(), " device(s)");
  }
  int fault(const char* call, DeviceIndex d) { return board_fault_for(handle.shared, call, d); }
  // Returns the scripted code when it asks for something else than an error (FAULT_FLIP_BIT), else 0.
  int fail_if_scripted(const char* call, DeviceIndex d) {
    int code = fault(call, d);
    if (code <= 0) return code;
    throw c10::AcceleratorError({__func__, __FILE__, __LINE__}, code,
      c10::str("simgpu error ", code, " in ", call, " on device ", (int)d, " (a fault scripted on the board)"));
  }
  // The row of this process on device d; made, and the context paid for, on first touch. Null when that does not fit.
  board_process* touch(DeviceIndex d) {
    if (row[d]) return row[d];
    refuse_forked();
    board_lock(&handle);
    board_reap(&shared());
    board_process* slot = nullptr;
    for (auto& r : shared().process) if (!r.pid) { slot = &r; break; }
    bool fits = shared().context_bytes <= board_free(&shared(), d);
    if (slot && fits) {
      *slot = board_process{};
      slot->device = (uint32_t)d;
      slot->born = board_born(getpid());
      slot->used_bytes = shared().context_bytes;
      slot->pid = getpid();
      row[d] = slot;
      in_use = true;
    }
    board_unlock(&handle);
    TORCH_CHECK(slot, "simgpu: more than ", BOARD_PROCESSES, " processes on one board");
    return row[d];
  }
  bool take(DeviceIndex d, uint64_t bytes) {
    board_process* mine = touch(d);
    if (!mine) return false;
    board_lock(&handle);
    bool fits = bytes <= board_free(&shared(), d);
    if (!fits) { board_reap(&shared()); fits = bytes <= board_free(&shared(), d); }
    if (fits) mine->used_bytes += bytes;
    board_unlock(&handle);
    return fits;
  }
  void give(DeviceIndex d, uint64_t bytes) {
    board_lock(&handle);
    row[d]->used_bytes -= bytes;
    board_unlock(&handle);
  }
  uint64_t free_bytes(DeviceIndex d) {
    board_lock(&handle);
    board_reap(&shared());
    uint64_t n = board_free(&shared(), d);
    board_unlock(&handle);
    return n;
  }
};
inline Connection& connection() {
  static Connection* c = new Connection;   // never destroyed: tensors may outlive static teardown
  return *c;
}
}  // namespace simgpu
