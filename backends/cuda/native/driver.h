// The two functions of CUDA that the loop calls, by the addresses that Python hands over.
//
// The types are those of cuda.h and cublas_api.h, written down here so that no CUDA toolkit is
// needed to build the extension.  Both functions have kept them since CUDA 11.
#ifndef XRNN_DRIVER_H
#define XRNN_DRIVER_H

#include <stdint.h>

// cuLaunchKernel: starts a kernel.  `arguments` points to the values of its parameters, each with
// the size that the kernel has declared.  Returns CUDA_SUCCESS, which is 0, or an error.
typedef int (*LaunchKernel)(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                            unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared,
                            void* stream, void** arguments, void** extra);

// cublasGemmEx: C = alpha op(A) op(B) + beta C.  Returns CUBLAS_STATUS_SUCCESS, which is 0, or an
// error.
typedef int (*GemmEx)(void* handle, int op_a, int op_b, int m, int n, int k, const void* alpha,
                      const void* A, int type_a, int lda, const void* B, int type_b, int ldb,
                      const void* beta, void* C, int type_c, int ldc, int compute, int algorithm);

#endif
