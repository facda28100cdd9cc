// What one step of a recurrent network costs a cluster where nothing is computed: every block
// sends 16 bytes to all blocks, itself included, and waits for those sent to it.  As in xrnn's
// own kernels: stores that count themselves off at a barrier of the receiver, two of each, so
// that none is written to while it is still read.
//
// Follows cluster.cuh.  Grid: 8 blocks, one cluster; block: one warp; shared memory: 272 bytes.
// out [8]: one value of each block after the last round.
extern "C" __global__ void __cluster_dims__(8) exchange(int rounds, unsigned* out) {
  constexpr int C = 8;
  SHARED(Words, box);  // [2][C]
  unsigned long long* arrived = reinterpret_cast<unsigned long long*>(box + 2 * C);
  const int rank = cluster_rank(), lane = threadIdx.x;
  if (lane == 0) {
    mbarrier_init(&arrived[0]);
    mbarrier_init(&arrived[1]);
  }
  cluster_sync();
  unsigned value = rank;
  for (int round = 0; round < rounds; round++) {
    const int now = round & 1;
    if (lane == 0) mbarrier_expect(&arrived[now], C * sizeof(Words));
    const Words sent = {{value, value, value, value}};
    if (lane < C) {
      store_async16(remote(box + now * C + rank, lane), sent, remote(&arrived[now], lane));
    }
    mbarrier_wait(&arrived[now], (round >> 1) & 1);
    // The next value depends on all that came, so no round can begin before its predecessor ends.
    value = box[now * C + (lane & (C - 1))].at[0] + 1;
    value = __shfl_xor_sync(0xffffffffu, value, 1);
  }
  if (lane == 0) out[rank] = value;
  cluster_sync();  // no block leaves while others may still write to it
}
