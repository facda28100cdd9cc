// Denormal numbers, those between 0 and 1.18e-38 (float) or 2.2e-308 (double), as 0.
//
// Processors need up to a hundred times longer for an operation with such a number.  A state that
// decays after the inputs have ended would reach them, and stay there.  So in every thread that
// computes, a denormal operand counts as 0, and a denormal result is 0.
//
// This is a mode of the processor and of each thread.  The functions of Python and of the caller
// must not see it.
#ifndef XRNN_DENORMALS_H
#define XRNN_DENORMALS_H

#include <stdint.h>

typedef uint64_t FloatMode;

// Makes denormal numbers 0 in this thread, and returns the mode before.  On a processor of another
// family it does nothing.
static inline FloatMode flush_denormals(void) {
#if defined __x86_64__
  const unsigned before = __builtin_ia32_stmxcsr();
  __builtin_ia32_ldmxcsr(before | 0x8040);  // "flush to zero" and "denormals are zero"
  return before;
#elif defined __aarch64__
  FloatMode before;
  __asm__ volatile("mrs %0, fpcr" : "=r"(before));
  __asm__ volatile("msr fpcr, %0" : : "r"(before | 1 << 24));
  return before;
#else
  return 0;
#endif
}

// Makes the mode of this thread exactly what it was before, the flags of exceptions included.
static inline void restore_mode(FloatMode before) {
#if defined __x86_64__
  __builtin_ia32_ldmxcsr((unsigned)before);
#elif defined __aarch64__
  __asm__ volatile("msr fpcr, %0" : : "r"(before));
#else
  (void)before;
#endif
}

#endif
