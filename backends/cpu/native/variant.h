// Everything, for one real type of one instruction set.  Included by set.h.
#define L (VECTOR_BYTES * 8 / BITS)
#include "simd.h"
#include "curves.h"
#include "gemm.h"
#include "recurrent.h"
#undef L
#undef vec
