// One step of the simple recurrent network with options, forward and backward: all that is not a
// matrix product.  Equations: xrnn/cells/elman_options.py.
//
// Each thread has V neighbouring units of one sequence.  Grid: ceil(B·H / V / block) blocks.
// Rows are contiguous; no two pointers overlap but where said.
#include "options.cuh"

// gates    [B, H]   in: W x, without bias; out, if `save`: a; not read past a sequence's end
// bias     [H]
// product  [B, H]   U h_prev
// state    [B, H]   in: h_prev; out: h, for the product of the next step
// h        [B, H]   out
// lengths  [B] or null: from step lengths[b] on, sequence b keeps its state
template <class T, int V>
STEP_KERNEL rnn_options_forward(int B, int H, T* gates, const T* bias, const Acc<T>* product,
                                T* state, T* h, const int* lengths, int t, int save,
                                OPTIONS(Acc<T>)) {
  typedef Acc<T> A;
  const Options<A> options = OPTIONS_OF(A);
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
  load<T, V>(a, gates + row);
  load<T, V>(shift, bias + unit);
  load<A, V>(u, product + row);
  EACH a[j] += shift[j] + u[j];
  if (save) store<T, V>(gates + row, a);
  gate(options.gate, options.clip, a, u);  // (1)
  store<T, V>(h + row, u);
  store<T, V>(state + row, u);
}

// gates    [B, H]   in: a; out: its gradient; 0 past a sequence's end
// dy       [B, H] or null: gradient of the output of this step; not read past the end
// dh       [B, H]   in: the gradient of h from step t+1; out: the gradient of h_prev
//                   without da U (0; past the end all of it).  The caller adds da U to it.
// da       [B, H]   out: as gates, for the product of this step
template <class T, int V>
STEP_KERNEL rnn_options_backward(int B, int H, T* gates, const T* dy, Acc<T>* dh, T* da,
                                 const int* lengths, int t, OPTIONS(Acc<T>)) {
  typedef Acc<T> A;
  const Options<A> options = OPTIONS_OF(A);
  const int id = blockIdx.x * blockDim.x + threadIdx.x, per_row = H / V;
  if (id >= B * per_row) return;
  const int b = id / per_row, unit = (id - b * per_row) * V;
  const i64 row = static_cast<i64>(b) * H + unit;
  A zero[V], a[V], y[V], slope[V], d[V], above[V];
  EACH above[j] = zero[j] = A(0);
  if (lengths && t >= lengths[b]) {
    store<T, V>(gates + row, zero);
    store<T, V>(da + row, zero);
    return;  // dh stays as it is
  }
  load<T, V>(a, gates + row);
  load<A, V>(d, dh + row);
  if (dy) load<T, V>(above, dy + row);
  gate(options.gate, options.clip, a, y, slope);
  EACH d[j] = (d[j] + above[j]) * slope[j];  // (1)
  store<T, V>(gates + row, d);
  store<T, V>(da + row, d);
  store<A, V>(dh + row, zero);
}
