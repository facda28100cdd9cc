// A function on several threads.
//
// Threads are made and joined within the call.  There is no pool, so there is nothing that a
// fork could lose, that two callers could fight for or that outlives the call; it costs some
// 15 µs a thread, and callers ask for threads only where the work is worth more.
#ifndef XRNN_THREADS_H
#define XRNN_THREADS_H

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "native.h"

#define MAX_THREADS 256

typedef struct {
  void (*fn)(void* data, int i, int n);
  void* data;
  int i, n;
} Share;

static inline void* run_share(void* share) {
  const Share* s = share;
  s->fn(s->data, s->i, s->n);
  return NULL;
}

// Lets n threads made with `attributes` run on any core of the caller's but the one it is on, which
// its own share keeps busy: a scheduler that packs short threads would leave them there to wait.
// Where there are fewer other cores than n, it is left to the scheduler.
static inline void keep_off_this_core(int n, pthread_attr_t* attributes) {
#ifdef __GLIBC__
  cpu_set_t cores;
  const int here = sched_getcpu();
  if (here < 0 || sched_getaffinity(0, sizeof cores, &cores) != 0) return;
  CPU_CLR(here, &cores);
  if (CPU_COUNT(&cores) >= n) pthread_attr_setaffinity_np(attributes, sizeof cores, &cores);
#else
  (void)n, (void)attributes;
#endif
}

// fn(data, i, n) for i = 0 … n-1, each on a thread of its own, 0 on the caller's; n is at most
// MAX_THREADS.  Where the system gives no more threads, the caller does their shares after its own.
static inline void parallel(int n, void (*fn)(void* data, int i, int n), void* data) {
  if (n <= 1) {
    fn(data, 0, 1);
    return;
  }
  pthread_t threads[MAX_THREADS];
  Share shares[MAX_THREADS];
  int started[MAX_THREADS];
  pthread_attr_t attributes;
  const int with_attributes = pthread_attr_init(&attributes) == 0;
  if (with_attributes) keep_off_this_core(n - 1, &attributes);
  for (int i = 1; i < n; i++) {
    shares[i] = (Share){fn, data, i, n};
    started[i] = pthread_create(&threads[i], with_attributes ? &attributes : NULL, run_share,
                                &shares[i]) == 0;
  }
  if (with_attributes) pthread_attr_destroy(&attributes);
  fn(data, 0, n);
  for (int i = 1; i < n; i++) {
    if (started[i])
      pthread_join(threads[i], NULL);
    else
      fn(data, i, n);
  }
}

// Where the i-th of n shares of `total` begins, in whole multiples of `unit`.
static inline idx share_start(idx total, idx unit, int i, int n) {
  const idx units = (total + unit - 1) / unit, start = (units * i / n) * unit;
  return start < total ? start : total;
}

// How many of `threads` threads the arithmetic is worth: in the time that it takes to make one,
// 4 million operations are done.
static inline int worth(int threads, double flops) {
  const double most = 1 + flops / 4e6;
  if (threads > MAX_THREADS) threads = MAX_THREADS;
  return threads < most ? threads : (int)most;
}

// n bytes at a multiple of 64, or null; given back by free.
static inline void* room(size_t n) {
  void* p = NULL;
  return posix_memalign(&p, 64, n ? n : 64) ? NULL : p;
}

#endif
