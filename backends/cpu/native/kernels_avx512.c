// The kernels for processors with AVX-512 (F, DQ, VL, BW); see set.h.
#include "native.h"

#if defined __x86_64__
#include <immintrin.h>
#if defined __clang__
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma")
#endif

#define SET avx512
#define AVX512
#define VECTOR_BYTES 64
#define MM_PREFIX _mm512
#include "set.h"

#if defined __clang__
#pragma clang attribute pop
#endif
#else
// not available on this family of processors
const Kernels kernels_avx512[2] = {{0}};
const Products products_avx512_bfloat16 = {0}, products_avx512_bytes = {0};
#endif
