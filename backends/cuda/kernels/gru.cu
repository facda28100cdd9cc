// One step of the GRU whose reset gate stands after the product, forward and backward: all that
// is not a matrix product.  Equations: xrnn/cells/gru.py.
//
// gates [B, 4H] has the columns n, r, z, m, where m = U_n h_prev + v: the first three are the
// part of x (forward: W x, backward: da), the last three the recurrent part of the gradient
// (da_r, da_z, dm, the order of the rows of U).  Each part is one block of row stride 4H.
//
// Each thread has V neighbouring units of one sequence.  Grid: ceil(B·H / V / block) blocks.
// Rows are contiguous; no two pointers overlap but where said.
#include "steps.cuh"

// gates    [B, 4H]  in: W x, without bias, in n, r, z; out, if `save`: n, r, z, m, but past a
//                   sequence's end, where it is neither read nor written
// bias     [3H]     b_r, b_z, b_n      v    [H]
// product  [B, 3H]  U h_prev, in the order r, z, n
// state    [B, H]   in: h_prev; out: h, for the product of the next step
// h        [B, H]   out
// lengths  [B] or null: from step lengths[b] on, sequence b keeps its state
template <class T, int V>
STEP_KERNEL gru_forward(int B, int H, T* gates, const T* bias, const T* v, const Acc<T>* product,
                        T* state, T* h, const int* lengths, int t, int save) {
  typedef Acc<T> A;
  const int id = blockIdx.x * blockDim.x + threadIdx.x, per_row = H / V;
  if (id >= B * per_row) return;
  const int b = id / per_row, unit = (id - b * per_row) * V;
  const i64 row = static_cast<i64>(b) * H + unit, gate_row = 4 * static_cast<i64>(b) * H + unit;
  const i64 recurrent = 3 * static_cast<i64>(b) * H + unit;
  A a_n[V], a_r[V], a_z[V], m[V], shift[V], u[V], old_h[V], new_h[V];
  load<T, V>(old_h, state + row);
  if (lengths && t >= lengths[b]) {
    store<T, V>(h + row, old_h);
    return;
  }
  load<T, V>(a_r, gates + gate_row + H);
  load<T, V>(shift, bias + unit);
  load<A, V>(u, product + recurrent);
  UNROLL for (int j = 0; j < V; j++) a_r[j] += shift[j] + u[j];
  load<T, V>(a_z, gates + gate_row + 2 * H);
  load<T, V>(shift, bias + H + unit);
  load<A, V>(u, product + recurrent + H);
  UNROLL for (int j = 0; j < V; j++) a_z[j] += shift[j] + u[j];
  load<T, V>(a_n, gates + gate_row);
  load<T, V>(shift, bias + 2 * H + unit);
  UNROLL for (int j = 0; j < V; j++) a_n[j] += shift[j];
  load<A, V>(m, product + recurrent + 2 * H);
  load<T, V>(shift, v + unit);
  UNROLL for (int j = 0; j < V; j++) m[j] += shift[j];
  UNROLL for (int j = 0; j < V; j++) {
    const A r = sigmoid(a_r[j]);               // (1)
    const A z = sigmoid(a_z[j]);               // (2)
    const A n = tanh_of(a_n[j] + r * m[j]);    // (3)
    new_h[j] = z * old_h[j] + (A(1) - z) * n;  // (4)
    a_r[j] = r, a_z[j] = z, a_n[j] = n;
  }
  store<T, V>(h + row, new_h);
  store<T, V>(state + row, new_h);
  if (save) {
    store<T, V>(gates + gate_row, a_n);
    store<T, V>(gates + gate_row + H, a_r);
    store<T, V>(gates + gate_row + 2 * H, a_z);
    store<T, V>(gates + gate_row + 3 * H, m);
  }
}

// gates    [B, 4H]  in: n, r, z, m; out: da_n, da_r, da_z, dm; 0 past a sequence's end
// h_prev   [B, H]
// dy       [B, H] or null: gradient of the output of this step; not read past the end
// dh       [B, H]   in: the gradient of h from step t+1; out: the part of the gradient of
//                   h_prev without products (all of it past the end).  The caller adds
//                   (da_r, da_z, dm) U to it.
// da       [B, 3H]  out: da_r, da_z, dm, for the product of this step
template <class T, int V>
STEP_KERNEL gru_backward(int B, int H, T* gates, const T* h_prev, const T* dy, Acc<T>* dh, T* da,
                         const int* lengths, int t) {
  typedef Acc<T> A;
  const int id = blockIdx.x * blockDim.x + threadIdx.x, per_row = H / V;
  if (id >= B * per_row) return;
  const int b = id / per_row, unit = (id - b * per_row) * V;
  const i64 row = static_cast<i64>(b) * H + unit, gate_row = 4 * static_cast<i64>(b) * H + unit;
  const i64 recurrent = 3 * static_cast<i64>(b) * H + unit;
  A a[4][V];
  if (lengths && t >= lengths[b]) {
    UNROLL for (int j = 0; j < V; j++) a[0][j] = A(0);
    UNROLL for (int k = 0; k < 4; k++) store<T, V>(gates + gate_row + k * H, a[0]);
    UNROLL for (int k = 0; k < 3; k++) store<T, V>(da + recurrent + k * H, a[0]);
    return;  // dh stays as it is
  }
  A old_h[V], d[V], above[V];
  UNROLL for (int k = 0; k < 4; k++) load<T, V>(a[k], gates + gate_row + k * H);
  load<T, V>(old_h, h_prev + row);
  load<A, V>(d, dh + row);
  UNROLL for (int j = 0; j < V; j++) above[j] = A(0);
  if (dy) load<T, V>(above, dy + row);
  UNROLL for (int j = 0; j < V; j++) {
    const A n = a[0][j], r = a[1][j], z = a[2][j], m = a[3][j];
    const A d_h = d[j] + above[j];
    const A da_n = d_h * (A(1) - z) * tanh_slope(n);    // (4), (3)
    a[2][j] = d_h * (old_h[j] - n) * sigmoid_slope(z);  // (4), (2)
    a[1][j] = da_n * m * sigmoid_slope(r);              // (3), (1)
    a[3][j] = da_n * r;                                 // (3)
    a[0][j] = da_n;
    d[j] = d_h * z;  // (4)
  }
  UNROLL for (int k = 0; k < 4; k++) store<T, V>(gates + gate_row + k * H, a[k]);
  UNROLL for (int k = 0; k < 3; k++) store<T, V>(da + recurrent + k * H, a[k + 1]);
  store<A, V>(dh + row, d);
}
