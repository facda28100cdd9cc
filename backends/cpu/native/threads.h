// A function on several threads.
//
// Threads are made and joined within the call.  There is no pool, so there is nothing that a
// fork could lose, that two callers could fight for or that outlives the call; it costs some
// 15 µs a thread, and callers ask for threads only where the work is worth more.
#ifndef XRNN_THREADS_H
#define XRNN_THREADS_H

#include <pthread.h>
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
  for (int i = 1; i < n; i++) {
    shares[i] = (Share){fn, data, i, n};
    started[i] = pthread_create(&threads[i], NULL, run_share, &shares[i]) == 0;
  }
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
