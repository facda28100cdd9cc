// The products with weights of 8 bits, which have a scale for each output.  This file is included
// by set.h; xrnn/recurrence/quantised.py defines what is computed.
//
// Each row x has a scale of its own.  Its values are integers of 8 bits or, if Packed.wide is set,
// of 16 bits, which are two bytes, the high and the low one, with a sum each.  The instructions
// multiply unsigned bytes of x by signed ones of w, so the signed bytes of x have 128 added to
// them, and their sums start with -128 Σ w.  All sums are exact, so their order does not matter,
// nor on which processor and by which instructions they are computed.

#undef NOINLINE
#define NOINLINE __attribute__((noinline))

// The largest number of rows of a tile; one of wide rows has half of it, as it needs twice the
// sums.
#undef TALL
#if REGISTERS >= 32
#define TALL 6
#else
#define TALL 2
#endif

#undef MOVE_COST
#define MOVE_COST 4.0

typedef int32_t N(ints) __attribute__((vector_size(VECTOR_BYTES)));
typedef int32_t N(ints_any) __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));
typedef uint8_t N(bytes) __attribute__((vector_size(L)));
typedef uint8_t N(bytes_any) __attribute__((vector_size(L), aligned(1), may_alias));

static INLINE N(ints) N(load_ints)(const void* p) { return *(const N(ints_any)*)p; }
static INLINE N(ints) N(set1_int)(int32_t a) { return a - (N(ints)){0}; }
static INLINE vec N(reals_of)(N(ints) a) { return __builtin_convertvector(a, vec); }

// The operation that adds four products of bytes to each lane of a sum.  It is divided into
// BYTE_PARTS: byte_part(w, q) is what the q-th one takes of weights, operand(x, q) of 4 bytes of x,
// and add_bytes its sum.
#undef BYTE_PARTS
#if defined DOT4

#define BYTE_PARTS 1
static INLINE N(ints) N(byte_part)(N(ints) w, int q) { return (void)q, w; }
static INLINE uint32_t N(operand)(uint32_t x, int q) { return (void)q, x; }

// Not by the intrinsic, around which GCC 12 copies the sum twice.
static INLINE N(ints) N(add_bytes)(N(ints) w, N(ints) x, N(ints) sum) {
#if defined AVX512
  __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(w));
#else
  __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(x), "x"(w));
#endif
  return sum;
}

#elif defined AVX512 || defined AVX2

// Two products at a time, of integers of 16 bits: those of the even and of the odd bytes.  (There
// is an instruction for bytes, but its sums of two products are limited to 16 bits.)
#define BYTE_PARTS 2
typedef int16_t N(shorts) __attribute__((vector_size(VECTOR_BYTES)));

static INLINE N(ints) N(byte_part)(N(ints) w, int q) {
  const N(shorts) s = (N(shorts))w;
  return (N(ints))((q ? s : s << 8) >> 8);
}

static INLINE uint32_t N(operand)(uint32_t x, int q) { return (q ? x >> 8 : x) & 0x00ff00ffu; }

static INLINE N(ints) N(add_bytes)(N(ints) w, N(ints) x, N(ints) sum) {
#if defined AVX512
  return sum + (N(ints))_mm512_madd_epi16((__m512i)w, (__m512i)x);
#else
  return sum + (N(ints))_mm256_madd_epi16((__m256i)w, (__m256i)x);
#endif
}

#else

#define BYTE_PARTS 4
static INLINE N(ints) N(byte_part)(N(ints) w, int q) {
  return (N(ints))((N(bits))w << (24 - 8 * q)) >> 24;
}

static INLINE uint32_t N(operand)(uint32_t x, int q) { return x >> (8 * q) & 255u; }
static INLINE N(ints) N(add_bytes)(N(ints) w, N(ints) x, N(ints) sum) { return sum + w * x; }

#endif

// ---- Weights

#if defined TILES
#define TILE_ROWS 16
#endif

// The lanes for the k weights of an output, of which a lane holds 4; for tiles, rounded up to a
// multiple of 16.
static INLINE idx N(depth)(const Packed* m) {
#if defined TILES
  return (m->k + 4 * TILE_ROWS - 1) / (4 * TILE_ROWS) * TILE_ROWS;
#else
  return (m->k + 3) / 4;
#endif
}

// A panel holds its lanes [depth][outputs], then for each output -128 Σ w, then the scales.
static size_t N(panels_size)(const Packed* m) {
  return sizeof(real) * (size_t)(m->groups * m->apart * (N(depth)(m) + 2));
}

// The number of vectors of the panel that begins with output o.
static INLINE int N(vectors)(idx o, idx n) {
  return n - o >= 4 * L ? 4 : (int)((n - o + L - 1) / L);
}

// The address of the panel of group g that begins with output o.
static INLINE int32_t* N(panel)(const Packed* m, idx g, idx o) {
  return (int32_t*)m->panels + (g * m->apart + o) * (N(depth)(m) + 2);
}

static void N(pack_panel)(const Packed* m, idx g, idx o) {
  const idx wide = N(vectors)(o, m->n) * L, first = g * m->stride + o, depth = N(depth)(m);
  int32_t *lanes = N(panel)(m, g, o), *starts = lanes + depth * wide;
  memset(lanes, 0, (depth + 2) * wide * sizeof *lanes);
  float* scales = (float*)(starts + wide);
  for (idx j = 0; j < wide && o + j < m->n; j++) {
    const int8_t* w = (const int8_t*)m->w + (first + j) * m->ld;
    scales[j] = m->scales[first + j];
    int32_t sum = 0;
    for (idx i = 0; i < m->k; i++) sum += w[i];
    starts[j] = -128 * sum;
    for (idx i = 0; i < m->k; i += 4)
      memcpy(lanes + i / 4 * wide + j, w + i, m->k - i < 4 ? m->k - i : 4);
  }
}

// The i-th of n shares of the panels.
static void N(pack_part)(const Packed* m, int i, int n, Watch* w) {
  const idx o0 = share_start(m->n, 4 * L, i, n), o1 = share_start(m->n, 4 * L, i + 1, n);
  for (idx g = 0; g < m->groups; g++)
    for (idx o = o0; o < o1 && !stopped(w, MOVE_COST * 4 * L * m->k); o += 4 * L)
      N(pack_panel)(m, g, o);
}

// ---- Rows

// A row as it is multiplied: its scale, and at these distances its (high) bytes and the low ones.
#define HIGH_BYTES 64
#define LOW_BYTES(k) (HIGH_BYTES + ((k) + 63) / 64 * 64)
#define ROW_BYTES(k) (HIGH_BYTES + 2 * (((k) + 63) / 64 * 64))

// With room for rows after the end; see tiles.h.
static size_t N(operands_size)(idx k, idx rows) {
#if defined TILES
  rows += rows / TILE_ROWS + 1;
#endif
  return (size_t)ROW_BYTES(k) * (size_t)rows;
}

// The largest |x|, as bits: of numbers that are not negative these have the same order, and those
// of NaN are larger than all others.
static INLINE uint32_t N(range_of)(const real* x, idx k) {
  N(ints) most = {0};
  for (idx i = 0; i < k; i += L) {
    const N(ints) size = (N(ints))N(get)(x + i, k - i) & 0x7fffffff;
#if defined AVX512
    most = (N(ints))_mm512_max_epi32((__m512i)most, (__m512i)size);
#elif defined AVX2
    most = (N(ints))_mm256_max_epi32((__m256i)most, (__m256i)size);
#else
    const N(ints) larger = size > most;
    most = (larger & size) | (~larger & most);
#endif
  }
#if defined AVX512
  return (uint32_t)_mm512_reduce_max_epi32((__m512i)most);
#else
  int32_t found = 0;
  for (int l = 0; l < L; l++) found = most[l] > found ? most[l] : found;
  return (uint32_t)found;
#endif
}

// Stores a row of k values as it is multiplied.
static INLINE void N(take_row)(const int wide, const real* x, idx k, char* to) {
  const uint32_t bits = N(range_of)(x, k);
  real most;
  memcpy(&most, &bits, sizeof most);
  const int finite = bits < 0x7f800000u, large = finite && most >= 0x1p-100f;
  const real levels = wide ? 32767 : 127;
  *(real*)to = !finite ? __builtin_nanf("") : large ? most / levels : 0;
  const vec by = N(set1)(large ? levels / most : 0);
  const vec shift = N(set1)(0x1.8p23f);  // a sum with it is rounded to an integer
  for (idx i = 0; i < k; i += L) {
    const N(ints) q = (N(ints))(N(get)(x + i, k - i) * by + shift) - (N(ints))shift;
    *(N(bytes_any)*)(to + HIGH_BYTES + i) =
        __builtin_convertvector((wide ? q >> 8 : q) + 128, N(bytes));
    if (wide) *(N(bytes_any)*)(to + LOW_BYTES(k) + i) = __builtin_convertvector(q, N(bytes));
  }
}

static void N(take_rows)(const Packed* m, idx rows, const void** x, char* to) {
  for (idx r = 0; r < rows; r++, to += ROW_BYTES(m->k)) {
    if (m->wide)
      N(take_row)(1, x[r], m->k, to);
    else
      N(take_row)(0, x[r], m->k, to);
    x[r] = to;
  }
}

// ---- Products

// A panel: its lanes and initial values, the first of its outputs and their number.
typedef struct {
  const int32_t* w;
  const real* bias;
  idx k, depth, first, n;
} N(Panel);

// Stores the outputs from `o` of the panel on for one row, from their sums.
static INLINE void N(finish)(const int wide, const N(Panel) * p, idx o, N(ints) sum, N(ints) low,
                             const int32_t* scales, const void* x, void* y) {
  real* to = (real*)y + p->first + o;
  const real* start = p->bias ? p->bias + o : to;
  vec f = N(reals_of)(sum);
  if (wide) f = f * N(set1)(256) + N(reals_of)(low);
  f = f * N(set1)(*(const real*)x) * N(load)((const real*)scales);
  N(put)(to, N(get)(start, p->n - o) + f, p->n - o);
}

// Computes one tile: `tall` rows times nv vectors of weights, those of a panel, or all 8 of a panel
// and the next one.
static INLINE void N(tile_of)(const int wide, const int tall, const int nv, const N(Panel) * p,
                              const void* const* x, void* const* y) {
  const int per = nv < 4 ? nv : 4;
  const idx next = (p->depth + 2) * 4 * L, ends = p->depth * per * L, low_at = LOW_BYTES(p->k);
  // The place of vector v in a row of lanes.
#define AT_VECTOR(v) ((v) < 4 ? (v) * L : next + ((v) - 4) * L)
  N(ints) sum[TALL * 4 > 8 ? TALL * 4 : 8], low[TALL * 4 > 8 ? TALL * 4 : 8];
  UNROLL for (int i = 0; i < tall * nv; i++) {
    sum[i] = N(load_ints)(p->w + ends + AT_VECTOR(i % nv));
    low[i] = (N(ints)){0};
  }
  const int32_t* lanes = p->w;
  const char* row[TALL];
  UNROLL for (int r = 0; r < tall; r++) row[r] = (const char*)x[r] + HIGH_BYTES;
  const idx apart = low_at - HIGH_BYTES;
  for (idx i = 0; i < (p->k + 3) / 4; i++, lanes += per * L) {  // without what fills tiles up
    UNROLL for (int q = 0; q < BYTE_PARTS; q++) {
      N(ints) w[8];
      UNROLL for (int v = 0; v < nv; v++) {
        w[v] = N(byte_part)(N(load_ints)(lanes + AT_VECTOR(v)), q);
      }
      UNROLL for (int r = 0; r < tall; r++) {
        uint32_t bytes;
        memcpy(&bytes, row[r] + 4 * i, 4);
        const N(ints) a = N(set1_int)((int32_t)N(operand)(bytes, q));
        UNROLL for (int v = 0; v < nv; v++) {
          sum[r * nv + v] = N(add_bytes)(w[v], a, sum[r * nv + v]);
        }
        if (wide) {
          memcpy(&bytes, row[r] + apart + 4 * i, 4);
          const N(ints) b = N(set1_int)((int32_t)N(operand)(bytes, q));
          UNROLL for (int v = 0; v < nv; v++) {
            low[r * nv + v] = N(add_bytes)(w[v], b, low[r * nv + v]);
          }
        }
      }
    }
  }
  UNROLL for (int i = 0; i < tall * nv; i++) {
    const int v = i % nv;
    N(finish)(wide, p, v * L, sum[i], low[i], p->w + ends + per * L + AT_VECTOR(v), x[i / nv],
              y[i / nv]);
  }
#undef AT_VECTOR
}

#define TILE(name, wide, tall)                                                         \
  static NOINLINE void N(name##tall)(int nv, const N(Panel) * p, const void* const* x, \
                                     void* const* y) {                                 \
    if (nv == 4) N(tile_of)(wide, tall, 4, p, x, y);                                   \
    if (nv == 3) N(tile_of)(wide, tall, 3, p, x, y);                                   \
    if (nv == 2) N(tile_of)(wide, tall, 2, p, x, y);                                   \
    if (nv == 1) N(tile_of)(wide, tall, 1, p, x, y);                                   \
  }
TILE(wide_tile, 1, 1)
TILE(tile, 0, 1)
TILE(tile, 0, 2)
#if TALL == 6
TILE(wide_tile, 1, 2)
TILE(wide_tile, 1, 3)
TILE(tile, 0, 3)
TILE(tile, 0, 4)
TILE(tile, 0, 5)
TILE(tile, 0, 6)
#endif
#undef TILE

#if defined TILES
#include "tiles.h"
#endif

// y[i] = start + w x[i] for i < rows, for one group of the outputs.  A panel stays in a cache while
// all rows are multiplied by it.  All tiles have about the same number of rows.  A single row is
// multiplied by two panels at once: 8 sums hide the latency of an operation, 4 do not.
static void N(multiply_group)(const Packed* m, idx g, idx rows, const void* const* x,
                              void* const* y, Watch* watch) {
  typedef void (*Tile)(int, const N(Panel)*, const void* const*, void* const*);
#if TALL == 6
  static const Tile wide_of[] = {N(wide_tile1), N(wide_tile2), N(wide_tile3)};
  static const Tile of_height[] = {N(tile1), N(tile2), N(tile3), N(tile4), N(tile5), N(tile6)};
#else
  static const Tile wide_of[] = {N(wide_tile1)}, of_height[] = {N(tile1), N(tile2)};
#endif
  const idx most = m->wide ? TALL / 2 : TALL, tiles = (rows + most - 1) / most;
  const idx pairs = REGISTERS >= 32 && rows == 1 && !m->wide ? m->n / (8 * L) : 0;
  const idx parts = pairs + (m->n - pairs * 8 * L + 4 * L - 1) / (4 * L);
  const real* bias = m->bias;
  for (idx j = 0; j < parts; j++) {
    const idx part = in_turn(m, j, parts);
    const idx o = (part + (part < pairs ? part : pairs)) * 4 * L, first = g * m->stride + o;
    const N(Panel) p = {.w = N(panel)(m, g, o),
                        .bias = bias ? bias + first : NULL,
                        .k = m->k,
                        .depth = N(depth)(m),
                        .first = first,
                        .n = m->n - o};
    if (part < pairs) {
      if (watch && stopped(watch, 4.0 * L * m->k)) return;
      N(tile_of)(0, 1, 8, &p, x, y);
      continue;
    }
#if defined TILES
    if (rows >= ENOUGH_ROWS) {
      if (watch && stopped(watch, 0.25 * rows * L * m->k)) return;
      N(multiply_tiles)(m->wide, N(vectors)(o, m->n), &p, rows, x, y);
      continue;
    }
#endif
    for (idx i = 0; i < tiles && !(watch && stopped(watch, 2.0 * TALL * L * m->k)); i++) {
      const idx from = rows * i / tiles, tall = rows * (i + 1) / tiles - from;
      const Tile tile = m->wide ? wide_of[tall - 1] : of_height[tall - 1];
      tile(N(vectors)(o, m->n), &p, x + from, y + from);
    }
  }
}

// See Products in native.h.
static void N(multiply)(const Packed* m, idx rows, const void** x, void* const* y, void* operands,
                        Watch* watch) {
  if (2.0 * rows * m->n * m->k < LOOK_AFTER) watch = NULL;
  N(take_rows)(m, rows, x, operands);
  for (idx j = 0; j < m->groups; j++)
    N(multiply_group)(m, in_turn(m, j, m->groups), rows, x, y, watch);
}

const Products N(products) = {
    .panels_size = N(panels_size),
    .pack_part = N(pack_part),
    .operands_size = N(operands_size),
    .multiply = N(multiply),
};

#undef HIGH_BYTES
#undef LOW_BYTES
#undef ROW_BYTES
