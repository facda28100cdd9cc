// One step of the GRU with options whose reset gate stands after the product, forward and
// backward: all that is not a matrix product.  Equations: xrnn/cells/gru_options.py.
//
// gates [B, 4H] has the columns of gru.cu, for n, r, z and m, where m = U_n h_prev + v.
//
// Each thread has V neighbouring units of one sequence.  Grid: ceil(B·H / V / block) blocks.
// Rows are contiguous; no two pointers overlap but where said.
#include "options.cuh"

// gates    [B, 4H]  in: W x, without bias, in n, r, z; out, if `save`: a_n, a_r, a_z, m, but past
//                   a sequence's end, where it is neither read nor written
// bias     [3H]     b_r, b_z, b_n      v    [H]
// product  [B, 3H]  U h_prev, in the order r, z, n
// state    [B, H]   in: h_prev; out: h, for the product of the next step
// h        [B, H]   out
// lengths  [B] or null: from step lengths[b] on, sequence b keeps its state
template <class T, int V>
STEP_KERNEL gru_options_forward(int B, int H, T* gates, const T* bias, const T* v,
                                const Acc<T>* product, T* state, T* h, const int* lengths, int t,
                                int save, OPTIONS(Acc<T>)) {
  typedef Acc<T> A;
  const Options<A> options = OPTIONS_OF(A);
  const int id = blockIdx.x * blockDim.x + threadIdx.x, per_row = H / V;
  if (id >= B * per_row) return;
  const int b = id / per_row, unit = (id - b * per_row) * V;
  const i64 row = static_cast<i64>(b) * H + unit, gate_row = 4 * static_cast<i64>(b) * H + unit;
  const i64 recurrent = 3 * static_cast<i64>(b) * H + unit;
  A old_h[V], r[V], z[V], a[V], m[V];
  if (lengths && t >= lengths[b]) {
    load<T, V>(old_h, state + row);
    store<T, V>(h + row, old_h);
    return;
  }
  // r (k = 0) or z (k = 1)
  const auto value = [&](int k, A(&y)[V]) {
    A more[V];
    load<T, V>(a, gates + gate_row + (k + 1) * H);
    load<T, V>(more, bias + k * H + unit);
    EACH a[j] += more[j];
    load<A, V>(more, product + recurrent + k * H);
    EACH a[j] += more[j];
    if (save) store<T, V>(gates + gate_row + (k + 1) * H, a);
    gate(options.gate, options.clip, a, y);
  };
  value(0, r);  // (1)
  value(1, z);  // (2)
  load<A, V>(m, product + recurrent + 2 * H);
  load<T, V>(a, v + unit);
  EACH m[j] += a[j];
  if (save) store<T, V>(gates + gate_row + 3 * H, m);
  EACH m[j] *= r[j];
  load<T, V>(a, gates + gate_row);
  load<T, V>(r, bias + 2 * H + unit);
  EACH a[j] += r[j] + m[j];
  if (save) store<T, V>(gates + gate_row, a);
  gate(options.candidate, options.clip, a, m);  // (3)
  load<T, V>(old_h, state + row);
  EACH m[j] = z[j] * old_h[j] + (A(1) - z[j]) * m[j];  // (5)
  store<T, V>(h + row, m);
  store<T, V>(state + row, m);
}

// gates    [B, 4H]  in: a_n, a_r, a_z, m; out: da_n, da_r, da_z, dm; 0 past a sequence's end
// h_prev   [B, H]
// dy       [B, H] or null: gradient of the output of this step; not read past the end
// dh       [B, H]   in: the gradient of h from step t+1; out: the part of the gradient of
//                   h_prev without products (all of it past the end).  The caller adds
//                   (da_r, da_z, dm) U to it.
// da       [B, 3H]  out: da_r, da_z, dm, for the product of this step
template <class T, int V>
STEP_KERNEL gru_options_backward(int B, int H, T* gates, const T* h_prev, const T* dy, Acc<T>* dh,
                                 T* da, const int* lengths, int t, OPTIONS(Acc<T>)) {
  typedef Acc<T> A;
  const Options<A> options = OPTIONS_OF(A);
  const int id = blockIdx.x * blockDim.x + threadIdx.x, per_row = H / V;
  if (id >= B * per_row) return;
  const int b = id / per_row, unit = (id - b * per_row) * V;
  const i64 row = static_cast<i64>(b) * H + unit, gate_row = 4 * static_cast<i64>(b) * H + unit;
  const i64 recurrent = 3 * static_cast<i64>(b) * H + unit;
  A d_h[V], n[V], d_n[V], y[V], slope[V], other[V];
  if (lengths && t >= lengths[b]) {
    EACH y[j] = A(0);
    for (int k = 0; k < 4; k++) store<T, V>(gates + gate_row + k * H, y);
    for (int k = 0; k < 3; k++) store<T, V>(da + recurrent + k * H, y);
    return;  // dh stays as it is
  }
  // The values of the gate in block k of the columns, and their derivatives.
  const auto value = [&](const Function<A>& function, int k, A(&y)[V], A(&slope)[V]) {
    A a[V];
    load<T, V>(a, gates + gate_row + k * H);
    gate(function, options.clip, a, y, slope);
  };
  // Store the gradient of the sums of r (k = 0) or z (k = 1).
  const auto give = [&](int k, const A(&d)[V]) {
    store<T, V>(gates + gate_row + (k + 1) * H, d);
    store<T, V>(da + recurrent + k * H, d);
  };
  load<A, V>(d_h, dh + row);
  if (dy) {
    load<T, V>(other, dy + row);
    EACH d_h[j] += other[j];
  }
  value(options.candidate, 0, n, d_n);
  value(options.gate, 2, y, slope);
  load<T, V>(other, h_prev + row);
  EACH slope[j] *= d_h[j] * (other[j] - n[j]);  // (5), (2)
  give(1, slope);
  EACH d_n[j] *= d_h[j] * (A(1) - y[j]), d_h[j] *= y[j];  // (5), (3)
  store<A, V>(dh + row, d_h);
  store<T, V>(gates + gate_row, d_n);
  value(options.gate, 1, y, slope);
  load<T, V>(other, gates + gate_row + 3 * H);
  EACH slope[j] *= d_n[j] * other[j], d_n[j] *= y[j];  // (3), (1)
  give(0, slope);
  store<T, V>(gates + gate_row + 3 * H, d_n);
  store<T, V>(da + recurrent + 2 * H, d_n);
}
