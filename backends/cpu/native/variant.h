// All kernels for one real type and one instruction set.  Included by set.h.
#define L (VECTOR_BYTES * 8 / BITS)
#include "products.h"
#include "activations.h"
#include "recurrent.h"
#undef L
#undef vec
