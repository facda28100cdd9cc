// One step of the LSTM with options, forward and backward: all that is not a matrix product.
// Equations: xrnn/cells/lstm_options.py.
//
// G gates have rows of weights: i, f, g, o, or with coupled gates i, g, o, where f = 1 - i.  With
// peepholes p [(G-1) H] holds p_i, p_f, p_o (p_i, p_o where coupled); otherwise it is null.
//
// Each thread has V neighbouring units of one sequence.  Grid: ceil(B·H / V / block) blocks.
// Rows are contiguous; no two pointers overlap but where said.
#include "options.cuh"

// gates    [B, G·H]  in: W x, without bias; out, if `save`: the sums a of (1)
// bias     [G·H]
// product  [B, G·H]  U h_prev
// c_prev   [B, H]   c    [B, H] out
// state    [B, H]   in: h_prev; out: h, for the product of the next step
// h        [B, H]   out
// lengths  [B] or null: from step lengths[b] on, sequence b keeps its state
template <class T, int V>
STEP_KERNEL lstm_options_forward(int B, int H, int G, T* gates, const T* bias, const T* p,
                                 const Acc<T>* product, const Acc<T>* c_prev, Acc<T>* c, T* state,
                                 T* h, const int* lengths, int t, int save, OPTIONS(Acc<T>)) {
  typedef Acc<T> A;
  const Options<A> options = OPTIONS_OF(A);
  const int id = blockIdx.x * blockDim.x + threadIdx.x, per_row = H / V;
  if (id >= B * per_row) return;
  const int b = id / per_row, unit = (id - b * per_row) * V;
  const i64 row = static_cast<i64>(b) * H + unit, gate_row = static_cast<i64>(b) * G * H + unit;
  // The values of gate k; a peephole has its weights in block `peep`.
  const auto value = [&](const Function<A>& function, int k, A(&y)[V], const A(&seen)[V],
                         int peep = -1) {
    A a[V], more[V];
    load<T, V>(a, gates + gate_row + k * H);
    load<T, V>(more, bias + k * H + unit);
    EACH a[j] += more[j];
    load<A, V>(more, product + gate_row + k * H);
    EACH a[j] += more[j];
    if (p && peep >= 0) {
      load<T, V>(more, p + peep * H + unit);
      EACH a[j] += more[j] * seen[j];  // (1)
    }
    if (save) store<T, V>(gates + gate_row + k * H, a);
    gate(function, options.clip, a, y);
  };
  A old_c[V], new_c[V], new_h[V], i[V], f[V], y[V];
  load<A, V>(old_c, c_prev + row);
  value(options.gate, 0, i, old_c, 0);  // (2)
  if (G == 4) {
    value(options.gate, 1, f, old_c, 1);  // (2)
  } else {
    EACH f[j] = A(1) - i[j];  // (2)
  }
  value(options.candidate, G - 2, y, old_c);                                  // (3)
  EACH new_c[j] = limited(f[j] * old_c[j] + i[j] * y[j], options.cell_clip);  // (4)
  value(options.gate, G - 1, new_h, new_c, G - 2);                            // (2)
  activate(options.output, new_c, y);
  EACH new_h[j] *= y[j];  // (5)
  if (lengths && t >= lengths[b]) {
    load<T, V>(new_h, state + row);
    EACH new_c[j] = old_c[j];
  }
  store<A, V>(c + row, new_c);
  store<T, V>(h + row, new_h);
  store<T, V>(state + row, new_h);
}

// gates    [B, G·H]  in: the sums a; out: their gradients; 0 past a sequence's end
// c_prev, c [B, H]
// dy       [B, H] or null: gradient of the output of this step; not read past the end
// dh       [B, H]   in: the gradient of h from step t+1; out: the gradient of h_prev
//                   without da U (0; past the end all of it).  The caller adds da U to it.
// dc       [B, H]   in: the gradient of c from step t+1; out: the gradient of c_prev
// da       [B, G·H]  out: as gates, for the product of this step
//
// The gradient of p is summed after the loop: da_i ⊙ c_prev, da_f ⊙ c_prev, da_o ⊙ c.
template <class T, int V>
STEP_KERNEL lstm_options_backward(int B, int H, int G, T* gates, const T* p, const Acc<T>* c_prev,
                                  const Acc<T>* c, const T* dy, Acc<T>* dh, Acc<T>* dc, T* da,
                                  const int* lengths, int t, OPTIONS(Acc<T>)) {
  typedef Acc<T> A;
  const Options<A> options = OPTIONS_OF(A);
  const int id = blockIdx.x * blockDim.x + threadIdx.x, per_row = H / V;
  if (id >= B * per_row) return;
  const int b = id / per_row, unit = (id - b * per_row) * V;
  const i64 row = static_cast<i64>(b) * H + unit, gate_row = static_cast<i64>(b) * G * H + unit;
  // The values of gate k and their derivatives.
  const auto value = [&](const Function<A>& function, int k, A(&y)[V], A(&slope)[V]) {
    A a[V];
    load<T, V>(a, gates + gate_row + k * H);
    gate(function, options.clip, a, y, slope);
  };
  // Store the gradient d of the sums of gate k, and add what comes of it through its peephole.
  const auto give = [&](int k, const A(&d)[V], A(&of_c)[V], int peep) {
    store<T, V>(gates + gate_row + k * H, d);
    store<T, V>(da + gate_row + k * H, d);
    if (p && peep >= 0) {
      A weight[V];
      load<T, V>(weight, p + peep * H + unit);
      EACH of_c[j] += weight[j] * d[j];  // (1)
    }
  };
  A zero[V];
  EACH zero[j] = A(0);
  if (lengths && t >= lengths[b]) {
    for (int k = 0; k < G; k++) {
      store<T, V>(gates + gate_row + k * H, zero);
      store<T, V>(da + gate_row + k * H, zero);
    }
    return;  // dh and dc stay as they are
  }
  // What is used late is loaded late, or again: registers are scarce.
  A d_h[V], d_c[V], other[V], y[V], slope[V];
  load<A, V>(d_h, dh + row);
  if (dy) {
    load<T, V>(other, dy + row);
    EACH d_h[j] += other[j];
  }
  load<A, V>(other, c + row);
  differentiate(options.output, other, y, slope);
  EACH slope[j] *= d_h[j], d_h[j] *= y[j];  // (5)
  value(options.gate, G - 1, y, other);
  load<A, V>(d_c, dc + row);
  EACH d_c[j] += slope[j] * y[j], d_h[j] *= other[j];  // (5), (2)
  give(G - 1, d_h, d_c, G - 2);
  store<A, V>(dh + row, zero);
  load<A, V>(other, c + row);
  EACH d_c[j] = limited_backward(other[j], options.cell_clip, d_c[j]);  // (4)

  A of_old[V], i[V], i_slope[V];
  load<A, V>(other, c_prev + row);
  if (G == 4) {
    value(options.gate, 1, y, slope);
    EACH of_old[j] = d_c[j] * y[j], slope[j] *= d_c[j] * other[j];  // (4), (2)
    give(1, slope, of_old, 1);
  }
  value(options.gate, 0, i, i_slope);
  EACH i[j] *= d_c[j], i_slope[j] *= d_c[j];   // (4)
  if (G == 3) EACH of_old[j] = d_c[j] - i[j];  // (4), (2)
  value(options.candidate, G - 2, y, slope);
  EACH slope[j] *= i[j];  // (3)
  give(G - 2, slope, of_old, -1);
  if (G == 3) {
    load<A, V>(other, c_prev + row);
    EACH y[j] -= other[j];  // (2)
  }
  EACH i_slope[j] *= y[j];  // (2)
  give(0, i_slope, of_old, 0);
  store<A, V>(dc + row, of_old);
}
