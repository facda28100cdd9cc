// The products with weights of 8 bits for processors with AVX-512 (F, DQ, VL, BW), AVX512_VNNI and
// AMX (TILE, INT8); see set.h.
#include "native.h"

#if defined HAS_AMXINT8
#include <immintrin.h>
#if defined __clang__
#pragma clang attribute push(                                                                 \
    __attribute__((                                                                           \
        target("avx512f,avx512dq,avx512vl,avx512bw,avx512vnni,amx-tile,amx-int8,avx2,fma"))), \
    apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512vl,avx512bw,avx512vnni,amx-tile,amx-int8,avx2,fma")
#endif

#define SET amxint8
#define AVX512
#define DOT4
#define TILES
#define VECTOR_BYTES 64
#define MM_PREFIX _mm512
#include "set.h"

#if defined __clang__
#pragma clang attribute pop
#endif
#else
// not available on this family of processors or system, or unknown to the compiler
const Products products_amxint8_bytes = {0};
#endif
