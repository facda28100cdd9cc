// The products in the loops over time: rows of inputs or states times packed weights.
//
// Each output is one chain: its initial value, then sum = fma(w_k, x_k, sum) for k = 0, 1, …  (w
// and x are rounded first where PRODUCT says so.)  The
// lanes of a vector are different outputs, never parts of one sum.  So no result depends on how the
// rows of a batch are grouped into tiles, on the number of threads, or on how a long sequence is
// divided into several calls.

#undef NOINLINE
#define NOINLINE __attribute__((noinline))

// The largest number of rows of a tile.  It keeps TALL × 4 sums in registers; 4 vectors of weights
// and one value of x occupy most of the other registers.  Halves of weights are not read as
// operands from memory, so that they need theirs.
#undef TALL
#if REGISTERS >= 32
#define TALL 6
#elif PARTS == 1
#define TALL 3
#else
#define TALL 2
#endif

// The time to move a real from a distant cache, expressed as a number of operations for `worth`.
#undef MOVE_COST
#define MOVE_COST 16.0

// About how many weights that are not packed are multiplied without looking whether to stop.
#undef UNPACKED
#define UNPACKED (1 << 20)

// The lanes for the k weights of an output.
static INLINE idx N(depth)(const Packed* m) { return (m->k + PRODUCT - 1) / PRODUCT; }

static size_t N(panels_size)(const Packed* m) {
  return sizeof(real) * (size_t)(m->groups * m->apart * N(depth)(m));
}

// The number of vectors of the panel that begins with output o.
static INLINE int N(vectors)(idx o, idx n) {
  return n - o >= 4 * L ? 4 : (int)((n - o + L - 1) / L);
}

// The address of the panel of group g that begins with output o.
static INLINE real* N(panel)(const Packed* m, idx g, idx o) {
  return (real*)m->panels + (g * m->apart + o) * N(depth)(m);
}

static void N(pack_panel)(const Packed* m, idx g, idx o) {
  const int nv = N(vectors)(o, m->n);
  const idx first = g * m->stride + o;
  real* panel = N(panel)(m, g, o);
  if (m->columns) N(pack_down)((const real*)m->w + first, m->ld, m->n - o, m->k, nv, panel);
  for (int v = 0; !m->columns && v < nv; v++) {
    const idx rest = m->n - o - v * L;
    N(pack_lanes)((const real*)m->w + (first + v * L) * m->ld, m->ld, rest < L ? (int)rest : L,
                  m->k, panel + v * L, nv * L);
  }
}

// The i-th of n shares of the panels.
static void N(pack_part)(const Packed* m, int i, int n, Watch* w) {
  const idx o0 = share_start(m->n, 4 * L, i, n), o1 = share_start(m->n, 4 * L, i + 1, n);
  for (idx g = 0; g < m->groups; g++)
    for (idx o = o0; o < o1 && !stopped(w, MOVE_COST * 4 * L * m->k); o += 4 * L)
      N(pack_panel)(m, g, o);
}

// A panel: its weights and initial values, the first of its outputs and their number; and a quarter
// of the next panel, which a tile of more than TALL / 2 rows prefetches, a vector at a time.
typedef struct {
  const real *w, *bias;
  idx depth, first, n;
  const real* prefetched;
} N(Panel);

// Computes one tile: `tall` rows times nv vectors of weights, those of a panel, or all 8 of a panel
// and the next one.
static INLINE void N(tile_of)(const int tall, const int nv, const N(Panel) * p,
                              const void* const* x, void* const* y) {
  const int wide = nv < 4 ? nv : 4;
  const idx next = p->depth * 4 * L;
  // With 2 or 3 rows, compilers would otherwise read each weight from memory once for each row.
  const int fits = tall > 1 && (tall + 1) * nv < REGISTERS;
  vec sum[TALL * 4 > 8 ? TALL * 4 : 8];
  const real *row[TALL], *w_k = p->w;
  UNROLL for (int r = 0; r < tall; r++) {
    row[r] = x[r];
    const real* start = p->bias ? p->bias : (const real*)y[r] + p->first;
    UNROLL for (int v = 0; v < nv; v++) sum[r * nv + v] = N(get)(start + v * L, p->n - v * L);
  }
  for (idx i = 0; i < p->depth; i++, w_k += wide * L) {
    // To the second cache, while there is enough to compute; few rows are bound by the memory.
    if (tall > TALL / 2) __builtin_prefetch(p->prefetched + i * L, 0, 2);
    UNROLL for (int q = 0; q < PARTS; q++) {
      vec w[8];
      UNROLL for (int v = 0; v < nv; v++) {
        w[v] = N(part)(N(load)(w_k + (v < 4 ? v * L : next + (v - 4) * L)), q);
        if (fits) w[v] = N(in_register)(w[v]);
      }
      UNROLL for (int r = 0; r < tall; r++) {
        const vec a = N(set1)(row[r][i * PARTS + q]);
        UNROLL for (int v = 0; v < nv; v++) sum[r * nv + v] = N(add)(w[v], a, sum[r * nv + v]);
      }
    }
  }
  UNROLL for (int r = 0; r < tall; r++) {
    real* to = (real*)y[r] + p->first;
    UNROLL for (int v = 0; v < nv; v++) N(put)(to + v * L, sum[r * nv + v], p->n - v * L);
  }
}

#define TILE(tall)                                                                              \
  static void N(tile##tall)(int nv, const N(Panel) * p, const void* const* x, void* const* y) { \
    if (nv == 4) N(tile_of)(tall, 4, p, x, y);                                                  \
    if (nv == 3) N(tile_of)(tall, 3, p, x, y);                                                  \
    if (nv == 2) N(tile_of)(tall, 2, p, x, y);                                                  \
    if (nv == 1) N(tile_of)(tall, 1, p, x, y);                                                  \
  }
TILE(1)
TILE(2)
#if TALL >= 3
TILE(3)
#endif
#if TALL == 6
TILE(4)
TILE(5)
TILE(6)
#endif
#undef TILE

// Continues the chains of at most L outputs by `deep` ≤ L terms.  w [rows, deep] has rows k apart.
static NOINLINE vec N(corner)(idx rows, idx deep, idx k, const real* w, const real* x, vec sum) {
  vec square[L];
  for (int l = 0; l < L; l++) square[l] = N(get)(w + (l < rows ? l : rows - 1) * k, deep);
  N(transpose)(square);
  for (int l = 0; l < deep; l++) sum = N(fma)(N(operand)(square[l]), N(set1)(x[l]), sum);
  return sum;
}

// The same for L outputs and L terms.
static INLINE vec N(square)(idx k, const real* w, const real* x, vec sum) {
  vec square[L];
  N(load_columns)(w, k, square);
  UNROLL for (int l = 0; l < L; l++) sum = N(fma)(N(operand)(square[l]), N(set1)(x[l]), sum);
  return sum;
}

// y [n] = start + w x for one row x, with weights w [n, k] that are not packed.  Blocks of L × L
// weights are transposed in registers and used at once, two of them side by side.  With four, the
// processor would have to prefetch from more rows of w than it can.
static NOINLINE void N(multiply_unpacked)(idx n, idx k, const real* w, const real* start,
                                          const real* x, real* y) {
  const idx whole = k / L * L;
  idx o = 0;
  for (; o + 2 * L <= n; o += 2 * L) {
    const real* from = w + o * k;
    vec sum[2];
    UNROLL for (int v = 0; v < 2; v++) sum[v] = N(load)(start + o + v * L);
    for (idx i = 0; i < whole; i += L)
      // If this were unrolled, the compiler would keep the addresses of 32 rows instead of 16.
      _Pragma("GCC unroll 1") for (int v = 0; v < 2; v++) sum[v] =
          N(square)(k, from + v * L * k + i, x + i, sum[v]);
    UNROLL for (int v = 0; v < 2; v++) {
      if (whole < k)
        sum[v] = N(corner)(L, k - whole, k, from + v * L * k + whole, x + whole, sum[v]);
      N(store)(y + o + v * L, sum[v]);
    }
  }
  for (; o < n; o += L) {
    const idx rows = n - o < L ? n - o : L;
    vec sum = N(get)(start + o, rows);
    for (idx i = 0; i < k; i += L)
      sum = N(corner)(rows, k - i < L ? k - i : L, k, w + o * k + i, x + i, sum);
    N(put)(y + o, sum, rows);
  }
}

// y[i] = start + w x[i] for i < rows, for one group of the outputs.  No x may overlap a y.
//
// A panel stays in a cache while all rows are multiplied by it.  All tiles have about the same
// number of rows: 20 rows are 5 + 5 + 5 + 5, not 6 + 6 + 6 + 2.  A single row is multiplied by two
// panels at once if the operation takes long: 8 sums hide its latency, 4 do not.
static void N(multiply_group)(const Packed* m, idx g, idx rows, const void* const* x,
                              void* const* y, Watch* watch) {
  static void (*const of_height[])(int, const N(Panel)*, const void* const*, void* const*) = {
      N(tile1), N(tile2),
#if TALL >= 3
      N(tile3),
#endif
#if TALL == 6
      N(tile4), N(tile5), N(tile6),
#endif
  };
  const idx tiles = (rows + TALL - 1) / TALL;
  const idx pairs = PRODUCT == 2 && rows == 1 ? m->n / (8 * L) : 0;
  const idx parts = pairs + (m->n - pairs * 8 * L + 4 * L - 1) / (4 * L);
  const real* bias = m->bias;
  for (idx j = 0; j < parts; j++) {
    const idx part = in_turn(m, j, parts);
    const idx o = (part + (part < pairs ? part : pairs)) * 4 * L, first = g * m->stride + o;
    N(Panel)
    p = {.w = N(panel)(m, g, o),
         .bias = bias ? bias + first : NULL,
         .depth = N(depth)(m),
         .first = first,
         .n = m->n - o};
    // How far the next panel is, and its vectors, of which a tile prefetches one per k.
    const idx distance = (m->backwards ? -4 : 4) * L * p.depth;
    const int fetched = j == parts - 1 ? 0 : m->backwards ? 4 : N(vectors)(o + 4 * L, m->n);
    if (part < pairs) {
      if (watch && stopped(watch, 16.0 * L * m->k)) return;
      N(tile_of)(1, 8, &p, x, y);
      continue;
    }
    for (idx i = 0; i < tiles && !(watch && stopped(watch, 8.0 * TALL * L * m->k)); i++) {
      const idx from = rows * i / tiles, tall = rows * (i + 1) / tiles - from;
      p.prefetched = p.w + (i < fetched ? distance + i * p.depth * L : 0);
      of_height[tall - 1](N(vectors)(o, m->n), &p, x + from, y + from);
    }
  }
}

// The same without packed weights.
static void N(multiply_stored)(const Packed* m, idx g, idx rows, const void* const* x,
                               void* const* y, Watch* watch) {
  const idx wide = UNPACKED / (2 * L * (m->k + 1)) * 2 * L + 2 * L;
  for (idx i = 0; i < rows; i++)
    for (idx o = 0; o < m->n && !(watch && stopped(watch, 2.0 * wide * m->k)); o += wide) {
      const idx first = g * m->stride + o;
      const real* start = m->bias ? m->bias : y[i];
      N(multiply_unpacked)(m->n - o < wide ? m->n - o : wide, m->k,
                           (const real*)m->w + first * m->ld, start + first, x[i],
                           (real*)y[i] + first);
    }
}

#if PRODUCT == 1

static size_t N(operands_size)(idx k, idx rows) { return (void)k, (void)rows, (size_t)0; }

#else

// Rows of whole vectors for numbers that are not halves of a pair, which is the most they take.
static size_t N(operands_size)(idx k, idx rows) {
  return sizeof(real) * (size_t)((k + L - 1) / L * L * rows + L);
}

// Rounds the rows x, and puts in their place what the products take.
static void N(take_rows)(const Packed* m, idx rows, const void** x, real* to) {
  const idx k = m->k, width = m->panels ? N(row_width)(k) : (k + L - 1) / L * L;
  for (idx r = 0; r < rows; r++, to += width) {
    const real* from = x[r];
    if (m->panels)
      N(take_row)(from, k, to);
    else
      for (idx i = 0; i < k; i += L) N(store)(to + i, N(operand)(N(get)(from + i, k - i)));
    x[r] = to;
  }
}

#endif

// See Products in native.h.  If the call is stopped in the middle of a large product, the rest of y
// stays as it is.
static void N(multiply)(const Packed* m, idx rows, const void** x, void* const* y, void* operands,
                        Watch* watch) {
  // The operations of small products are counted with their time step (see slice.h).
  if (2.0 * rows * m->n * m->k < LOOK_AFTER) watch = NULL;
#if PRODUCT > 1
  N(take_rows)(m, rows, x, operands);
#else
  (void)operands;
#endif
  for (idx j = 0; j < m->groups; j++)
    (m->panels ? N(multiply_group) : N(multiply_stored))(m, in_turn(m, j, m->groups), rows, x, y,
                                                         watch);
}

// The table of these functions, which other files know if it is of rounded products.
#if PRODUCT == 1
static
#endif
    const Products N(products) = {
        .panels_size = N(panels_size),
        .pack_part = N(pack_part),
        .operands_size = N(operands_size),
        .multiply = N(multiply),
        .gemm = N(gemm),
};
