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
// report   [4]: what a block that gives up tells the host: the step counted from 1, steps,
//          B, H.  Then its outputs are NaN.
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
    lstm_cluster_forward(int steps, int B, int H, const int* lengths, int* report, int reverse,
                         int save, const Stored<P>* U, Stored<P>* gates, const Stored<P>* bias,
                         Stored<P>* hs, float* cs, const Stored<P>* U_2, Stored<P>* gates_2,
                         const Stored<P>* bias_2, Stored<P>* hs_2, float* cs_2) {
  typedef Stored<P> T;
  typedef Forward<P, 4, Units, C, N, Warps, RowWarps, Kept> Block;
  if (blockIdx.y) {
    U = U_2, gates = gates_2, bias = bias_2, hs = hs_2, cs = cs_2, reverse = 1 - reverse;
  }
  SHARED(char, memory);
  Block block(memory, B, H);
  const int count = block.longest(lengths, steps), given = reverse ? steps : 0;
  const int begin = reverse ? count - 1 : 0, next = reverse ? -1 : 1;
  const i64 state = static_cast<i64>(B) * H, forward = kept_in_register(next * state);
  block.begin(memory, U, hs + given * state);

  float c[Block::pairs], h[Block::pairs], b[Block::pairs][4];
  int end[Block::pairs];
  T x[Block::pairs][4];  // W x of the step to come, as it is read: nothing waits for it there
  T y[Block::pairs][4];  // gates
  T *x_at[Block::pairs], *h_at[Block::pairs];
  float* c_at[Block::pairs];
  UNROLL for (int j = 0; j < Block::pairs; j++) {
    const Pair p = block.pair(j);
    h[j] = p.real ? static_cast<float>(hs[given * state + p.at]) : 0.0f;
    c[j] = p.real ? cs[(save ? given * state : 0) + p.at] : 0.0f;
    end[j] = p.real && lengths ? lengths[p.b] : steps;
    UNROLL for (int k = 0; k < 4; k++) {
      x[j][k] = static_cast<T>(0.0f);
      b[j][k] = p.real ? static_cast<float>(bias[k * H + p.unit]) : 0.0f;
    }
    x_at[j] = gates + 4 * (begin * state + p.b * H) + p.unit;
    h_at[j] = hs + (begin + !reverse) * state + p.at;
    c_at[j] = cs + (begin + !reverse) * state + p.at;
  }
  const auto fetch = [&] {
    UNROLL for (int j = 0; j < Block::pairs; j++) {
      if (!block.pair(j).real) continue;
      UNROLL for (int k = 0; k < 4; k++) x[j][k] = x_at[j][k * H];
    }
  };
  const auto keep = [&] {  // what a step has computed
    UNROLL for (int j = 0; j < Block::pairs; j++) {
      if (block.pair(j).real) {
        *h_at[j] = static_cast<T>(h[j]);
        if (save) *c_at[j] = c[j];
        UNROLL for (int k = 0; k < 4; k++) {
          if (save) x_at[j][k * H] = y[j][k];
        }
      }
      x_at[j] += 4 * forward, h_at[j] += forward, c_at[j] += forward;
    }
  };
  const auto fill = [&](int from, int to) {  // the state as it is, in these steps
    for (int t = from; t < to; t++) {
      UNROLL for (int j = 0; j < Block::pairs; j++) {
        const Pair p = block.pair(j);
        if (p.real) hs[(t + !reverse) * state + p.at] = static_cast<T>(h[j]);
        if (p.real && save) cs[(t + !reverse) * state + p.at] = c[j];
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
      float a[4];
      UNROLL for (int k = 0; k < 4; k++) {
        a[k] = static_cast<float>(x[j][k]) + b[j][k] + block.sum(k, p);
      }
      const float i = sigmoid(a[0]);           // (1)
      const float f = sigmoid(a[1]);           // (2)
      const float g = tanh_of(a[2]);           // (3)
      const float o = sigmoid(a[3]);           // (4)
      const float new_c = f * c[j] + i * g;    // (5)
      const float new_h = o * tanh_of(new_c);  // (6)
      if (t < end[j]) c[j] = new_c, h[j] = static_cast<float>(static_cast<T>(new_h));
      block.stage(p, static_cast<T>(h[j]));
      y[j][0] = static_cast<T>(i), y[j][1] = static_cast<T>(f);
      y[j][2] = static_cast<T>(g), y[j][3] = static_cast<T>(o);
    }
    __syncthreads();
    if (stalled) break;
    if (s + 1 < count) block.send(s + 1);
    keep();  // nobody waits for that
    if (s + 1 < count) fetch();
  }
  if (!block.ended_well(s, steps, report)) {
    UNROLL for (int j = 0; j < Block::pairs; j++) h[j] = c[j] = not_a_number();
    fill(0, steps);
  }
  if (!reverse) fill(count, steps);
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
    lstm_cluster_backward(int steps, int B, int H, const int* lengths, int* report, int reverse,
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
  const int count = block.longest(lengths, steps);
  const int begin = reverse ? 0 : count - 1, next = reverse ? 1 : -1;
  const i64 state = static_cast<i64>(B) * H, back = kept_in_register(next * state);
  block.begin(memory, U);

  float from_h[Block::pairs], from_c[Block::pairs], c[Block::pairs];
  int end[Block::pairs];
  // What forward left of the step to come, as it is read: nothing waits for it there.
  T y[Block::pairs][4], above[Block::pairs];
  float c_prev[Block::pairs];
  T* y_at[Block::pairs];
  const T* above_at[Block::pairs];
  const float* c_prev_at[Block::pairs];
  UNROLL for (int j = 0; j < Block::pairs; j++) {
    const Pair p = block.pair(j);
    from_h[j] = p.real ? dh[p.at] : 0.0f;
    from_c[j] = p.real ? dc[p.at] : 0.0f;
    c[j] = p.real && count > 0 ? cs[(begin + !reverse) * state + p.at] : 0.0f;
    end[j] = !p.real ? 0 : lengths ? lengths[p.b] : steps;
    above[j] = static_cast<T>(0.0f);
    y_at[j] = gates + 4 * (begin * state + p.b * H) + p.unit;
    above_at[j] = dys + begin * state + p.at;
    c_prev_at[j] = cs + (begin + reverse) * state + p.at;
  }
  const auto fetch = [&](int t) {
    UNROLL for (int j = 0; j < Block::pairs; j++) {
      if (block.pair(j).real) c_prev[j] = *c_prev_at[j];
      if (t >= end[j]) continue;
      UNROLL for (int k = 0; k < 4; k++) y[j][k] = y_at[j][k * H];
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
      float da[4] = {0.0f, 0.0f, 0.0f, 0.0f};
      if (t < end[j]) {
        const float i = y[j][0], f = y[j][1], g = y[j][2], o = y[j][3];
        const float tanh_c = tanh_of(c[j]), d_h = from_h[j] + static_cast<float>(above[j]);
        const float d_c = from_c[j] + d_h * o * tanh_slope(tanh_c);  // (6)
        da[3] = d_h * tanh_c * sigmoid_slope(o);                     // (4)
        da[2] = d_c * i * tanh_slope(g);                             // (3)
        da[1] = d_c * c_prev[j] * sigmoid_slope(f);                  // (2)
        da[0] = d_c * g * sigmoid_slope(i);                          // (1)
        from_c[j] = d_c * f;                                         // (5)
        from_h[j] = 0.0f;
      }
      UNROLL for (int k = 0; k < 4; k++) {
        if (p.real) y_at[j][k * H] = static_cast<T>(da[k]);
        block.stage(k, p, da[k]);
      }
      c[j] = c_prev[j];
      y_at[j] += 4 * back, above_at[j] += back, c_prev_at[j] += back;
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
      if (p.held) from_h[j] += block.total(s, p);  // da U
    }
  }
  if (!block.ended_well(s, steps, report)) {
    UNROLL for (int j = 0; j < Block::pairs; j++) from_h[j] = from_c[j] = not_a_number();
    fill(0, steps, not_a_number());
  }
  UNROLL for (int j = 0; j < Block::pairs; j++) {
    const Pair p = block.pair(j);
    if (p.real) dh[p.at] = from_h[j], dc[p.at] = from_c[j];
  }
}
