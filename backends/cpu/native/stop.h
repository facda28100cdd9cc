// Ending a call before it is complete, when its caller asks for it (a signal such as Ctrl-C).
//
// Every thread that computes counts its operations.  After some, the first thread of its team asks
// whether to go on, and the others look at the answer.  What a stopped call has written is
// incomplete, and is dropped by the caller.
#ifndef XRNN_STOP_H
#define XRNN_STOP_H

#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

// Shared by all threads of a team.
typedef struct {
  int (*ask)(void* data);  // whether to stop; null if the call is too short to be stopped
  void* data;
  int64_t asked;  // when its first thread has asked, in nanoseconds
  atomic_int is_set;
} Stop;

// What one thread needs in order to stop in time.
typedef struct {
  Stop* stop;   // or null: the thread does not stop
  int asks;     // whether this is the first thread of its team
  double left;  // the number of operations until the thread looks again
} Watch;

#define LOOK_AFTER 2e6      // operations: between 0.05 and 2 ms
#define ASK_AFTER 20000000  // nanoseconds: the lock of the interpreter may take 5 ms to acquire

static inline int64_t nanoseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static inline int is_stopped(Stop* stop) {
  return atomic_load_explicit(&stop->is_set, memory_order_relaxed);
}

// The first thread asks, if it has not for a while.  Returns whether to stop.
static __attribute__((noinline)) int look(Watch* w) {
  Stop* stop = w->stop;
  w->left = LOOK_AFTER;
  if (!stop || !stop->ask) return 0;
  if (w->asks && !is_stopped(stop)) {
    const int64_t now = nanoseconds();
    if (now - stop->asked < ASK_AFTER) return 0;
    if (stop->ask(stop->data)) atomic_store_explicit(&stop->is_set, 1, memory_order_relaxed);
    stop->asked = nanoseconds();
  }
  return is_stopped(stop);
}

// To be called before so many operations.  Returns whether to stop instead.
static inline int stopped(Watch* w, double operations) {
  w->left -= operations;
  return w->left < 0 && look(w);
}

#endif
