// The kernels for any processor: vectors of 16 bytes, which compilers know how to make of
// whatever there is; see set.h.
#include "native.h"

#define SET portable
#define VECTOR_BYTES 16
#include "set.h"
