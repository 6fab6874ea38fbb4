/* The board: one mmapped file that every process sharing the simulated GPUs sees. Capacity, who holds how much, how
 * busy, and what a test wants to go wrong. The torch device and the NVML library both work on it; sim/board.py mirrors
 * this layout field by field and checks BOARD_MAGIC, BOARD_VERSION and the size.
 *
 * Every read-modify-write of shares happens under flock, which the kernel releases when a process dies, whatever killed
 * it. Rows of dead processes are dropped by whoever looks next: a pid counts only together with its start time.
 * Counters of busy time are written by their owner alone, without a lock. */
#ifndef SIM_BOARD_H
#define SIM_BOARD_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define BOARD_VARIABLE "JUPYTER_GPU_RECLAIM_SIM_BOARD"
#define BOARD_MAGIC 0x55504753u
#define BOARD_VERSION 1u
#define BOARD_DEVICES 8
#define BOARD_PROCESSES 128
#define BOARD_FAULTS 32
#define BOARD_MEASURED 0xffffffffu /* board_device.utilization: derive it from the processes */
#define BOARD_WINDOW_US 1000000ull /* utilisation is an average over at most this long */

enum { ROW_SYNTHETIC = 1, ROW_MEMORY_UNKNOWN = 2, ROW_GRAPHICS = 4 };                        /* board_process.flags */
enum { MODE_POISON = 1, MODE_PROTECT = 2, MODE_DELAY_COPIES = 4, MODE_KEEP_MAPPED = 8, MODE_WARM_PAGES = 16 }; /* board.modes */
enum { FAULT_FLIP_BIT = -1 };                                                                /* board_fault.code */

typedef struct {
    char name[64], uuid[48], bus_id[32];
    uint64_t total_bytes, reserved_bytes, other_used_bytes, energy_mj;
    uint32_t utilization, memory_utilization, idle_power_mw, busy_power_mw;
} board_device;

typedef struct { /* one per (process, device) */
    int32_t pid;
    uint32_t device, flags, unused;
    uint64_t born, used_bytes;
    uint64_t window_start_us, compute_us, copy_us; /* busy time since window_start_us */
    uint64_t last_busy_us;                         /* wall clock; 0: never busy */
} board_process;

typedef struct {
    char call[56];                             /* a function's name, or a prefix ending in '*'; "" is a free slot */
    int32_t code, count, skip, device, pid, delay_ms; /* count -1: for ever; device -1, pid 0: any; skip: let so many pass */
} board_fault;

typedef struct {
    uint32_t magic, version, bytes, device_count;
    uint32_t modes, armed; /* armed: how many fault slots are in use; 0 spares everybody the search */
    int32_t cuda_version, unused;
    char driver[32];
    uint64_t context_bytes; /* what a process pays on each device it touches, and keeps until it ends */
    board_device device[BOARD_DEVICES];
    board_process process[BOARD_PROCESSES];
    board_fault fault[BOARD_FAULTS];
} board;

typedef struct {
    board *shared;
    int fd;
    pid_t opener; /* a forked child must not share the parent's lock: it opens the file again */
    char path[1024];
    pthread_mutex_t mutex;
} board_handle;

static inline uint64_t board_now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000000ull + (uint64_t)t.tv_nsec / 1000;
}

/* Maps the board at `path`. Returns NULL, or a sentence fragment saying what is wrong with it. */
static inline const char *board_open(board_handle *h, const char *path) {
    struct stat st;
    if (!path || !*path) return "the environment variable " BOARD_VARIABLE " names no board";
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return "cannot open the board file";
    if (fstat(fd, &st) || (size_t)st.st_size < sizeof(board)) { close(fd); return "the file is no board of this version"; }
    void *m = mmap(NULL, sizeof(board), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (m == MAP_FAILED) { close(fd); return "cannot map the board file"; }
    board *b = (board *)m;
    if (b->magic != BOARD_MAGIC || b->version != BOARD_VERSION || b->bytes != sizeof(board) || b->device_count > BOARD_DEVICES) {
        munmap(m, sizeof(board));
        close(fd);
        return "the file is no board of this version";
    }
    h->shared = b;
    h->fd = fd;
    h->opener = getpid();
    snprintf(h->path, sizeof h->path, "%s", path);
    return NULL;
}

static inline void board_close(board_handle *h) {
    if (!h->shared) return;
    munmap(h->shared, sizeof(board));
    close(h->fd);
    h->shared = NULL;
    h->fd = -1;
}

/* In a forked child, which begins with one thread: a lock of its own, and a mutex that no lost thread holds. */
static inline void board_part_from_parent(board_handle *h) {
    int fd = open(h->path, O_RDWR | O_CLOEXEC);
    if (fd >= 0) { close(h->fd); h->fd = fd; }
    pthread_mutex_init(&h->mutex, NULL);
    h->opener = getpid();
}

static inline void board_lock(board_handle *h) {
    if (h->opener != getpid()) board_part_from_parent(h);
    pthread_mutex_lock(&h->mutex);
    flock(h->fd, LOCK_EX);
}

static inline void board_unlock(board_handle *h) {
    flock(h->fd, LOCK_UN);
    pthread_mutex_unlock(&h->mutex);
}

/* The start time of a live process in clock ticks since boot (field 22 of /proc/pid/stat); 0 when it is dead. */
static inline uint64_t board_born(pid_t pid) {
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0) return 0;
    text[n] = 0;
    char *p = strrchr(text, ')'); /* the command before it may contain anything */
    if (!p || p[1] != ' ' || p[2] == 'Z' || p[2] == 'X') return 0;
    for (int field = 2; p && field < 22; ++field) p = strchr(p + 1, ' ');
    uint64_t born = p ? strtoull(p + 1, NULL, 10) : 0;
    return born ? born : 1;
}

/* Drops the rows of processes that are gone. Call under the lock. */
static inline void board_reap(board *b) {
    for (int i = 0; i < BOARD_PROCESSES; ++i) {
        board_process *row = &b->process[i];
        if (row->pid && !(row->flags & ROW_SYNTHETIC) && board_born(row->pid) != row->born) memset(row, 0, sizeof *row);
    }
}

/* Bytes that processes and strangers hold on a device, the driver's reserve not counted. Call under the lock. */
static inline uint64_t board_used(const board *b, uint32_t device) {
    uint64_t used = b->device[device].other_used_bytes;
    for (int i = 0; i < BOARD_PROCESSES; ++i)
        if (b->process[i].pid && b->process[i].device == device) used += b->process[i].used_bytes;
    return used;
}

static inline uint64_t board_free(const board *b, uint32_t device) {
    uint64_t taken = board_used(b, device) + b->device[device].reserved_bytes;
    return taken < b->device[device].total_bytes ? b->device[device].total_bytes - taken : 0;
}

/* Notes work that ended now. Only the row's owner calls it. */
static inline void board_note_busy(board_process *row, uint64_t began_us, uint64_t ended_us, int copying) {
    if (!row->last_busy_us || ended_us - row->window_start_us > BOARD_WINDOW_US) {
        row->window_start_us = began_us;
        row->compute_us = row->copy_us = 0;
    }
    uint64_t took = ended_us > began_us ? ended_us - began_us : 1;
    if (copying) row->copy_us += took; else row->compute_us += took;
    __atomic_store_n(&row->last_busy_us, ended_us, __ATOMIC_RELEASE);
}

/* Percent of the window spent on `busy_us`; at least 1 for anything at all, as the driver's samples show it. */
static inline uint32_t board_percent(const board_process *row, uint64_t busy_us) {
    if (!busy_us) return 0;
    uint64_t window = row->last_busy_us > row->window_start_us ? row->last_busy_us - row->window_start_us : 0;
    if (window < BOARD_WINDOW_US / 6) window = BOARD_WINDOW_US / 6;
    uint64_t percent = busy_us * 100 / window;
    return percent < 1 ? 1 : percent > 100 ? 100 : (uint32_t)percent;
}

static inline void board_sleep_ms(int ms) {
    struct timespec t = {ms / 1000, (ms % 1000) * 1000000L};
    nanosleep(&t, NULL);
}

/* The code scripted for this call on this device (-1: of no particular one) in this process, or 0. Sleeps if asked to. */
static inline int board_fault_for(board *b, const char *call, int device) {
    if (!__atomic_load_n(&b->armed, __ATOMIC_ACQUIRE)) return 0;
    for (int i = 0; i < BOARD_FAULTS; ++i) {
        board_fault *f = &b->fault[i];
        size_t n = strnlen(f->call, sizeof f->call);
        if (!n || (f->device >= 0 && f->device != device) || (f->pid && f->pid != getpid())) continue;
        if (f->call[n - 1] == '*' ? strncmp(f->call, call, n - 1) : strcmp(f->call, call)) continue;
        int32_t left = __atomic_load_n(&f->skip, __ATOMIC_ACQUIRE);
        while (left > 0 && !__atomic_compare_exchange_n(&f->skip, &left, left - 1, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {}
        if (left > 0) continue; /* this call was one of those to let pass */
        left = __atomic_load_n(&f->count, __ATOMIC_ACQUIRE);
        while (left > 0 && !__atomic_compare_exchange_n(&f->count, &left, left - 1, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {}
        if (left == 0) continue; /* used up */
        if (f->delay_ms) board_sleep_ms(f->delay_ms);
        if (f->code) return f->code;
    }
    return 0;
}
#endif
