// LD_PRELOADed into a kernel, by its user's wish: when CUDA has no memory for an allocation, ask the agent, and wait.
//
// NOT verified on hardware: tested against a small library that stands in for libcudart.
//
// It stands before the CUDA runtime's cudaMalloc, through which PyTorch's allocator takes its segments. Its first
// failure is passed on, since PyTorch then gives its own cache back and comes again with the same size: only a second
// failure in a row waits. Not while the thread holds the GIL (what it waits for may need it), and not unless PyTorch was
// told to let go of its allocator's lock meanwhile, or everybody who frees a tensor would stand still.
#include "ask_for_room.h"

#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>

enum { OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3 };   // cudaError_t
#define LET_GO "release_lock_on_cudamalloc:True"

typedef int (*malloc_function)(void**, size_t);
typedef int (*device_function)(int*);
typedef int (*error_function)(void);

// The runtime's own function of that name: of the library that would have been called without us.
static void* runtimes(const char* name) {
  static const char* const libraries[] = {"libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so"};
  void* found = dlsym(RTLD_NEXT, name);
  for (size_t i = 0; !found && i < sizeof libraries / sizeof *libraries; i++) {
    void* library = dlopen(libraries[i], RTLD_LAZY | RTLD_NOLOAD);
    if (library) found = dlsym(library, name);
  }
  return found;
}
static int lock_is_let_go(void) {
  const char* names[] = {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"};
  for (int i = 0; i < 2; i++) {
    const char* settings = getenv(names[i]);
    if (settings && strstr(settings, LET_GO)) return 1;
  }
  return 0;
}

int cudaMalloc(void** memory, size_t bytes) {
  static __thread size_t failed_bytes;   // of this thread's last call, if that failed
  malloc_function allocate = (malloc_function)(uintptr_t)runtimes("cudaMalloc");
  device_function current = (device_function)(uintptr_t)runtimes("cudaGetDevice");
  error_function forget_error = (error_function)(uintptr_t)runtimes("cudaGetLastError");
  int device, result = allocate ? allocate(memory, bytes) : NOT_INITIALIZED, comes_again = failed_bytes == bytes;
  failed_bytes = result == OUT_OF_MEMORY ? bytes : 0;
  if (result != OUT_OF_MEMORY || !comes_again || room_holds_gil() || !lock_is_let_go()) return result;
  if (!current || !forget_error || current(&device) != 0) return result;
  for (double since = room_seconds(); result == OUT_OF_MEMORY && ask_for_room(device, bytes, room_seconds() - since);) {
    forget_error();   // or the next look at CUDA's state finds the failure that we have made good
    result = allocate(memory, bytes);
  }
  failed_bytes = 0;
  return result;
}
