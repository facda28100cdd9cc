// What CUDA C++ knows of a single thread: qualifiers, vectors, small floats, functions.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#define XRNN_HOST 1
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__
#define __restrict__
#define __grid_constant__
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __align__(n) alignas(n)

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
  return {x, y, z, w};
}

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
static inline unsigned __float_as_uint(float f) { return bits_as<unsigned>(f); }
static inline int __float_as_int(float f) { return bits_as<int>(f); }

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

static inline float __half2float(__half h) { return h; }
static inline __half __float2half(float f) { return f; }
static inline __half __float2half_rn(float f) { return f; }
static inline float __bfloat162float(__nv_bfloat16 h) { return h; }
static inline __nv_bfloat16 __float2bfloat16(float f) { return f; }
static inline __nv_bfloat16 __float2bfloat16_rn(float f) { return f; }

// glibc declares a function of this name.
#define __expf expf
static inline float __fdividef(float a, float b) { return a / b; }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline float rsqrtf(float a) { return 1.0f / sqrtf(a); }
template <class T>
static inline T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
static inline T max(T a, T b) {
  return a < b ? b : a;
}

template <class T>
static inline T __ldg(const T* from) {
  return *from;
}
template <class T>
static inline T __ldcg(const T* from) {
  return *from;
}
template <class T>
static inline T __ldcs(const T* from) {
  return *from;
}
template <class T>
static inline void __stcg(T* to, T value) {
  *to = value;
}
template <class T>
static inline void __stcs(T* to, T value) {
  *to = value;
}
static inline void __threadfence() {}
static inline void __threadfence_block() {}
