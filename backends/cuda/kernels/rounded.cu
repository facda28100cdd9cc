// What products of bfloat16 multiply: xrnn/recurrence/bfloat16.py defines how numbers are rounded.
#include "common.cuh"

// y = the nearest numbers of bfloat16 of x, those below 2^-126 as 0.
//
// Grid: enough blocks for rows · cols / V threads; V divides cols and ldx.
//
// x     [rows, cols]  row stride ldx
// y     [rows, cols]  out
template <int V>
__global__ void rounded(i64 rows, i64 cols, const float* x, i64 ldx, __nv_bfloat16* y) {
  const i64 at = V * (static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x);
  if (at >= rows * cols) return;
  const i64 row = at / cols;
  float values[V];
  load<float, V>(values, x + row * ldx + (at - row * cols));
  UNROLL for (int k = 0; k < V; k++) {
    const float a = values[k];
    values[k] = fabsf(a) < 1.17549435e-38f ? copysignf(0.0f, a) : a;
  }
  store<__nv_bfloat16, V>(y + at, values);
}
