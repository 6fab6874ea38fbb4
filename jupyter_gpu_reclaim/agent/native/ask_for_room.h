// Where an allocator that the GPU has no memory for asks this process's agent for room, and waits. C or C++, Linux.
//
// The agent (room.py) listens on an abstract unix socket named after the process id, so nothing has to be set up and
// either may be there first. Line to the agent: "device bytes seconds-waited-already thread-id\n". Back come single
// bytes: '.' wait on, '1' try again, '0' give up.
//
// No Python runs on the thread that allocates: the thread may hold locks that others wait for with the GIL in hand, and
// an exception (an interrupt) has no way out of an allocator. An agent that is silent for ROOM_SILENCE_MS counts as gone.
#pragma once
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define ROOM_SILENCE_MS 5000
#define ROOM_SLICE_MS 50

// Python's, where this process has one; its stable names, so that no headers are needed.
#ifdef __cplusplus
extern "C" {
#endif
extern int PyGILState_Check(void) __attribute__((weak));
extern void* PyEval_SaveThread(void) __attribute__((weak));
extern void PyEval_RestoreThread(void*) __attribute__((weak));
#ifdef __cplusplus
}
#endif

static int room_holds_gil(void) { return PyGILState_Check && PyGILState_Check(); }

static double room_seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

// ---------------------------------------------------------------- SIGINT, which ends every wait
// While somebody waits, a handler before the one that is there counts signals and then calls it. Python's own handler
// only sets a flag, which nobody looks at before the allocation ends, and a backward pass allocates on other threads.
static volatile sig_atomic_t room_interrupts;
static struct sigaction room_former;
static pthread_mutex_t room_watching = PTHREAD_MUTEX_INITIALIZER;
static int room_watchers, room_installed, room_overtaken;

static void room_on_interrupt(int number, siginfo_t* info, void* context) {
  room_interrupts++;
  if (room_former.sa_flags & SA_SIGINFO) room_former.sa_sigaction(number, info, context);
  else room_former.sa_handler(number);
}
static void room_install(void) {
  struct sigaction ours;
  sigaction(SIGINT, NULL, &room_former);
  int real = room_former.sa_flags & SA_SIGINFO || (room_former.sa_handler != SIG_DFL && room_former.sa_handler != SIG_IGN);
  if (!real || room_overtaken) return;
  ours = room_former;
  ours.sa_flags |= SA_SIGINFO;
  ours.sa_sigaction = room_on_interrupt;
  room_installed = sigaction(SIGINT, &ours, NULL) == 0;
}
static void room_remove(void) {
  struct sigaction now;
  if (!room_installed) return;
  sigaction(SIGINT, NULL, &now);
  if (now.sa_flags & SA_SIGINFO && now.sa_sigaction == room_on_interrupt) sigaction(SIGINT, &room_former, NULL);
  else room_overtaken = 1;   // whoever came meanwhile may call ours: installed before theirs, ours would call it for ever
  room_installed = 0;
}
static void room_watch(int begins) {
  pthread_mutex_lock(&room_watching);
  if (begins && room_watchers++ == 0) room_install();
  if (!begins && --room_watchers == 0) room_remove();
  pthread_mutex_unlock(&room_watching);
}

// ---------------------------------------------------------------- the agent
// A connection to this process's own agent, or -1. Anybody on the machine may take the name: hence the look at who has.
static int room_connect(void) {
  struct sockaddr_un name;
  struct ucred peer;
  socklen_t size = sizeof peer;
  int end = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), length;
  if (end < 0) return -1;
  memset(&name, 0, sizeof name);
  name.sun_family = AF_UNIX;
  length = snprintf(name.sun_path + 1, sizeof name.sun_path - 1, "jupyter_gpu_reclaim.room.%d", (int)getpid());
  if (connect(end, (struct sockaddr*)&name, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length)) == 0 &&
      getsockopt(end, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.pid == getpid())
    return end;
  close(end);
  return -1;
}
// The agent's last word: '1', or '0' as soon as anything speaks against waiting on; `before`: interrupts already counted.
static char room_verdict(int end, sig_atomic_t before) {
  double heard = room_seconds();
  while (room_interrupts == before && room_seconds() - heard < ROOM_SILENCE_MS / 1000.0) {
    struct pollfd look = {end, POLLIN, 0};
    if (poll(&look, 1, ROOM_SLICE_MS) <= 0) continue;   // a slice has passed, or a signal has come
    char words[64];
    ssize_t count = recv(end, words, sizeof words, MSG_DONTWAIT);
    if (count == 0 || (count < 0 && errno != EAGAIN && errno != EINTR)) return '0';
    for (ssize_t i = 0; i < count; i++) if (words[i] != '.') return words[i];
    if (count > 0) heard = room_seconds();
  }
  return '0';
}
// Whether an allocation of so many bytes of the driver's should be tried again. Returns at once when no agent listens.
// The GIL is let go while it waits, if this thread holds it. `waited`: seconds since the allocation first failed.
static int ask_for_room(int device, unsigned long long bytes, double waited) {
  char line[128], verdict = '0';
  void* python = NULL;
  int length, end = room_connect();
  if (end < 0) return 0;
  room_watch(1);
  sig_atomic_t before = room_interrupts;
  if (room_holds_gil()) python = PyEval_SaveThread();
  length = snprintf(line, sizeof line, "%d %llu %.3f %ld\n", device, bytes, waited, (long)syscall(SYS_gettid));
  if (send(end, line, (size_t)length, MSG_NOSIGNAL) == length) verdict = room_verdict(end, before);
  close(end);
  if (python) PyEval_RestoreThread(python);
  room_watch(0);
  return verdict == '1';
}
