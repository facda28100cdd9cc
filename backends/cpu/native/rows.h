// The products of the loops: rows of states times packed weights.
//
// Every output is one chain: what it starts with, then fma(w_k, x_k, sum) for k = 0, 1, …  The
// lanes of a vector are outputs, never parts of a sum.  So no result depends on how the rows
// of a batch are put into tiles, on threads, or on where a sequence is cut.

#undef NOINLINE
#define NOINLINE __attribute__((noinline))

// A tile keeps TALL × 4 sums in registers; 4 vectors of weights and one x take most of the rest.
#undef TALL
#if REGISTERS >= 32
#define TALL 6
#else
#define TALL 3
#endif

// What moving a real from a far cache takes, in the flops that `worth` counts.
#undef MOVE_COST
#define MOVE_COST 8.0

// The first n lanes of p; what stands from n ≥ 1 on is not read and 0.
static INLINE vec N(get)(const real* p, idx n) {
  return n >= L ? N(load)(p) : N(load_part)(p, (int)n);
}

// The first n lanes of v to p; what stands from n ≥ 1 on is left alone.
static INLINE void N(put)(real* p, vec v, idx n) {
  if (n >= L)
    N(store)(p, v);
  else
    N(store_part)(p, v, (int)n);
}

// Weights w (n, k) in panels, for products w x.
//
// A panel holds 4·L outputs, the last one as few vectors as it needs: [k][outputs], so that
// a tile reads it from front to back.  Lanes without an output are 0.
typedef struct {
  idx n, k;
  real* panels;      // [panels_size]
  const real* bias;  // [n] what every sum starts with, or null: what stands where it goes
} N(Packed);

static INLINE idx N(panels_size)(idx n, idx k) { return (n + L - 1) / L * L * k; }

// The vectors of the panel that begins with output o.
static INLINE int N(vectors)(idx o, idx n) {
  return n - o >= 4 * L ? 4 : (int)((n - o + L - 1) / L);
}

// The panels of outputs o0 … o1-1, of w [n, k] with rows of ld.
static void N(pack_rows)(const N(Packed) * m, const real* w, idx ld, idx o0, idx o1) {
  for (idx o = o0; o < o1; o += 4 * L) {
    const int nv = N(vectors)(o, m->n);
    for (int v = 0; v < nv; v++) {
      const idx first = o + v * L, rest = m->n - first;
      N(pack_lanes)(w + first * ld, ld, rest < L ? (int)rest : L, m->k,
                    m->panels + o * m->k + v * L, nv * L);
    }
  }
}

// The same of the transpose, w [k, n] with rows of ld.
static void N(pack_columns)(const N(Packed) * m, const real* w, idx ld, idx o0, idx o1) {
  for (idx o = o0; o < o1; o += 4 * L) {
    const int nv = N(vectors)(o, m->n);
    real* to = m->panels + o * m->k;
    for (idx i = 0; i < m->k; i++)
      for (int v = 0; v < nv; v++, to += L)
        N(store)(to, N(get)(w + i * ld + o + v * L, m->n - o - v * L));
  }
}

typedef struct {
  const N(Packed) * m;
  const real* w;
  idx ld;
  int columns;  // pack_columns, else pack_rows
} N(Packing);

static void N(pack_share)(void* data, int i, int n) {
  const N(Packing)* job = data;
  const idx o0 = share_start(job->m->n, 4 * L, i, n), o1 = share_start(job->m->n, 4 * L, i + 1, n);
  (job->columns ? N(pack_columns) : N(pack_rows))(job->m, job->w, job->ld, o0, o1);
}

// All of it, by several threads where that is worth it.
static void N(pack)(const N(Packed) * m, const real* w, idx ld, int columns, int threads) {
  N(Packing) job = {m, w, ld, columns};
  parallel(worth(threads, MOVE_COST * m->n * m->k), N(pack_share), &job);
}

// One tile: `tall` rows, the nv vectors of the panel that begins with output o.
static INLINE void N(tile_of)(const int tall, const int nv, const N(Packed) * m, idx o,
                              const real* const* x, real* const* y) {
  vec sum[TALL * 4];
  const real *row[TALL], *panel = m->panels + o * m->k;
  const idx rest = m->n - o;
  UNROLL for (int r = 0; r < tall; r++) {
    row[r] = x[r];
    const real* start = (m->bias ? m->bias : y[r]) + o;
    UNROLL for (int v = 0; v < nv; v++) sum[r * nv + v] = N(get)(start + v * L, rest - v * L);
  }
  for (idx i = 0; i < m->k; i++, panel += nv * L) {
    vec w[4];
    UNROLL for (int v = 0; v < nv; v++) w[v] = N(load)(panel + v * L);
    UNROLL for (int r = 0; r < tall; r++) {
      const vec a = N(set1)(row[r][i]);
      UNROLL for (int v = 0; v < nv; v++) sum[r * nv + v] = N(fma)(w[v], a, sum[r * nv + v]);
    }
  }
  UNROLL for (int r = 0; r < tall; r++) {
    UNROLL for (int v = 0; v < nv; v++) N(put)(y[r] + o + v * L, sum[r * nv + v], rest - v * L);
  }
}

#define TILE(tall)                                                                    \
  static void N(tile##tall)(int nv, const N(Packed) * m, idx o, const real* const* x, \
                            real* const* y) {                                         \
    if (nv == 4) N(tile_of)(tall, 4, m, o, x, y);                                     \
    if (nv == 3) N(tile_of)(tall, 3, m, o, x, y);                                     \
    if (nv == 2) N(tile_of)(tall, 2, m, o, x, y);                                     \
    if (nv == 1) N(tile_of)(tall, 1, m, o, x, y);                                     \
  }
TILE(1)
TILE(2)
TILE(3)
#if TALL == 6
TILE(4)
TILE(5)
TILE(6)
#endif
#undef TILE

// y[i] [n] = start + w x[i] for i < rows.  No x overlaps a y.
//
// A panel stays in a near cache while all rows pass it.  The tiles are equally tall: 20 rows are
// 5 + 5 + 5 + 5, not 6 + 6 + 6 + 2.
static void N(multiply)(const N(Packed) * m, idx rows, const real* const* x, real* const* y) {
  static void (*const of_height[])(int, const N(Packed)*, idx, const real* const*, real* const*) = {
      N(tile1), N(tile2), N(tile3),
#if TALL == 6
      N(tile4), N(tile5), N(tile6),
#endif
  };
  const idx tiles = (rows + TALL - 1) / TALL;
  for (idx o = 0; o < m->n; o += 4 * L) {
    const int nv = N(vectors)(o, m->n);
    for (idx i = 0; i < tiles; i++) {
      const idx from = rows * i / tiles, tall = rows * (i + 1) / tiles - from;
      of_height[tall - 1](nv, m, o, x + from, y + from);
    }
  }
}

// The chains of at most L outputs on, by `deep` ≤ L of their weights: w [rows, deep], rows of k.
static NOINLINE vec N(corner)(idx rows, idx deep, idx k, const real* w, const real* x, vec sum) {
  vec square[L];
  for (int l = 0; l < L; l++) square[l] = N(get)(w + (l < rows ? l : rows - 1) * k, deep);
  N(transpose)(square);
  for (int l = 0; l < deep; l++) sum = N(fma)(square[l], N(set1)(x[l]), sum);
  return sum;
}

// The same by squares of L × L.
static INLINE vec N(square)(idx k, const real* w, const real* x, vec sum) {
  vec square[L];
  N(load_columns)(w, k, square);
  UNROLL for (int l = 0; l < L; l++) sum = N(fma)(square[l], N(set1)(x[l]), sum);
  return sum;
}

// y [n] = start + w x for one row x and weights as they lie, w [n, k]: squares of them are
// transposed in registers and used at once, for 4 chains side by side.
static NOINLINE void N(multiply_unpacked)(idx n, idx k, const real* w, const real* start,
                                          const real* x, real* y) {
  const idx whole = k / L * L;
  idx o = 0;
  for (; o + 4 * L <= n; o += 4 * L) {
    const real* from = w + o * k;
    vec sum[4];
    UNROLL for (int v = 0; v < 4; v++) sum[v] = N(load)(start + o + v * L);
    for (idx i = 0; i < whole; i += L)
      // Unrolled, it would keep 64 addresses of rows instead of 16.
      _Pragma("GCC unroll 1") for (int v = 0; v < 4; v++) sum[v] =
          N(square)(k, from + v * L * k + i, x + i, sum[v]);
    UNROLL for (int v = 0; v < 4; v++) {
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
