// Kernels of one step, each in two forms.
//
// By itself it is a kernel with its arguments by value.  With XRNN_IN_GRAPH defined it is a
// function that the kernel in_graph calls with arguments from device memory.  A CUDA graph is
// captured once and launched by many passes: so it holds no address of a pass, these are written to
// that memory before each launch (graph.cu).
#pragma once
#include "common.cuh"

#ifdef XRNN_IN_GRAPH
#define STEP_KERNEL __device__ __forceinline__ void
#else
#define STEP_KERNEL __global__ void
#endif

// An argument of a kernel: its value in the first step of a launch, an address or a number, and
// what is added to it after each step.
struct Argument {
  i64 value, change;
};

template <class P>
struct As {
  static constexpr bool wide = false;
  static __device__ __forceinline__ P of(i64 value) { return static_cast<P>(value); }
};
// A number is handed over as its bits.
template <>
struct As<float> {
  static constexpr bool wide = false;
  static __device__ __forceinline__ float of(i64 value) {
    return __int_as_float(static_cast<int>(value));
  }
};
template <>
struct As<double> {
  static constexpr bool wide = true;
  static __device__ __forceinline__ double of(i64 value) { return __longlong_as_double(value); }
};
template <class P>
struct As<P*> {
  static constexpr bool wide = sizeof(P) == 8;
  static __device__ __forceinline__ P* of(i64 value) { return reinterpret_cast<P*>(value); }
};

// Calls a function with the values that its arguments have in `step`; they are read one by one.
template <class Function>
struct Call;
template <class... P>
struct Call<void (*)(P...)> {
  static constexpr bool wide = (As<P>::wide || ...);  // whether an array or a number is double

  template <void (*function)(P...), class... Value>
  static __device__ __forceinline__ void run(const Argument* given, int step, Value... values) {
    constexpr int next = sizeof...(Value);
    if constexpr (next < sizeof...(P)) {
      const Argument a = given[next];
      run<function>(given, step, values..., a.value + step * a.change);
    } else {
      function(As<P>::of(values)...);
    }
  }
};

// given  [number of the function's parameters]
// step   of the launch, from 0
template <auto function>
__global__ void __launch_bounds__(128, Call<decltype(function)>::wide ? 4 : 0)
    in_graph(const Argument* given, int step) {
  Call<decltype(function)>::template run<function>(given, step);
}
