// What one block of a cluster does in every cell: its slice, its product, its exchange.
//
// Template arguments, the same in all kernels:
//   P         arithmetic of the products: Half, Bfloat16, Tf32, Ieee (cluster.cuh)
//   Units     hidden units of one block, a multiple of 16; C · Units >= H, what is beyond H is
//             padding: its weights and states are 0
//   C         blocks of a cluster
//   N         8 N sequences in a slice of the batch
//   Warps     of a block;  RowWarps of them (forward) share the rows of a product among them,
//             the Warps / RowWarps such groups share its depth
//   Kept      tiles of weights in registers, of each row of tiles of a warp
#pragma once
#include "cluster.cuh"

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

  int B, H, rank, first, thread, warp, lane;

  __device__ __forceinline__ Slice(int B, int H)
      : B(B),
        H(H),
        rank(cluster_rank()),
        first(static_cast<int>(blockIdx.x / C) * batch),
        thread(threadIdx.x),
        warp(threadIdx.x >> 5),
        lane(threadIdx.x & 31) {}

  // This thread's j-th pair.
  __device__ __forceinline__ Pair pair(int j) const {
    const int e = thread + j * threads;
    Pair p;
    p.row = e / Units;
    p.column = e - p.row * Units;
    p.b = first + p.row;
    p.unit = rank * Units + p.column;
    p.at = p.b * H + p.unit;
    p.held = e < batch * Units;
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
};

// Forward: a block computes all gates of its units, from the whole state h_prev [batch, width].
// There are two buffers of the state: step s reads buffer s & 1, and its results are sent to the
// other one, of all blocks.  A block can be sent the state before step s + 2 only when it has
// sent its own part of that before step s + 1, and so has read the state before step s.  A block
// may end when it has all states it waits for: nothing else is ever sent to it.
template <class P, int Gates, int Units, int C, int N, int Warps, int RowWarps, int Kept>
struct Forward : Slice<Units, C, N, Warps> {
  typedef Slice<Units, C, N, Warps> Base;
  typedef Stored<P> T;
  using Base::batch, Base::width, Base::threads;
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
  static constexpr int staged_bytes = batch * Units * static_cast<int>(sizeof(T));
  static constexpr int bytes = weight_bytes + 2 * state_bytes + sums_bytes + staged_bytes + 16;

  Weights weights;
  T* states;                     // [2][batch, ld]
  float* sums;                   // [groups][batch, sums_ld]
  T* staged;                     // [batch, Units]: this block's part of the next state
  unsigned long long* barriers;  // [2], one for each buffer of the state

  __device__ __forceinline__ Forward(char* memory, int B, int H) : Base(B, H) {
    states = reinterpret_cast<T*>(memory + weight_bytes);
    sums = reinterpret_cast<float*>(memory + weight_bytes + 2 * state_bytes);
    staged = reinterpret_cast<T*>(memory + weight_bytes + 2 * state_bytes + sums_bytes);
    barriers = reinterpret_cast<unsigned long long*>(memory + bytes - 16);
  }

  // U [Gates·H, H], the state given [B, H].  The blocks may begin after the next cluster_sync.
  __device__ __forceinline__ void begin(char* memory, const T* U, const T* given) {
    const int row0 = warp % RowWarps * tiles * 16, k0 = warp / RowWarps * deep * P::depth;
    weights.load(lane, reinterpret_cast<Words*>(memory) + warp * Weights::words,
                 [&](int row, int k) {
                   const int gate = (row0 + row) / Units, unit = (row0 + row) % Units;
                   const int mine = rank * Units + unit, from = k0 + k;
                   if (mine >= H || from >= H) return static_cast<T>(0.0f);
                   return U[(static_cast<i64>(gate) * H + mine) * H + from];
                 });
    for (int e = thread; e < batch * width; e += threads) {
      const int row = e / width, unit = e % width;
      const bool real = first + row < B && unit < H;
      states[row * ld + unit] =
          real ? given[static_cast<i64>(first + row) * H + unit] : static_cast<T>(0.0f);
    }
    if (thread == 0) {
      mbarrier_init(barriers);
      mbarrier_init(barriers + 1);
    }
  }

  // The state before step s > 0 is awaited: announced …
  __device__ __forceinline__ void expect(int s) {
    if (thread == 0) mbarrier_expect(barriers + (s & 1), C * staged_bytes);
  }

  // … and here.  Step 1 ends the first phase of barrier 1, step 2 that of barrier 0.
  __device__ __forceinline__ void wait(int s) {
    mbarrier_wait(barriers + (s & 1), ((s - 1) >> 1) & 1);
  }

  // This warp's share of U h_prev, for step s.
  __device__ __forceinline__ void product(int s) {
    const int group = warp / RowWarps;
    float sum[tiles][N][4];
    weights.template product<N>(sum, lane, states + (s & 1) * batch * ld + group * deep * P::depth,
                                ld);
    put(sums + group * batch * sums_ld + warp % RowWarps * tiles * 16, sums_ld, lane, sum);
  }

  // U h_prev of one gate of a pair, from the shares of all warps.
  __device__ __forceinline__ float sum(int gate, const Pair& p) const {
    const float* share = sums + p.row * sums_ld + gate * Units + p.column;
    float total = share[0];
    UNROLL for (int group = 1; group < groups; group++) total += share[group * batch * sums_ld];
    return total;
  }

  __device__ __forceinline__ void stage(const Pair& p, T h) {
    staged[p.row * Units + p.column] = h;
  }

  // Sends what was staged to all blocks, this one included: their state before step s.
  __device__ __forceinline__ void send(int s) {
    constexpr int piece = 16 / static_cast<int>(sizeof(T)), across = Units / piece;
    T* state = states + (s & 1) * batch * ld;
    for (int e = thread; e < C * batch * across; e += threads) {
      const int to = (rank + e / (batch * across)) % C;  // not all to the same one at a time
      const int row = e / across % batch, column = e % across * piece;
      store_async16(state + row * ld + rank * Units + column,
                    *reinterpret_cast<const Words*>(staged + row * Units + column),
                    barriers + (s & 1), to);
    }
  }
};

// Backward: from the da of its own units a block computes its share of da U for all units, and
// sends each block what belongs to that one's units; there the shares of all blocks are summed.
// There are two buffers for shares: those of step s (counted from the end) go to buffer s & 1.
// A block can be sent shares of step s + 2 only when it has sent its own of step s + 1, and so
// has summed those of step s.  It may end when it has waited for those of the last step.
template <class P, int Gates, int Units, int C, int N, int Warps, int Kept>
struct Backward : Slice<Units, C, N, Warps> {
  typedef Slice<Units, C, N, Warps> Base;
  typedef Stored<P> T;
  using Base::batch, Base::width, Base::threads;
  using Base::H, Base::rank, Base::thread, Base::warp, Base::lane;

  static constexpr int rows = Gates * Units;
  static constexpr int tiles = width / 16 / Warps, deep = rows / P::depth;
  static_assert(tiles * Warps * 16 == width && deep * P::depth == rows, "units by warps");
  typedef Resident<P, tiles, deep, Kept> Weights;

  static constexpr int ld = rows + P::pad, sums_ld = width + 4;
  static constexpr int weight_bytes = Warps * Weights::words * 16;
  static constexpr int da_bytes = batch * ld * static_cast<int>(sizeof(T));
  static constexpr int sums_bytes = batch * sums_ld * 4;
  static constexpr int share_bytes = C * batch * Units * 4;
  static constexpr int bytes = weight_bytes + da_bytes + sums_bytes + 2 * share_bytes + 16;

  Weights weights;
  T* da;                         // [batch, ld]: of this block's units
  float* sums;                   // [batch, sums_ld]: this block's share of da U
  float* shares;                 // [2][C][batch, Units]: of all blocks, for this block's units
  unsigned long long* barriers;  // [2], one for each buffer of shares

  __device__ __forceinline__ Backward(char* memory, int B, int H) : Base(B, H) {
    da = reinterpret_cast<T*>(memory + weight_bytes);
    sums = reinterpret_cast<float*>(memory + weight_bytes + da_bytes);
    shares = reinterpret_cast<float*>(memory + weight_bytes + da_bytes + sums_bytes);
    barriers = reinterpret_cast<unsigned long long*>(memory + bytes - 16);
  }

  // U [Gates·H, H].  The blocks may begin after the next cluster_sync.
  __device__ __forceinline__ void begin(char* memory, const T* U) {
    const int row0 = warp * tiles * 16;
    weights.load(lane, reinterpret_cast<Words*>(memory) + warp * Weights::words,
                 [&](int row, int k) {
                   const int gate = k / Units, mine = rank * Units + k % Units, to = row0 + row;
                   if (mine >= H || to >= H) return static_cast<T>(0.0f);
                   return U[(static_cast<i64>(gate) * H + mine) * H + to];
                 });
    if (thread == 0) {
      mbarrier_init(barriers);
      mbarrier_init(barriers + 1);
    }
  }

  // The shares of step s are awaited: announced …
  __device__ __forceinline__ void expect(int s) {
    if (thread == 0) mbarrier_expect(barriers + (s & 1), share_bytes);
  }

  // … and here.  Step 0 ends the first phase of barrier 0, step 1 that of barrier 1.
  __device__ __forceinline__ void wait(int s) { mbarrier_wait(barriers + (s & 1), (s >> 1) & 1); }

  // One gate's da, in the order of the rows of U.
  __device__ __forceinline__ void stage(int gate, const Pair& p, float value) {
    da[p.row * ld + gate * Units + p.column] = static_cast<T>(value);
  }

  // This block's share of da U, each warp some of the units.
  __device__ __forceinline__ void product() {
    float sum[tiles][N][4];
    weights.template product<N>(sum, lane, da, ld);
    put(sums + warp * tiles * 16, sums_ld, lane, sum);
  }

  // Sends each block the share of its units, this one included, for step s.
  __device__ __forceinline__ void send(int s) {
    constexpr int across = Units / 4;
    float* share = shares + ((s & 1) * C + rank) * batch * Units;
    for (int e = thread; e < C * batch * across; e += threads) {
      const int to = (rank + e / (batch * across)) % C;  // not all to the same one at a time
      const int row = e / across % batch, column = e % across * 4;
      store_async16(share + row * Units + column,
                    *reinterpret_cast<const Words*>(sums + row * sums_ld + to * Units + column),
                    barriers + (s & 1), to);
    }
  }

  // (da U) of a pair: the sum of all blocks' shares of step s.
  __device__ __forceinline__ float total(int s, const Pair& p) const {
    const float* share = shares + (s & 1) * C * batch * Units + p.row * Units + p.column;
    float total = share[0];
    UNROLL for (int block = 1; block < C; block++) total += share[block * batch * Units];
    return total;
  }
};
