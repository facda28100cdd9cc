// One step of the minimal gated unit, forward and backward: all that is not a matrix product.
// Equations: xrnn/cells/mgu.py.
//
// The candidate needs q = u ⊙ h_prev before its product, so a step is two products and two
// kernels: U_u h_prev | ..._forward_gates | U_n q | ..._forward, and in backward
// ..._backward | dq = da_n U_n | ..._backward_reset | dh += da_u U_u.
//
// Each thread has V neighbouring units of one sequence.  Grid: ceil(B·H / V / block) blocks.
// Rows are contiguous; no two pointers overlap but where said.
#include "steps.cuh"

// gates    [B, 2H]  in: W x, without bias, in u; out: u there; neither read nor written past a
//                   sequence's end
// bias     [2H]
// product  [B, H]   U_u h_prev
// state    [B, H]   h_prev
// q        [B, H] or null, out: u ⊙ h_prev; 0 past the end, as the gradient of U_n is a sum over q
// operand  [B, H]   out: as q, for the product of this step
// lengths  [B] or null
template <class T, int V>
STEP_KERNEL mgu_forward_gates(int B, int H, T* gates, const T* bias, const Acc<T>* product,
                              const T* state, T* q, T* operand, const int* lengths, int t) {
  typedef Acc<T> A;
  const int id = blockIdx.x * blockDim.x + threadIdx.x, per_row = H / V;
  if (id >= B * per_row) return;
  const int b = id / per_row, unit = (id - b * per_row) * V;
  const i64 row = static_cast<i64>(b) * H + unit, gate_row = 2 * static_cast<i64>(b) * H + unit;
  A a[V], u[V], shift[V], reset[V];
  if (lengths && t >= lengths[b]) {
    UNROLL for (int j = 0; j < V; j++) reset[j] = A(0);
    if (q) store<T, V>(q + row, reset);
    store<T, V>(operand + row, reset);
    return;
  }
  load<T, V>(a, gates + gate_row);
  load<T, V>(shift, bias + unit);
  load<A, V>(u, product + row);
  load<T, V>(reset, state + row);
  UNROLL for (int j = 0; j < V; j++) {
    a[j] = sigmoid(a[j] + shift[j] + u[j]);  // (1)
    reset[j] *= a[j];
  }
  if (q) store<T, V>(q + row, reset);
  store<T, V>(operand + row, reset);
  store<T, V>(gates + gate_row, a);
}

// gates    [B, 2H]  in: u from ..._forward_gates, and W x, without bias, in n; out, if `save`: n;
//                   neither read nor written past a sequence's end
// bias     [2H]
// product  [B, H]   U_n q
// state    [B, H]   in: h_prev; out: h, for the product of the next step
// h        [B, H]   out
// lengths  [B] or null: from step lengths[b] on, sequence b keeps its state
template <class T, int V>
STEP_KERNEL mgu_forward(int B, int H, T* gates, const T* bias, const Acc<T>* product, T* state,
                        T* h, const int* lengths, int t, int save) {
  typedef Acc<T> A;
  const int id = blockIdx.x * blockDim.x + threadIdx.x, per_row = H / V;
  if (id >= B * per_row) return;
  const int b = id / per_row, unit = (id - b * per_row) * V;
  const i64 row = static_cast<i64>(b) * H + unit, gate_row = 2 * static_cast<i64>(b) * H + unit;
  A n[V], u[V], sum[V], shift[V], old_h[V], new_h[V];
  load<T, V>(old_h, state + row);
  if (lengths && t >= lengths[b]) {
    store<T, V>(h + row, old_h);
    return;
  }
  load<T, V>(u, gates + gate_row);
  load<T, V>(n, gates + gate_row + H);
  load<T, V>(shift, bias + H + unit);
  load<A, V>(sum, product + row);
  UNROLL for (int j = 0; j < V; j++) {
    n[j] = tanh_of(n[j] + shift[j] + sum[j]);           // (2)
    new_h[j] = (A(1) - u[j]) * old_h[j] + u[j] * n[j];  // (3)
  }
  store<T, V>(h + row, new_h);
  store<T, V>(state + row, new_h);
  if (save) store<T, V>(gates + gate_row + H, n);
}

// gates    [B, 2H]  in: u, n; out: u, and in the last block the part of the gradient of u that does
//                   not come through q; past a sequence's end neither read nor written
// h_prev   [B, H]
// dy       [B, H] or null: gradient of the output of this step; not read past the end
// dh       [B, H]   in: the gradient of h from step t+1; out: the part of the gradient of h_prev
//                   through 1 - u (all of it past the end)
// da       [B, 2H]  out: da_n in the last block, for the product of this step; 0 past the end
template <class T, int V>
STEP_KERNEL mgu_backward(int B, int H, T* gates, const T* h_prev, const T* dy, Acc<T>* dh, T* da,
                         const int* lengths, int t) {
  typedef Acc<T> A;
  const int id = blockIdx.x * blockDim.x + threadIdx.x, per_row = H / V;
  if (id >= B * per_row) return;
  const int b = id / per_row, unit = (id - b * per_row) * V;
  const i64 row = static_cast<i64>(b) * H + unit, gate_row = 2 * static_cast<i64>(b) * H + unit;
  A n[V], u[V], old_h[V], d[V], above[V];
  UNROLL for (int j = 0; j < V; j++) above[j] = A(0);
  if (lengths && t >= lengths[b]) {
    store<T, V>(da + gate_row + H, above);
    return;  // dh stays as it is
  }
  load<T, V>(u, gates + gate_row);
  load<T, V>(n, gates + gate_row + H);
  load<T, V>(old_h, h_prev + row);
  load<A, V>(d, dh + row);
  if (dy) load<T, V>(above, dy + row);
  UNROLL for (int j = 0; j < V; j++) {
    const A d_h = d[j] + above[j];
    above[j] = d_h * (n[j] - old_h[j]);    // (3)
    n[j] = d_h * u[j] * tanh_slope(n[j]);  // (3), (2)
    d[j] = d_h * (A(1) - u[j]);            // (3)
  }
  store<T, V>(gates + gate_row + H, above);
  store<T, V>(da + gate_row + H, n);
  store<A, V>(dh + row, d);
}

// gates    [B, 2H]  in: as ..._backward left it; out: da_u, da_n; 0 past a sequence's end
// h_prev   [B, H]
// dq       [B, H]   da_n U_n; not read past the end
// dh       [B, H]   in: as ..._backward left it; out: with the part through q too.  The caller adds
//                   da_u U_u to it.
// da       [B, 2H]  in: da_n; out: da_u in the first block, for the product of this step
template <class T, int V>
STEP_KERNEL mgu_backward_reset(int B, int H, T* gates, const T* h_prev, const Acc<T>* dq,
                               Acc<T>* dh, T* da, const int* lengths, int t) {
  typedef Acc<T> A;
  const int id = blockIdx.x * blockDim.x + threadIdx.x, per_row = H / V;
  if (id >= B * per_row) return;
  const int b = id / per_row, unit = (id - b * per_row) * V;
  const i64 row = static_cast<i64>(b) * H + unit, gate_row = 2 * static_cast<i64>(b) * H + unit;
  A u[V], du[V], a_n[V], old_h[V], from_q[V], d[V];
  load<T, V>(a_n, da + gate_row + H);
  if (lengths && t >= lengths[b]) {  // where a_n is 0
    store<T, V>(gates + gate_row, a_n);
    store<T, V>(gates + gate_row + H, a_n);
    store<T, V>(da + gate_row, a_n);
    return;  // dh stays as it is
  }
  load<T, V>(u, gates + gate_row);
  load<T, V>(du, gates + gate_row + H);
  load<T, V>(old_h, h_prev + row);
  load<A, V>(from_q, dq + row);
  load<A, V>(d, dh + row);
  UNROLL for (int j = 0; j < V; j++) {
    d[j] += from_q[j] * u[j];                                     // (2)
    u[j] = (du[j] + from_q[j] * old_h[j]) * sigmoid_slope(u[j]);  // (2), (1)
  }
  store<T, V>(gates + gate_row, u);
  store<T, V>(da + gate_row, u);
  store<T, V>(gates + gate_row + H, a_n);
  store<A, V>(dh + row, d);
}
