// Whole sequences of the cells whose state follows s_t = f_t ⊙ s_{t-1} + u_t with f and u of
// x_t alone.  Equations: xrnn/cells/input_gated.py, xrnn/cells/mingru.py.
//
// Each thread computes all steps of one unit of one sequence.  Where there are too few of these to
// fill the device, the time axis is cut into pieces, which run in parallel:
//
//   1. …_map      the map from the state before a piece to that after it:
//                 s → through ⊙ s + offset
//   2. linear_carry   the state before each piece
//   3. …_forward (…_backward)   each piece, from the state before it
//
// Grid: (ceil(B·H / block), P) blocks; P = 1: step 3 alone is the whole run.  A piece has
// ceil(T / P) steps.  [P, B, H] in a contract has one row for each piece, and is [B, H] if P = 1.
//
// Everywhere: rows are contiguous, no two pointers overlap but where said;
// lengths  [B] or null: sequence b has the steps 0 … lengths[b] - 1; what stands past them is
//          not read (it may be NaN)
// reverse  run each sequence from its end to its start
#include "linear.cuh"

// The state before each piece.
//
// first    [B, H]     the state before the piece that runs first
// through  [P, B, H]
// offset   [P, B, H]  in: from …_map; out: the state before each piece
// falling  whether the last piece runs first: `reverse` in the forward pass, else in
//          the backward pass
template <class A>
__global__ void linear_carry(int P, int B, int H, const A* first, const A* through, A* offset,
                             int falling) {
  const Unit me(B, H);
  if (me.outside()) return;
  A state = first[me.id];
  for (int k = 0; k < P; k++) {
    const i64 here = me.at(falling ? P - 1 - k : k);
    const A entering = state;
    state = through[here] * state + offset[here];
    offset[here] = entering;
  }
}

// ---- the LSTM whose gates see only the input ---------------------------------------------

// gates    [T, B, 4H]  W x, without bias
// bias     [4H]
// through  [P, B, H]   out
// offset   [P, B, H]   out
template <class T>
__global__ void input_gated_forward_map(int T_, int B, int H, const T* gates, const T* bias,
                                        Acc<T>* through, Acc<T>* offset, const int* lengths,
                                        int reverse) {
  typedef Acc<T> A;
  const Unit me(B, H);
  if (me.outside()) return;
  const Piece piece(T_, lengths ? lengths[me.b] : T_, reverse);
  A shift[3], product = A(1), c = A(0);
  UNROLL for (int q = 0; q < 3; q++) shift[q] = static_cast<A>(bias[q * H + me.unit]);
  for (int k = 0; k < piece.valid; k += kAhead) {
    A a[kAhead][3];
    UNROLL for (int j = 0; j < kAhead; j++) {
      if (k + j >= piece.valid) continue;
      const T* at = gates + me.gates(piece.step(k + j), 4, H);
      UNROLL for (int q = 0; q < 3; q++) a[j][q] = static_cast<A>(at[q * H]) + shift[q];
    }
    UNROLL for (int j = 0; j < kAhead; j++) {
      if (k + j >= piece.valid) continue;
      const A i = sigmoid(a[j][0]), f = sigmoid(a[j][1]), g = tanh_of(a[j][2]);  // (1), (2), (4)
      product *= f;
      c = f * c + i * g;  // (5)
    }
  }
  through[me.at(blockIdx.y)] = product;
  offset[me.at(blockIdx.y)] = c;
}

// gates    [T, B, 4H]  in: W x, without bias; out, if `save`: i, f, g, o (not past the end)
// bias     [4H]
// c0       [P, B, H]   c before each piece.  P = 1: the c given
// cs       [T, B, H]   out, if `save`: c after each step, past the end the c that is kept
// ys       [T, B, H]   out: h of each step, 0 past the end
// c_last   [B, H]      out: c at the end.  May be c0 if P = 1
// h_last   [B, H]      in: the h given; out: h at the end, untouched for length 0
template <class T>
__global__ void input_gated_forward(int T_, int B, int H, T* gates, const T* bias, const Acc<T>* c0,
                                    Acc<T>* cs, T* ys, Acc<T>* c_last, T* h_last,
                                    const int* lengths, int reverse, int save) {
  typedef Acc<T> A;
  const Unit me(B, H);
  if (me.outside()) return;
  const Piece piece(T_, lengths ? lengths[me.b] : T_, reverse);
  A shift[4], c = c0[me.at(blockIdx.y)], h = A(0);
  const A entering = c;
  UNROLL for (int q = 0; q < 4; q++) shift[q] = static_cast<A>(bias[q * H + me.unit]);
  for (int k = 0; k < piece.valid; k += kAhead) {
    A a[kAhead][4];
    UNROLL for (int j = 0; j < kAhead; j++) {
      if (k + j >= piece.valid) continue;
      const T* at = gates + me.gates(piece.step(k + j), 4, H);
      UNROLL for (int q = 0; q < 4; q++) a[j][q] = static_cast<A>(at[q * H]) + shift[q];
    }
    UNROLL for (int j = 0; j < kAhead; j++) {
      if (k + j >= piece.valid) continue;
      const i64 t = piece.step(k + j);
      const A f = sigmoid(a[j][1]);  // (1)
      const A i = sigmoid(a[j][0]);  // (2)
      const A o = sigmoid(a[j][3]);  // (3)
      const A g = tanh_of(a[j][2]);  // (4)
      c = f * c + i * g;             // (5)
      h = o * tanh_of(c);            // (6)
      ys[me.at(t)] = static_cast<T>(h);
      if (!save) continue;
      T* at = gates + me.gates(t, 4, H);
      at[0] = static_cast<T>(i), at[H] = static_cast<T>(f);
      at[2 * H] = static_cast<T>(g), at[3 * H] = static_cast<T>(o);
      cs[me.at(t)] = c;
    }
  }
  for (int t = piece.from + piece.valid; t < piece.to; t++) {
    ys[me.at(t)] = static_cast<T>(A(0));
    if (save) cs[me.at(t)] = reverse ? entering : c;
  }
  if (!piece.last) return;
  c_last[me.id] = c;
  if (!piece.empty) h_last[me.id] = static_cast<T>(h);
}

// gates    [T, B, 4H]  i, f, g, o
// cs       [T, B, H]   c after each step
// dys      [T, B, H] or null: gradient of the outputs
// dh_last  [B, H]      gradient of h at the end
// through  [P, B, H]   out
// offset   [P, B, H]   out: of the map of dc through the piece, end to start of the run
template <class T>
__global__ void input_gated_backward_map(int T_, int B, int H, const T* gates, const Acc<T>* cs,
                                         const T* dys, const Acc<T>* dh_last, Acc<T>* through,
                                         Acc<T>* offset, const int* lengths, int reverse) {
  typedef Acc<T> A;
  const Unit me(B, H);
  if (me.outside()) return;
  const Piece piece(T_, lengths ? lengths[me.b] : T_, reverse);
  A product = A(1), dc = A(0);
  for (int k = 0; k < piece.valid; k += kAhead) {
    A fs[kAhead], os[kAhead], c[kAhead], dh[kAhead];
    UNROLL for (int j = 0; j < kAhead; j++) {
      if (k + j >= piece.valid) continue;
      const i64 t = piece.step_backward(k + j);
      const T* at = gates + me.gates(t, 4, H);
      fs[j] = static_cast<A>(at[H]), os[j] = static_cast<A>(at[3 * H]);
      c[j] = cs[me.at(t)];
      dh[j] = dys ? static_cast<A>(dys[me.at(t)]) : A(0);
    }
    if (k == 0 && piece.last) dh[0] += dh_last[me.id];
    UNROLL for (int j = 0; j < kAhead; j++) {
      if (k + j >= piece.valid) continue;
      dc = (dc + dh[j] * os[j] * tanh_slope(tanh_of(c[j]))) * fs[j];  // (6), (5)
      product *= fs[j];
    }
  }
  through[me.at(blockIdx.y)] = product;
  offset[me.at(blockIdx.y)] = dc;
}

// gates     [T, B, 4H]  in: i, f, g, o; out: their da, 0 past the end
// c0        [B, H]      the c given
// cs        [T, B, H]   c after each step
// dys       [T, B, H] or null: gradient of the outputs
// dc        [P, B, H]   in: gradient of c after each piece; out: of c before it.  P = 1: of the
//                       last c and of c0.  P > 1: that of c0 is in row 0, or in row P - 1 if
//                       `reverse`
// dh_last   [B, H]      gradient of h at the end
// dh_first  [B, H]      out: gradient of the h given: dh_last for length 0, else 0.  May be
//                       dh_last if P = 1
template <class T>
__global__ void input_gated_backward(int T_, int B, int H, T* gates, const Acc<T>* c0,
                                     const Acc<T>* cs, const T* dys, Acc<T>* dc,
                                     const Acc<T>* dh_last, Acc<T>* dh_first, const int* lengths,
                                     int reverse) {
  typedef Acc<T> A;
  const Unit me(B, H);
  if (me.outside()) return;
  const Piece piece(T_, lengths ? lengths[me.b] : T_, reverse);
  const int back = reverse ? 1 : -1;  // from a step to the one that ran before it
  A d_c = dc[me.at(blockIdx.y)];
  for (int k = 0; k < piece.valid; k += kAhead) {
    A a[kAhead][4], c[kAhead + 1], dh[kAhead];
    UNROLL for (int j = 0; j < kAhead; j++) {
      if (k + j >= piece.valid) continue;
      const i64 t = piece.step_backward(k + j);
      const bool from_c0 = piece.first && k + j == piece.valid - 1;
      const T* at = gates + me.gates(t, 4, H);
      UNROLL for (int q = 0; q < 4; q++) a[j][q] = static_cast<A>(at[q * H]);
      if (j == 0) c[0] = cs[me.at(t)];
      c[j + 1] = from_c0 ? c0[me.id] : cs[me.at(t + back)];
      dh[j] = dys ? static_cast<A>(dys[me.at(t)]) : A(0);
    }
    if (k == 0 && piece.last) dh[0] += dh_last[me.id];
    UNROLL for (int j = 0; j < kAhead; j++) {
      if (k + j >= piece.valid) continue;
      const A i = a[j][0], f = a[j][1], g = a[j][2], o = a[j][3];
      const A tanh_c = tanh_of(c[j]), c_prev = c[j + 1];
      T* at = gates + me.gates(piece.step_backward(k + j), 4, H);
      d_c += dh[j] * o * tanh_slope(tanh_c);                          // (6)
      at[2 * H] = static_cast<T>(d_c * i * tanh_slope(g));            // (4)
      at[3 * H] = static_cast<T>(dh[j] * tanh_c * sigmoid_slope(o));  // (3)
      at[0] = static_cast<T>(d_c * g * sigmoid_slope(i));             // (2)
      at[H] = static_cast<T>(d_c * c_prev * sigmoid_slope(f));        // (1)
      d_c *= f;                                                       // (5)
    }
  }
  for (int t = piece.from + piece.valid; t < piece.to; t++) {
    T* at = gates + me.gates(t, 4, H);
    UNROLL for (int q = 0; q < 4; q++) at[q * H] = static_cast<T>(A(0));
  }
  dc[me.at(blockIdx.y)] = d_c;
  if (piece.last) dh_first[me.id] = piece.empty ? dh_last[me.id] : A(0);
}

// ---- minGRU ------------------------------------------------------------------------------

// gates    [T, B, 2H]  W x, without bias
// bias     [2H]
// through  [P, B, H]   out
// offset   [P, B, H]   out
template <class T>
__global__ void mingru_forward_map(int T_, int B, int H, const T* gates, const T* bias,
                                   Acc<T>* through, Acc<T>* offset, const int* lengths,
                                   int reverse) {
  typedef Acc<T> A;
  const Unit me(B, H);
  if (me.outside()) return;
  const Piece piece(T_, lengths ? lengths[me.b] : T_, reverse);
  const A shift_z = static_cast<A>(bias[me.unit]), shift_n = static_cast<A>(bias[H + me.unit]);
  A product = A(1), h = A(0);
  for (int k = 0; k < piece.valid; k += kAhead) {
    A a_z[kAhead], n[kAhead];
    UNROLL for (int j = 0; j < kAhead; j++) {
      if (k + j >= piece.valid) continue;
      const T* at = gates + me.gates(piece.step(k + j), 2, H);
      a_z[j] = static_cast<A>(at[0]) + shift_z, n[j] = static_cast<A>(at[H]) + shift_n;
    }
    UNROLL for (int j = 0; j < kAhead; j++) {
      if (k + j >= piece.valid) continue;
      const A z = sigmoid(a_z[j]);  // (1)
      product *= A(1) - z;
      h = (A(1) - z) * h + z * n[j];  // (3)
    }
  }
  through[me.at(blockIdx.y)] = product;
  offset[me.at(blockIdx.y)] = h;
}

// gates    [T, B, 2H]  in: W x, without bias; out, if `save`: z, n (not past the end)
// bias     [2H]
// h0       [P, B, H]   h before each piece.  P = 1: the h given
// hs       [T, B, H]   out, if `save`: h after each step, past the end the h that is kept
// ys       [T, B, H]   out: h of each step, 0 past the end
// h_last   [B, H]      out: h at the end.  May be h0 if P = 1
template <class T>
__global__ void mingru_forward(int T_, int B, int H, T* gates, const T* bias, const Acc<T>* h0,
                               Acc<T>* hs, T* ys, Acc<T>* h_last, const int* lengths, int reverse,
                               int save) {
  typedef Acc<T> A;
  const Unit me(B, H);
  if (me.outside()) return;
  const Piece piece(T_, lengths ? lengths[me.b] : T_, reverse);
  const A shift_z = static_cast<A>(bias[me.unit]), shift_n = static_cast<A>(bias[H + me.unit]);
  A h = h0[me.at(blockIdx.y)];
  const A entering = h;
  for (int k = 0; k < piece.valid; k += kAhead) {
    A a_z[kAhead], a_n[kAhead];
    UNROLL for (int j = 0; j < kAhead; j++) {
      if (k + j >= piece.valid) continue;
      const T* at = gates + me.gates(piece.step(k + j), 2, H);
      a_z[j] = static_cast<A>(at[0]) + shift_z, a_n[j] = static_cast<A>(at[H]) + shift_n;
    }
    UNROLL for (int j = 0; j < kAhead; j++) {
      if (k + j >= piece.valid) continue;
      const i64 t = piece.step(k + j);
      const A z = sigmoid(a_z[j]);  // (1)
      const A n = a_n[j];           // (2)
      h = (A(1) - z) * h + z * n;   // (3)
      ys[me.at(t)] = static_cast<T>(h);
      if (!save) continue;
      T* at = gates + me.gates(t, 2, H);
      at[0] = static_cast<T>(z), at[H] = static_cast<T>(n);
      hs[me.at(t)] = h;
    }
  }
  for (int t = piece.from + piece.valid; t < piece.to; t++) {
    ys[me.at(t)] = static_cast<T>(A(0));
    if (save) hs[me.at(t)] = reverse ? entering : h;
  }
  if (piece.last) h_last[me.id] = h;
}

// gates    [T, B, 2H]  z, n
// dys      [T, B, H] or null: gradient of the outputs
// through  [P, B, H]   out
// offset   [P, B, H]   out: of the map of dh through the piece, end to start of the run
template <class T>
__global__ void mingru_backward_map(int T_, int B, int H, const T* gates, const T* dys,
                                    Acc<T>* through, Acc<T>* offset, const int* lengths,
                                    int reverse) {
  typedef Acc<T> A;
  const Unit me(B, H);
  if (me.outside()) return;
  const Piece piece(T_, lengths ? lengths[me.b] : T_, reverse);
  A product = A(1), dh = A(0);
  for (int k = 0; k < piece.valid; k += kAhead) {
    A keep[kAhead], dy[kAhead];
    UNROLL for (int j = 0; j < kAhead; j++) {
      if (k + j >= piece.valid) continue;
      const i64 t = piece.step_backward(k + j);
      keep[j] = A(1) - static_cast<A>(gates[me.gates(t, 2, H)]);
      dy[j] = dys ? static_cast<A>(dys[me.at(t)]) : A(0);
    }
    UNROLL for (int j = 0; j < kAhead; j++) {
      if (k + j >= piece.valid) continue;
      dh = (dh + dy[j]) * keep[j];  // (3)
      product *= keep[j];
    }
  }
  through[me.at(blockIdx.y)] = product;
  offset[me.at(blockIdx.y)] = dh;
}

// gates  [T, B, 2H]  in: z, n; out: their da, 0 past the end
// h0     [B, H]      the h given
// hs     [T, B, H]   h after each step
// dys    [T, B, H] or null: gradient of the outputs
// dh     [P, B, H]   in: gradient of h after each piece; out: of h before it.  P = 1: of the
//                    last h and of h0.  P > 1: that of h0 is in row 0, or in row P - 1 if
//                    `reverse`
template <class T>
__global__ void mingru_backward(int T_, int B, int H, T* gates, const Acc<T>* h0, const Acc<T>* hs,
                                const T* dys, Acc<T>* dh, const int* lengths, int reverse) {
  typedef Acc<T> A;
  const Unit me(B, H);
  if (me.outside()) return;
  const Piece piece(T_, lengths ? lengths[me.b] : T_, reverse);
  const int back = reverse ? 1 : -1;  // from a step to the one that ran before it
  A d_h = dh[me.at(blockIdx.y)];
  for (int k = 0; k < piece.valid; k += kAhead) {
    A zs[kAhead], ns[kAhead], h_prev[kAhead], dy[kAhead];
    UNROLL for (int j = 0; j < kAhead; j++) {
      if (k + j >= piece.valid) continue;
      const i64 t = piece.step_backward(k + j);
      const bool from_h0 = piece.first && k + j == piece.valid - 1;
      const T* at = gates + me.gates(t, 2, H);
      zs[j] = static_cast<A>(at[0]), ns[j] = static_cast<A>(at[H]);
      h_prev[j] = from_h0 ? h0[me.id] : hs[me.at(t + back)];
      dy[j] = dys ? static_cast<A>(dys[me.at(t)]) : A(0);
    }
    UNROLL for (int j = 0; j < kAhead; j++) {
      if (k + j >= piece.valid) continue;
      const A z = zs[j];
      T* at = gates + me.gates(piece.step_backward(k + j), 2, H);
      d_h += dy[j];
      at[0] = static_cast<T>(d_h * (ns[j] - h_prev[j]) * sigmoid_slope(z));  // (3), (1)
      at[H] = static_cast<T>(d_h * z);                                       // (3), (2)
      d_h *= A(1) - z;                                                       // (3)
    }
  }
  for (int t = piece.from + piece.valid; t < piece.to; t++) {
    T* at = gates + me.gates(t, 2, H);
    at[0] = at[H] = static_cast<T>(A(0));
  }
  dh[me.at(blockIdx.y)] = d_h;
}
