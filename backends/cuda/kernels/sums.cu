// Sums over rows, for the gradients of biases and peepholes, in two stages of fixed order.
#include "common.cuh"

// part[p, column] = Σ over the p-th part of the rows of x ⊙ y.
//
// Grid: ceil(cols / 32) × P blocks of 32 × 8 threads, 32 · 8 values Acc<T> of shared memory.
// A second call with T = Acc<T>, x = part, rows = P and one part gives the total.
//
// x     [rows, cols]  row stride ldx
// y     [rows, cols]  row stride ldy; or null: ones
// part  [P, cols]     out; no overlap with x or y
template <class T>
__global__ void column_sums(i64 rows, int cols, const T* x, i64 ldx, const Acc<T>* y, i64 ldy,
                            Acc<T>* part) {
  typedef Acc<T> A;
  constexpr int kAhead = 4;  // loads in flight
  SHARED(A, sums);
  const int column = blockIdx.x * 32 + threadIdx.x;
  const i64 per_part = (rows + gridDim.y - 1) / gridDim.y, from = blockIdx.y * per_part;
  const i64 to = from + per_part < rows ? from + per_part : rows;
  A mine[kAhead];
  UNROLL for (int k = 0; k < kAhead; k++) mine[k] = A(0);
  if (column < cols) {
    for (i64 row = from + threadIdx.y; row < to; row += 8 * kAhead) {
      UNROLL for (int k = 0; k < kAhead; k++) {
        const i64 r = row + 8 * k;
        if (r >= to) continue;
        const A value = static_cast<A>(x[r * ldx + column]);
        mine[k] += y ? value * y[r * ldy + column] : value;
      }
    }
  }
  sums[threadIdx.y * 32 + threadIdx.x] = (mine[0] + mine[1]) + (mine[2] + mine[3]);
  __syncthreads();
  if (threadIdx.y > 0 || column >= cols) return;
  A sum = A(0);
  UNROLL for (int k = 0; k < 8; k++) sum += sums[k * 32 + threadIdx.x];
  part[static_cast<i64>(blockIdx.y) * cols + column] = sum;
}
