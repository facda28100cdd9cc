// The products of one real type and one kind of rounding.  This file is included by variant.h for
// products that round nothing (PRODUCT 1), and by set.h for those of rounded numbers.
#include "simd.h"
#include "terms.h"
#include "gemm.h"
#include "rows.h"
#undef PARTS
