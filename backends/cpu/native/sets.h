// The instruction sets of this processor, and the one that is in use.
#ifndef XRNN_SETS_H
#define XRNN_SETS_H

#include "arguments.h"
#include "native.h"

#include <string.h>

// The kernels of the instruction set in use.  A call reads it once, because another thread may
// change it at any time.
static const Kernels* _Atomic chosen = kernels_portable;

static const Kernels* const SETS[] = {kernels_avx512, kernels_avx2, kernels_portable};
#define N_SETS ((int)(sizeof SETS / sizeof *SETS))

// Whether the kernels of this instruction set were built, and this processor can run them.
static int runs(const Kernels* set) {
  if (!set->isa) return 0;
#if defined __x86_64__
  if (set == kernels_avx512)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (set == kernels_avx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  return 1;
}

// The kernels for the real type of the arguments.
static const Kernels* of_type(const Kernels* set, const Arguments* a) {
  return &set[a->real == sizeof(double)];
}

// Selects the instruction set of that name, or without a name the fastest one.  Returns 0, or -1
// with an exception set.
static int choose(const char* name) {
  for (int i = 0; i < N_SETS; i++) {
    if (!runs(SETS[i]) || (name && strcmp(name, SETS[i]->isa))) continue;
    chosen = SETS[i];
    return 0;
  }
  PyErr_Format(PyExc_ValueError, "no instruction set %s here; see isas()", name);
  return -1;
}

#endif
