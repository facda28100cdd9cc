// What one block of a cluster does in every cell: its slice, its product, its exchange.
//
// Template arguments, the same in all kernels:
//   P         arithmetic of the products: Half, Bfloat16, Tf32, IeeeSplit, IeeeWhole
//             (cluster_products.cuh)
//   Units     hidden units of one block, a multiple of 16; C · Units >= H, what is beyond H is
//             padding: its weights and states are 0
//   C         blocks of a cluster
//   N         8 N sequences in a slice of the batch
//   Warps     of a block;  RowWarps of them (forward) share the rows of a product among them,
//             the Warps / RowWarps such groups share its depth
//   Kept      tiles of weights in registers, of each row of tiles of a warp
#pragma once
#include "cluster_products.cuh"

// One of the (sequence, unit) pairs whose state a thread keeps.
struct Pair {
  int row, column;  // the sequence in its slice, the unit in its block
  int b, unit;      // the same in the whole
  int at;           // its place in [B, H]
  bool held;        // the thread has such a pair …
  bool real;        // … and it is no padding
};

template <int Units, int C, int N, int Warps>
struct Slice {
  static_assert(Units % 16 == 0, "tiles have 16 rows");
  static constexpr int batch = 8 * N, threads = 32 * Warps, width = Units * C;
  static constexpr int pairs = (batch * Units + threads - 1) / threads;  // of one thread
  static constexpr bool all_held = batch * Units % threads == 0;
  // A block that is alone in its cluster exchanges nothing: what a step computes lies where the
  // next one reads it, and no address of the cluster is used, which a cluster of one block may not
  // do.
  static constexpr bool exchanges = C > 1;
  static constexpr int tail_bytes = exchanges ? 32 : 0;

  int B, H, rank, first, thread, warp, lane;
  unsigned long long* barriers;  // [2], one for each buffer of what comes in
  int* gave_up;                  // not 0 once a thread of this block has waited in vain

  // `tail`: behind all else in the shared memory.
  __device__ __forceinline__ Slice(char* tail, int B, int H)
      : B(B),
        H(H),
        rank(exchanges ? cluster_rank() : 0),
        first(static_cast<int>(blockIdx.x / C) * batch),
        thread(kept_in_register(static_cast<int>(threadIdx.x))),
        warp(thread >> 5),
        lane(thread & 31),
        barriers(reinterpret_cast<unsigned long long*>(tail)),
        gave_up(reinterpret_cast<int*>(tail + 16)) {
    if (exchanges && thread == 0) {
      mbarrier_init(barriers);
      mbarrier_init(barriers + 1);
      *gave_up = 0;
    }
  }

  // This thread's j-th pair.
  __device__ __forceinline__ Pair pair(int j) const {
    Pair p;
    if (threads % Units == 0) {  // all of a thread's pairs are of one unit
      p.row = thread / Units + j * (threads / Units);
      p.column = thread % Units;
    } else {
      p.row = (thread + j * threads) / Units;
      p.column = (thread + j * threads) % Units;
    }
    p.b = first + p.row;
    p.unit = rank * Units + p.column;
    p.at = p.b * H + p.unit;
    p.held = all_held || thread + j * threads < batch * Units;
    p.real = p.held && p.b < B && p.unit < H;
    return p;
  }

  // The steps of this slice: its longest sequence; beyond it there is nothing to compute.
  __device__ __forceinline__ int longest(const int* lengths, int steps) const {
    if (!lengths) return steps;
    int most = 0;
    for (int b = first; b < first + batch && b < B; b++) {
      most = lengths[b] > most ? lengths[b] : most;
    }
    return most < steps ? most : steps;
  }

  // A barrier of all threads that run this slice.
  __device__ __forceinline__ void sync() const {
    if (exchanges) {
      cluster_sync();
    } else {
      __syncthreads();
    }
  }

  // Tells one of the barriers what will come.
  __device__ __forceinline__ void announce(int buffer, unsigned bytes) {
    if (exchanges && thread == 0) mbarrier_expect(barriers + buffer, bytes);
  }

  // Waits at one of the barriers.  After a wait in vain what follows is undefined: all threads of
  // the block see it after the next __syncthreads, and leave the loop over time …
  __device__ __forceinline__ void await(int buffer, unsigned parity) {
    if (exchanges && !mbarrier_wait(barriers + buffer, parity)) *gave_up = 1;
  }
  __device__ __forceinline__ bool stalled() const {
    return exchanges && *static_cast<const volatile int*>(gave_up);
  }

  // … and tells the host the step and the sizes.  To be called after the loop, by all: no block
  // ends before the others, which may still be sending to it when it has given up.
  __device__ __forceinline__ bool ended_well(int s, int steps, int* report) {
    sync();
    if (!stalled()) return true;
    if (thread == 0) {
      report[1] = steps, report[2] = B, report[3] = H;
      __threadfence_system();
      report[0] = s + 1;
    }
    return false;
  }
};

// How the threads of a block send the others `Batch` rows of `Across` pieces of 16 bytes each:
// every thread to one block.  They do not all begin with the same one.
template <int C, int Threads, int Batch, int Across>
struct Sender {
  static constexpr int lanes = Threads / C, pieces = Batch * Across;  // for each block
  static constexpr int each = (pieces + lanes - 1) / lanes, at_once = 4;
  static_assert(lanes * C == Threads, "blocks by threads");

  int to, lane;
  Remote data, barriers;

  // `data` and `barriers`: where they are in the block that is sent to.
  __device__ __forceinline__ Sender(int thread, int rank, const void* data, const void* barriers)
      : to((rank + thread / lanes) % C),
        lane(thread % lanes),
        data(C > 1 ? remote(data, to) : Remote()),
        barriers(C > 1 ? remote(barriers, to) : Remote()) {}

  // The piece at from + row · stride + column · 16 bytes goes to data + row · there + column · 16
  // bytes, and is counted off at `barriers` + 8 · buffer.
  __device__ __forceinline__ void send(const void* from, int stride, Remote data, int there,
                                       int buffer) const {
    if (C == 1) return;
    UNROLL for (int some = 0; some < each; some += at_once) {
      Words piece[at_once];
      UNROLL for (int k = some; k < some + at_once && k < each; k++) {
        if (valid(k)) {
          piece[k - some] = *reinterpret_cast<const Words*>(static_cast<const char*>(from) +
                                                            row(k) * stride + column(k) * 16);
        }
      }
      UNROLL for (int k = some; k < some + at_once && k < each; k++) {
        if (valid(k)) {
          store_async16(data + (row(k) * there + column(k) * 16), piece[k - some],
                        barriers + 8 * buffer);
        }
      }
    }
  }

 private:
  __device__ __forceinline__ bool valid(int k) const {
    return pieces % lanes == 0 || lane + k * lanes < pieces;
  }
  __device__ __forceinline__ int row(int k) const {
    return lanes % Across == 0 ? lane / Across + k * (lanes / Across) : (lane + k * lanes) / Across;
  }
  __device__ __forceinline__ int column(int k) const {
    return lanes % Across == 0 ? lane % Across : (lane + k * lanes) % Across;
  }
};

// Forward: a block computes all gates of its units, from the whole state h_prev [batch, width].
// There are two buffers of the state: step s reads buffer s & 1, and its results are sent to the
// other one, of all blocks.  A block can be sent the state before step s + 2 only when it has
// sent its own part of that before step s + 1, and so has read the state before step s.  A block
// may end when it has all states it waits for: nothing else is ever sent to it.
// One block alone has one buffer, which its product has read before the next state is staged there.
template <class P, int Gates, int Units, int C, int N, int Warps, int RowWarps, int Kept>
struct Forward : Slice<Units, C, N, Warps> {
  typedef Slice<Units, C, N, Warps> Base;
  typedef Stored<P> T;
  using Base::barriers;
  using Base::batch, Base::width, Base::threads, Base::exchanges;
  using Base::H, Base::B, Base::rank, Base::first, Base::thread, Base::warp, Base::lane;

  static constexpr int rows = Gates * Units, groups = Warps / RowWarps;
  static constexpr int tiles = rows / 16 / RowWarps, deep = width / P::depth / groups;
  static_assert(groups * RowWarps == Warps && tiles * RowWarps * 16 == rows, "rows by warps");
  static_assert(deep * groups * P::depth == width, "depth by groups of warps");
  typedef Resident<P, tiles, deep, Kept> Weights;

  static constexpr int ld = width + P::pad, sums_ld = rows + 4;
  static constexpr int weight_bytes = Warps * Weights::words * 16;
  static constexpr int state_bytes = batch * ld * static_cast<int>(sizeof(T));
  static constexpr int sums_bytes = groups * batch * sums_ld * 4;
  static constexpr int staged_ld = exchanges ? Units : ld;
  static constexpr int staged_bytes = batch * Units * static_cast<int>(sizeof(T));
  static constexpr int sums_at = weight_bytes + (exchanges ? 2 : 1) * state_bytes;
  static constexpr int staged_at = exchanges ? sums_at + sums_bytes : weight_bytes;
  static constexpr int data_bytes = sums_at + sums_bytes + (exchanges ? staged_bytes : 0);
  static constexpr int bytes = data_bytes + Base::tail_bytes;

  T* states;     // [2][batch, ld]; one block alone: [batch, ld]
  float* sums;   // [groups][batch, sums_ld]
  T* staged;     // [batch, staged_ld]: this block's part of the next state
  int from, to;  // where in states and sums this lane reads and writes
  Sender<C, threads, batch, Units* static_cast<int>(sizeof(T)) / 16> sender;
  Weights weights;

  __device__ __forceinline__ Forward(char* memory, int B, int H)
      : Base(memory + data_bytes, B, H),
        states(reinterpret_cast<T*>(memory + weight_bytes)),
        sums(reinterpret_cast<float*>(memory + sums_at)),
        staged(reinterpret_cast<T*>(memory + staged_at)),
        from(kept_in_register(P::place(lane, ld) + warp / RowWarps * deep * P::depth)),
        to(kept_in_register(sum_place<sums_ld>(lane) + warp / RowWarps * batch * sums_ld +
                            warp % RowWarps * tiles * 16)),
        sender(thread, rank, states + rank * Units, barriers) {}

  // U [Gates·H, H], less than 2^31 values; the state given [B, H].  The blocks may begin after the
  // next sync.
  __device__ __forceinline__ void begin(char* memory, const T* U, const T* given) {
    const int row0 = warp % RowWarps * tiles * 16, k0 = warp / RowWarps * deep * P::depth;
    weights.load(lane, reinterpret_cast<Words*>(memory) + warp * Weights::words,
                 [&](int row, int k) {
                   const int gate = (row0 + row) / Units, unit = (row0 + row) % Units;
                   const int mine = rank * Units + unit, from = k0 + k;
                   if (mine >= H || from >= H) return static_cast<T>(0.0f);
                   return U[static_cast<unsigned>((gate * H + mine) * H + from)];
                 });
    for (int e = thread; e < batch * width; e += threads) {
      const int row = e / width, unit = e % width;
      const bool real = first + row < B && unit < H;
      states[row * ld + unit] =
          real ? P::vector(given[static_cast<i64>(first + row) * H + unit]) : static_cast<T>(0.0f);
    }
  }

  // The state before step s > 0 is awaited: announced …
  __device__ __forceinline__ void expect(int s) { this->announce(s & 1, C * staged_bytes); }

  // … and here.  Step 1 ends the first phase of barrier 1, step 2 that of barrier 0.
  __device__ __forceinline__ void wait(int s) { this->await(s & 1, ((s - 1) >> 1) & 1); }

  // This warp's share of U h_prev, for step s.
  __device__ __forceinline__ void product(int s) {
    float sum[tiles][N][4];
    const T* state = exchanges ? states + (s & 1) * batch * ld : states;
    weights.template product<N>(sum, state + from, ld);
    put<sums_ld>(sums + to, sum);
  }

  // U h_prev of one gate of a pair, from the shares of all warps.
  __device__ __forceinline__ float sum(int gate, const Pair& p) const {
    const float* share = sums + p.row * sums_ld + gate * Units + p.column;
    float total = share[0];
    UNROLL for (int group = 1; group < groups; group++) total += share[group * batch * sums_ld];
    return total;
  }

  __device__ __forceinline__ void stage(const Pair& p, T h) {
    staged[p.row * staged_ld + p.column] = P::vector(h);
  }

  // Sends what was staged to all blocks, this one included: their state before step s.
  __device__ __forceinline__ void send(int s) {
    constexpr int size = static_cast<int>(sizeof(T));
    const Remote state = sender.data + (s & 1) * state_bytes;
    sender.send(staged, Units * size, state, ld * size, s & 1);
  }
};

// Backward: from the da of its own units a block computes its share of da U for all units, and
// sends each block what belongs to that one's units; there the shares of all blocks are summed.
// There are two buffers for shares: those of step s (counted from the end) go to buffer s & 1.
// A block can be sent shares of step s + 2 only when it has sent its own of step s + 1, and so
// has summed those of step s.  It may end when it has waited for those of the last step.
// One block alone reads its share where the product left it.
template <class P, int Gates, int Units, int C, int N, int Warps, int Kept>
struct Backward : Slice<Units, C, N, Warps> {
  typedef Slice<Units, C, N, Warps> Base;
  typedef Stored<P> T;
  using Base::batch, Base::width, Base::threads, Base::exchanges;
  using Base::H, Base::rank, Base::thread, Base::warp, Base::lane, Base::barriers;

  static constexpr int rows = Gates * Units;
  static constexpr int tiles = width / 16 / Warps, deep = rows / P::depth;
  static_assert(tiles * Warps * 16 == width && deep * P::depth == rows, "units by warps");
  typedef Resident<P, tiles, deep, Kept> Weights;

  static constexpr int ld = rows + P::pad, sums_ld = width + 4;
  static constexpr int weight_bytes = Warps * Weights::words * 16;
  static constexpr int da_bytes = batch * ld * static_cast<int>(sizeof(T));
  static constexpr int sums_bytes = batch * sums_ld * 4;
  static constexpr int share_bytes = C * batch * Units * 4;
  static constexpr int sums_at = weight_bytes + da_bytes;
  static constexpr int data_bytes = sums_at + sums_bytes + (exchanges ? 2 * share_bytes : 0);
  static constexpr int bytes = data_bytes + Base::tail_bytes;

  T* da;          // [batch, ld]: of this block's units
  float* sums;    // [batch, sums_ld]: this block's share of da U
  float* shares;  // [2][C][batch, Units]: of all blocks, for this block's units
  int from, to;   // where in da and sums this lane reads and writes
  Sender<C, threads, batch, Units / 4> sender;
  Weights weights;

  __device__ __forceinline__ Backward(char* memory, int B, int H)
      : Base(memory + data_bytes, B, H),
        da(reinterpret_cast<T*>(memory + weight_bytes)),
        sums(reinterpret_cast<float*>(memory + sums_at)),
        shares(reinterpret_cast<float*>(memory + sums_at + sums_bytes)),
        from(kept_in_register(P::place(lane, ld))),
        to(kept_in_register(sum_place<sums_ld>(lane) + warp * tiles * 16)),
        sender(thread, rank, shares + rank * batch * Units, barriers) {}

  // U [Gates·H, H], less than 2^31 values.  The blocks may begin after the next sync.
  __device__ __forceinline__ void begin(char* memory, const T* U) {
    const int row0 = warp * tiles * 16;
    weights.load(lane, reinterpret_cast<Words*>(memory) + warp * Weights::words,
                 [&](int row, int k) {
                   const int gate = k / Units, mine = rank * Units + k % Units, to = row0 + row;
                   if (mine >= H || to >= H) return static_cast<T>(0.0f);
                   return U[static_cast<unsigned>((gate * H + mine) * H + to)];
                 });
  }

  // The shares of step s are awaited: announced …
  __device__ __forceinline__ void expect(int s) { this->announce(s & 1, share_bytes); }

  // … and here.  Step 0 ends the first phase of barrier 0, step 1 that of barrier 1.
  __device__ __forceinline__ void wait(int s) { this->await(s & 1, (s >> 1) & 1); }

  // One gate's da, in the order of the rows of U.
  __device__ __forceinline__ void stage(int gate, const Pair& p, float value) {
    da[p.row * ld + gate * Units + p.column] = P::vector(static_cast<T>(value));
  }

  // This block's share of da U, each warp some of the units.
  __device__ __forceinline__ void product() {
    float sum[tiles][N][4];
    weights.template product<N>(sum, da + from, ld);
    put<sums_ld>(sums + to, sum);
  }

  // Sends each block the share of its units, this one included, for step s.
  __device__ __forceinline__ void send(int s) {
    const Remote share = sender.data + (s & 1) * share_bytes;
    sender.send(sums + sender.to * Units, sums_ld * 4, share, Units * 4, s & 1);
  }

  // (da U) of a pair: the sum of all blocks' shares of step s.
  __device__ __forceinline__ float total(int s, const Pair& p) const {
    if (!exchanges) return sums[p.row * sums_ld + p.column];
    const float* share = shares + (s & 1) * C * batch * Units + p.row * Units + p.column;
    float total = share[0];
    UNROLL for (int block = 1; block < C; block++) total += share[block * batch * Units];
    return total;
  }
};
