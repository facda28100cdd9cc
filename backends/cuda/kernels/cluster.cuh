// Whole sequences on thread-block clusters (sm_90 and later): the instructions they need.
//
// A cluster is C blocks on C multiprocessors.  It runs a slice of the batch through all steps;
// each of its blocks owns `Units` neighbouring hidden units, and holds the rows of U that belong
// to them (of all gates) in registers and shared memory from the first step to the last.
// After each step the blocks send one another what the next one needs, by stores that count
// themselves off at a barrier in the receiver's shared memory (st.async, mbarrier).  So there is
// no fence, no barrier of the cluster or grid, and no atomic addition in the loop over time, and
// every sum has one fixed order.
//
// Here: PTX in wrappers, of which the shim has host versions.  Products: cluster_products.cuh; what
// blocks exchange: cluster_blocks.cuh.
#pragma once
#include "common.cuh"

#define ROLL _Pragma("unroll 1")

// 16 bytes, moved as one.
struct __align__(16) Words {
  unsigned at[4];
};

#ifndef XRNN_HOST
// The same value, which the compiler computes once, and not again in every step.  All threads of
// the warp are there.
template <class T>
__device__ __forceinline__ T kept_in_register(T value) {
  return __shfl_sync(0xffffffffu, value, threadIdx.x & 31);
}

// The number of this block in its cluster.
__device__ __forceinline__ int cluster_rank() {
  unsigned rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
}

// A barrier of all threads of the cluster.  Costly: once, before the loop.
__device__ __forceinline__ void cluster_sync() {
  asm volatile(
      "barrier.cluster.arrive.release.aligned;\n"
      "barrier.cluster.wait.acquire.aligned;" ::
          : "memory");
}

// The address of a place in shared memory, as PTX counts it.
__device__ __forceinline__ unsigned shared_address(const void* p) {
  return static_cast<unsigned>(__cvta_generic_to_shared(p));
}

// A place in the shared memory of a block of the cluster; it can be moved by bytes.
typedef unsigned Remote;

// The place `p` of this block's shared memory, in that of block `rank`.
__device__ __forceinline__ Remote remote(const void* p, int rank) {
  Remote there;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;"
               : "=r"(there)
               : "r"(shared_address(p)), "r"(rank));
  return there;
}

// A barrier whose phase ends when one thread has arrived and all bytes it announced are in.
// Visible to the other blocks after the next cluster_sync.
__device__ __forceinline__ void mbarrier_init(unsigned long long* barrier) {
  asm volatile(
      "mbarrier.init.shared::cta.b64 [%0], 1;\n"
      "fence.mbarrier_init.release.cluster;" ::"r"(shared_address(barrier))
      : "memory");
}

// Arrives, and announces `bytes`.  Bytes may come in before they are announced.
__device__ __forceinline__ void mbarrier_expect(unsigned long long* barrier, unsigned bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(bytes)
      : "memory");
}

// Whether the phase of this parity has ended: 0 for the first, 1 for the second, 0 …  May take
// some time to say no.
__device__ __forceinline__ bool mbarrier_try_wait(unsigned long long* barrier, unsigned parity) {
  unsigned done;
  asm volatile(
      "{.reg .pred p;\n"
      "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n"
      "selp.u32 %0, 1, 0, p;}"
      : "=r"(done)
      : "r"(shared_address(barrier)), "r"(parity)
      : "memory");
  return done;
}

// Cycles after which a wait is given up, some seconds; a step takes some thousands.
constexpr long long PATIENCE = 1ll << 33;

// Waits for the end of the phase of this parity; false if it was given up.  A kernel that was
// suspended is late when it goes on, and has a thousand tries nevertheless.
__device__ __forceinline__ bool mbarrier_wait(unsigned long long* barrier, unsigned parity) {
  long long begun = 0;
  for (bool late = false;; late = clock64() - begun > PATIENCE) {
    ROLL for (int tries = 0; tries < 1024; tries++) {
      if (mbarrier_try_wait(barrier, parity)) return true;
    }
    if (late) return false;
    if (begun == 0) begun = clock64();
  }
}

// Stores 16 bytes to `to` and counts them off at `barrier`, both in the same block.
__device__ __forceinline__ void store_async16(Remote to, const Words& value, Remote barrier) {
  asm volatile(
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 "
      "[%0], {%1, %2, %3, %4}, [%5];" ::"r"(to),
      "r"(value.at[0]), "r"(value.at[1]), "r"(value.at[2]), "r"(value.at[3]), "r"(barrier)
      : "memory");
}

// d += a b, a [16, 16] and b [16, 8] of T, d [16, 8] of float, over the lanes as PTX has them.
#define MMA_16816(type, name)                                                           \
  template <>                                                                           \
  __device__ __forceinline__ void mma16816<type>(float d[4], const unsigned a[4],       \
                                                 const unsigned b[2]) {                 \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." name "." name                 \
                 ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                       \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));   \
  }
template <class T>
__device__ __forceinline__ void mma16816(float d[4], const unsigned a[4], const unsigned b[2]);
MMA_16816(__half, "f16")
MMA_16816(__nv_bfloat16, "bf16")
#undef MMA_16816

// The nearest float with 10 bits of mantissa, as bits.
__device__ __forceinline__ unsigned to_tf32(float x) {
  unsigned bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
}

// The same in two instructions: to_tf32 looks for NaN first, which may be lost here.  Volatile,
// or the compiler would round all weights that stay on the chip before the loop over time, and
// keep the results in registers it lacks.
__device__ __forceinline__ unsigned to_tf32_each_time(float x) {
  unsigned bits;
  asm volatile(
      "{.reg .b32 t;\n"
      "add.u32 t, %1, 0x1000;\n"
      "and.b32 %0, t, 0xffffe000;}"
      : "=r"(bits)
      : "r"(__float_as_uint(x)));
  return bits;
}

// d += a b, a [16, 8] and b [8, 8] of tf32.
__device__ __forceinline__ void mma1688(float d[4], const unsigned a[4], const unsigned b[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#else
inline unsigned to_tf32_each_time(float x) { return (__float_as_uint(x) + 0x1000) & 0xffffe000; }
#endif

__device__ __forceinline__ unsigned bits_of(float x) {
  return *reinterpret_cast<const unsigned*>(&x);
}
__device__ __forceinline__ float float_of(unsigned bits) {
  return *reinterpret_cast<const float*>(&bits);
}
__device__ __forceinline__ float not_a_number() { return float_of(0x7fffffff); }
