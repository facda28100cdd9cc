// Matrix products of weights that stay on the chip: their arithmetic, and `Resident`, a warp's
// share of the weights.
#pragma once
#include "cluster.cuh"

// The arithmetic of a product is a policy P:
//   Type     what arrays are stored in; sums are float
//   depth    k of one mma;  pad: what a row in shared memory is longer by, against conflicts
//   parts    of a tile of weights, 16 bytes a lane each
//   pack     one tile of weights [16, depth], as the lanes keep it
//   rows     packed weights, as `multiply` wants them
//   vector   a value of a vector, as `columns` wants it in shared memory
//   place    where a lane reads in 8 vectors, which lie `ld` apart in shared memory
//   columns  its part of `depth` values of each, from there on, as `multiply` wants it
//   multiply sum [16, 8] += rows · columns
// Of a tile, lane = 4 g + q has rows g and g + 8; of the vectors, it has vector g; of a sum,
// rows g, g + 8 of vectors 2q, 2q + 1: {(g, 2q), (g, 2q + 1), (g + 8, 2q), (g + 8, 2q + 1)}.
template <int Parts>
struct Packed {
  Words part[Parts];
};

// Products of 16-bit values are exact in float.
template <class T>
struct SixteenBits {
  typedef T Type;
  typedef Words Rows;
  struct Columns {
    unsigned at[2];
  };
  static constexpr int depth = 16, pad = 8, parts = 1;

  static __device__ __forceinline__ unsigned pair(T low, T high) {
    Vector<T, 2> both;
    both.at[0] = low, both.at[1] = high;
    return *reinterpret_cast<const unsigned*>(&both);
  }
  template <class F>
  static __device__ __forceinline__ Packed<1> pack(int lane, F weight) {
    const int g = lane >> 2, k = 2 * (lane & 3);
    Words w;
    w.at[0] = pair(weight(g, k), weight(g, k + 1));
    w.at[1] = pair(weight(g + 8, k), weight(g + 8, k + 1));
    w.at[2] = pair(weight(g, k + 8), weight(g, k + 9));
    w.at[3] = pair(weight(g + 8, k + 8), weight(g + 8, k + 9));
    return {{w}};
  }
  static __device__ __forceinline__ const Rows& rows(const Packed<1>& w) { return w.part[0]; }
  static __device__ __forceinline__ T vector(T value) { return value; }
  static __device__ __forceinline__ int place(int lane, int ld) {
    return (lane >> 2) * ld + 2 * (lane & 3);
  }
  static __device__ __forceinline__ Columns columns(const T* at) {
    const unsigned* v = reinterpret_cast<const unsigned*>(at);
    return {{v[0], v[4]}};
  }
  static __device__ __forceinline__ void multiply(float (&sum)[4], const Rows& a,
                                                  const Columns& b) {
    mma16816<T>(sum, a.at, b.at);
  }
};
typedef SixteenBits<__half> Half;
typedef SixteenBits<__nv_bfloat16> Bfloat16;

// Floats in tiles of depth 8.
struct FloatTiles {
  typedef float Type;
  static constexpr int depth = 8, pad = 4;

  static __device__ __forceinline__ int place(int lane, int ld) {
    return (lane >> 2) * ld + (lane & 3);
  }
  template <class F>
  static __device__ __forceinline__ Words tile(int lane, F weight) {
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
  static constexpr int parts = 1;

  template <class F>
  static __device__ __forceinline__ Packed<1> pack(int lane, F weight) {
    Words w = tile(lane, weight);
    UNROLL for (int i = 0; i < 4; i++) w.at[i] = to_tf32(float_of(w.at[i]));
    return {{w}};
  }
  static __device__ __forceinline__ const Rows& rows(const Packed<1>& w) { return w.part[0]; }
  static __device__ __forceinline__ float vector(float value) { return float_of(to_tf32(value)); }
  static __device__ __forceinline__ Columns columns(const float* v) {
    return {{bits_of(v[0]), bits_of(v[4])}};
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
  struct Columns {
    unsigned high[2], low[2];
  };
  typedef Packed<2> Rows;  // high, low

  static __device__ __forceinline__ void split(float x, unsigned& high, unsigned& low) {
    high = to_tf32_each_time(x);
    low = bits_of(x - float_of(high)) & 0xffffe000;
  }
  static __device__ __forceinline__ Rows split(const Words& w) {
    Rows r;
    UNROLL for (int i = 0; i < 4; i++) {
      split(float_of(w.at[i]), r.part[0].at[i], r.part[1].at[i]);
    }
    return r;
  }
  static __device__ __forceinline__ float vector(float value) { return value; }
  static __device__ __forceinline__ Columns columns(const float* v) {
    Columns c;
    split(v[0], c.high[0], c.low[0]);
    split(v[4], c.high[1], c.low[1]);
    return c;
  }
  static __device__ __forceinline__ void multiply(float (&sum)[4], const Rows& a,
                                                  const Columns& b) {
    mma1688(sum, a.part[1].at, b.high);  // the small ones first
    mma1688(sum, a.part[0].at, b.low);
    mma1688(sum, a.part[0].at, b.high);
  }
};

// The weights split once, where there is room for both parts …
struct IeeeSplit : Ieee {
  static constexpr int parts = 2;

  template <class F>
  static __device__ __forceinline__ Packed<2> pack(int lane, F weight) {
    return split(tile(lane, weight));
  }
  static __device__ __forceinline__ const Rows& rows(const Packed<2>& w) { return w; }
};

// … or in every step.
struct IeeeWhole : Ieee {
  static constexpr int parts = 1;

  template <class F>
  static __device__ __forceinline__ Packed<1> pack(int lane, F weight) {
    return {{tile(lane, weight)}};
  }
  static __device__ __forceinline__ Rows rows(const Packed<1>& w) { return split(w.part[0]); }
};

template <class P>
using Stored = typename P::Type;

// One warp's share of a matrix: Tiles · 16 rows, Deep · P::depth columns.  The first Kept tiles
// of each row of tiles lie in registers, the others in shared memory.
template <class P, int Tiles, int Deep, int Kept>
struct Resident {
  static_assert(0 <= Kept && Kept <= Deep, "no more than all tiles in registers");
  static constexpr int words = Tiles * (Deep - Kept) * P::parts * 32;  // in shared memory

  static constexpr int ahead = Tiles > 4 ? 2 : 4;  // columns of tiles read at once

  Packed<P::parts> kept[Tiles][Kept > 0 ? Kept : 1];
  Words* rest;  // this lane's, 32 apart

  // weight(row, k): row < Tiles · 16, k < Deep · P::depth.  `shared`: [words] of this warp.
  template <class F>
  __device__ __forceinline__ void load(int lane, Words* shared, F weight) {
    rest = shared + lane;
    // A loop indeed: unrolled, all weights would be read before the first is packed, and there
    // are no registers for that.  So where in `kept` a tile goes is found by comparing.
    UNROLL for (int m = 0; m < Tiles; m++) {
      UNROLL for (int k = 0; k < Kept; k++) kept[m][k] = {};
    }
    ROLL for (int k = 0; k < Deep; k++) {
      UNROLL for (int m = 0; m < Tiles; m++) {
        const Packed<P::parts> w = P::pack(
            lane, [&](int row, int column) { return weight(m * 16 + row, k * P::depth + column); });
        UNROLL for (int part = 0; part < P::parts; part++) {
          UNROLL for (int to = 0; to < Kept; to++) {
            UNROLL for (int i = 0; i < 4; i++) {
              unsigned& word = kept[m][to].part[part].at[i];
              word = k == to ? w.part[part].at[i] : word;
            }
          }
          if (k >= Kept) rest[place(m, k, part)] = w.part[part];
        }
      }
    }
  }

  // sum = weights · vectors; vectors [8 · N, ld] in shared memory, from this lane's `place` and
  // this warp's first k on.
  template <int N>
  __device__ __forceinline__ void product(float (&sum)[Tiles][N][4], const Stored<P>* vectors,
                                          int ld) const {
    UNROLL for (int m = 0; m < Tiles; m++) {
      UNROLL for (int n = 0; n < N; n++) { UNROLL for (int i = 0; i < 4; i++) sum[m][n][i] = 0.0f; }
    }
    UNROLL for (int k = 0; k < Kept; k++) {
      typename P::Columns b[N];
      read(b, vectors + k * P::depth, ld);
      UNROLL for (int m = 0; m < Tiles; m++) multiply(sum[m], kept[m][k], b);
    }
    // Not all of them at once: the compiler would read far ahead, with registers it lacks.
    _Pragma("unroll ahead") for (int k = Kept; k < Deep; k++) {
      typename P::Columns b[N];
      read(b, vectors + k * P::depth, ld);
      UNROLL for (int m = 0; m < Tiles; m++) {
        Packed<P::parts> w;
        UNROLL for (int part = 0; part < P::parts; part++) w.part[part] = rest[place(m, k, part)];
        multiply(sum[m], w, b);
      }
    }
  }

 private:
  static __device__ __forceinline__ int place(int m, int k, int part) {
    return ((m * (Deep - Kept) + k - Kept) * P::parts + part) * 32;
  }
  template <int N>
  static __device__ __forceinline__ void read(typename P::Columns (&b)[N], const Stored<P>* vectors,
                                              int ld) {
    UNROLL for (int n = 0; n < N; n++) b[n] = P::columns(vectors + n * 8 * ld);
  }
  template <int N>
  static __device__ __forceinline__ void multiply(float (&sum)[N][4],
                                                  const Packed<P::parts>& packed,
                                                  const typename P::Columns (&b)[N]) {
    const typename P::Rows a = P::rows(packed);
    UNROLL for (int n = 0; n < N; n++) P::multiply(sum[n], a, b[n]);
  }
};

// A product's sums to shared memory: sums[vector][row], rows `ld` apart.  A lane begins at its
// place.
template <int ld>
__device__ __forceinline__ int sum_place(int lane) {
  return 2 * (lane & 3) * ld + (lane >> 2);
}
template <int ld, int Tiles, int N>
__device__ __forceinline__ void put(float* sums, const float (&sum)[Tiles][N][4]) {
  UNROLL for (int m = 0; m < Tiles; m++) {
    UNROLL for (int n = 0; n < N; n++) {
      float* at = sums + n * 8 * ld + m * 16;
      at[0] = sum[m][n][0];
      at[ld] = sum[m][n][1];
      at[8] = sum[m][n][2];
      at[ld + 8] = sum[m][n][3];
    }
  }
}
