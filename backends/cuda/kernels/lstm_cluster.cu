// The LSTM over whole sequences, forward and backward, each in one launch: clusters of blocks
// hold U on the chip.  Equations: xrnn/cells/lstm.py.  Template arguments: cluster_blocks.cuh.
//
// Grid: (C · ceil(B / 8N), directions), clusters of (C, 1, 1); block: 32 · Warps threads;
// shared memory: Forward<P, 4, …>::bytes, Backward<P, 4, …>::bytes (backends/cuda/cluster.py).
// blockIdx.y = 1 runs the second set of pointers, against the direction of the first; with one
// direction the second set may be null.  No two pointers overlap.
//
// Rows of the states stand in time: step t goes from row t to row t + 1, reversed from row t + 1
// to row t.  Row 0 (reversed: row `steps`) is the state given.
#include "cluster_blocks.cuh"

// steps, B, H
// lengths  [B] or null: from step lengths[b] on, sequence b keeps its state
// reverse  the first set runs from the last step to the first
// save     gates and cs are kept for backward
// U        [4H, H]
// gates    [steps, B, 4H]  in: W x, without bias; out, if `save`: i, f, g, o (undefined past a
//          sequence's end)
// bias     [4H]
// hs       [steps + 1, B, H]  in: the state given; out: all other rows
// cs       if `save` as hs, else [B, H]: in: the state given, out: the last
template <class P, int Units, int C, int N, int Warps, int RowWarps, int Kept>
__global__ void __cluster_dims__(C, 1, 1) __launch_bounds__(Warps * 32, 1)
    lstm_cluster_forward(int steps, int B, int H, const int* lengths, int reverse, int save,
                         const Stored<P>* U, Stored<P>* gates, const Stored<P>* bias, Stored<P>* hs,
                         float* cs, const Stored<P>* U_2, Stored<P>* gates_2,
                         const Stored<P>* bias_2, Stored<P>* hs_2, float* cs_2) {
  typedef Stored<P> T;
  typedef Forward<P, 4, Units, C, N, Warps, RowWarps, Kept> Block;
  if (blockIdx.y) {
    U = U_2, gates = gates_2, bias = bias_2, hs = hs_2, cs = cs_2, reverse = 1 - reverse;
  }
  SHARED(char, memory);
  Block block(memory, B, H);
  const i64 state = static_cast<i64>(B) * H;
  const int count = block.longest(lengths, steps), given = reverse ? steps : 0;
  block.begin(memory, U, hs + given * state);

  float c[Block::pairs], h[Block::pairs], a[Block::pairs][4];
  int end[Block::pairs];
  UNROLL for (int j = 0; j < Block::pairs; j++) {
    const Pair p = block.pair(j);
    h[j] = p.real ? static_cast<float>(hs[given * state + p.at]) : 0.0f;
    c[j] = p.real ? cs[(save ? given * state : 0) + p.at] : 0.0f;
    end[j] = p.real && lengths ? lengths[p.b] : steps;
  }
  const auto fetch = [&](int t) {  // W x + b of step t
    const T* x = gates + 4 * t * state;
    UNROLL for (int j = 0; j < Block::pairs; j++) {
      const Pair p = block.pair(j);
      UNROLL for (int k = 0; k < 4; k++) {
        a[j][k] = p.real ? static_cast<float>(x[4 * p.b * H + k * H + p.unit]) +
                               static_cast<float>(bias[k * H + p.unit])
                         : 0.0f;
      }
    }
  };
  const auto keep = [&] {  // the state, through the steps past all ends
    for (int t = count; t < steps; t++) {
      UNROLL for (int j = 0; j < Block::pairs; j++) {
        const Pair p = block.pair(j);
        if (p.real) hs[(t + !reverse) * state + p.at] = static_cast<T>(h[j]);
        if (p.real && save) cs[(t + !reverse) * state + p.at] = c[j];
      }
    }
  };
  if (reverse) keep();
  if (count > 0) fetch(reverse ? count - 1 : 0);
  cluster_sync();

  for (int s = 0; s < count; s++) {
    const int t = reverse ? count - 1 - s : s;
    if (s + 1 < count) block.expect(s + 1);
    if (s > 0) block.wait(s);
    block.product(s);
    __syncthreads();
    UNROLL for (int j = 0; j < Block::pairs; j++) {
      const Pair p = block.pair(j);
      if (!p.held) continue;
      UNROLL for (int k = 0; k < 4; k++) a[j][k] += block.sum(k, p);
      const float i = sigmoid(a[j][0]);        // (1)
      const float f = sigmoid(a[j][1]);        // (2)
      const float g = tanh_of(a[j][2]);        // (3)
      const float o = sigmoid(a[j][3]);        // (4)
      const float new_c = f * c[j] + i * g;    // (5)
      const float new_h = o * tanh_of(new_c);  // (6)
      if (t < end[j]) c[j] = new_c, h[j] = static_cast<float>(static_cast<T>(new_h));
      block.stage(p, static_cast<T>(h[j]));
      if (!p.real) continue;
      hs[(t + !reverse) * state + p.at] = static_cast<T>(h[j]);
      if (save) {
        cs[(t + !reverse) * state + p.at] = c[j];
        T* y = gates + 4 * t * state + 4 * p.b * H + p.unit;
        y[0] = static_cast<T>(i), y[H] = static_cast<T>(f);
        y[2 * H] = static_cast<T>(g), y[3 * H] = static_cast<T>(o);
      }
    }
    __syncthreads();
    if (s + 1 < count) {
      block.send(s + 1);
      fetch(reverse ? t - 1 : t + 1);
    }
  }
  if (!reverse) keep();
  UNROLL for (int j = 0; j < Block::pairs; j++) {
    const Pair p = block.pair(j);
    if (p.real && !save) cs[p.at] = c[j];
  }
}

// U        [4H, H]
// gates    [steps, B, 4H]  in: i, f, g, o; out: their da; 0 past a sequence's end
// cs       [steps + 1, B, H]
// dys      [steps, B, H] or null: gradient of the outputs; not read past a sequence's end
// dh, dc   [B, H]  in: gradient of the last state; out: of the state given
template <class P, int Units, int C, int N, int Warps, int Kept>
__global__ void __cluster_dims__(C, 1, 1) __launch_bounds__(Warps * 32, 1)
    lstm_cluster_backward(int steps, int B, int H, const int* lengths, int reverse,
                          const Stored<P>* U, Stored<P>* gates, const float* cs,
                          const Stored<P>* dys, float* dh, float* dc, const Stored<P>* U_2,
                          Stored<P>* gates_2, const float* cs_2, const Stored<P>* dys_2,
                          float* dh_2, float* dc_2) {
  typedef Stored<P> T;
  typedef Backward<P, 4, Units, C, N, Warps, Kept> Block;
  if (blockIdx.y) {
    U = U_2, gates = gates_2, cs = cs_2, dys = dys_2, dh = dh_2, dc = dc_2, reverse = 1 - reverse;
  }
  SHARED(char, memory);
  Block block(memory, B, H);
  const i64 state = static_cast<i64>(B) * H;
  const int count = block.longest(lengths, steps);
  block.begin(memory, U);

  float from_h[Block::pairs], from_c[Block::pairs];
  int end[Block::pairs];
  UNROLL for (int j = 0; j < Block::pairs; j++) {
    const Pair p = block.pair(j);
    from_h[j] = p.real ? dh[p.at] : 0.0f;
    from_c[j] = p.real ? dc[p.at] : 0.0f;
    end[j] = !p.real ? 0 : lengths ? lengths[p.b] : steps;
  }
  float y[Block::pairs][4], c[Block::pairs], c_prev[Block::pairs], above[Block::pairs];
  const auto fetch = [&](int t) {  // what forward left of step t
    const T* gate = gates + 4 * t * state;
    UNROLL for (int j = 0; j < Block::pairs; j++) {
      const Pair p = block.pair(j);
      if (t >= end[j]) continue;
      UNROLL for (int k = 0; k < 4; k++) {
        y[j][k] = static_cast<float>(gate[4 * p.b * H + k * H + p.unit]);
      }
      c[j] = cs[(t + !reverse) * state + p.at];
      c_prev[j] = cs[(t + reverse) * state + p.at];
      above[j] = dys ? static_cast<float>(dys[t * state + p.at]) : 0.0f;
    }
  };
  const auto put_da = [&](int t, const Pair& p, const float (&da)[4]) {
    T* to = gates + 4 * t * state + 4 * p.b * H + p.unit;
    UNROLL for (int k = 0; k < 4; k++) to[k * H] = static_cast<T>(da[k]);
  };
  for (int t = count; t < steps; t++) {
    UNROLL for (int j = 0; j < Block::pairs; j++) {
      const Pair p = block.pair(j);
      if (p.real) put_da(t, p, {0.0f, 0.0f, 0.0f, 0.0f});
    }
  }
  if (count > 0) fetch(reverse ? 0 : count - 1);
  cluster_sync();

  for (int s = 0; s < count; s++) {
    const int t = reverse ? s : count - 1 - s;
    block.expect(s);
    UNROLL for (int j = 0; j < Block::pairs; j++) {
      const Pair p = block.pair(j);
      if (!p.held) continue;
      float da[4] = {0.0f, 0.0f, 0.0f, 0.0f};
      if (t < end[j]) {
        const float i = y[j][0], f = y[j][1], g = y[j][2], o = y[j][3];
        const float tanh_c = tanh_of(c[j]), d_h = from_h[j] + above[j];
        const float d_c = from_c[j] + d_h * o * tanh_slope(tanh_c);  // (6)
        da[3] = d_h * tanh_c * sigmoid_slope(o);                     // (4)
        da[2] = d_c * i * tanh_slope(g);                             // (3)
        da[1] = d_c * c_prev[j] * sigmoid_slope(f);                  // (2)
        da[0] = d_c * g * sigmoid_slope(i);                          // (1)
        from_c[j] = d_c * f;                                         // (5)
        from_h[j] = 0.0f;
      }
      if (p.real) put_da(t, p, da);
      UNROLL for (int k = 0; k < 4; k++) block.stage(k, p, da[k]);
    }
    __syncthreads();
    block.product();
    __syncthreads();
    block.send(s);
    if (s + 1 < count) fetch(reverse ? t + 1 : t - 1);
    block.wait(s);
    UNROLL for (int j = 0; j < Block::pairs; j++) {
      const Pair p = block.pair(j);
      if (p.held) from_h[j] += block.total(s, p);  // da U
    }
  }
  UNROLL for (int j = 0; j < Block::pairs; j++) {
    const Pair p = block.pair(j);
    if (p.real) dh[p.at] = from_h[j], dc[p.at] = from_c[j];
  }
}
