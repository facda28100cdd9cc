// The kernels for processors with AVX2 and FMA; see set.h.
#include "native.h"

#if defined __x86_64__
#include <immintrin.h>
#if defined __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif

#define SET avx2
#define AVX2
#define VECTOR_BYTES 32
#define MM_PREFIX _mm256
#include "set.h"

#if defined __clang__
#pragma clang attribute pop
#endif
#else
// not available on this family of processors
const Kernels kernels_avx2[2] = {{0}};
const Products products_avx2_bfloat16 = {0}, products_avx2_bytes = {0};
#endif
