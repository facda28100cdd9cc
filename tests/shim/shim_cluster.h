// The host's twins of the wrappers of cluster.cuh: thread block clusters, mbarriers, fragments.
#pragma once

// ---- clusters ----------------------------------------------------------------------------

static inline int cluster_rank() { return shim::current->block->rank; }
static inline void cluster_sync() { shim::wait(shim::current->block->cluster->barrier); }

template <class T>
static inline T kept_in_register(T value) {
  return value;
}

// A place in the shared memory of block `rank`: that of `mine` in this block's.
struct Remote {
  unsigned char* mine;
  int rank;
  Remote operator+(int bytes) const { return {mine + bytes, rank}; }
};
static inline Remote remote(const void* mine, int rank) {
  return {static_cast<unsigned char*>(const_cast<void*>(mine)), rank};
}

// Where it lies.
static inline unsigned char* dsmem(Remote place) {
  const shim::Block* const block = shim::current->block;
  const shim::Block* const other = block->cluster->blocks[place.rank];
  if (!other->alive) shim::fault = shim::kGone;
  if (block->cluster->blocks.size() == 1) shim::fault = shim::kAlone;
  return other->shared + (place.mine - block->shared);
}

template <class T>
static inline T* dsmem(T* mine, int rank) {
  return reinterpret_cast<T*>(dsmem(remote(mine, rank)));
}

// ---- mbarrier and st.async ---------------------------------------------------------------

// Counts one arrival (the one that says how many bytes to expect) and the bytes.
struct HostMbarrier {
  int bytes;  // still to come; below 0 where they came before they were expected
  short arrivals, phase;
};
static_assert(sizeof(HostMbarrier) == 8);

static inline HostMbarrier* host_mbarrier(unsigned long long* bar) {
  return reinterpret_cast<HostMbarrier*>(bar);
}
static inline void turn_if_complete(HostMbarrier* bar) {
  if (bar->arrivals == 0 && bar->bytes == 0) {
    bar->phase ^= 1;
    bar->arrivals = 1;
    ++shim::progress;
  }
}
static inline void mbarrier_init(unsigned long long* bar) { *host_mbarrier(bar) = {0, 1, 0}; }
static inline void mbarrier_expect(unsigned long long* bar, unsigned bytes) {
  host_mbarrier(bar)->bytes += bytes;
  host_mbarrier(bar)->arrivals--;
  turn_if_complete(host_mbarrier(bar));
}
// Waits until the phase of this parity is over; false where nobody comes further any more.
static inline bool mbarrier_wait(unsigned long long* bar, unsigned parity) {
  const HostMbarrier* const state = host_mbarrier(bar);
  ++shim::progress;
  while (static_cast<unsigned>(state->phase) == parity && !shim::late) shim::yield();
  ++shim::progress;
  return static_cast<unsigned>(state->phase) != parity;
}
// 16 bytes to a place, and off the count of an mbarrier in the same block.
template <class V>
static inline void store_async16(Remote to, const V& value, Remote bar) {
  static_assert(sizeof(V) == 16);
  memcpy(dsmem(to), &value, 16);
  HostMbarrier* const theirs = reinterpret_cast<HostMbarrier*>(dsmem(bar));
  theirs->bytes -= 16;
  turn_if_complete(theirs);
}

// ---- matrix fragments --------------------------------------------------------------------

// What a lane holds of A and B, as floats, and of the sums.
struct HostFragment {
  float a[8], b[4], c[4];
};
static_assert(sizeof(HostFragment) <= 96);

// c += A B for one warp, A [16, K], B [K, 8]; `at` places a lane's values: at(lane, i) is the
// row · K + k of a[i], and k · 8 + column of b[i].
template <int K, class AtA, class AtB>
static inline void host_mma(const HostFragment& mine, float* c, AtA at_a, AtB at_b) {
  constexpr int kA = K / 2, kB = K / 4;  // values a lane holds
  shim::Warp* const warp = shim::current->warp;
  auto& buffer = warp->exchange[warp->barrier.generation & 1];
  memcpy(buffer[shim::current->lane], &mine, sizeof mine);
  if (warp->barrier.arrived + 1 == warp->barrier.needed) {  // the last to come computes for all
    HostFragment* const all = reinterpret_cast<HostFragment*>(buffer);
    constexpr int kStride = sizeof(buffer[0]) / sizeof(float);
    float A[16 * K], B[K * 8];
    for (int lane = 0; lane < 32; lane++) {
      const HostFragment* one =
          reinterpret_cast<HostFragment*>(reinterpret_cast<float*>(all) + lane * kStride);
      for (int i = 0; i < kA; i++) A[at_a(lane, i)] = one->a[i];
      for (int i = 0; i < kB; i++) B[at_b(lane, i)] = one->b[i];
    }
    for (int lane = 0; lane < 32; lane++) {
      HostFragment* one =
          reinterpret_cast<HostFragment*>(reinterpret_cast<float*>(all) + lane * kStride);
      for (int i = 0; i < 4; i++) {
        const int row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
        float sum = 0;
        for (int k = 0; k < K; k++) sum += A[row * K + k] * B[k * 8 + column];
        one->c[i] += sum;
      }
    }
  }
  __syncwarp();
  HostFragment result;
  memcpy(&result, buffer[shim::current->lane], sizeof result);
  for (int i = 0; i < 4; i++) c[i] = result.c[i];
}

// mma.m16n8k16: two values of H in each word.
template <class H>
static inline void mma16816(float* c, const unsigned* a, const unsigned* b) {
  HostFragment mine;
  H pair[2];
  for (int i = 0; i < 4; i++) {
    memcpy(pair, &a[i], 4);
    mine.a[2 * i] = pair[0], mine.a[2 * i + 1] = pair[1];
    mine.c[i] = c[i];
  }
  for (int i = 0; i < 2; i++) {
    memcpy(pair, &b[i], 4);
    mine.b[2 * i] = pair[0], mine.b[2 * i + 1] = pair[1];
  }
  host_mma<16>(
      mine, c,
      [](int lane, int i) {
        const int row = lane / 4 + 8 * (i / 2 % 2), k = 2 * (lane % 4) + i % 2 + 8 * (i / 4);
        return row * 16 + k;
      },
      [](int lane, int i) {
        const int k = 2 * (lane % 4) + i % 2 + 8 * (i / 2), column = lane / 4;
        return k * 8 + column;
      });
}

// Rounded to the 10 bits of tf32, ties away from zero, as cvt.rna does.
static inline unsigned to_tf32(float f) { return (__float_as_uint(f) + 0x1000) & 0xffffe000u; }

// mma.m16n8k8 of tf32 values.  The hardware reads no more than 10 bits of each.
static inline void mma1688(float* c, const unsigned* a, const unsigned* b) {
  HostFragment mine;
  for (int i = 0; i < 4; i++) mine.a[i] = __uint_as_float(a[i] & 0xffffe000u), mine.c[i] = c[i];
  for (int i = 0; i < 2; i++) mine.b[i] = __uint_as_float(b[i] & 0xffffe000u);
  host_mma<8>(
      mine, c,
      [](int lane, int i) { return (lane / 4 + 8 * (i % 2)) * 8 + lane % 4 + 4 * (i / 2); },
      [](int lane, int i) { return (lane % 4 + 4 * i) * 8 + lane / 4; });
}
