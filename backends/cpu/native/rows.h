// The products in the loops over time: rows of inputs or states times packed weights.
//
// Each output is one chain: its initial value, then sum = fma(w_k, x_k, sum) for k = 0, 1, …  The
// lanes of a vector are different outputs, never parts of one sum.  So no result depends on how the
// rows of a batch are grouped into tiles, on the number of threads, or on how a long sequence is
// divided into several calls.

#undef NOINLINE
#define NOINLINE __attribute__((noinline))

// The largest number of rows of a tile.  It keeps TALL × 4 sums in registers; 4 vectors of weights
// and one value of x occupy most of the other registers.
#undef TALL
#if REGISTERS >= 32
#define TALL 6
#else
#define TALL 3
#endif

// The time to move a real from a distant cache, expressed as a number of operations for `worth`.
#undef MOVE_COST
#define MOVE_COST 16.0

// About how many weights that are not packed are multiplied without looking whether to stop.
#undef UNPACKED
#define UNPACKED (1 << 20)

// Loads min(n, L) lanes from p, for n ≥ 1.  Memory behind them is not read; the other lanes are 0.
static INLINE vec N(get)(const real* p, idx n) {
  return n >= L ? N(load)(p) : N(load_part)(p, (int)n);
}

// Stores min(n, L) lanes of v to p, for n ≥ 1.  Memory behind them is not changed.
static INLINE void N(put)(real* p, vec v, idx n) {
  if (n >= L)
    N(store)(p, v);
  else
    N(store_part)(p, v, (int)n);
}

// The weights w of products w x.  The outputs are `groups` groups of n, which begin `stride`
// outputs apart, both in w and in the result.
//
// A panel holds the weights of 4·L outputs of a group as [k][outputs], the order in which a tile
// reads them.  The last panel of a group has only as many vectors as it needs; lanes without an
// output are 0.
typedef struct {
  const real* w;  // an output has the k weights of one row of w, or of one column if `columns`
  idx ld;         // the distance between rows of w
  int columns;
  idx groups, stride, n, k;
  real* panels;      // [panels_size], or null: the products read w itself
  const real* bias;  // the initial values of the sums; if null, these are in the result array
} N(Packed);

static INLINE idx N(panels_size)(const N(Packed) * m) {
  return m->groups * ((m->n + L - 1) / L * L) * m->k;
}

// The number of vectors of the panel that begins with output o.
static INLINE int N(vectors)(idx o, idx n) {
  return n - o >= 4 * L ? 4 : (int)((n - o + L - 1) / L);
}

// The address of the panel of group g that begins with output o.
static INLINE real* N(panel)(const N(Packed) * m, idx g, idx o) {
  return m->panels + (g * ((m->n + L - 1) / L * L) + o) * m->k;
}

static void N(pack_rows)(const N(Packed) * m, idx g, idx o) {
  const int nv = N(vectors)(o, m->n);
  for (int v = 0; v < nv; v++) {
    const idx first = o + v * L, rest = m->n - first;
    N(pack_lanes)(m->w + (g * m->stride + first) * m->ld, m->ld, rest < L ? (int)rest : L, m->k,
                  N(panel)(m, g, o) + v * L, nv * L);
  }
}

static void N(pack_columns)(const N(Packed) * m, idx g, idx o) {
  const int nv = N(vectors)(o, m->n);
  real* to = N(panel)(m, g, o);
  for (idx i = 0; i < m->k; i++)
    for (int v = 0; v < nv; v++, to += L)
      N(store)(to, N(get)(m->w + i * m->ld + g * m->stride + o + v * L, m->n - o - v * L));
}

// The i-th of n shares of the panels.
static void N(pack_part)(const N(Packed) * m, int i, int n, Watch* w) {
  const idx o0 = share_start(m->n, 4 * L, i, n), o1 = share_start(m->n, 4 * L, i + 1, n);
  for (idx g = 0; g < m->groups; g++)
    for (idx o = o0; o < o1 && !stopped(w, MOVE_COST * 4 * L * m->k); o += 4 * L)
      (m->columns ? N(pack_columns) : N(pack_rows))(m, g, o);
}

typedef struct {
  const N(Packed) * m;
  Team* team;
} N(PackJob);

static void N(pack_share)(void* data, int i, int n) {
  const N(PackJob)* job = data;
  Watch w = watch_of(job->team, i);
  N(pack_part)(job->m, i, n, &w);
}

// Packs all panels, with several threads if there is enough to do.
static void N(pack)(const N(Packed) * m, Team* team) {
  if (!m->panels) return;
  const double cost = MOVE_COST * m->groups * m->n * m->k;
  parallel(team, worth(team, cost), N(pack_share), &(N(PackJob)){m, team});
}

// A panel: its weights and initial values, and the first of its outputs and their number.
typedef struct {
  const real *w, *bias;
  idx k, first, n;
} N(Panel);

// Computes one tile: `tall` rows times the nv vectors of a panel.
static INLINE void N(tile_of)(const int tall, const int nv, const N(Panel) * p,
                              const real* const* x, real* const* y) {
  vec sum[TALL * 4];
  const real *row[TALL], *w_k = p->w;
  UNROLL for (int r = 0; r < tall; r++) {
    row[r] = x[r];
    const real* start = p->bias ? p->bias : y[r] + p->first;
    UNROLL for (int v = 0; v < nv; v++) sum[r * nv + v] = N(get)(start + v * L, p->n - v * L);
  }
  for (idx i = 0; i < p->k; i++, w_k += nv * L) {
    vec w[4];
    UNROLL for (int v = 0; v < nv; v++) w[v] = N(load)(w_k + v * L);
    UNROLL for (int r = 0; r < tall; r++) {
      const vec a = N(set1)(row[r][i]);
      UNROLL for (int v = 0; v < nv; v++) sum[r * nv + v] = N(fma)(w[v], a, sum[r * nv + v]);
    }
  }
  UNROLL for (int r = 0; r < tall; r++) {
    real* to = y[r] + p->first;
    UNROLL for (int v = 0; v < nv; v++) N(put)(to + v * L, sum[r * nv + v], p->n - v * L);
  }
}

#define TILE(tall)                                                                              \
  static void N(tile##tall)(int nv, const N(Panel) * p, const real* const* x, real* const* y) { \
    if (nv == 4) N(tile_of)(tall, 4, p, x, y);                                                  \
    if (nv == 3) N(tile_of)(tall, 3, p, x, y);                                                  \
    if (nv == 2) N(tile_of)(tall, 2, p, x, y);                                                  \
    if (nv == 1) N(tile_of)(tall, 1, p, x, y);                                                  \
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

// Continues the chains of at most L outputs by `deep` ≤ L terms.  w [rows, deep] has rows k apart.
static NOINLINE vec N(corner)(idx rows, idx deep, idx k, const real* w, const real* x, vec sum) {
  vec square[L];
  for (int l = 0; l < L; l++) square[l] = N(get)(w + (l < rows ? l : rows - 1) * k, deep);
  N(transpose)(square);
  for (int l = 0; l < deep; l++) sum = N(fma)(square[l], N(set1)(x[l]), sum);
  return sum;
}

// The same for L outputs and L terms.
static INLINE vec N(square)(idx k, const real* w, const real* x, vec sum) {
  vec square[L];
  N(load_columns)(w, k, square);
  UNROLL for (int l = 0; l < L; l++) sum = N(fma)(square[l], N(set1)(x[l]), sum);
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
// number of rows: 20 rows are 5 + 5 + 5 + 5, not 6 + 6 + 6 + 2.
static void N(multiply_group)(const N(Packed) * m, idx g, idx rows, const real* const* x,
                              real* const* y, Watch* watch) {
  static void (*const of_height[])(int, const N(Panel)*, const real* const*, real* const*) = {
      N(tile1), N(tile2), N(tile3),
#if TALL == 6
      N(tile4), N(tile5), N(tile6),
#endif
  };
  const idx tiles = (rows + TALL - 1) / TALL;
  for (idx o = 0; o < m->n; o += 4 * L) {
    const idx first = g * m->stride + o;
    const N(Panel) p = {N(panel)(m, g, o), m->bias ? m->bias + first : NULL, m->k, first, m->n - o};
    for (idx i = 0; i < tiles && !(watch && stopped(watch, 8.0 * TALL * L * m->k)); i++) {
      const idx from = rows * i / tiles, tall = rows * (i + 1) / tiles - from;
      of_height[tall - 1](N(vectors)(o, m->n), &p, x + from, y + from);
    }
  }
}

// The same for all groups, with packed weights or without.  If the call is stopped in the middle of
// a large product, the rest of y stays as it is.
static void N(multiply)(const N(Packed) * m, idx rows, const real* const* x, real* const* y,
                        Watch* watch) {
  // The operations of small products are counted with their time step (see slice.h).
  if (2.0 * rows * m->n * m->k < LOOK_AFTER) watch = NULL;
  for (idx g = 0; g < m->groups; g++) {
    if (m->panels) {
      N(multiply_group)(m, g, rows, x, y, watch);
      continue;
    }
    const idx wide = UNPACKED / (2 * L * (m->k + 1)) * 2 * L + 2 * L;
    for (idx i = 0; i < rows; i++)
      for (idx o = 0; o < m->n && !(watch && stopped(watch, 2.0 * wide * m->k)); o += wide) {
        const idx first = g * m->stride + o;
        N(multiply_unpacked)(m->n - o < wide ? m->n - o : wide, m->k, m->w + first * m->ld,
                             (m->bias ? m->bias : y[i]) + first, x[i], y[i] + first);
      }
  }
}
