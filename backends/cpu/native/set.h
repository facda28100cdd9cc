// The kernels of one instruction set for both real types.  This file is included once by each of
// kernels_avx512.c, kernels_avx2.c and kernels_portable.c, which define
//   SET              the name of the instruction set
//   VECTOR_BYTES     the size of a vector
//   AVX512 or AVX2   for one of these instruction sets only, and with it
//   MM_PREFIX        the prefix of its intrinsics
// Four files define a macro more, for products that have an instruction of their own, and include
// these products alone; all else of such an instruction set are the kernels of avx512 or avx2:
//   DOT2             the products of numbers rounded to bfloat16, by kernels_avx512bf16.c
//   DOT4             the products with weights of 8 bits, by kernels_avx512vnni.c and
//                    kernels_avxvnni.c
//   DOT4 and TILES   the same, by kernels_amxint8.c
#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define N(name) JOIN(name, SUFFIX)

#define INLINE inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 64")

// The number of vector registers.  It decides how many sums a tile of a product can keep in them.
#if defined AVX512 || defined __aarch64__
#define REGISTERS 32
#else
#define REGISTERS 16
#endif

#define real float
#define BITS 32
#define real_bits uint32_t
#define MM(op) JOIN(JOIN(MM_PREFIX, op), ps)
#define MM_MASK _mm512_cmp_ps_mask
#if defined __FP_FAST_FMAF
#define FAST_FMA __builtin_fmaf
#endif

#if !defined DOT4

// The products of numbers rounded to bfloat16.
#define SUFFIX JOIN(SET, bfloat16)
#define PRODUCT 2
#define L (VECTOR_BYTES * 8 / BITS)
#include "products.h"
#undef L
#undef vec
#undef PRODUCT
#undef SUFFIX

#endif
#if !defined DOT2

// The products with weights of 8 bits.
#define SUFFIX JOIN(SET, bytes)
#define L (VECTOR_BYTES * 8 / BITS)
#include "simd.h"
#include "bytes.h"
#undef L
#undef vec
#undef SUFFIX

#endif
#if !defined DOT2 && !defined DOT4

#define PRODUCT 1
#define SUFFIX JOIN(SET, float)
#include "variant.h"
#undef real
#undef BITS
#undef real_bits
#undef SUFFIX
#undef MM
#undef MM_MASK
#undef FAST_FMA

#define real double
#define BITS 64
#define real_bits uint64_t
#define SUFFIX JOIN(SET, double)
#define MM(op) JOIN(JOIN(MM_PREFIX, op), pd)
#define MM_MASK _mm512_cmp_pd_mask
#if defined __FP_FAST_FMA
#define FAST_FMA __builtin_fma
#endif
#include "variant.h"
#undef SUFFIX
#undef real

#define ROW(type)                                                               \
  {                                                                             \
      JOIN(n_cells, JOIN(SET, type)),     4 * VECTOR_BYTES / (int)sizeof(type), \
      JOIN(cell, JOIN(SET, type)),        JOIN(forward, JOIN(SET, type)),       \
      JOIN(backward, JOIN(SET, type)),    &JOIN(products, JOIN(SET, type)),     \
      JOIN(prepack, JOIN(SET, type)),     JOIN(map_tanh, JOIN(SET, type)),      \
      JOIN(map_sigmoid, JOIN(SET, type)), JOIN(widen, JOIN(SET, float)),        \
      JOIN(narrow, JOIN(SET, float)),                                           \
  }
const Kernels JOIN(kernels, SET)[2] = {ROW(float), ROW(double)};

#endif
