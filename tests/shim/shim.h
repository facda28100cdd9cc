// CUDA on the host: each thread of a kernel is a fiber, so races and deadlocks can be provoked.
//
// The kernels are compiled as C++ with XRNN_HOST defined.  Here stands what they use of CUDA:
// types of a single thread (shim_types.h), the fibers and who runs when, barriers,
// shuffles; clusters and matrix fragments are in shim_cluster.h.
//
// Rules for the kernels: dynamic shared memory alone, through SHARED; a loop that waits for
// another thread calls __nanosleep; PTX only in wrappers which have their twin in shim_cluster.h.
//
// Shared memory starts as NaN.  What cannot be seen: the memory model (a fence that is missing
// between existing barriers), bank conflicts, residency, speed.
#pragma once

#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <type_traits>
#include <utility>
#include <vector>

#include <sys/mman.h>
#include <ucontext.h>

#include "shim_types.h"

namespace shim {

// What a launch answers (tests/shim/runtime.py has the words).
enum Outcome {
  kDone,
  kClusterGrid,
  kTooMuchShared,
  kDeadlock,
  kTooManyThreads,
  kOverrun,
  kGone,
  kAlone
};
constexpr int kBadArgument = 100;  // plus the position of the argument
constexpr int kBadCount = 99;

constexpr size_t kSharedLimit = 227 * 1024, kCanary = 1024, kStack = 128 * 1024, kGuard = 4096;

struct Barrier {
  int needed = 0, arrived = 0;
  unsigned generation = 0;
};

// Operations of a whole warp put their operands here.  Two buffers in turn: who writes one again
// has passed the barrier between, so all have read it.
struct Warp {
  Barrier barrier;
  alignas(16) unsigned char exchange[2][32][96];
};

struct Cluster;

struct Block {
  dim3 index;
  Barrier barrier;
  unsigned char* shared;
  std::vector<Warp> warps;
  Cluster* cluster;
  int rank, alive;
};

struct Cluster {
  Barrier barrier;
  std::vector<Block*> blocks;
};

struct Fiber {
  jmp_buf here;
  char* stack = nullptr;
  bool started = false, done = false;
  dim3 index;
  int lane;
  Warp* warp;
  Block* block;
};

struct Launch {
  unsigned grid[3], block[3];
  unsigned long long shared;
  int cluster, schedule;
};

// The body of the kernel with its arguments.
struct Body {
  void (*call)(void*);
  void* with;
};

static Fiber* current = nullptr;  // who runs
static jmp_buf home;              // the scheduler
static dim3 grid_size, block_size;
static Body body;
// What somebody did who used the shared memory of the cluster: of a block that has ended (kGone),
// in a cluster of one block (kAlone).
static Outcome fault = kDone;
// Counts all that brings somebody further; a round in which it stands still is a deadlock: at first
// it becomes late, and bounded waits end; if that helps nobody, the launch fails.
static unsigned long progress = 0;
static bool late = false;

// ---- fibers ------------------------------------------------------------------------------

static std::vector<char*> idle_stacks;

static char* take_stack() {
  if (idle_stacks.empty()) {
    const int how = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void* memory = mmap(nullptr, kStack, PROT_READ | PROT_WRITE, how, -1, 0);
    if (memory == MAP_FAILED) abort();
    mprotect(memory, kGuard, PROT_NONE);
    return static_cast<char*>(memory);
  }
  char* stack = idle_stacks.back();
  idle_stacks.pop_back();
  return stack;
}

static void yield() {
  if (_setjmp(current->here) == 0) _longjmp(home, 1);
}

static void open_if_complete(Barrier& barrier) {
  if (barrier.needed > 0 && barrier.arrived >= barrier.needed) {
    barrier.arrived = 0;
    barrier.generation++;
  }
}

static void wait(Barrier& barrier) {
  const unsigned generation = barrier.generation;
  ++progress;
  ++barrier.arrived;
  open_if_complete(barrier);
  while (barrier.generation == generation) yield();
  ++progress;
}

// A thread that has ended holds up no barrier.
static void leave(Barrier& barrier) {
  --barrier.needed;
  open_if_complete(barrier);
}

static void run_fiber() {
  body.call(body.with);
  Fiber* const me = current;
  me->done = true;
  leave(me->warp->barrier);
  leave(me->block->barrier);
  leave(me->block->cluster->barrier);
  --me->block->alive;
  ++progress;
  _longjmp(home, 1);
}

// Let `fiber` run until it waits or ends.
static void resume(Fiber* fiber) {
  current = fiber;
  if (_setjmp(home) == 0) {
    if (fiber->started) _longjmp(fiber->here, 1);
    fiber->started = true;
    fiber->stack = take_stack();
    static ucontext_t start;
    getcontext(&start);
    start.uc_stack.ss_sp = fiber->stack;
    start.uc_stack.ss_size = kStack;
    start.uc_link = nullptr;
    makecontext(&start, run_fiber, 0);
    setcontext(&start);
  }
  if (current->done && current->stack) {
    idle_stacks.push_back(current->stack);
    current->stack = nullptr;
  }
}

// ---- who runs when -----------------------------------------------------------------------

struct Random {
  uint64_t state;
  explicit Random(int seed) : state(seed * 0x9E3779B97F4A7C15ull + 1) {}
  size_t below(size_t n) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return state % n;
  }
  template <class T>
  void shuffle(std::vector<T>& values) {
    for (size_t i = values.size(); i > 1; i--) std::swap(values[i - 1], values[below(i)]);
  }
};

static size_t unfinished(const std::vector<Fiber>& fibers) {
  size_t n = 0;
  for (const Fiber& fiber : fibers) n += !fiber.done;
  return n;
}

// One round after the other, each thread once a round: forward, backward or shuffled.
static Outcome run_in_turn(std::vector<Fiber>& fibers, int schedule, Random& random) {
  std::vector<Fiber*> order;
  for (Fiber& fiber : fibers) order.push_back(&fiber);
  if (schedule == 1) {
    for (size_t i = 0, j = order.size(); i + 1 < j; i++) std::swap(order[i], order[--j]);
  }
  for (int idle = 0; unfinished(fibers);) {
    const unsigned long before = progress;
    if (schedule >= 2) random.shuffle(order);
    for (Fiber* fiber : order) {
      if (!fiber->done) resume(fiber);
    }
    idle = progress == before ? idle + 1 : 0;
    if (idle > 8 && late) return kDeadlock;
    if (idle > 8) late = true, idle = 0;
  }
  return kDone;
}

// One block (even schedules) or warp (odd ones), drawn at random, runs as far as it can while
// all others starve.
static Outcome run_starving(std::vector<Fiber>& fibers, size_t unit, Random& random) {
  const size_t units = (fibers.size() + unit - 1) / unit;
  size_t idle = 0;
  while (unfinished(fibers)) {
    const size_t from = random.below(units) * unit;
    const unsigned long at_first = progress;
    unsigned long before;
    do {
      before = progress;
      for (size_t i = from; i < from + unit && i < fibers.size(); i++) {
        if (!fibers[i].done) resume(&fibers[i]);
      }
    } while (progress != before);
    idle = progress == at_first ? idle + 1 : 0;
    if (idle > 64 * units + 64 && late) return kDeadlock;
    if (idle > 64 * units + 64) late = true, idle = 0;
  }
  return kDone;
}

// ---- one launch --------------------------------------------------------------------------

static dim3 position(unsigned id, const dim3& size) {
  return dim3(id % size.x, id / size.x % size.y, id / size.x / size.y);
}

static void make_block(Block& block, const Launch& how, unsigned id, Cluster* cluster) {
  const int threads = block_size.x * block_size.y * block_size.z;
  const size_t bytes = (how.shared + 15) / 16 * 16 + kCanary;
  block.index = position(id, grid_size);
  block.barrier.needed = block.alive = threads;
  block.shared = static_cast<unsigned char*>(aligned_alloc(1024, (bytes + 1023) / 1024 * 1024));
  memset(block.shared, 0xff, bytes);  // NaN in every type
  block.warps.resize((threads + 31) / 32);
  block.cluster = cluster;
  block.rank = cluster->blocks.size();
  cluster->blocks.push_back(&block);
  cluster->barrier.needed += threads;
}

static bool overrun(const Block& block, size_t shared) {
  for (size_t i = shared; i < (shared + 15) / 16 * 16 + kCanary; i++) {
    if (block.shared[i] != 0xff) return true;
  }
  return false;
}

// The blocks of one cluster are alive together; clusters run one after the other.
static Outcome run_cluster(const Launch& how, unsigned first, Random& random) {
  const int size = how.cluster, threads = block_size.x * block_size.y * block_size.z;
  Cluster cluster;
  std::vector<Block> blocks(size);
  std::vector<Fiber> fibers(size * threads);
  for (int rank = 0; rank < size; rank++) make_block(blocks[rank], how, first + rank, &cluster);
  for (size_t i = 0; i < fibers.size(); i++) {
    const int thread = i % threads;
    fibers[i].block = &blocks[i / threads];
    fibers[i].index = position(thread, block_size);
    fibers[i].lane = thread % 32;
    fibers[i].warp = &fibers[i].block->warps[thread / 32];
    fibers[i].warp->barrier.needed++;
  }
  late = false;
  Outcome outcome = how.schedule < 100
                        ? run_in_turn(fibers, how.schedule, random)
                        : run_starving(fibers, how.schedule % 2 ? 32 : threads, random);
  for (Block& block : blocks) {
    if (outcome == kDone && overrun(block, how.shared)) outcome = kOverrun;
    free(block.shared);
  }
  for (Fiber& fiber : fibers) {
    if (fiber.stack) idle_stacks.push_back(fiber.stack);
  }
  // Each is two mappings of memory, of which a process may have 65,530.
  while (idle_stacks.size() > 512) munmap(idle_stacks.back(), kStack), idle_stacks.pop_back();
  return outcome == kDone ? fault : outcome;
}

static int run(const Launch& how, Body what) {
  grid_size = dim3(how.grid[0], how.grid[1], how.grid[2]);
  block_size = dim3(how.block[0], how.block[1], how.block[2]);
  body = what;
  fault = kDone;
  if (how.cluster < 1 || grid_size.x % how.cluster) return kClusterGrid;
  if (how.shared > kSharedLimit) return kTooMuchShared;
  const unsigned threads = block_size.x * block_size.y * block_size.z;
  if (threads < 1 || threads > 1024) return kTooManyThreads;
  Random random(how.schedule);
  std::vector<unsigned> clusters(grid_size.x * grid_size.y * grid_size.z / how.cluster);
  for (size_t i = 0; i < clusters.size(); i++) {
    clusters[i] = how.schedule == 1 ? clusters.size() - 1 - i : i;
  }
  if (how.schedule >= 2) random.shuffle(clusters);
  for (unsigned cluster : clusters) {
    const Outcome outcome = run_cluster(how, cluster * how.cluster, random);
    if (outcome != kDone) return outcome;
  }
  return kDone;
}

// ---- arguments ---------------------------------------------------------------------------

// 0 for a pointer, else the bytes of the value.
template <class P>
constexpr int size_of() {
  return std::is_pointer_v<P> ? 0 : sizeof(P);
}

template <class... P, size_t... I>
static int launch(void (*kernel)(P...), const Launch& how, void** arguments, const int* sizes,
                  int count, std::index_sequence<I...>) {
  const int wanted[] = {size_of<P>()...};
  if (count != static_cast<int>(sizeof...(P))) return kBadCount;
  for (int i = 0; i < count; i++) {
    if (sizes[i] != wanted[i]) return kBadArgument + i;
  }
  auto call = [&] { kernel(*static_cast<std::remove_cv_t<P>*>(arguments[I])...); };
  return run(how, {[](void* with) { (*static_cast<decltype(call)*>(with))(); }, &call});
}

// Run `kernel`; `arguments` are addresses of its values, `sizes` what size_of says of each.
template <class... P>
static int launch(void (*kernel)(P...), const Launch& how, void** arguments, const int* sizes,
                  int count) {
  return launch(kernel, how, arguments, sizes, count, std::index_sequence_for<P...>());
}

}  // namespace shim

// ---- what kernels see --------------------------------------------------------------------

#define threadIdx (shim::current->index)
#define blockIdx (shim::current->block->index)
#define blockDim (shim::block_size)
#define gridDim (shim::grid_size)
#define SHARED(type, name) type* name = reinterpret_cast<type*>(shim::current->block->shared)

static inline void __syncthreads() { shim::wait(shim::current->block->barrier); }
static inline void __syncwarp(unsigned = 0xffffffffu) { shim::wait(shim::current->warp->barrier); }
static inline void __nanosleep(unsigned) { shim::yield(); }
static inline void __threadfence_system() {}

// The value of lane `from` of this warp.
template <class T>
static inline T shuffle_from(T value, int from) {
  shim::Warp* const warp = shim::current->warp;
  auto& buffer = warp->exchange[warp->barrier.generation & 1];
  static_assert(sizeof(T) <= sizeof(buffer[0]));
  memcpy(buffer[shim::current->lane], &value, sizeof(T));
  __syncwarp();
  memcpy(&value, buffer[from & 31], sizeof(T));
  return value;
}
template <class T>
static inline T __shfl_sync(unsigned, T value, int from) {
  return shuffle_from(value, from);
}
template <class T>
static inline T __shfl_xor_sync(unsigned, T value, int mask) {
  return shuffle_from(value, shim::current->lane ^ mask);
}
template <class T>
static inline T __shfl_up_sync(unsigned, T value, int by) {
  const int lane = shim::current->lane;
  return shuffle_from(value, lane < by ? lane : lane - by);
}
template <class T>
static inline T __shfl_down_sync(unsigned, T value, int by) {
  const int lane = shim::current->lane;
  return shuffle_from(value, lane + by > 31 ? lane : lane + by);
}

#include "shim_cluster.h"
