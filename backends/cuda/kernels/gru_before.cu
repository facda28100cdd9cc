// One step of the GRU whose reset gate stands before the product, forward and backward: all that
// is not a matrix product.  Equations: xrnn/cells/gru_before.py.
//
// The candidate needs q = r ⊙ h_prev before its product, so a step is two products and two
// kernels: U_r h_prev, U_z h_prev | ..._forward_gates | U_n q | ..._forward, and in backward
// ..._backward | dq = da_n U_n | ..._backward_reset | dh += (da_r, da_z) (U_r, U_z).
//
// Each thread has V neighbouring units of one sequence.  Grid: ceil(B·H / V / block) blocks.
// Rows are contiguous; no two pointers overlap but where said.
#include "steps.cuh"

// gates    [B, 3H]  in: W x, without bias, in r, z; out: z, and r if q is kept; neither read nor
//                   written past a sequence's end
// bias     [3H]
// product  [B, 2H]  U_r h_prev, U_z h_prev
// state    [B, H]   h_prev
// q        [B, H] or null, out: r ⊙ h_prev; 0 past the end, as the gradient of U_n is a sum over q
// operand  [B, H]   out: as q, for the product of this step
// lengths  [B] or null
template <class T, int V>
STEP_KERNEL gru_before_forward_gates(int B, int H, T* gates, const T* bias, const Acc<T>* product,
                                     const T* state, T* q, T* operand, const int* lengths, int t) {
  typedef Acc<T> A;
  const int id = blockIdx.x * blockDim.x + threadIdx.x, per_row = H / V;
  if (id >= B * per_row) return;
  const int b = id / per_row, unit = (id - b * per_row) * V;
  const i64 row = static_cast<i64>(b) * H + unit, gate_row = 3 * static_cast<i64>(b) * H + unit;
  const i64 recurrent = 2 * static_cast<i64>(b) * H + unit;
  A a[2][V], reset[V];
  if (lengths && t >= lengths[b]) {
    UNROLL for (int j = 0; j < V; j++) reset[j] = A(0);
    if (q) store<T, V>(q + row, reset);
    store<T, V>(operand + row, reset);
    return;
  }
  UNROLL for (int k = 0; k < 2; k++) {
    A u[V], shift[V];
    load<T, V>(a[k], gates + gate_row + k * H);
    load<T, V>(shift, bias + k * H + unit);
    load<A, V>(u, product + recurrent + k * H);
    UNROLL for (int j = 0; j < V; j++) a[k][j] += shift[j] + u[j];
  }
  load<T, V>(reset, state + row);
  UNROLL for (int j = 0; j < V; j++) {
    a[1][j] = sigmoid(a[1][j]);  // (1)
    a[0][j] = sigmoid(a[0][j]);  // (2)
    reset[j] *= a[0][j];
  }
  store<T, V>(operand + row, reset);
  store<T, V>(gates + gate_row + H, a[1]);
  if (q) {
    store<T, V>(q + row, reset);
    store<T, V>(gates + gate_row, a[0]);
  }
}

// gates    [B, 3H]  in: z from ..._forward_gates, and W x, without bias, in n; out, if `save`:
//                   n; neither read nor written past a sequence's end
// bias     [3H]
// product  [B, H]   U_n q
// state    [B, H]   in: h_prev; out: h, for the product of the next step
// h        [B, H]   out
// lengths  [B] or null: from step lengths[b] on, sequence b keeps its state
template <class T, int V>
STEP_KERNEL gru_before_forward(int B, int H, T* gates, const T* bias, const Acc<T>* product,
                               T* state, T* h, const int* lengths, int t, int save) {
  typedef Acc<T> A;
  const int id = blockIdx.x * blockDim.x + threadIdx.x, per_row = H / V;
  if (id >= B * per_row) return;
  const int b = id / per_row, unit = (id - b * per_row) * V;
  const i64 row = static_cast<i64>(b) * H + unit, gate_row = 3 * static_cast<i64>(b) * H + unit;
  A n[V], z[V], u[V], shift[V], old_h[V], new_h[V];
  load<T, V>(old_h, state + row);
  if (lengths && t >= lengths[b]) {
    store<T, V>(h + row, old_h);
    return;
  }
  load<T, V>(z, gates + gate_row + H);
  load<T, V>(n, gates + gate_row + 2 * H);
  load<T, V>(shift, bias + 2 * H + unit);
  load<A, V>(u, product + row);
  UNROLL for (int j = 0; j < V; j++) {
    n[j] = tanh_of(n[j] + shift[j] + u[j]);             // (3)
    new_h[j] = z[j] * old_h[j] + (A(1) - z[j]) * n[j];  // (4)
  }
  store<T, V>(h + row, new_h);
  store<T, V>(state + row, new_h);
  if (save) store<T, V>(gates + gate_row + 2 * H, n);
}

// gates    [B, 3H]  in: r, z, n; out: r, da_z, da_n; past a sequence's end r, 0, 0
// h_prev   [B, H]
// dy       [B, H] or null: gradient of the output of this step; not read past the end
// dh       [B, H]   in: the gradient of h from step t+1; out: the part of the gradient of h_prev
//                   through z (all of it past the end)
// da       [B, 3H]  out: da_z, da_n in the last two blocks, for the products of this step
template <class T, int V>
STEP_KERNEL gru_before_backward(int B, int H, T* gates, const T* h_prev, const T* dy, Acc<T>* dh,
                                T* da, const int* lengths, int t) {
  typedef Acc<T> A;
  const int id = blockIdx.x * blockDim.x + threadIdx.x, per_row = H / V;
  if (id >= B * per_row) return;
  const int b = id / per_row, unit = (id - b * per_row) * V;
  const i64 row = static_cast<i64>(b) * H + unit, gate_row = 3 * static_cast<i64>(b) * H + unit;
  A n[V], z[V], old_h[V], d[V], above[V];
  UNROLL for (int j = 0; j < V; j++) above[j] = A(0);
  if (lengths && t >= lengths[b]) {
    UNROLL for (int k = 1; k < 3; k++) {
      store<T, V>(gates + gate_row + k * H, above);
      store<T, V>(da + gate_row + k * H, above);
    }
    return;  // dh stays as it is
  }
  load<T, V>(z, gates + gate_row + H);
  load<T, V>(n, gates + gate_row + 2 * H);
  load<T, V>(old_h, h_prev + row);
  load<A, V>(d, dh + row);
  if (dy) load<T, V>(above, dy + row);
  UNROLL for (int j = 0; j < V; j++) {
    const A d_h = d[j] + above[j], old_z = z[j];
    z[j] = d_h * (old_h[j] - n[j]) * sigmoid_slope(old_z);  // (4), (1)
    n[j] = d_h * (A(1) - old_z) * tanh_slope(n[j]);         // (4), (3)
    d[j] = d_h * old_z;                                     // (4)
  }
  store<T, V>(gates + gate_row + H, z);
  store<T, V>(da + gate_row + H, z);
  store<T, V>(gates + gate_row + 2 * H, n);
  store<T, V>(da + gate_row + 2 * H, n);
  store<A, V>(dh + row, d);
}

// gates    [B, 3H]  in: r in the first block; out: da_r there; 0 past a sequence's end
// h_prev   [B, H]
// dq       [B, H]   da_n U_n; not read past the end
// dh       [B, H]   in: as ..._backward left it; out: with the part through r too.  The caller
//                   adds (da_r, da_z) (U_r, U_z) to it.
// da       [B, 3H]  out: da_r in the first block, for the product of this step
template <class T, int V>
STEP_KERNEL gru_before_backward_reset(int B, int H, T* gates, const T* h_prev, const Acc<T>* dq,
                                      Acc<T>* dh, T* da, const int* lengths, int t) {
  typedef Acc<T> A;
  const int id = blockIdx.x * blockDim.x + threadIdx.x, per_row = H / V;
  if (id >= B * per_row) return;
  const int b = id / per_row, unit = (id - b * per_row) * V;
  const i64 row = static_cast<i64>(b) * H + unit, gate_row = 3 * static_cast<i64>(b) * H + unit;
  A a_r[V], old_h[V], from_q[V], d[V];
  if (lengths && t >= lengths[b]) {
    UNROLL for (int j = 0; j < V; j++) a_r[j] = A(0);
    store<T, V>(gates + gate_row, a_r);
    store<T, V>(da + gate_row, a_r);
    return;  // dh stays as it is
  }
  load<T, V>(a_r, gates + gate_row);
  load<T, V>(old_h, h_prev + row);
  load<A, V>(from_q, dq + row);
  load<A, V>(d, dh + row);
  UNROLL for (int j = 0; j < V; j++) {
    const A r = a_r[j];
    d[j] += from_q[j] * r;                             // (3)
    a_r[j] = from_q[j] * old_h[j] * sigmoid_slope(r);  // (3), (2)
  }
  store<T, V>(gates + gate_row, a_r);
  store<T, V>(da + gate_row, a_r);
  store<A, V>(dh + row, d);
}
