// The instruction sets of this processor, and the one that is in use.
#ifndef XRNN_SETS_H
#define XRNN_SETS_H

#include "arguments.h"
#include "native.h"

#include <string.h>
#if defined HAS_AVXVNNI
#include <cpuid.h>
#endif
#if defined HAS_AMXINT8
#include <sys/syscall.h>
#include <unistd.h>
#endif

// An instruction set: the kernels [2] for float and double, and the products of float that round,
// from AS_BFLOAT16 on.
typedef struct {
  const char* name;
  const Kernels* kernels;
  const Products* rounded[N_ROUNDINGS - 1];
} Set;

// Those with more instructions first: the first one that runs and is not slow is chosen.
static const Set SETS[] = {
    {"amxint8", kernels_avx512, {&products_avx512_bfloat16, &products_amxint8_bytes}},
    {"avx512bf16", kernels_avx512, {&products_avx512bf16_bfloat16, &products_avx512vnni_bytes}},
    {"avx512vnni", kernels_avx512, {&products_avx512_bfloat16, &products_avx512vnni_bytes}},
    {"avx512", kernels_avx512, {&products_avx512_bfloat16, &products_avx512_bytes}},
    {"avxvnni", kernels_avx2, {&products_avx2_bfloat16, &products_avxvnni_bytes}},
    {"avx2", kernels_avx2, {&products_avx2_bfloat16, &products_avx2_bytes}},
    {"portable", kernels_portable, {&products_portable_bfloat16, &products_portable_bytes}},
};
#define N_SETS ((int)(sizeof SETS / sizeof *SETS))

// The instruction set in use.  A call reads it once, because another thread may change it at any
// time.
static const Set* _Atomic chosen = &SETS[N_SETS - 1];

#if defined HAS_AVXVNNI

// Compilers have a name for this bit, and for that of AMX, only in later versions than for the
// instructions.
static int has_avx_vnni(void) {
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}

#endif
#if defined HAS_AMXINT8

static int has_amx_int8(void) {
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 24 & 3) == 3;  // with AMX_TILE
}

// Whether the system lets this process use the registers of tiles, which it must be asked for.
static int may_use_tiles(void) {
  enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };  // of Linux, from 5.16 on
  return !syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA);
}

#endif

// Whether these products were built, and this processor has the instructions that they need besides
// those of the kernels of their set.
static int products_run(const Products* products) {
  if (!products->multiply) return 0;
#if defined HAS_AMXINT8
  if (products == &products_amxint8_bytes)
    return __builtin_cpu_supports("avx512vnni") && has_amx_int8() && may_use_tiles();
#endif
#if defined HAS_AVX512BF16
  if (products == &products_avx512bf16_bfloat16) return __builtin_cpu_supports("avx512bf16");
#endif
#if defined HAS_AVXVNNI
  if (products == &products_avxvnni_bytes) return has_avx_vnni();
#endif
#if defined __x86_64__
  if (products == &products_avx512vnni_bytes) return __builtin_cpu_supports("avx512vnni");
#endif
  return 1;
}

// Whether the kernels of this instruction set were built, and this processor can run them.
static int runs(const Set* set) {
  if (!set->kernels->n_cells) return 0;
  for (int i = 0; i < N_ROUNDINGS - 1; i++)
    if (!products_run(set->rounded[i])) return 0;
#if defined __x86_64__
  if (set->kernels == kernels_avx512)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (set->kernels == kernels_avx2)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  return 1;
}

// Whether other instructions take less time on this processor.  On those of Intel (measured on
// Emerald Rapids alone) one instruction of AVX512_BF16 takes as long as four fma, and two fma do
// the same work.
static int is_slow(const Set* set) {
#if defined __x86_64__
  return set->rounded[AS_BFLOAT16 - 1] == &products_avx512bf16_bfloat16 &&
         __builtin_cpu_is("intel");
#else
  return (void)set, 0;
#endif
}

// The kernels for the real type of the arguments.
static const Kernels* of_type(const Set* set, const Arguments* a) {
  return &set->kernels[a->real == sizeof(double)];
}

// The products for the real type of the arguments, with a rounding.
static const Products* products_of(const Set* set, Arguments* a, int rounding) {
  if (rounding == AS_REALS) return of_type(set, a)->products;
  if (a->real == sizeof(double) && !a->failed) {
    PyErr_Format(PyExc_ValueError, "rounding is %d; it must be 0 for float64", rounding);
    a->failed = 1;
  }
  return set->rounded[rounding - 1];
}

// Selects the instruction set of that name, or without a name the first one that is not slow.
// Returns 0, or -1 with an exception set.
static int choose(const char* name) {
  for (int i = 0; i < N_SETS; i++) {
    if (name ? strcmp(name, SETS[i].name) : is_slow(&SETS[i])) continue;
    if (!runs(&SETS[i])) continue;
    chosen = &SETS[i];
    return 0;
  }
  PyErr_Format(PyExc_ValueError, "no instruction set %s here; see isas()", name);
  return -1;
}

#endif
