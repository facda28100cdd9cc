// What a CUDA graph of steps needs besides the kernels of its steps.
#include "steps.cuh"

template <int N>
struct Arguments {
  Argument at[N];
};

// Writes N arguments to memory.  They come by value, so nothing of the host must stay for them.
// Grid: ceil(N / block) blocks.
template <int N>
__global__ void write_arguments(Argument* to, const __grid_constant__ Arguments<N> given) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < N) to[i] = given.at[i];
}
