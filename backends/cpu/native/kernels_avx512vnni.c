// The products with weights of 8 bits for processors with AVX-512 (F, DQ, VL, BW) and AVX512_VNNI;
// see set.h.
#include "native.h"

#if defined __x86_64__
#include <immintrin.h>
#if defined __clang__
#pragma clang attribute push(                                                          \
    __attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,avx512vnni,avx2,fma"))), \
    apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512vl,avx512bw,avx512vnni,avx2,fma")
#endif

#define SET avx512vnni
#define AVX512
#define DOT4
#define VECTOR_BYTES 64
#define MM_PREFIX _mm512
#include "set.h"

#if defined __clang__
#pragma clang attribute pop
#endif
#else
// not available on this family of processors
const Products products_avx512vnni_bytes = {0};
#endif
