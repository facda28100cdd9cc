// Kernels by which tests/test_cuda_shim.py tests the emulated device itself.
#include "common.cuh"

// Each thread passes its value on to its neighbour, twice.
__global__ void neighbours(int steps, float* x) {
  SHARED(float, all);
  const int n = blockDim.x, me = threadIdx.x;
  float mine = x[blockIdx.x * n + me];
  for (int k = 0; k < steps; k++) {
    all[me] = mine;
    __syncthreads();  // (a)
    mine += 0.5f * all[(me + 1) % n];
    __syncthreads();  // (b)
  }
  x[blockIdx.x * n + me] = mine;
}

// The same within a warp, by one buffer.
__global__ void within_warp(float* x) {
  SHARED(float, all);
  all[threadIdx.x] = x[threadIdx.x];
  __syncwarp();  // (c)
  x[threadIdx.x] = all[threadIdx.x ^ 1];
}

__global__ void shuffled(float* x) {
  const int lane = threadIdx.x % 32;
  const float mine = x[threadIdx.x];
  float* out = x + blockDim.x + threadIdx.x;
  out[0 * blockDim.x] = __shfl_sync(0xffffffffu, mine, 3);
  out[1 * blockDim.x] = __shfl_xor_sync(0xffffffffu, mine, 5);
  out[2 * blockDim.x] = __shfl_up_sync(0xffffffffu, mine, 2);
  out[3 * blockDim.x] = __shfl_down_sync(0xffffffffu, mine, 2);
  if (lane < 0) __syncwarp();
}

__global__ void half_a_barrier() {
  if (threadIdx.x < 32) cluster_sync();
  if (threadIdx.x >= 32) __syncthreads();
}

// Gives up in the end.
__global__ void waits_for_nobody(int* x) {
  SHARED(unsigned long long, barrier);
  mbarrier_init(barrier);
  x[threadIdx.x] = mbarrier_wait(barrier, 0);
}

__global__ void activations(const float* x, float* y) {
  const int n = gridDim.x * blockDim.x, at = blockIdx.x * blockDim.x + threadIdx.x;
  y[at] = sigmoid(x[at]);
  y[n + at] = tanh_of(x[at]);
}

__global__ void reads_unwritten(float* x) {
  SHARED(float, all);
  x[threadIdx.x] = all[threadIdx.x];
}

__global__ void writes_at(int where) {
  SHARED(char, all);
  all[where] = 1;
}

// Blocks of one grid have no order: this one relies on it.
__global__ void counts_blocks(int* x) { x[1 + blockIdx.x] = x[0]++; }

__global__ void too_late() {
  SHARED(int, all);
  if (cluster_rank() == 1) __nanosleep(1);
  if (cluster_rank() == 1) *dsmem(all, 0) = 1;
}

__global__ void alone() {
  SHARED(int, all);
  *dsmem(all, cluster_rank()) = 1;
}

__global__ void cluster_sum(float* x) {
  SHARED(float, all);
  all[0] = x[blockIdx.x];
  cluster_sync();
  float sum = 0;
  for (int rank = 0; rank < 4; rank++) sum += *dsmem(all, rank);
  cluster_sync();
  x[blockIdx.x] = sum;
}

struct Words {
  unsigned word[4];
};

// Each block tells all four its number, again and again, by stores that the receiver's mbarrier
// counts.  Who is a step ahead writes into the other buffer.
__global__ void exchange(int steps, const unsigned* x, unsigned* last) {
  SHARED(Words, slots);  // two times four, and two mbarriers after them
  unsigned long long* barriers = reinterpret_cast<unsigned long long*>(slots + 8);
  Words mine = {{x[blockIdx.x], 1, 2, 3}};
  bool came = true;
  if (threadIdx.x == 0) mbarrier_init(barriers), mbarrier_init(barriers + 1);
  cluster_sync();
  for (int k = 0; k < steps; k++) {
    const int now = k % 2, parity = k / 2 % 2;
    Words* to = slots + 4 * now + cluster_rank();
    if (threadIdx.x == 0) {
      mbarrier_expect(barriers + now, 4 * 16);
      for (int rank = 0; rank < 4; rank++) {
        store_async16(remote(to, rank), mine, remote(barriers + now, rank));
      }
    }
    came = mbarrier_wait(barriers + now, parity) && came;
    mine.word[0] = 0;
    for (int rank = 0; rank < 4; rank++) {
      mine.word[0] = 3 * mine.word[0] + slots[4 * now + (cluster_rank() + rank) % 4].word[0];
    }
    __syncthreads();
  }
  cluster_sync();
  last[blockIdx.x * blockDim.x + threadIdx.x] = came ? mine.word[0] : ~0u;
}

// c [16, 8] += a [16, 16] b [16, 8] by one warp; fragments as the PTX manual places them.
template <class H>
__global__ void product16(const H* a, const H* b, float* c) {
  const int group = threadIdx.x / 4, place = threadIdx.x % 4;
  H pairs[12];
  for (int i = 0; i < 8; i++) {
    const int row = group + (i / 2 % 2 ? 8 : 0), k = 2 * place + i % 2 + (i < 4 ? 0 : 8);
    pairs[i] = a[row * 16 + k];
  }
  for (int i = 0; i < 4; i++) pairs[8 + i] = b[(2 * place + i % 2 + (i < 2 ? 0 : 8)) * 8 + group];
  unsigned words[6];
  memcpy(words, pairs, sizeof words);
  float sums[4];
  for (int i = 0; i < 4; i++) sums[i] = c[(group + (i < 2 ? 0 : 8)) * 8 + 2 * place + i % 2];
  for (int k = 0; k < 2; k++) mma16816<H>(sums, words, words + 4);
  for (int i = 0; i < 4; i++) c[(group + (i < 2 ? 0 : 8)) * 8 + 2 * place + i % 2] = sums[i];
}

// The same with a [16, 8], b [8, 8] in tf32.
__global__ void product8(const float* a, const float* b, float* c) {
  const int group = threadIdx.x / 4, place = threadIdx.x % 4;
  unsigned left[4], right[2];
  left[0] = to_tf32(a[group * 8 + place]), left[1] = to_tf32(a[(group + 8) * 8 + place]);
  left[2] = to_tf32(a[group * 8 + place + 4]), left[3] = to_tf32(a[(group + 8) * 8 + place + 4]);
  right[0] = to_tf32(b[place * 8 + group]), right[1] = to_tf32(b[(place + 4) * 8 + group]);
  float sums[4];
  for (int i = 0; i < 4; i++) sums[i] = c[(group + (i < 2 ? 0 : 8)) * 8 + 2 * place + i % 2];
  for (int k = 0; k < 2; k++) mma1688(sums, left, right);
  for (int i = 0; i < 4; i++) c[(group + (i < 2 ? 0 : 8)) * 8 + 2 * place + i % 2] = sums[i];
}
