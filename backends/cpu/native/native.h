// The types that the Python module (module.c) and the kernels have in common.
//
// The kernels are compiled once for each instruction set and each real type (variant.h), and
// module.c selects an instruction set at import.  All arrays are contiguous, with time as the first
// axis.  Sizes: T time steps, B sequences, I inputs, H hidden units.
#ifndef XRNN_NATIVE_H
#define XRNN_NATIVE_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#include "threads.h"

// The largest number of weights that a cell has besides W, U and b.
#define MAX_EXTRAS 5

// A weight besides W, U and b, as `Cell.extras` of the Python module xrnn.cells.base has it: its
// size is (rows·H,), or (rows·H, columns·H) unless `columns` is 0.  The projection (P, H) has 0
// rows.
typedef struct {
  const char* name;  // null: there is no such weight
  int rows, columns;
} Extra;

// The kinds of activation functions that a cell with options may have; ACTIVATIONS of
// xrnn/cells/activations.py defines them, and `activations` of the Python module names them.
enum {
  SIGMOID,
  TANH,
  RELU,
  HARD_SIGMOID,
  AFFINE,
  LEAKY_RELU,
  THRESHOLDED_RELU,
  SCALED_TANH,
  ELU,
  SOFTSIGN,
  SOFTPLUS,
  N_ACTIVATIONS
};

// The largest number of activation functions of a cell.
#define MAX_FUNCTIONS 3

// The options of a cell that has options.  Without a limit, `clip` and `cell_clip` are infinite.
typedef struct {
  struct {
    int kind;
    double alpha, beta;
  } functions[MAX_FUNCTIONS];  // of the sigmoid gates, of the candidate, of the output
  double clip;                 // pre-activations are limited to ±clip
  double cell_clip;            // c is limited to ±cell_clip
  double zoneout[2];           // the rates of zoneout of h and c
  idx proj_size;               // P, the number of values of h, if the cell has a projection
} Options;

// What a cell with layer norm normalises: W x and U h, each whole, or the sum of each gate.
enum { PRODUCTS_NORMED = 1, GATES_NORMED };

// How numbers are stored that are computed with as float.
enum { AS_THEY_ARE, FLOAT16, BFLOAT16 };

// What products round the numbers to that they multiply; all else are reals.  With AS_BYTES,
// weights are given as bytes, and sums are integers.
enum { AS_REALS, AS_BFLOAT16, AS_BYTES, N_ROUNDINGS };

// The properties of a cell that decide which arrays it has and how large they are.  Each cell
// defines its own at the end of its header; cells.h lists them.
typedef struct {
  const char* name;     // the name of the cell in xrnn.cells
  int functions;        // the number of functions in Options; 0 if the cell has no options
  const char* options;  // the names of the options, with spaces between them, or null
  int gates;            // G: W, U and b consist of G blocks of H rows, one for each gate
  int saved;            // S: the blocks of H values that a time step stores in `gates` for the
                        // backward pass; 0 if the outputs are enough, which requires G = 1
  int first_gates;      // the number of gates, from the first on, whose product U h is computed in
                        // one multiplication; the rows of U for the other gates form a second one
  int has_U;            // whether there are recurrent weights
  int U_at;   // the block of pre-activations where the product U h of the first gates goes
  int has_c;  // whether there is a second state c
  Extra extras[MAX_EXTRAS];  // the weights besides W, U and b, the first ones of this array
  int projects;              // 1 + the place in `extras` of the projection, with which h is made of
                             // the H values m in the last saved block; 0: h is m
  int bias_of_others;        // whether extras[0] is the bias that the second multiplication adds
  int norms;                 // what is normalised, or 0; the step adds b itself then
  int norm_sums;             // the blocks of H values of `rows`
  int scratch;               // the blocks of H values that step_backward needs for each sequence
  int sums_gates;            // whether gradients of weights are sums over `gates`, or
  int sums_cs;               // over `cs`; these are then set to 0 after the end of each sequence
} Cell;

// The weights w of products w x.  The outputs are `groups` groups of n, which begin `stride`
// outputs apart, both in w and in the result.
//
// A panel holds the weights of 4·L outputs of a group, L the lanes of a vector, as [k][outputs],
// the order in which a tile reads them.  The last panel of a group has only as many vectors as it
// needs; lanes without an output are 0.
typedef struct {
  const void* w;  // an output has the k weights of one row of w, or of one column if `columns`
  idx ld;         // the distance between rows of w
  int columns;
  idx groups, stride, n, k;
  void* panels;      // [panels_size], or null: the products read w itself
  idx apart;         // the distance between two groups there, in outputs
  int backwards;     // whether the next product reads them from the last one to the first
  const void* bias;  // the initial values of the sums; if null, these are in the result array

  // If w are bytes: the scales of its rows, and whether x is rounded to 16 bits and not to 8.
  const float* scales;
  int wide;
} Packed;

// The j-th of n groups or panels in the order in which the next product reads them.
static inline idx in_turn(const Packed* m, idx j, idx n) { return m->backwards ? n - 1 - j : j; }

// The products of one instruction set, one real type and one rounding.
typedef struct {
  // The number of bytes of all panels, and packing the i-th of n shares of them.
  size_t (*panels_size)(const Packed* m);
  void (*pack_part)(const Packed* m, int i, int n, Watch* w);
  // The number of bytes that `multiply` needs for so many rows of k numbers.
  size_t (*operands_size)(idx k, idx rows);
  // y[i] = start + w x[i] for i < rows.  It may change the pointers x.
  void (*multiply)(const Packed* m, idx rows, const void** x, void* const* y, void* operands,
                   Watch* watch);
  // See Gemm.  Returns 0, or -1 if there is not enough memory.
  int (*gemm)(const void* gemm);
} Products;

// One call of forward, backward or step.  A pointer is null if the cell has no such array or the
// caller does not want it.  In a step T is 1, and xs, ys and h_last hold one time step.
typedef struct {
  int code;  // the number of the cell in the table of cells.h
  const Cell* cell;
  int rounding;              // of products, and
  const Products* products;  // the products with it
  Options options;
  idx T, B, I, H, P;       // P: the number of values of h, which is H without a projection
  int reverse;             // whether time runs from T-1 to 0
  int storage;             // each h is rounded to numbers that can be so stored
  Team* team;              // the threads to use, or null: only the calling thread
  int* sharing;            // out, or null: the number of threads that divided the sequences among
                           // them; negative if they divided the hidden units instead
  const int64_t* lengths;  // [B] the lengths of the sequences, 0 to T, or null: all are T

  const void* xs;                  // [T, B, I]  not read after the end of a sequence
  const void *W, *U, *b;           // [G·H, I] [G·H, P] [G·H]
  const void* extras[MAX_EXTRAS];  // in the sizes of Cell.extras
  const void* panels;              // the weights packed by `prepack`, or null: this call packs them
  const void *h0, *c0;             // [B, P] [B, H]
  void* ys;                        // [T, B, P] out; 0 after the end of a sequence
  void *h_last, *c_last;           // [B, P] [B, H] out
  void *gates, *cs;                // [T, B, S·H] [T, B, H] stored for backward, or null

  // With AS_BYTES: the scales of the rows of W, U and the projection, which are bytes.
  const float *W_scales, *U_scales, *P_scales;

  // What a cell with options draws, or null: the dropout [B, P] of what products take of h, and the
  // zoneout of h [T, B, P] and of c [T, B, H], which are the rates of `options` otherwise.
  const void *dropout, *zoneout[2];

  const void* dys;  // [T, B, P] or null; not read after the end of a sequence
  void *dh, *dc;    // [B, P] [B, H] in: gradient of the last state; out: of the first state
  void* das;        // [T, B, row_blocks·H] out: gradients of the pre-activations; it may be
                    // the same array as `gates`
  void* rows;       // [B, norm_sums·H] the gradients of b and of gains, summed for each sequence;
                    // these and, if `adds` is set, those of all weights are added to what is there
  void* dhs;        // [T, B, P] out, with a projection: gradients of h
  void* dxs;        // [T, B, I] out, or null
  void *dW, *dU, *db, *dextras[MAX_EXTRAS];  // out, in the shapes of the weights
  int adds;
} Pass;

// The rows of memory that each sequence needs for dropout and zoneout: what the products take of h,
// the gradient of that, and the parts of two states that units keep.
enum { SEEN, D_SEEN, KEPT_H, KEPT_C, NOISE_ROWS };

// The hidden units from `from` to `to` (exclusive) out of H.  All are whole vectors, except that
// the last vector of a row may be incomplete.
typedef struct {
  idx from, to, H;
} Units;

// The matrix product C (m, n) = op(A) op(B), where op(A) is (m, k), op(B) is (k, n), and op either
// transposes or does nothing.  A transposed matrix is stored as (k, m) or (n, k).  If `accumulate`
// is set, the product is added to C; if `bias` [n] is given, it is added to every row.
typedef struct {
  idx m, n, k;
  const void *A, *B, *bias;
  void* C;
  idx lda, ldb, ldc;
  int a_transposed, b_transposed, accumulate;
  Team* team;
} Gemm;

// The functions of one instruction set and one real type.  Those that return int return 0, or -1 if
// there is not enough memory.
typedef struct {
  int n_cells;  // 0 if the instruction set does not exist for this family of processors
  int panel;    // the outputs of a panel of packed weights
  const Cell* (*cell)(int code);  // the cell with that number, 0 to n_cells - 1
  int (*forward)(const void* pass);
  int (*backward)(const void* pass);
  const Products* products;  // those that round nothing
  // Packs the weights of a forward pass into memory that is aligned to 64 bytes, and returns the
  // number of bytes used.  If `memory` is null, it only returns the number of bytes needed.
  size_t (*prepack)(const Pass*, void* memory);
  void (*tanh)(const void* x, void* y, idx n);
  void (*sigmoid)(const void* x, void* y, idx n);
  // n numbers that are stored in 16 bits as floats, and floats as such numbers.
  void (*widen)(int storage, const void* from, void* to, idx n);
  void (*narrow)(int storage, const void* from, void* to, idx n);
} Kernels;

// [0] is for float, [1] for double.
extern const Kernels kernels_avx512[2], kernels_avx2[2], kernels_portable[2];

// Whether the compiler knows the instructions of AVX512_BF16, and of AVX_VNNI and AMX.  If its
// assembler does not, OLD_ASSEMBLER is defined (build.py).  A process has to ask the system for
// AMX, which is done on Linux alone.  VERSION_OF_GCC is the one that knows as much as Clang does.
#if defined __clang__
#define VERSION_OF_GCC (__clang_major__ >= 14 ? 11 : 10)
#else
#define VERSION_OF_GCC __GNUC__
#endif
#if defined __x86_64__ && !defined OLD_ASSEMBLER
#if VERSION_OF_GCC >= 10
#define HAS_AVX512BF16
#endif
#if VERSION_OF_GCC >= 11
#define HAS_AVXVNNI
#if defined __linux__
#define HAS_AMXINT8
#endif
#endif
#endif

// The products of float that round to bfloat16.
extern const Products products_avx512bf16_bfloat16, products_avx512_bfloat16,
    products_avx2_bfloat16, products_portable_bfloat16;

// Those with weights of 8 bits.
extern const Products products_amxint8_bytes, products_avx512vnni_bytes, products_avx512_bytes,
    products_avxvnni_bytes, products_avx2_bytes, products_portable_bytes;

// The blocks of H values in a row of pre-activations, and so in a row of `das`.
static inline int row_blocks(const Cell* cell) { return cell->saved ? cell->saved : cell->gates; }

// Whether units of a state (0: h, 1: c) may keep their old value.
static inline int zoned(const Pass* p, int k) { return p->zoneout[k] || p->options.zoneout[k] > 0; }

// The number of values in a row of that memory; 0 if nothing is drawn.
static inline idx noise_width(const Pass* p) {
  if (!p->dropout && !zoned(p, 0) && !zoned(p, 1)) return 0;
  return p->P > p->H ? p->P : p->H;
}

// The number of values of a weight besides W, U and b.
static inline idx extra_size(const Pass* p, const Extra* e) {
  return (e->rows ? e->rows * p->H : p->P) * (e->columns ? e->columns * p->H : 1);
}

// The maximum number of threads that divide the hidden units among them.  These threads wait for
// each other at every time step, so each must have enough weights to make the waiting negligible.
// With a projection or layer norm the units are not divided.
static inline double most_by_units(const Pass* p) {
  const Cell* cell = p->cell;
  if (cell->projects || cell->norms) return 1;
  return (double)cell->gates * p->H * (p->I + (cell->has_U ? p->H : 0)) / 4e4;
}

// The bytes of the recurrent weights, which are read at every time step, with reals of this size.
static inline double step_bytes(const Pass* p, size_t real) {
  // A rounded weight takes a half of the bytes, or a quarter.
  return p->cell->has_U ? (double)(real >> p->rounding) * p->cell->gates * p->H * p->P : 0;
}

// The number of sequences a thread from which on threads do not divide the hidden units.  A thread
// multiplies so many by a weight in about the time in which it reads the weight: from the second
// cache, or from the third one, where many weights are.
static inline idx enough(const Pass* p, size_t real) {
  return step_bytes(p, real) > (2 << 20) ? 12 : 4;
}

#endif
