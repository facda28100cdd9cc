// One step of the LSTM with peepholes, forward and backward: all that is not a matrix product.
// Equations: xrnn/cells/peephole.py.
//
// Each thread has V neighbouring units of one sequence.  Grid: ceil(B·H / V / block) blocks.
// Rows are contiguous; no two pointers overlap but where said.
#include "steps.cuh"

// gates    [B, 4H]  in: W x, without bias; out, if `save`: i, f, g, o
// bias     [4H]     p    [3H]  p_i, p_f, p_o
// product  [B, 4H]  U h_prev
// c_prev   [B, H]   c    [B, H] out
// state    [B, H]   in: h_prev; out: h, for the product of the next step
// h        [B, H]   out
// lengths  [B] or null: from step lengths[b] on, sequence b keeps its state
template <class T, int V>
STEP_KERNEL peephole_forward(int B, int H, T* gates, const T* bias, const T* p,
                             const Acc<T>* product, const Acc<T>* c_prev, Acc<T>* c, T* state, T* h,
                             const int* lengths, int t, int save) {
  typedef Acc<T> A;
  const int id = blockIdx.x * blockDim.x + threadIdx.x, per_row = H / V;
  if (id >= B * per_row) return;
  const int b = id / per_row, unit = (id - b * per_row) * V;
  const i64 row = static_cast<i64>(b) * H + unit, gate_row = 4 * static_cast<i64>(b) * H + unit;
  A a[4][V], peep[3][V], old_c[V], new_c[V], new_h[V];
  UNROLL for (int k = 0; k < 4; k++) {
    A u[V], shift[V];
    load<T, V>(a[k], gates + gate_row + k * H);
    load<T, V>(shift, bias + k * H + unit);
    load<A, V>(u, product + gate_row + k * H);
    UNROLL for (int j = 0; j < V; j++) a[k][j] += shift[j] + u[j];
  }
  UNROLL for (int k = 0; k < 3; k++) load<T, V>(peep[k], p + k * H + unit);
  load<A, V>(old_c, c_prev + row);
  UNROLL for (int j = 0; j < V; j++) {
    const A i = sigmoid(a[0][j] + peep[0][j] * old_c[j]);  // (1)
    const A f = sigmoid(a[1][j] + peep[1][j] * old_c[j]);  // (2)
    const A g = tanh_of(a[2][j]);                          // (3)
    new_c[j] = f * old_c[j] + i * g;                       // (4)
    const A o = sigmoid(a[3][j] + peep[2][j] * new_c[j]);  // (5)
    new_h[j] = o * tanh_of(new_c[j]);                      // (6)
    a[0][j] = i, a[1][j] = f, a[2][j] = g, a[3][j] = o;
  }
  if (lengths && t >= lengths[b]) {
    load<T, V>(new_h, state + row);
    UNROLL for (int j = 0; j < V; j++) new_c[j] = old_c[j];
  }
  store<A, V>(c + row, new_c);
  store<T, V>(h + row, new_h);
  store<T, V>(state + row, new_h);
  if (save) {
    UNROLL for (int k = 0; k < 4; k++) store<T, V>(gates + gate_row + k * H, a[k]);
  }
}

// gates    [B, 4H]  in: i, f, g, o; out: their da; 0 past a sequence's end
// p        [3H]     p_i, p_f, p_o
// c_prev, c [B, H]
// dy       [B, H] or null: gradient of the output of this step; not read past the end
// dh       [B, H]   in: the gradient of h from step t+1; out: the gradient of h_prev
//                   without da U (0; past the end all of it).  The caller adds da U to it.
// dc       [B, H]   in: the gradient of c from step t+1; out: the gradient of c_prev
// da       [B, 4H]  out: as gates, for the product of this step
//
// The gradient of p is summed after the loop: da_i ⊙ c_prev, da_f ⊙ c_prev, da_o ⊙ c.
template <class T, int V>
STEP_KERNEL peephole_backward(int B, int H, T* gates, const T* p, const Acc<T>* c_prev,
                              const Acc<T>* c, const T* dy, Acc<T>* dh, Acc<T>* dc, T* da,
                              const int* lengths, int t) {
  typedef Acc<T> A;
  const int id = blockIdx.x * blockDim.x + threadIdx.x, per_row = H / V;
  if (id >= B * per_row) return;
  const int b = id / per_row, unit = (id - b * per_row) * V;
  const i64 row = static_cast<i64>(b) * H + unit, gate_row = 4 * static_cast<i64>(b) * H + unit;
  A a[4][V];
  if (lengths && t >= lengths[b]) {
    UNROLL for (int j = 0; j < V; j++) a[0][j] = A(0);
    UNROLL for (int k = 0; k < 4; k++) {
      store<T, V>(gates + gate_row + k * H, a[0]);
      store<T, V>(da + gate_row + k * H, a[0]);
    }
    return;  // dh and dc stay as they are
  }
  A peep[3][V], old_c[V], new_c[V], from_h[V], from_c[V], above[V];
  UNROLL for (int k = 0; k < 4; k++) load<T, V>(a[k], gates + gate_row + k * H);
  UNROLL for (int k = 0; k < 3; k++) load<T, V>(peep[k], p + k * H + unit);
  load<A, V>(old_c, c_prev + row);
  load<A, V>(new_c, c + row);
  load<A, V>(from_h, dh + row);
  load<A, V>(from_c, dc + row);
  UNROLL for (int j = 0; j < V; j++) above[j] = A(0);
  if (dy) load<T, V>(above, dy + row);
  UNROLL for (int j = 0; j < V; j++) {
    const A i = a[0][j], f = a[1][j], g = a[2][j], o = a[3][j];
    const A tanh_c = tanh_of(new_c[j]), d_h = from_h[j] + above[j];
    const A da_o = d_h * tanh_c * sigmoid_slope(o);                              // (5)
    const A d_c = from_c[j] + d_h * o * tanh_slope(tanh_c) + peep[2][j] * da_o;  // (5), (6)
    const A da_f = d_c * old_c[j] * sigmoid_slope(f);                            // (2)
    const A da_i = d_c * g * sigmoid_slope(i);                                   // (1)
    a[3][j] = da_o, a[1][j] = da_f, a[0][j] = da_i;
    a[2][j] = d_c * i * tanh_slope(g);                            // (3)
    from_c[j] = d_c * f + peep[1][j] * da_f + peep[0][j] * da_i;  // (4), (2), (1)
    from_h[j] = A(0);
  }
  store<A, V>(dh + row, from_h);
  store<A, V>(dc + row, from_c);
  UNROLL for (int k = 0; k < 4; k++) {
    store<T, V>(gates + gate_row + k * H, a[k]);
    store<T, V>(da + gate_row + k * H, a[k]);
  }
}
