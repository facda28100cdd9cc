// What the Python module and the kernels say to each other.
//
// The kernels are compiled once for each instruction set and each real type (variant.h), and
// module.c takes one set of them at import.  Arrays are contiguous and time comes first:
// T steps, B sequences, I inputs, H units, G gates of the cell (xrnn/cells/*.py).
#ifndef XRNN_NATIVE_H
#define XRNN_NATIVE_H

#include <stddef.h>
#include <stdint.h>

#include "threads.h"

enum Cell { RNN_TANH, RNN_RELU, LSTM, GRU, GRU_BEFORE, INPUT_GATED, CELLS };

// One call of forward or backward, or a step.  A pointer is null where the cell has no such array
// or the caller wants none.  In step T is 1, and xs, ys, h_last hold one step.
typedef struct {
  int cell;
  idx T, B, I, H;
  int reverse;             // the steps run T-1 … 0
  Team* team;              // or null: the caller alone
  int* sharing;            // out, or null: how many shared the sequences, or, negative, the units
  const int64_t* lengths;  // [B] in 0…T, or null: all T

  const void* xs;             // [T, B, I]   past a sequence's end not read
  const void *W, *U, *b, *v;  // [G·H, I] [G·H, H] [G·H] [H]
  const void* panels;         // what `prepack` made of them, or null: each call packs its own
  const void *h0, *c0;        // [B, H]
  void* ys;                   // [T, B, H]   0 past the end
  void *h_last, *c_last;      // [B, H]      out
  void *gates, *cs;           // [T, B, S·H] [T, B, H]: kept for backward, or null

  const void* dys;          // [T, B, H] or null; past the end not read
  void *dh, *dc;            // [B, H]  in: gradient of the last state; out: of the first
  void* das;                // [T, B, S·H] out, as wide as `gates` and perhaps the same array
  void* dxs;                // [T, B, I] out
  void *dW, *dU, *db, *dv;  // out, in the shapes of the weights
} Pass;

// The units from … to of a row of H, whole vectors of them as long as there are more.
typedef struct {
  idx from, to, H;
} Units;

// C (m, n) = A B, where op(A) is (m, k) and op(B) is (k, n): the transposed forms are stored as
// (k, m) and (n, k).  With `accumulate` C is added to; with `bias` [n] every row starts from it.
typedef struct {
  idx m, n, k;
  const void *A, *B, *bias;
  void* C;
  idx lda, ldb, ldc;
  int a_transposed, b_transposed, accumulate;
  Team* team;
} Gemm;

// The functions of one instruction set and one real type.  The int is 0, or -1: no memory.
typedef struct {
  const char* isa;
  int (*forward)(const void* pass);
  int (*backward)(const void* pass);
  int (*gemm)(const void* gemm);
  // Packs the weights of a forward pass into memory at a multiple of 64 bytes; returns how many it
  // takes, and with null does no more.
  size_t (*prepack)(const Pass*, void* memory);
  void (*tanh)(const void* x, void* y, idx n);
  void (*sigmoid)(const void* x, void* y, idx n);
} Kernels;

// [0] float, [1] double.  Where a set does not exist for this processor family its `isa` is null.
extern const Kernels kernels_avx512[2], kernels_avx2[2], kernels_portable[2];

// S, the blocks of H that a step leaves in `gates` and `das` (an RNN leaves none in `gates`: its ys
// say all), and G, the blocks of rows of W and U.  The GRUs have 4 and 3: see their files.
static const int SAVED[CELLS] = {1, 1, 4, 4, 4, 4};
static const int GATES[CELLS] = {1, 1, 4, 3, 3, 4};

// What a cell has beside W, b and h.
static inline int has_U(int cell) { return cell != INPUT_GATED; }
static inline int has_c(int cell) { return cell == LSTM || cell == INPUT_GATED; }
static inline int has_v(int cell) { return cell == GRU; }

// How many threads can share the units of a row: each has enough weights that waiting for the
// others, at every step, is little beside them.
static inline double most_by_units(const Pass* p) {
  return (double)GATES[p->cell] * p->H * (p->I + (has_U(p->cell) ? p->H : 0)) / 5e4;
}

#endif
