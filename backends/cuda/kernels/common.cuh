// Used by every kernel: storage and arithmetic types, vectors, activations.
//
// A kernel is a template on T, the type its arrays are stored in (float, double, __half,
// __nv_bfloat16), and computes in Acc<T>: double for double, float for all others.  Products
// that come from cuBLAS, cell states and carried gradients are stored as Acc<T>.
//
// Kernels use dynamic shared memory alone, through SHARED(type, name), and no PTX outside the
// wrappers here and in cluster.cuh: so the same source runs on the host (tests/shim), which
// defines XRNN_HOST and everything of CUDA that is used here.
#pragma once

#ifndef XRNN_HOST
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define SHARED(type, name)                 \
  extern __shared__ float4 shared_bytes[]; \
  type* name = reinterpret_cast<type*>(shared_bytes)

// 2^x and 1/x, each one instruction: relative errors below 2^-22 and 2^-23, results and arguments
// below 2^-126 are 0.
__device__ __forceinline__ float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float reciprocal_approx(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
#endif

#define UNROLL _Pragma("unroll")

// Whole sequences may hold more than 2^31 values.
typedef long long i64;

template <class T>
struct AccOf {
  typedef float type;
};
template <>
struct AccOf<double> {
  typedef double type;
};
template <class T>
using Acc = typename AccOf<T>::type;

// V neighbouring values, read and written as one; V * sizeof(T) must divide the address.
template <class T, int V>
struct __align__(sizeof(T) * V) Vector {
  T at[V];
};

template <class T, int V>
__device__ __forceinline__ void load(Acc<T> (&to)[V], const T* from) {
  const Vector<T, V> v = *reinterpret_cast<const Vector<T, V>*>(from);
  UNROLL for (int k = 0; k < V; k++) to[k] = static_cast<Acc<T>>(v.at[k]);
}

template <class T, int V>
__device__ __forceinline__ void store(T* to, const Acc<T> (&from)[V]) {
  Vector<T, V> v;
  UNROLL for (int k = 0; k < V; k++) v.at[k] = static_cast<T>(from[k]);
  *reinterpret_cast<Vector<T, V>*>(to) = v;
}

// σ(a) = 1 / (1 + e^-a): e^-a may be infinite, the quotient is 0 then; a NaN stays a NaN.  Of float
// the error is below 2^-22, and relative to σ below 2^-20.5 + |a| 2^-23: there is no slow path as
// an exact division has it.
__device__ __forceinline__ float sigmoid(float a) {
  return reciprocal_approx(1.0f + exp2_approx(-1.442695041f * a));
}
__device__ __forceinline__ double sigmoid(double a) { return 1.0 / (1.0 + exp(-a)); }

// tanh(a) = ±(1 - 2 / (1 + e^2|a|)), near 0 a polynomial, as the difference would cancel.  Of float
// the error relative to tanh is below 2^-20.5.  Both are computed: a branch would cost more.
__device__ __forceinline__ float tanh_of(float a) {
  const float e = exp2_approx(2.885390082f * fabsf(a));
  const float far = copysignf(1.0f - 2.0f * reciprocal_approx(1.0f + e), a);
  const float square = a * a;
  float near = fmaf(square, 0.01643758f, -0.05267181f);
  near = fmaf(square, near, 0.13320725f);
  near = fmaf(square, near, -0.33332947f);
  near = fmaf(square * near, a, a);
  return fabsf(a) >= 0.55f ? far : near;  // of a NaN the latter, which is NaN
}
__device__ __forceinline__ double tanh_of(double a) { return tanh(a); }

// Derivatives of the activations as functions of their outputs.
template <class A>
__device__ __forceinline__ A sigmoid_slope(A y) {
  return y * (A(1) - y);
}
template <class A>
__device__ __forceinline__ A tanh_slope(A y) {
  return A(1) - y * y;
}
