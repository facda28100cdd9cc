// What CUDA C++ knows of a single thread: qualifiers, vectors, small floats.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#define XRNN_HOST 1
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __cluster_dims__(...)
#define __align__(n) alignas(n)

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(16) float4 {
  float x, y, z, w;
};

// The bits of a value as another type.
template <class To, class From>
static inline To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}
static inline float __uint_as_float(unsigned u) { return bits_as<float>(u); }
static inline float __int_as_float(int i) { return bits_as<float>(i); }
static inline double __longlong_as_double(long long i) { return bits_as<double>(i); }
static inline unsigned __float_as_uint(float f) { return bits_as<unsigned>(f); }

// The instructions of the wrappers in common.cuh, here without their errors.
static inline float exp2_approx(float x) { return exp2f(x); }
static inline float reciprocal_approx(float x) { return 1.0f / x; }

struct __half {
  _Float16 value;
  __half() = default;
  __half(float f) : value(static_cast<_Float16>(f)) {}
  operator float() const { return static_cast<float>(value); }
};

// Rounded to nearest, ties to even; a NaN stays a quiet NaN.
struct __nv_bfloat16 {
  uint16_t bits;
  __nv_bfloat16() = default;
  __nv_bfloat16(float f) {
    const uint32_t u = __float_as_uint(f);
    const bool nan = (u & 0x7fffffff) > 0x7f800000;
    bits = nan ? (u >> 16) | 64 : (u + 0x7fff + ((u >> 16) & 1)) >> 16;
  }
  operator float() const { return __uint_as_float(static_cast<uint32_t>(bits) << 16); }
};
