// One step of JANET, forward and backward: all that is not a matrix product.  Equations:
// xrnn/cells/janet.py.
//
// Each thread has V neighbouring units of one sequence.  Grid: ceil(B·H / V / block) blocks.
// Rows are contiguous; no two pointers overlap but where said.
#include "steps.cuh"

// gates    [B, 2H]  in: W x, without bias; out, if `save`: s, g.  Not f: where f is rounded to 1,
//                   nothing is left of i and of the slope.  Neither read nor written past a
//                   sequence's end
// bias     [2H]
// product  [B, 2H]  U h_prev
// state    [B, H]   in: h_prev; out: h, for the product of the next step
// h        [B, H]   out
// lengths  [B] or null: from step lengths[b] on, sequence b keeps its state
template <class T, int V>
STEP_KERNEL janet_forward(int B, int H, T* gates, const T* bias, const Acc<T>* product, T* state,
                          T* h, const int* lengths, int t, int save) {
  typedef Acc<T> A;
  const int id = blockIdx.x * blockDim.x + threadIdx.x, per_row = H / V;
  if (id >= B * per_row) return;
  const int b = id / per_row, unit = (id - b * per_row) * V;
  const i64 row = static_cast<i64>(b) * H + unit, gate_row = 2 * static_cast<i64>(b) * H + unit;
  A a[2][V], old_h[V], new_h[V];
  load<T, V>(old_h, state + row);
  if (lengths && t >= lengths[b]) {
    store<T, V>(h + row, old_h);
    return;
  }
  UNROLL for (int k = 0; k < 2; k++) {
    A u[V], shift[V];
    load<T, V>(a[k], gates + gate_row + k * H);
    load<T, V>(shift, bias + k * H + unit);
    load<A, V>(u, product + gate_row + k * H);
    UNROLL for (int j = 0; j < V; j++) a[k][j] += shift[j] + u[j];
  }
  UNROLL for (int j = 0; j < V; j++) {
    const A f = sigmoid(a[0][j]);           // (1)
    const A i = sigmoid(A(1) - a[0][j]);    // (2): 1 - σ(a) = σ(-a)
    a[1][j] = tanh_of(a[1][j]);             // (3)
    new_h[j] = f * old_h[j] + i * a[1][j];  // (4)
  }
  store<T, V>(h + row, new_h);
  store<T, V>(state + row, new_h);
  if (save) {
    UNROLL for (int k = 0; k < 2; k++) store<T, V>(gates + gate_row + k * H, a[k]);
  }
}

// gates    [B, 2H]  in: s, g; out: ds, da_g; 0 past a sequence's end
// h_prev   [B, H]
// dy       [B, H] or null: gradient of the output of this step; not read past the end
// dh       [B, H]   in: the gradient of h from step t+1; out: the gradient of h_prev
//                   without da U (past the end all of it).  The caller adds da U to it.
// da       [B, 2H]  out: as gates, for the product of this step
template <class T, int V>
STEP_KERNEL janet_backward(int B, int H, T* gates, const T* h_prev, const T* dy, Acc<T>* dh, T* da,
                           const int* lengths, int t) {
  typedef Acc<T> A;
  const int id = blockIdx.x * blockDim.x + threadIdx.x, per_row = H / V;
  if (id >= B * per_row) return;
  const int b = id / per_row, unit = (id - b * per_row) * V;
  const i64 row = static_cast<i64>(b) * H + unit, gate_row = 2 * static_cast<i64>(b) * H + unit;
  A a[2][V], old_h[V], d[V], above[V];
  UNROLL for (int j = 0; j < V; j++) above[j] = A(0);
  if (lengths && t >= lengths[b]) {
    UNROLL for (int k = 0; k < 2; k++) {
      store<T, V>(gates + gate_row + k * H, above);
      store<T, V>(da + gate_row + k * H, above);
    }
    return;  // dh stays as it is
  }
  UNROLL for (int k = 0; k < 2; k++) load<T, V>(a[k], gates + gate_row + k * H);
  load<T, V>(old_h, h_prev + row);
  load<A, V>(d, dh + row);
  if (dy) load<T, V>(above, dy + row);
  UNROLL for (int j = 0; j < V; j++) {
    const A f = sigmoid(a[0][j]), i = sigmoid(A(1) - a[0][j]), g = a[1][j];
    const A d_h = d[j] + above[j];
    a[0][j] = d_h * (old_h[j] * sigmoid_slope(f) - g * sigmoid_slope(i));  // (4), (2), (1)
    a[1][j] = d_h * i * tanh_slope(g);                                     // (4), (3)
    d[j] = d_h * f;                                                        // (4)
  }
  UNROLL for (int k = 0; k < 2; k++) {
    store<T, V>(gates + gate_row + k * H, a[k]);
    store<T, V>(da + gate_row + k * H, a[k]);
  }
  store<A, V>(dh + row, d);
}
