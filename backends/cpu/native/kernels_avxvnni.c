// The products with weights of 8 bits for processors with AVX2, FMA and AVX_VNNI; see set.h.
#include "native.h"

#if defined HAS_AVXVNNI
#include <immintrin.h>
#if defined __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma,avxvnni"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,avxvnni")
#endif

#define SET avxvnni
#define AVX2
#define DOT4
#define VECTOR_BYTES 32
#define MM_PREFIX _mm256
#include "set.h"

#if defined __clang__
#pragma clang attribute pop
#endif
#else
// not available on this family of processors, or unknown to the compiler
const Products products_avxvnni_bytes = {0};
#endif
