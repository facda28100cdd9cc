// The kernels for any processor.  They use vectors of 16 bytes, which compilers translate to the
// instructions of the processor; see set.h.
#include "native.h"

#define SET portable
#define VECTOR_BYTES 16
#include "set.h"
