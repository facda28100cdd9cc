// The products of numbers rounded to bfloat16 for processors with AVX-512 (F, DQ, VL, BW) and
// AVX512_BF16; see set.h.
#include "native.h"

#if defined HAS_AVX512BF16
#include <immintrin.h>
#if defined __clang__
#pragma clang attribute push(                                                          \
    __attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,avx512bf16,avx2,fma"))), \
    apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512vl,avx512bw,avx512bf16,avx2,fma")
#endif

#define SET avx512bf16
#define AVX512
#define DOT2
#define VECTOR_BYTES 64
#define MM_PREFIX _mm512
#include "set.h"

#if defined __clang__
#pragma clang attribute pop
#endif
#else
// not available on this family of processors, or unknown to the compiler
const Products products_avx512bf16_bfloat16 = {0};
#endif
