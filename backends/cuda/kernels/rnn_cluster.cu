// The simple recurrent network over whole sequences, forward and backward, each in one launch:
// clusters of blocks hold U on the chip.  Equations: xrnn/cells/elman.py.  Template arguments:
// cluster_blocks.cuh, and Relu: 0 for tanh (1), 1 for ReLU (2); launch, direction, rows of the
// states and report: as in lstm_cluster.cu.
#include "cluster_blocks.cuh"

template <int Relu>
__device__ __forceinline__ float activation(float a) {
  return Relu ? (a < 0.0f ? 0.0f : a) : tanh_of(a);  // the ReLU of NaN is NaN
}
// Its derivative, from the output h.
template <int Relu>
__device__ __forceinline__ float activation_slope(float h) {
  return Relu ? (h > 0.0f ? 1.0f : 0.0f) : tanh_slope(h);
}

// steps, B, H
// lengths  [B] or null: from step lengths[b] on, sequence b keeps its state
// reverse  the first set runs from the last step to the first
// U        [H, H]
// x        [steps, B, H]  W x, without bias
// bias     [H]
// hs       [steps + 1, B, H]  in: the state given; out: all other rows
template <class P, int Relu, int Units, int C, int N, int Warps, int RowWarps, int Kept>
__global__ void __cluster_dims__(C, 1, 1) __launch_bounds__(Warps * 32, 1)
    rnn_cluster_forward(int steps, int B, int H, const int* lengths, int* report, int reverse,
                        const Stored<P>* U, const Stored<P>* x, const Stored<P>* bias,
                        Stored<P>* hs, const Stored<P>* U_2, const Stored<P>* x_2,
                        const Stored<P>* bias_2, Stored<P>* hs_2) {
  typedef Stored<P> T;
  typedef Forward<P, 1, Units, C, N, Warps, RowWarps, Kept> Block;
  if (blockIdx.y) {
    U = U_2, x = x_2, bias = bias_2, hs = hs_2, reverse = 1 - reverse;
  }
  SHARED(char, memory);
  Block block(memory, B, H);
  const int count = block.longest(lengths, steps), given = reverse ? steps : 0;
  const int begin = reverse ? count - 1 : 0, next = reverse ? -1 : 1;
  const i64 state = static_cast<i64>(B) * H, forward = kept_in_register(next * state);
  block.begin(memory, U, hs + given * state);

  float h[Block::pairs], b[Block::pairs];
  int end[Block::pairs];
  T w[Block::pairs];  // W x of the step to come, as it is read: nothing waits for it there
  const T* x_at[Block::pairs];
  T* h_at[Block::pairs];
  UNROLL for (int j = 0; j < Block::pairs; j++) {
    const Pair p = block.pair(j);
    h[j] = p.real ? static_cast<float>(hs[given * state + p.at]) : 0.0f;
    b[j] = p.real ? static_cast<float>(bias[p.unit]) : 0.0f;
    end[j] = p.real && lengths ? lengths[p.b] : steps;
    w[j] = static_cast<T>(0.0f);
    x_at[j] = x + begin * state + p.at;
    h_at[j] = hs + (begin + !reverse) * state + p.at;
  }
  const auto fetch = [&] {
    UNROLL for (int j = 0; j < Block::pairs; j++) {
      if (block.pair(j).real) w[j] = *x_at[j];
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
      const float a = static_cast<float>(w[j]) + b[j] + block.sum(0, p);  // (1)
      const float new_h = activation<Relu>(a);                            // (2)
      if (t < end[j]) h[j] = static_cast<float>(static_cast<T>(new_h));
      block.stage(p, static_cast<T>(h[j]));
    }
    __syncthreads();
    if (stalled) break;
    if (s + 1 < count) block.send(s + 1);
    UNROLL for (int j = 0; j < Block::pairs; j++) {  // nobody waits for that
      if (block.pair(j).real) *h_at[j] = static_cast<T>(h[j]);
      x_at[j] += forward, h_at[j] += forward;
    }
    if (s + 1 < count) fetch();
  }
  if (!block.ended_well(s, steps, report)) {
    UNROLL for (int j = 0; j < Block::pairs; j++) h[j] = not_a_number();
    fill(0, steps);
  }
  if (!reverse) fill(count, steps);
}

// U        [H, H]
// das      [steps, B, H]  out: da; 0 past a sequence's end
// hs       [steps + 1, B, H]
// dys      [steps, B, H] or null: gradient of the outputs; not read past a sequence's end
// dh       [B, H]  in: gradient of the last state; out: of the state given
template <class P, int Relu, int Units, int C, int N, int Warps, int Kept>
__global__ void __cluster_dims__(C, 1, 1) __launch_bounds__(Warps * 32, 1)
    rnn_cluster_backward(int steps, int B, int H, const int* lengths, int* report, int reverse,
                         const Stored<P>* U, Stored<P>* das, const Stored<P>* hs,
                         const Stored<P>* dys, float* dh, const Stored<P>* U_2, Stored<P>* das_2,
                         const Stored<P>* hs_2, const Stored<P>* dys_2, float* dh_2) {
  typedef Stored<P> T;
  typedef Backward<P, 1, Units, C, N, Warps, Kept> Block;
  if (blockIdx.y) {
    U = U_2, das = das_2, hs = hs_2, dys = dys_2, dh = dh_2, reverse = 1 - reverse;
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
  T h[Block::pairs], above[Block::pairs];
  T* da_at[Block::pairs];
  const T *h_at[Block::pairs], *above_at[Block::pairs];
  UNROLL for (int j = 0; j < Block::pairs; j++) {
    const Pair p = block.pair(j);
    from_h[j] = p.real ? dh[p.at] : 0.0f;
    end[j] = !p.real ? 0 : lengths ? lengths[p.b] : steps;
    above[j] = static_cast<T>(0.0f);
    da_at[j] = das + begin * state + p.at;
    h_at[j] = hs + (begin + !reverse) * state + p.at;
    above_at[j] = dys + begin * state + p.at;
  }
  const auto fetch = [&](int t) {
    UNROLL for (int j = 0; j < Block::pairs; j++) {
      if (t >= end[j]) continue;
      h[j] = *h_at[j];
      if (dys) above[j] = *above_at[j];
    }
  };
  const auto fill = [&](int from, int to, float value) {  // da of these steps
    for (int t = from; t < to; t++) {
      UNROLL for (int j = 0; j < Block::pairs; j++) {
        const Pair p = block.pair(j);
        if (p.real) das[t * state + p.at] = static_cast<T>(value);
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
      float da = 0.0f;
      if (t < end[j]) {
        const float d_h = from_h[j] + static_cast<float>(above[j]);
        da = d_h * activation_slope<Relu>(static_cast<float>(h[j]));  // (1), (2)
        from_h[j] = 0.0f;
      }
      if (p.real) *da_at[j] = static_cast<T>(da);
      block.stage(0, p, da);
      da_at[j] += back, h_at[j] += back, above_at[j] += back;
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
    UNROLL for (int j = 0; j < Block::pairs; j++) from_h[j] = not_a_number();
    fill(0, steps, not_a_number());
  }
  UNROLL for (int j = 0; j < Block::pairs; j++) {
    const Pair p = block.pair(j);
    if (p.real) dh[p.at] = from_h[j];
  }
}
