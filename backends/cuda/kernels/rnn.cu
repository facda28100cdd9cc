// One step of the simple recurrent network, forward and backward: all that is not a matrix
// product.  Equations: xrnn/cells/elman.py; Act is 0 for tanh (1), 1 for ReLU (2).
//
// Each thread has V neighbouring units of one sequence.  Grid: ceil(B·H / V / block) blocks.
// Rows are contiguous; no two pointers overlap but where said.
#include "steps.cuh"

// x        [B, H]   W x, without bias; not read past a sequence's end
// bias     [H]
// product  [B, H]   U h_prev
// state    [B, H]   in: h_prev; out: h, for the product of the next step
// h        [B, H]   out
// lengths  [B] or null: from step lengths[b] on, sequence b keeps its state
template <class T, int V, int Act>
STEP_KERNEL rnn_forward(int B, int H, const T* x, const T* bias, const Acc<T>* product, T* state,
                        T* h, const int* lengths, int t) {
  typedef Acc<T> A;
  const int id = blockIdx.x * blockDim.x + threadIdx.x, per_row = H / V;
  if (id >= B * per_row) return;
  const int b = id / per_row, unit = (id - b * per_row) * V;
  const i64 row = static_cast<i64>(b) * H + unit;
  A a[V], u[V], shift[V];
  if (lengths && t >= lengths[b]) {
    load<T, V>(a, state + row);
    store<T, V>(h + row, a);
    return;
  }
  load<T, V>(a, x + row);
  load<T, V>(shift, bias + unit);
  load<A, V>(u, product + row);
  UNROLL for (int j = 0; j < V; j++) {
    a[j] += shift[j] + u[j];
    if (Act == 0) {
      a[j] = tanh_of(a[j]);  // (1)
    } else {
      a[j] = a[j] <= A(0) ? A(0) : a[j];  // (2): a NaN stays a NaN
    }
  }
  store<T, V>(h + row, a);
  store<T, V>(state + row, a);
}

// gates    [B, H]   out: the gradient of a; 0 past a sequence's end
// h        [B, H]   of this step
// dy       [B, H] or null: gradient of the output of this step; not read past the end
// dh       [B, H]   in: the gradient of h from step t+1; out: the gradient of h_prev
//                   without da U (0; past the end all of it).  The caller adds da U to it.
// da       [B, H]   out: as gates, for the product of this step
template <class T, int V, int Act>
STEP_KERNEL rnn_backward(int B, int H, T* gates, const T* h, const T* dy, Acc<T>* dh, T* da,
                         const int* lengths, int t) {
  typedef Acc<T> A;
  const int id = blockIdx.x * blockDim.x + threadIdx.x, per_row = H / V;
  if (id >= B * per_row) return;
  const int b = id / per_row, unit = (id - b * per_row) * V;
  const i64 row = static_cast<i64>(b) * H + unit;
  A zero[V], y[V], d[V], above[V];
  UNROLL for (int j = 0; j < V; j++) above[j] = zero[j] = A(0);
  if (lengths && t >= lengths[b]) {
    store<T, V>(gates + row, zero);
    store<T, V>(da + row, zero);
    return;  // dh stays as it is
  }
  load<T, V>(y, h + row);
  load<A, V>(d, dh + row);
  if (dy) load<T, V>(above, dy + row);
  UNROLL for (int j = 0; j < V; j++) {
    d[j] += above[j];
    d[j] *= Act == 0 ? tanh_slope(y[j]) : A(y[j] > A(0));  // (1), (2)
  }
  store<T, V>(gates + row, d);
  store<T, V>(da + row, d);
  store<A, V>(dh + row, zero);
}
