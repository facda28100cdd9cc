// Whole sequences on thread-block clusters (sm_90 and later): the instructions they need, and
// matrix products of weights that stay on the chip.
//
// A cluster is C blocks on C multiprocessors.  It runs a slice of the batch through all steps;
// each of its blocks owns `Units` neighbouring hidden units, and holds the rows of U that belong
// to them (of all gates) in registers and shared memory from the first step to the last.
// After each step the blocks send one another what the next one needs, by stores that count
// themselves off at a barrier in the receiver's shared memory (st.async, mbarrier).  So there is
// no fence, no barrier of the cluster or grid, and no atomic addition in the loop over time, and
// every sum has one fixed order.
//
// Here: PTX in wrappers (the shim has their host versions), the arithmetic of the products, and
// `Resident`, a warp's share of the weights.  What blocks exchange: cluster_blocks.cuh.
#pragma once
#include "common.cuh"

#define ROLL _Pragma("unroll 1")
#define FEW _Pragma("unroll 4")

// 16 bytes, moved as one.
struct __align__(16) Words {
  unsigned at[4];
};

#ifndef XRNN_HOST
// The number of this block in its cluster.
__device__ __forceinline__ int cluster_rank() {
  unsigned rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
}

// A barrier of all threads of the cluster.  Costly: once, before the loop.
__device__ __forceinline__ void cluster_sync() {
  asm volatile(
      "barrier.cluster.arrive.release.aligned;\n"
      "barrier.cluster.wait.acquire.aligned;" ::
          : "memory");
}

// The address of a place in shared memory, as PTX counts it.
__device__ __forceinline__ unsigned shared_address(const void* p) {
  return static_cast<unsigned>(__cvta_generic_to_shared(p));
}

// The same place in the shared memory of block `rank`.
__device__ __forceinline__ unsigned address_in(unsigned address, int rank) {
  unsigned there;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
  return there;
}

// A barrier whose phase ends when one thread has arrived and all bytes it announced are in.
// Visible to the other blocks after the next cluster_sync.
__device__ __forceinline__ void mbarrier_init(unsigned long long* barrier) {
  asm volatile(
      "mbarrier.init.shared::cta.b64 [%0], 1;\n"
      "fence.mbarrier_init.release.cluster;" ::"r"(shared_address(barrier))
      : "memory");
}

// Arrives, and announces `bytes`.  Bytes may come in before they are announced.
__device__ __forceinline__ void mbarrier_expect(unsigned long long* barrier, unsigned bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(bytes)
      : "memory");
}

// Waits for the end of the phase of this parity: 0 for the first, 1 for the second, 0 …
__device__ __forceinline__ void mbarrier_wait(unsigned long long* barrier, unsigned parity) {
  unsigned done;
  do {
    asm volatile(
        "{.reg .pred p;\n"
        "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;}"
        : "=r"(done)
        : "r"(shared_address(barrier)), "r"(parity)
        : "memory");
  } while (!done);
}

// Stores 16 bytes to the place `to` of block `rank` and counts them off at `barrier` there.
__device__ __forceinline__ void store_async16(void* to, const Words& value,
                                              unsigned long long* barrier, int rank) {
  asm volatile(
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 "
      "[%0], {%1, %2, %3, %4}, [%5];" ::"r"(address_in(shared_address(to), rank)),
      "r"(value.at[0]), "r"(value.at[1]), "r"(value.at[2]), "r"(value.at[3]),
      "r"(address_in(shared_address(barrier), rank))
      : "memory");
}

// d += a b, a [16, 16] and b [16, 8] of T, d [16, 8] of float, over the lanes as PTX has them.
#define MMA_16816(type, name)                                                           \
  template <>                                                                           \
  __device__ __forceinline__ void mma16816<type>(float d[4], const unsigned a[4],       \
                                                 const unsigned b[2]) {                 \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." name "." name                 \
                 ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                       \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));   \
  }
template <class T>
__device__ __forceinline__ void mma16816(float d[4], const unsigned a[4], const unsigned b[2]);
MMA_16816(__half, "f16")
MMA_16816(__nv_bfloat16, "bf16")
#undef MMA_16816

// The nearest float with 10 bits of mantissa, as bits.
__device__ __forceinline__ unsigned to_tf32(float x) {
  unsigned bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
}

// The same in two instructions: to_tf32 looks for NaN first, which may be lost here.  Volatile,
// or the compiler would round all weights that stay on the chip before the loop over time, and
// keep the results in registers it lacks.
__device__ __forceinline__ unsigned to_tf32_each_time(float x) {
  unsigned bits;
  asm volatile(
      "{.reg .b32 t;\n"
      "add.u32 t, %1, 0x1000;\n"
      "and.b32 %0, t, 0xffffe000;}"
      : "=r"(bits)
      : "r"(__float_as_uint(x)));
  return bits;
}

// d += a b, a [16, 8] and b [8, 8] of tf32.
__device__ __forceinline__ void mma1688(float d[4], const unsigned a[4], const unsigned b[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#else
inline unsigned to_tf32_each_time(float x) { return (__float_as_uint(x) + 0x1000) & 0xffffe000; }
#endif

__device__ __forceinline__ unsigned bits_of(float x) {
  return *reinterpret_cast<const unsigned*>(&x);
}
__device__ __forceinline__ float float_of(unsigned bits) {
  return *reinterpret_cast<const float*>(&bits);
}

// The arithmetic of a product is a policy P:
//   Type     what arrays are stored in; sums are float
//   depth    k of one mma;  pad: what a row in shared memory is longer by, against conflicts
//   pack     one tile of weights [16, depth], as the lanes keep it: 16 bytes a lane
//   rows     packed weights, as `multiply` wants them
//   columns  8 vectors of `depth` values from shared memory, as `multiply` wants them
//   multiply sum [16, 8] += rows · columns
// Of a tile, lane = 4 g + q has rows g and g + 8; of the vectors, it has vector g; of a sum,
// rows g, g + 8 of vectors 2q, 2q + 1: {(g, 2q), (g, 2q + 1), (g + 8, 2q), (g + 8, 2q + 1)}.

// Products of 16-bit values are exact in float.
template <class T>
struct SixteenBits {
  typedef T Type;
  typedef Words Rows;
  struct Columns {
    unsigned at[2];
  };
  static constexpr int depth = 16, pad = 8;

  static __device__ __forceinline__ unsigned pair(T low, T high) {
    Vector<T, 2> both;
    both.at[0] = low, both.at[1] = high;
    return *reinterpret_cast<const unsigned*>(&both);
  }
  template <class F>
  static __device__ __forceinline__ Words pack(int lane, F weight) {
    const int g = lane >> 2, k = 2 * (lane & 3);
    Words w;
    w.at[0] = pair(weight(g, k), weight(g, k + 1));
    w.at[1] = pair(weight(g + 8, k), weight(g + 8, k + 1));
    w.at[2] = pair(weight(g, k + 8), weight(g, k + 9));
    w.at[3] = pair(weight(g + 8, k + 8), weight(g + 8, k + 9));
    return w;
  }
  static __device__ __forceinline__ const Words& rows(const Words& packed) { return packed; }
  static __device__ __forceinline__ Columns columns(int lane, const T* vectors, int ld) {
    const unsigned* v =
        reinterpret_cast<const unsigned*>(vectors + (lane >> 2) * ld + 2 * (lane & 3));
    return {{v[0], v[4]}};
  }
  static __device__ __forceinline__ void multiply(float (&sum)[4], const Rows& a,
                                                  const Columns& b) {
    mma16816<T>(sum, a.at, b.at);
  }
};
typedef SixteenBits<__half> Half;
typedef SixteenBits<__nv_bfloat16> Bfloat16;

// Floats as they are stored, in tiles of depth 8.
struct FloatTiles {
  typedef float Type;
  static constexpr int depth = 8, pad = 4;

  template <class F>
  static __device__ __forceinline__ Words pack(int lane, F weight) {
    const int g = lane >> 2, k = lane & 3;
    return {{bits_of(weight(g, k)), bits_of(weight(g + 8, k)), bits_of(weight(g, k + 4)),
             bits_of(weight(g + 8, k + 4))}};
  }
};

// Each factor rounded to tf32: relative error 2^-11 a factor.
struct Tf32 : FloatTiles {
  typedef Words Rows;
  struct Columns {
    unsigned at[2];
  };
  template <class F>
  static __device__ __forceinline__ Words pack(int lane, F weight) {
    Words w = FloatTiles::pack(lane, weight);
    UNROLL for (int i = 0; i < 4; i++) w.at[i] = to_tf32(float_of(w.at[i]));
    return w;
  }
  static __device__ __forceinline__ const Words& rows(const Words& packed) { return packed; }
  static __device__ __forceinline__ Columns columns(int lane, const float* vectors, int ld) {
    const float* v = vectors + (lane >> 2) * ld + (lane & 3);
    return {{to_tf32(v[0]), to_tf32(v[4])}};
  }
  static __device__ __forceinline__ void multiply(float (&sum)[4], const Rows& a,
                                                  const Columns& b) {
    mma1688(sum, a.at, b.at);
  }
};

// Each factor x as high + low, both tf32: high is x rounded, low the rest with its last bits cut
// off, so that |low| <= 2^-11 |x| and |x - high - low| < 2^-21 |x|.  Of the four products
// low · low (2^-22 of the whole) is left out.  So a product is wrong by less than 2^-19.8 = 1.1e-6
// of its size (root mean square 8e-8), with either sign: sums are as good as those of float.  An
// infinite factor gives NaN, NaN stays NaN.
struct Ieee : FloatTiles {
  struct Rows {
    unsigned high[4], low[4];
  };
  struct Columns {
    unsigned high[2], low[2];
  };
  static __device__ __forceinline__ void split(float x, unsigned& high, unsigned& low) {
    high = to_tf32_each_time(x);
    low = bits_of(x - float_of(high)) & 0xffffe000;
  }
  static __device__ __forceinline__ Rows rows(const Words& packed) {
    Rows r;
    UNROLL for (int i = 0; i < 4; i++) split(float_of(packed.at[i]), r.high[i], r.low[i]);
    return r;
  }
  static __device__ __forceinline__ Columns columns(int lane, const float* vectors, int ld) {
    const float* v = vectors + (lane >> 2) * ld + (lane & 3);
    Columns c;
    split(v[0], c.high[0], c.low[0]);
    split(v[4], c.high[1], c.low[1]);
    return c;
  }
  static __device__ __forceinline__ void multiply(float (&sum)[4], const Rows& a,
                                                  const Columns& b) {
    mma1688(sum, a.low, b.high);  // the small ones first
    mma1688(sum, a.high, b.low);
    mma1688(sum, a.high, b.high);
  }
};

template <class P>
using Stored = typename P::Type;

// One warp's share of a matrix: Tiles · 16 rows, Deep · P::depth columns.  The first Kept tiles
// of each row of tiles lie in registers, the others in shared memory.
template <class P, int Tiles, int Deep, int Kept>
struct Resident {
  static_assert(0 <= Kept && Kept <= Deep, "no more than all tiles in registers");
  static constexpr int words = Tiles * (Deep - Kept) * 32;  // in shared memory, of one warp

  Words kept[Tiles][Kept > 0 ? Kept : 1];
  Words* rest;  // this lane's, 32 apart

  // weight(row, k): row < Tiles · 16, k < Deep · P::depth.  `shared`: [words] of this warp.
  template <class F>
  __device__ __forceinline__ void load(int lane, Words* shared, F weight) {
    rest = shared + lane;
    // A loop indeed: unrolled, all weights would be read before the first is packed, and there
    // are no registers for that.  So where in `kept` a tile goes is found by comparing.
    UNROLL for (int m = 0; m < Tiles; m++) {
      UNROLL for (int k = 0; k < Kept; k++) kept[m][k] = {{0, 0, 0, 0}};
    }
    ROLL for (int k = 0; k < Deep; k++) {
      UNROLL for (int m = 0; m < Tiles; m++) {
        const Words w = P::pack(
            lane, [&](int row, int column) { return weight(m * 16 + row, k * P::depth + column); });
        UNROLL for (int to = 0; to < Kept; to++) {
          UNROLL for (int i = 0; i < 4; i++) {
            kept[m][to].at[i] = k == to ? w.at[i] : kept[m][to].at[i];
          }
        }
        if (k >= Kept) rest[(m * (Deep - Kept) + k - Kept) * 32] = w;
      }
    }
  }

  // sum = weights · vectors; vectors [8 · N, ld] in shared memory, from this warp's first k on.
  template <int N>
  __device__ __forceinline__ void product(float (&sum)[Tiles][N][4], int lane,
                                          const Stored<P>* vectors, int ld) const {
    UNROLL for (int m = 0; m < Tiles; m++) {
      UNROLL for (int n = 0; n < N; n++) { UNROLL for (int i = 0; i < 4; i++) sum[m][n][i] = 0.0f; }
    }
    UNROLL for (int k = 0; k < Kept; k++) {
      typename P::Columns b[N];
      read(b, lane, vectors + k * P::depth, ld);
      UNROLL for (int m = 0; m < Tiles; m++) multiply(sum[m], kept[m][k], b);
    }
    // Not all of them at once: the compiler would read far ahead, with registers it lacks.
    FEW for (int k = Kept; k < Deep; k++) {
      typename P::Columns b[N];
      read(b, lane, vectors + k * P::depth, ld);
      UNROLL for (int m = 0; m < Tiles; m++) {
        multiply(sum[m], rest[(m * (Deep - Kept) + k - Kept) * 32], b);
      }
    }
  }

 private:
  template <int N>
  static __device__ __forceinline__ void read(typename P::Columns (&b)[N], int lane,
                                              const Stored<P>* vectors, int ld) {
    UNROLL for (int n = 0; n < N; n++) b[n] = P::columns(lane, vectors + n * 8 * ld, ld);
  }
  template <int N>
  static __device__ __forceinline__ void multiply(float (&sum)[N][4], const Words& packed,
                                                  const typename P::Columns (&b)[N]) {
    const typename P::Rows a = P::rows(packed);
    UNROLL for (int n = 0; n < N; n++) P::multiply(sum[n], a, b[n]);
  }
};

// A product's sums to shared memory: sums[vector][row], rows `ld` apart.
template <int Tiles, int N>
__device__ __forceinline__ void put(float* sums, int ld, int lane,
                                    const float (&sum)[Tiles][N][4]) {
  const int g = lane >> 2, q = lane & 3;
  UNROLL for (int m = 0; m < Tiles; m++) {
    UNROLL for (int n = 0; n < N; n++) {
      float* at = sums + (n * 8 + 2 * q) * ld + m * 16 + g;
      at[0] = sum[m][n][0];
      at[ld] = sum[m][n][1];
      at[8] = sum[m][n][2];
      at[ld + 8] = sum[m][n][3];
    }
  }
}
