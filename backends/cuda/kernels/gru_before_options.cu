// One step of the GRU with options whose reset gate stands before the product, forward and
// backward: all that is not a matrix product.  Equations: xrnn/cells/gru_options.py.
//
// The candidate needs q = r ⊙ h_prev before its product, so a step is two products and two kernels,
// in the order of gru_before.cu.
//
// Each thread has V neighbouring units of one sequence.  Grid: ceil(B·H / V / block) blocks.
// Rows are contiguous; no two pointers overlap but where said.
#include "options.cuh"

// gates    [B, 3H]  in: W x, without bias, in r, z; out: a_z, and a_r if q is kept; neither read
//                   nor written past a sequence's end
// bias     [3H]
// product  [B, 2H]  U_r h_prev, U_z h_prev
// state    [B, H]   h_prev
// q        [B, H] or null, out: r ⊙ h_prev; 0 past the end, as the gradient of U_n is a sum over q
// operand  [B, H]   out: as q, for the product of this step
// lengths  [B] or null
template <class T, int V>
STEP_KERNEL gru_before_options_forward_gates(int B, int H, T* gates, const T* bias,
                                             const Acc<T>* product, const T* state, T* q,
                                             T* operand, const int* lengths, int t,
                                             OPTIONS(Acc<T>)) {
  typedef Acc<T> A;
  const Options<A> options = OPTIONS_OF(A);
  const int id = blockIdx.x * blockDim.x + threadIdx.x, per_row = H / V;
  if (id >= B * per_row) return;
  const int b = id / per_row, unit = (id - b * per_row) * V;
  const i64 row = static_cast<i64>(b) * H + unit, gate_row = 3 * static_cast<i64>(b) * H + unit;
  const i64 recurrent = 2 * static_cast<i64>(b) * H + unit;
  A a[2][V], reset[V], old_h[V];
  if (lengths && t >= lengths[b]) {
    EACH reset[j] = A(0);
    if (q) store<T, V>(q + row, reset);
    store<T, V>(operand + row, reset);
    return;
  }
  UNROLL for (int k = 0; k < 2; k++) {
    A u[V], shift[V];
    load<T, V>(a[k], gates + gate_row + k * H);
    load<T, V>(shift, bias + k * H + unit);
    load<A, V>(u, product + recurrent + k * H);
    EACH a[k][j] += shift[j] + u[j];
  }
  store<T, V>(gates + gate_row + H, a[1]);
  if (q) store<T, V>(gates + gate_row, a[0]);
  gate(options.gate, options.clip, a[0], reset);  // (1)
  load<T, V>(old_h, state + row);
  EACH reset[j] *= old_h[j];
  if (q) store<T, V>(q + row, reset);
  store<T, V>(operand + row, reset);
}

// gates    [B, 3H]  in: a_z from ..._forward_gates, and W x, without bias, in n; out, if `save`:
//                   a_n; neither read nor written past a sequence's end
// bias     [3H]
// product  [B, H]   U_n q
// state    [B, H]   in: h_prev; out: h, for the product of the next step
// h        [B, H]   out
// lengths  [B] or null: from step lengths[b] on, sequence b keeps its state
template <class T, int V>
STEP_KERNEL gru_before_options_forward(int B, int H, T* gates, const T* bias, const Acc<T>* product,
                                       T* state, T* h, const int* lengths, int t, int save,
                                       OPTIONS(Acc<T>)) {
  typedef Acc<T> A;
  const Options<A> options = OPTIONS_OF(A);
  const int id = blockIdx.x * blockDim.x + threadIdx.x, per_row = H / V;
  if (id >= B * per_row) return;
  const int b = id / per_row, unit = (id - b * per_row) * V;
  const i64 row = static_cast<i64>(b) * H + unit, gate_row = 3 * static_cast<i64>(b) * H + unit;
  A a[V], n[V], z[V], u[V], shift[V], old_h[V];
  load<T, V>(old_h, state + row);
  if (lengths && t >= lengths[b]) {
    store<T, V>(h + row, old_h);
    return;
  }
  load<T, V>(a, gates + gate_row + 2 * H);
  load<T, V>(shift, bias + 2 * H + unit);
  load<A, V>(u, product + row);
  EACH a[j] += shift[j] + u[j];
  if (save) store<T, V>(gates + gate_row + 2 * H, a);
  gate(options.candidate, options.clip, a, n);  // (4)
  load<T, V>(a, gates + gate_row + H);
  gate(options.gate, options.clip, a, z);              // (2)
  EACH n[j] = z[j] * old_h[j] + (A(1) - z[j]) * n[j];  // (5)
  store<T, V>(h + row, n);
  store<T, V>(state + row, n);
}

// gates    [B, 3H]  in: a_r, a_z, a_n; out: a_r, da_z, da_n; past a sequence's end a_r, 0, 0
// h_prev   [B, H]
// dy       [B, H] or null: gradient of the output of this step; not read past the end
// dh       [B, H]   in: the gradient of h from step t+1; out: the part of the gradient of h_prev
//                   through z (all of it past the end)
// da       [B, 3H]  out: da_z, da_n in the last two blocks, for the products of this step
template <class T, int V>
STEP_KERNEL gru_before_options_backward(int B, int H, T* gates, const T* h_prev, const T* dy,
                                        Acc<T>* dh, T* da, const int* lengths, int t,
                                        OPTIONS(Acc<T>)) {
  typedef Acc<T> A;
  const Options<A> options = OPTIONS_OF(A);
  const int id = blockIdx.x * blockDim.x + threadIdx.x, per_row = H / V;
  if (id >= B * per_row) return;
  const int b = id / per_row, unit = (id - b * per_row) * V;
  const i64 row = static_cast<i64>(b) * H + unit, gate_row = 3 * static_cast<i64>(b) * H + unit;
  // Store the gradient of the sums of z (k = 1) or n (k = 2).
  const auto give = [&](int k, const A(&d)[V]) {
    store<T, V>(gates + gate_row + k * H, d);
    store<T, V>(da + gate_row + k * H, d);
  };
  A a[V], n[V], d_n[V], z[V], d_z[V], d[V], other[V];
  EACH other[j] = A(0);
  if (lengths && t >= lengths[b]) {
    give(1, other);
    give(2, other);
    return;  // dh stays as it is
  }
  load<A, V>(d, dh + row);
  if (dy) load<T, V>(other, dy + row);
  EACH d[j] += other[j];
  load<T, V>(a, gates + gate_row + 2 * H);
  gate(options.candidate, options.clip, a, n, d_n);
  load<T, V>(a, gates + gate_row + H);
  gate(options.gate, options.clip, a, z, d_z);
  load<T, V>(other, h_prev + row);
  EACH d_z[j] *= d[j] * (other[j] - n[j]);            // (5), (2)
  EACH d_n[j] *= d[j] * (A(1) - z[j]), d[j] *= z[j];  // (5), (4)
  give(1, d_z);
  give(2, d_n);
  store<A, V>(dh + row, d);
}

// gates    [B, 3H]  in: a_r in the first block; out: da_r there; 0 past a sequence's end
// h_prev   [B, H]
// dq       [B, H]   da_n U_n; not read past the end
// dh       [B, H]   in: as ..._backward left it; out: with the part through r too.  The caller
//                   adds (da_r, da_z) (U_r, U_z) to it.
// da       [B, 3H]  out: da_r in the first block, for the product of this step
template <class T, int V>
STEP_KERNEL gru_before_options_backward_reset(int B, int H, T* gates, const T* h_prev,
                                              const Acc<T>* dq, Acc<T>* dh, T* da,
                                              const int* lengths, int t, OPTIONS(Acc<T>)) {
  typedef Acc<T> A;
  const Options<A> options = OPTIONS_OF(A);
  const int id = blockIdx.x * blockDim.x + threadIdx.x, per_row = H / V;
  if (id >= B * per_row) return;
  const int b = id / per_row, unit = (id - b * per_row) * V;
  const i64 row = static_cast<i64>(b) * H + unit, gate_row = 3 * static_cast<i64>(b) * H + unit;
  A a[V], r[V], d_r[V], old_h[V], from_q[V], d[V];
  if (lengths && t >= lengths[b]) {
    EACH d_r[j] = A(0);
    store<T, V>(gates + gate_row, d_r);
    store<T, V>(da + gate_row, d_r);
    return;  // dh stays as it is
  }
  load<T, V>(a, gates + gate_row);
  gate(options.gate, options.clip, a, r, d_r);
  load<T, V>(old_h, h_prev + row);
  load<A, V>(from_q, dq + row);
  load<A, V>(d, dh + row);
  EACH d[j] += from_q[j] * r[j];        // (4)
  EACH d_r[j] *= from_q[j] * old_h[j];  // (4), (1)
  store<T, V>(gates + gate_row, d_r);
  store<T, V>(da + gate_row, d_r);
  store<A, V>(dh + row, d);
}
