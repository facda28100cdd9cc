// The GRU (reset after) over whole sequences, forward and backward, each in one launch: clusters
// of blocks hold U on the chip.  Equations: xrnn/cells/gru.py.  Template arguments:
// cluster_blocks.cuh; launch, direction, rows of the states and report: as in lstm_cluster.cu.
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
    gru_cluster_forward(int steps, int B, int H, const int* lengths, int* report, int reverse,
                        int save, const Stored<P>* U, Stored<P>* gates, const Stored<P>* bias,
                        const Stored<P>* v, Stored<P>* hs, const Stored<P>* U_2, Stored<P>* gates_2,
                        const Stored<P>* bias_2, const Stored<P>* v_2, Stored<P>* hs_2) {
  typedef Stored<P> T;
  typedef Forward<P, 3, Units, C, N, Warps, RowWarps, Kept> Block;
  if (blockIdx.y) {
    U = U_2, gates = gates_2, bias = bias_2, v = v_2, hs = hs_2, reverse = 1 - reverse;
  }
  SHARED(char, memory);
  Block block(memory, B, H);
  const int count = block.longest(lengths, steps), given = reverse ? steps : 0;
  const int begin = reverse ? count - 1 : 0, next = reverse ? -1 : 1;
  const i64 state = static_cast<i64>(B) * H, forward = kept_in_register(next * state);
  block.begin(memory, U, hs + given * state);

  float h[Block::pairs], b[Block::pairs][4];  // biases of r, z, n, and v
  int end[Block::pairs];
  T x[Block::pairs][3];  // W x of n, r, z, as it is read: nothing waits for it there
  T y[Block::pairs][4];  // n, r, z, m
  T *x_at[Block::pairs], *h_at[Block::pairs];
  UNROLL for (int j = 0; j < Block::pairs; j++) {
    const Pair p = block.pair(j);
    h[j] = p.real ? static_cast<float>(hs[given * state + p.at]) : 0.0f;
    end[j] = p.real && lengths ? lengths[p.b] : steps;
    UNROLL for (int k = 0; k < 3; k++) {
      x[j][k] = static_cast<T>(0.0f);
      b[j][k] = p.real ? static_cast<float>(bias[k * H + p.unit]) : 0.0f;
    }
    b[j][3] = p.real ? static_cast<float>(v[p.unit]) : 0.0f;
    x_at[j] = gates + 4 * (begin * state + p.b * H) + p.unit;
    h_at[j] = hs + (begin + !reverse) * state + p.at;
  }
  const auto fetch = [&] {
    UNROLL for (int j = 0; j < Block::pairs; j++) {
      if (!block.pair(j).real) continue;
      UNROLL for (int k = 0; k < 3; k++) x[j][k] = x_at[j][k * H];
    }
  };
  const auto keep = [&] {  // what a step has computed
    UNROLL for (int j = 0; j < Block::pairs; j++) {
      if (block.pair(j).real) {
        *h_at[j] = static_cast<T>(h[j]);
        UNROLL for (int k = 0; k < 4; k++) {
          if (save) x_at[j][k * H] = y[j][k];
        }
      }
      x_at[j] += 4 * forward, h_at[j] += forward;
    }
  };
  const auto fill = [&](int from, int to) {  // the state as it is, in these steps
    for (int t = from; t < to; t++) {
      UNROLL for (int j = 0; j < Block::pairs; j++) {
        const Pair p = block.pair(j);
        if (p.real) hs[(t + !reverse) * state + p.at] = static_cast<T>(h[j]);
      }
    }
  };
  if (reverse) fill(count, steps);
  if (count > 0) fetch();
  block.sync();

  int s = 0;
  for (int t = begin; s < count; s++, t += next) {
    if (s + 1 < count) block.expect(s + 1);
    if (s > 0) block.wait(s);
    block.product(s);
    __syncthreads();
    const bool stalled = block.stalled();
    UNROLL for (int j = 0; j < Block::pairs; j++) {
      const Pair p = block.pair(j);
      if (!p.held) continue;
      const float r = sigmoid(static_cast<float>(x[j][1]) + b[j][0] + block.sum(0, p));  // (1)
      const float z = sigmoid(static_cast<float>(x[j][2]) + b[j][1] + block.sum(1, p));  // (2)
      const float m = block.sum(2, p) + b[j][3];
      const float n = tanh_of(static_cast<float>(x[j][0]) + b[j][2] + r * m);  // (3)
      const float new_h = z * h[j] + (1.0f - z) * n;                           // (4)
      if (t < end[j]) h[j] = static_cast<float>(static_cast<T>(new_h));
      block.stage(p, static_cast<T>(h[j]));
      y[j][0] = static_cast<T>(n), y[j][1] = static_cast<T>(r);
      y[j][2] = static_cast<T>(z), y[j][3] = static_cast<T>(m);
    }
    __syncthreads();
    if (stalled) break;
    if (s + 1 < count) block.send(s + 1);
    keep();  // nobody waits for that
    if (s + 1 < count) fetch();
  }
  if (!block.ended_well(s, steps, report)) {
    UNROLL for (int j = 0; j < Block::pairs; j++) h[j] = not_a_number();
    fill(0, steps);
  }
  if (!reverse) fill(count, steps);
}

// U        [3H, H] rows r, z, n
// gates    [steps, B, 4H]  in: n, r, z, m; out: da_n, da_r, da_z, dm; 0 past a sequence's end
// hs       [steps + 1, B, H]
// dys      [steps, B, H] or null: gradient of the outputs; not read past a sequence's end
// dh       [B, H]  in: gradient of the last state; out: of the state given
template <class P, int Units, int C, int N, int Warps, int Kept>
__global__ void __cluster_dims__(C, 1, 1) __launch_bounds__(Warps * 32, 1)
    gru_cluster_backward(int steps, int B, int H, const int* lengths, int* report, int reverse,
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
  const int count = block.longest(lengths, steps);
  const int begin = reverse ? 0 : count - 1, next = reverse ? 1 : -1;
  const i64 state = static_cast<i64>(B) * H, back = kept_in_register(next * state);
  block.begin(memory, U);

  float from_h[Block::pairs];
  int end[Block::pairs];
  // What forward left of the step to come, as it is read: nothing waits for it there.
  T y[Block::pairs][4], h_prev[Block::pairs], above[Block::pairs];
  T* y_at[Block::pairs];
  const T *h_prev_at[Block::pairs], *above_at[Block::pairs];
  UNROLL for (int j = 0; j < Block::pairs; j++) {
    const Pair p = block.pair(j);
    from_h[j] = p.real ? dh[p.at] : 0.0f;
    end[j] = !p.real ? 0 : lengths ? lengths[p.b] : steps;
    above[j] = static_cast<T>(0.0f);
    y_at[j] = gates + 4 * (begin * state + p.b * H) + p.unit;
    h_prev_at[j] = hs + (begin + reverse) * state + p.at;
    above_at[j] = dys + begin * state + p.at;
  }
  const auto fetch = [&](int t) {
    UNROLL for (int j = 0; j < Block::pairs; j++) {
      if (t >= end[j]) continue;
      UNROLL for (int k = 0; k < 4; k++) y[j][k] = y_at[j][k * H];
      h_prev[j] = *h_prev_at[j];
      if (dys) above[j] = *above_at[j];
    }
  };
  const auto fill = [&](int from, int to, float value) {  // da of these steps
    for (int t = from; t < to; t++) {
      UNROLL for (int j = 0; j < Block::pairs; j++) {
        const Pair p = block.pair(j);
        T* da = gates + 4 * (t * state + p.b * H) + p.unit;
        UNROLL for (int k = 0; k < 4; k++) {
          if (p.real) da[k * H] = static_cast<T>(value);
        }
      }
    }
  };
  fill(count, steps, 0.0f);
  if (count > 0) fetch(begin);
  block.sync();

  int s = 0;
  for (int t = begin; s < count; s++, t += next) {
    block.expect(s);
    UNROLL for (int j = 0; j < Block::pairs; j++) {
      const Pair p = block.pair(j);
      if (!p.held) continue;
      float da_n = 0.0f, da_r = 0.0f, da_z = 0.0f, dm = 0.0f;
      if (t < end[j]) {
        const float n = y[j][0], r = y[j][1], z = y[j][2], m = y[j][3];
        const float d_h = from_h[j] + static_cast<float>(above[j]);
        da_n = d_h * (1.0f - z) * tanh_slope(n);                              // (4), (3)
        dm = da_n * r;                                                        // (3)
        da_z = d_h * (static_cast<float>(h_prev[j]) - n) * sigmoid_slope(z);  // (4), (2)
        da_r = da_n * m * sigmoid_slope(r);                                   // (3), (1)
        from_h[j] = d_h * z;                                                  // (4)
      }
      if (p.real) {
        y_at[j][0] = static_cast<T>(da_n), y_at[j][H] = static_cast<T>(da_r);
        y_at[j][2 * H] = static_cast<T>(da_z), y_at[j][3 * H] = static_cast<T>(dm);
      }
      block.stage(0, p, da_r), block.stage(1, p, da_z), block.stage(2, p, dm);
      y_at[j] += 4 * back, h_prev_at[j] += back, above_at[j] += back;
    }
    __syncthreads();
    const bool stalled = block.stalled();
    block.product();
    __syncthreads();
    if (stalled) break;
    block.send(s);
    if (s + 1 < count) fetch(t + next);
    block.wait(s);
    UNROLL for (int j = 0; j < Block::pairs; j++) {
      const Pair p = block.pair(j);
      if (p.held) from_h[j] += block.total(s, p);  // (da_r, da_z, dm) U
    }
  }
  if (!block.ended_well(s, steps, report)) {
    UNROLL for (int j = 0; j < Block::pairs; j++) from_h[j] = not_a_number();
    fill(0, steps, not_a_number());
  }
  UNROLL for (int j = 0; j < Block::pairs; j++) {
    const Pair p = block.pair(j);
    if (p.real) dh[p.at] = from_h[j];
  }
}
