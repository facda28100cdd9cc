// The GRU (reset after) over whole sequences, forward and backward, each in one launch: clusters
// of blocks hold U on the chip.  Equations: xrnn/cells/gru.py.  Template arguments:
// cluster_blocks.cuh; launch, direction and rows of the states: as in lstm_cluster.cu.
#include "cluster_blocks.cuh"

// steps, B, H
// lengths  [B] or null: from step lengths[b] on, sequence b keeps its state
// reverse  the first set runs from the last step to the first
// save     gates are kept for backward
// U        [3H, H] rows r, z, n
// gates    [steps, B, 4H]  columns n, r, z, m.  in: W x of n, r, z, without bias; out, if `save`:
//          n, r, z and m = U_n h_prev + v (undefined past a sequence's end)
// bias     [3H] of r, z, n;  v [H]
// hs       [steps + 1, B, H]  in: the state given; out: all other rows
template <class P, int Units, int C, int N, int Warps, int RowWarps, int Kept>
__global__ void __cluster_dims__(C, 1, 1) __launch_bounds__(Warps * 32, 1)
    gru_cluster_forward(int steps, int B, int H, const int* lengths, int reverse, int save,
                        const Stored<P>* U, Stored<P>* gates, const Stored<P>* bias,
                        const Stored<P>* v, Stored<P>* hs, const Stored<P>* U_2, Stored<P>* gates_2,
                        const Stored<P>* bias_2, const Stored<P>* v_2, Stored<P>* hs_2) {
  typedef Stored<P> T;
  typedef Forward<P, 3, Units, C, N, Warps, RowWarps, Kept> Block;
  if (blockIdx.y) {
    U = U_2, gates = gates_2, bias = bias_2, v = v_2, hs = hs_2, reverse = 1 - reverse;
  }
  SHARED(char, memory);
  Block block(memory, B, H);
  const i64 state = static_cast<i64>(B) * H;
  const int count = block.longest(lengths, steps), given = reverse ? steps : 0;
  block.begin(memory, U, hs + given * state);

  float h[Block::pairs], x_r[Block::pairs], x_z[Block::pairs], x_n[Block::pairs];
  int end[Block::pairs];
  UNROLL for (int j = 0; j < Block::pairs; j++) {
    const Pair p = block.pair(j);
    h[j] = p.real ? static_cast<float>(hs[given * state + p.at]) : 0.0f;
    end[j] = p.real && lengths ? lengths[p.b] : steps;
  }
  const auto fetch = [&](int t) {  // W x + b of step t
    const T* x = gates + 4 * t * state;
    UNROLL for (int j = 0; j < Block::pairs; j++) {
      const Pair p = block.pair(j);
      x_r[j] = x_z[j] = x_n[j] = 0.0f;
      if (!p.real) continue;
      const int at = 4 * p.b * H + p.unit;
      x_n[j] = static_cast<float>(x[at]) + static_cast<float>(bias[2 * H + p.unit]);
      x_r[j] = static_cast<float>(x[at + H]) + static_cast<float>(bias[p.unit]);
      x_z[j] = static_cast<float>(x[at + 2 * H]) + static_cast<float>(bias[H + p.unit]);
    }
  };
  const auto keep = [&] {  // the state, through the steps past all ends
    for (int t = count; t < steps; t++) {
      UNROLL for (int j = 0; j < Block::pairs; j++) {
        const Pair p = block.pair(j);
        if (p.real) hs[(t + !reverse) * state + p.at] = static_cast<T>(h[j]);
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
      const float shift = p.real ? static_cast<float>(v[p.unit]) : 0.0f;
      const float r = sigmoid(x_r[j] + block.sum(0, p));  // (1)
      const float z = sigmoid(x_z[j] + block.sum(1, p));  // (2)
      const float m = block.sum(2, p) + shift;
      const float n = tanh_of(x_n[j] + r * m);        // (3)
      const float new_h = z * h[j] + (1.0f - z) * n;  // (4)
      if (t < end[j]) h[j] = static_cast<float>(static_cast<T>(new_h));
      block.stage(p, static_cast<T>(h[j]));
      if (!p.real) continue;
      hs[(t + !reverse) * state + p.at] = static_cast<T>(h[j]);
      if (save) {
        T* y = gates + 4 * t * state + 4 * p.b * H + p.unit;
        y[0] = static_cast<T>(n), y[H] = static_cast<T>(r);
        y[2 * H] = static_cast<T>(z), y[3 * H] = static_cast<T>(m);
      }
    }
    __syncthreads();
    if (s + 1 < count) {
      block.send(s + 1);
      fetch(reverse ? t - 1 : t + 1);
    }
  }
  if (!reverse) keep();
}

// U        [3H, H] rows r, z, n
// gates    [steps, B, 4H]  in: n, r, z, m; out: da_n, da_r, da_z, dm; 0 past a sequence's end
// hs       [steps + 1, B, H]
// dys      [steps, B, H] or null: gradient of the outputs; not read past a sequence's end
// dh       [B, H]  in: gradient of the last state; out: of the state given
template <class P, int Units, int C, int N, int Warps, int Kept>
__global__ void __cluster_dims__(C, 1, 1) __launch_bounds__(Warps * 32, 1)
    gru_cluster_backward(int steps, int B, int H, const int* lengths, int reverse,
                         const Stored<P>* U, Stored<P>* gates, const Stored<P>* hs,
                         const Stored<P>* dys, float* dh, const Stored<P>* U_2, Stored<P>* gates_2,
                         const Stored<P>* hs_2, const Stored<P>* dys_2, float* dh_2) {
  typedef Stored<P> T;
  typedef Backward<P, 3, Units, C, N, Warps, Kept> Block;
  if (blockIdx.y) {
    U = U_2, gates = gates_2, hs = hs_2, dys = dys_2, dh = dh_2, reverse = 1 - reverse;
  }
  SHARED(char, memory);
  Block block(memory, B, H);
  const i64 state = static_cast<i64>(B) * H;
  const int count = block.longest(lengths, steps);
  block.begin(memory, U);

  float from_h[Block::pairs];
  int end[Block::pairs];
  UNROLL for (int j = 0; j < Block::pairs; j++) {
    const Pair p = block.pair(j);
    from_h[j] = p.real ? dh[p.at] : 0.0f;
    end[j] = !p.real ? 0 : lengths ? lengths[p.b] : steps;
  }
  float y[Block::pairs][4], h_prev[Block::pairs], above[Block::pairs];
  const auto fetch = [&](int t) {  // what forward left of step t
    const T* gate = gates + 4 * t * state;
    UNROLL for (int j = 0; j < Block::pairs; j++) {
      const Pair p = block.pair(j);
      if (t >= end[j]) continue;
      UNROLL for (int k = 0; k < 4; k++) {
        y[j][k] = static_cast<float>(gate[4 * p.b * H + k * H + p.unit]);
      }
      h_prev[j] = static_cast<float>(hs[(t + reverse) * state + p.at]);
      above[j] = dys ? static_cast<float>(dys[t * state + p.at]) : 0.0f;
    }
  };
  const auto put_da = [&](int t, const Pair& p, float n, float r, float z, float m) {
    T* to = gates + 4 * t * state + 4 * p.b * H + p.unit;
    to[0] = static_cast<T>(n), to[H] = static_cast<T>(r);
    to[2 * H] = static_cast<T>(z), to[3 * H] = static_cast<T>(m);
  };
  for (int t = count; t < steps; t++) {
    UNROLL for (int j = 0; j < Block::pairs; j++) {
      const Pair p = block.pair(j);
      if (p.real) put_da(t, p, 0.0f, 0.0f, 0.0f, 0.0f);
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
      float da_n = 0.0f, da_r = 0.0f, da_z = 0.0f, dm = 0.0f;
      if (t < end[j]) {
        const float n = y[j][0], r = y[j][1], z = y[j][2], m = y[j][3];
        const float d_h = from_h[j] + above[j];
        da_n = d_h * (1.0f - z) * tanh_slope(n);          // (4), (3)
        dm = da_n * r;                                    // (3)
        da_z = d_h * (h_prev[j] - n) * sigmoid_slope(z);  // (4), (2)
        da_r = da_n * m * sigmoid_slope(r);               // (3), (1)
        from_h[j] = d_h * z;                              // (4)
      }
      if (p.real) put_da(t, p, da_n, da_r, da_z, dm);
      block.stage(0, p, da_r), block.stage(1, p, da_z), block.stage(2, p, dm);
    }
    __syncthreads();
    block.product();
    __syncthreads();
    block.send(s);
    if (s + 1 < count) fetch(reverse ? t + 1 : t - 1);
    block.wait(s);
    UNROLL for (int j = 0; j < Block::pairs; j++) {
      const Pair p = block.pair(j);
      if (p.held) from_h[j] += block.total(s, p);  // (da_r, da_z, dm) U
    }
  }
  UNROLL for (int j = 0; j < Block::pairs; j++) {
    const Pair p = block.pair(j);
    if (p.real) dh[p.at] = from_h[j];
  }
}
