/* libnvidia-ml.so.1 of the simulated GPUs: what nvidia-ml-py, and torch's own use of NVML, ask for. Symbols that are
 * missing here are FunctionNotFound for the client, as with an old driver. Without a board: DriverNotLoaded. */
#include "board.h"

#define EXPORT __attribute__((visibility("default")))
enum {
    OK = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9, ARGUMENT_VERSION_MISMATCH = 25,
};

typedef board_device *device_t;
typedef struct { uint64_t total, free, used; } memory_v1;
typedef struct { uint32_t version; uint64_t total, reserved, free, used; } memory_v2;
typedef struct { uint32_t gpu, memory; } utilization_rates;
typedef struct { uint32_t pid; uint64_t used; } process_v1;
typedef struct { uint32_t pid; uint64_t used; uint32_t gpu_instance, compute_instance; } process_v3; /* v2 is the same */
typedef struct { uint32_t pid; uint64_t at_us; uint32_t sm, memory, encoder, decoder; } process_sample;

static board_handle handle = {NULL, -1, 0, "", PTHREAD_MUTEX_INITIALIZER};
static int users;       /* nvmlInit calls without their nvmlShutdown */
static char chosen[1024]; /* a board named by simgpu_nvml_board; "": the environment's */
#define BOARD (handle.shared)

static int ready(const char *call, int device) {
    if (!users || !BOARD) return UNINITIALIZED;
    return board_fault_for(BOARD, call, device);
}
#define ENTER() do { int code_ = ready(__func__, -1); if (code_) return code_; } while (0)
#define ENTER_DEVICE(d) \
    do { \
        if (!users || !BOARD) return UNINITIALIZED; \
        if (!(d) || (d) < BOARD->device || (d) >= BOARD->device + BOARD->device_count) return INVALID_ARGUMENT; \
        int code_ = ready(__func__, number(d)); \
        if (code_) return code_; \
    } while (0)

static uint32_t number(device_t d) { return (uint32_t)(d - BOARD->device); }
static int text(char *out, unsigned size, const char *value) {
    if (strlen(value) + 1 > size) return INSUFFICIENT_SIZE;
    strcpy(out, value);
    return OK;
}

/* --- the library and the driver */
EXPORT void simgpu_nvml_board(const char *path) { snprintf(chosen, sizeof chosen, "%s", path ? path : ""); }
EXPORT int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    const char *path = *chosen ? chosen : getenv(BOARD_VARIABLE);
    if (!users && BOARD && (!path || strcmp(path, handle.path))) board_close(&handle); /* another board since */
    if (!BOARD && board_open(&handle, path)) return DRIVER_NOT_LOADED;
    int code = board_fault_for(BOARD, __func__, -1);
    if (!code) users++;
    return code;
}
EXPORT int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
EXPORT int nvmlShutdown(void) {
    if (!users) return UNINITIALIZED;
    users--;
    return OK;
}
EXPORT const char *nvmlErrorString(int code) {
    static const char *const words[] = {
        "Success", "Uninitialized", "Invalid Argument", "Not Supported", "Insufficient Permissions",
        "Already Initialized", "Not Found", "Insufficient Size", "Insufficient External Power", "Driver Not Loaded",
        "Timeout", "Interrupt Request Issue", "NVML Shared Library Not Found", "Function Not Found",
        "Corrupted infoROM", "GPU is lost", "GPU requires restart", "The operating system has blocked the request.",
        "RM has detected an NVML/RM version mismatch.",
    };
    return code >= 0 && code < (int)(sizeof words / sizeof *words) ? words[code] : "Unknown Error";
}
EXPORT int nvmlSystemGetDriverVersion(char *out, unsigned size) { ENTER(); return text(out, size, BOARD->driver); }
EXPORT int nvmlSystemGetNVMLVersion(char *out, unsigned size) {
    ENTER();
    char value[48];
    snprintf(value, sizeof value, "13.%s", BOARD->driver);
    return text(out, size, value);
}
EXPORT int nvmlSystemGetCudaDriverVersion(int *out) { ENTER(); *out = BOARD->cuda_version; return OK; }
EXPORT int nvmlSystemGetCudaDriverVersion_v2(int *out) { ENTER(); *out = BOARD->cuda_version; return OK; }

/* --- devices */
EXPORT int nvmlDeviceGetCount_v2(unsigned *out) { ENTER(); *out = BOARD->device_count; return OK; }
static int give_handle(const char *call, uint32_t index, device_t *out) {
    int code = ready(call, (int)index);
    if (!code) *out = &BOARD->device[index];
    return code;
}
EXPORT int nvmlDeviceGetHandleByIndex_v2(unsigned index, device_t *out) {
    if (!users || !BOARD) return UNINITIALIZED;
    return index < BOARD->device_count ? give_handle(__func__, index, out) : INVALID_ARGUMENT;
}
EXPORT int nvmlDeviceGetHandleByUUID(const char *uuid, device_t *out) {
    if (!users || !BOARD) return UNINITIALIZED;
    for (uint32_t i = 0; i < BOARD->device_count; ++i)
        if (!strcmp(BOARD->device[i].uuid, uuid)) return give_handle(__func__, i, out);
    return NOT_FOUND;
}
EXPORT int nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, device_t *out) {
    if (!users || !BOARD) return UNINITIALIZED;
    for (uint32_t i = 0; i < BOARD->device_count; ++i)
        if (strcasestr(BOARD->device[i].bus_id, bus_id)) return give_handle(__func__, i, out);
    return NOT_FOUND;
}
EXPORT int nvmlDeviceGetIndex(device_t d, unsigned *out) { ENTER_DEVICE(d); *out = number(d); return OK; }
EXPORT int nvmlDeviceGetName(device_t d, char *out, unsigned size) { ENTER_DEVICE(d); return text(out, size, d->name); }
EXPORT int nvmlDeviceGetUUID(device_t d, char *out, unsigned size) { ENTER_DEVICE(d); return text(out, size, d->uuid); }

/* --- memory */
static uint64_t used_now(device_t d) {
    board_lock(&handle);
    board_reap(BOARD);
    uint64_t used = board_used(BOARD, number(d));
    board_unlock(&handle);
    return used;
}
static uint64_t rest(uint64_t total, uint64_t taken) { return taken < total ? total - taken : 0; }
EXPORT int nvmlDeviceGetMemoryInfo(device_t d, memory_v1 *out) { /* version 1 counts the driver's reserve as used */
    ENTER_DEVICE(d);
    out->total = d->total_bytes;
    out->used = used_now(d) + d->reserved_bytes;
    out->free = rest(out->total, out->used);
    return OK;
}
EXPORT int nvmlDeviceGetMemoryInfo_v2(device_t d, memory_v2 *out) {
    ENTER_DEVICE(d);
    if (out->version != (sizeof(memory_v2) | 2u << 24)) return ARGUMENT_VERSION_MISMATCH;
    out->total = d->total_bytes;
    out->reserved = d->reserved_bytes;
    out->used = used_now(d);
    out->free = rest(out->total, out->used + out->reserved);
    return OK;
}

/* --- processes */
static int processes(device_t d, unsigned *count, process_v3 *out, uint32_t graphics) {
    unsigned found = 0, room = *count;
    board_lock(&handle);
    board_reap(BOARD);
    for (int i = 0; i < BOARD_PROCESSES; ++i) {
        board_process *row = &BOARD->process[i];
        if (!row->pid || row->device != number(d) || (row->flags & ROW_GRAPHICS) != graphics) continue;
        if (out && found < room) {
            uint64_t used = row->flags & ROW_MEMORY_UNKNOWN ? UINT64_MAX : row->used_bytes;
            out[found] = (process_v3){(uint32_t)row->pid, used, UINT32_MAX, UINT32_MAX};
        }
        found++;
    }
    board_unlock(&handle);
    *count = found;
    return found > room ? INSUFFICIENT_SIZE : OK;
}
EXPORT int nvmlDeviceGetComputeRunningProcesses_v3(device_t d, unsigned *count, process_v3 *out) {
    ENTER_DEVICE(d);
    return processes(d, count, out, 0);
}
EXPORT int nvmlDeviceGetComputeRunningProcesses_v2(device_t d, unsigned *count, process_v3 *out) {
    ENTER_DEVICE(d);
    return processes(d, count, out, 0);
}
EXPORT int nvmlDeviceGetComputeRunningProcesses(device_t d, unsigned *count, process_v1 *out) {
    ENTER_DEVICE(d);
    process_v3 rows[BOARD_PROCESSES];
    unsigned found = BOARD_PROCESSES, room = *count;
    processes(d, &found, rows, 0);
    for (unsigned i = 0; out && i < found && i < room; ++i) out[i] = (process_v1){rows[i].pid, rows[i].used};
    *count = found;
    return found > room ? INSUFFICIENT_SIZE : OK;
}
EXPORT int nvmlDeviceGetGraphicsRunningProcesses_v3(device_t d, unsigned *count, process_v3 *out) {
    ENTER_DEVICE(d);
    return processes(d, count, out, ROW_GRAPHICS);
}

/* --- work and power */
EXPORT int nvmlDeviceGetProcessUtilization(device_t d, process_sample *out, unsigned *count, unsigned long long since) {
    ENTER_DEVICE(d);
    if (!out) { /* asked for the size: the driver names its buffer's, never 0 */
        *count = BOARD_PROCESSES;
        return INSUFFICIENT_SIZE;
    }
    unsigned found = 0, room = *count;
    board_lock(&handle);
    board_reap(BOARD);
    for (int i = 0; i < BOARD_PROCESSES; ++i) {
        board_process *row = &BOARD->process[i];
        if (!row->pid || row->device != number(d) || row->last_busy_us <= since) continue;
        if (found < room)
            out[found] = (process_sample){(uint32_t)row->pid, row->last_busy_us, board_percent(row, row->compute_us),
                                          board_percent(row, row->copy_us), 0, 0};
        found++;
    }
    board_unlock(&handle);
    *count = found;
    return !found ? NOT_FOUND : found > room ? INSUFFICIENT_SIZE : OK;
}
static utilization_rates rates(device_t d) {
    if (d->utilization != BOARD_MEASURED) return (utilization_rates){d->utilization, d->memory_utilization};
    utilization_rates sum = {0, 0};
    uint64_t now = board_now_us();
    for (int i = 0; i < BOARD_PROCESSES; ++i) {
        const board_process *row = &BOARD->process[i];
        if (!row->pid || row->device != number(d) || row->last_busy_us + BOARD_WINDOW_US < now) continue;
        sum.gpu += board_percent(row, row->compute_us);
        sum.memory += board_percent(row, row->copy_us);
    }
    return (utilization_rates){sum.gpu > 100 ? 100 : sum.gpu, sum.memory > 100 ? 100 : sum.memory};
}
EXPORT int nvmlDeviceGetUtilizationRates(device_t d, utilization_rates *out) { ENTER_DEVICE(d); *out = rates(d); return OK; }
EXPORT int nvmlDeviceGetPowerUsage(device_t d, unsigned *out_mw) {
    ENTER_DEVICE(d);
    *out_mw = d->idle_power_mw + (unsigned)((uint64_t)(d->busy_power_mw - d->idle_power_mw) * rates(d).gpu / 100);
    return OK;
}
EXPORT int nvmlDeviceGetTotalEnergyConsumption(device_t d, unsigned long long *out_mj) {
    ENTER_DEVICE(d);
    *out_mj = d->energy_mj;
    return OK;
}

/* --- asked for by torch at import; a single board has no links and no fabric */
EXPORT int nvmlDeviceGetNvLinkRemoteDeviceType(void) { return NOT_SUPPORTED; }
EXPORT int nvmlDeviceGetNvLinkRemotePciInfo_v2(void) { return NOT_SUPPORTED; }
EXPORT int nvmlDeviceGetGpuFabricInfoV(void) { return NOT_SUPPORTED; }
