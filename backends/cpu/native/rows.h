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
#define MOVE_COST 16.0

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

// Weights w for products w x: `groups` groups of n outputs, `stride` apart in w and in the result.
//
// A panel holds 4·L outputs of a group, the last one as few vectors as it needs: [k][outputs], so
// that a tile reads it from front to back.  Lanes without an output are 0.
typedef struct {
  const real* w;  // an output is a row of k, `ld` apart; or if `columns` a column
  idx ld;
  int columns;
  idx groups, stride, n, k;
  real* panels;      // [panels_size], or null: w as it lies is multiplied
  const real* bias;  // what every sum starts with, or null: what stands where it goes
} N(Packed);

static INLINE idx N(panels_size)(const N(Packed) * m) {
  return m->groups * ((m->n + L - 1) / L * L) * m->k;
}

// The vectors of the panel that begins with output o.
static INLINE int N(vectors)(idx o, idx n) {
  return n - o >= 4 * L ? 4 : (int)((n - o + L - 1) / L);
}

// Where the panel of group g that begins with output o is.
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

static void N(pack_share)(void* data, int i, int n) {
  const N(Packed)* m = data;
  const idx o0 = share_start(m->n, 4 * L, i, n), o1 = share_start(m->n, 4 * L, i + 1, n);
  for (idx g = 0; g < m->groups; g++)
    for (idx o = o0; o < o1; o += 4 * L) (m->columns ? N(pack_columns) : N(pack_rows))(m, g, o);
}

// All of it, by several threads where that is worth it.
static void N(pack)(N(Packed) * m, Team* team) {
  if (!m->panels) return;
  const double cost = MOVE_COST * m->groups * m->n * m->k;
  parallel(team, worth(team, cost), N(pack_share), m);
}

// A panel at work: where its weights are, and the first of its outputs and their number.
typedef struct {
  const real *w, *bias;
  idx k, first, n;
} N(Panel);

// One tile: `tall` rows, the nv vectors of a panel.
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

// The chains of at most L outputs on, by `deep` ≤ L of their weights: w [rows, deep], rows of k.
static NOINLINE vec N(corner)(idx rows, idx deep, idx k, const real* w, const real* x, vec sum) {
  vec square[L];
  for (int l = 0; l < L; l++) square[l] = N(get)(w + (l < rows ? l : rows - 1) * k, deep);
  N(transpose)(square);
  for (int l = 0; l < deep; l++) sum = N(fma)(square[l], N(set1)(x[l]), sum);
  return sum;
}

// The same by a square of L × L.
static INLINE vec N(square)(idx k, const real* w, const real* x, vec sum) {
  vec square[L];
  N(load_columns)(w, k, square);
  UNROLL for (int l = 0; l < L; l++) sum = N(fma)(square[l], N(set1)(x[l]), sum);
  return sum;
}

// y [n] = start + w x for one row x and weights as they lie, w [n, k]: squares of them are
// transposed in registers and used at once, for two chains side by side.  For four, more rows of
// w are read at a time than the processor can fetch ahead.
static NOINLINE void N(multiply_unpacked)(idx n, idx k, const real* w, const real* start,
                                          const real* x, real* y) {
  const idx whole = k / L * L;
  idx o = 0;
  for (; o + 2 * L <= n; o += 2 * L) {
    const real* from = w + o * k;
    vec sum[2];
    UNROLL for (int v = 0; v < 2; v++) sum[v] = N(load)(start + o + v * L);
    for (idx i = 0; i < whole; i += L)
      // Unrolled, it would keep 32 addresses of rows instead of 16.
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

// y[i] = start + w x[i] for i < rows.  No x overlaps a y.
//
// A panel stays in a near cache while all rows pass it.  The tiles are equally tall: 20 rows are
// 5 + 5 + 5 + 5, not 6 + 6 + 6 + 2.
static void N(multiply_group)(const N(Packed) * m, idx g, idx rows, const real* const* x,
                              real* const* y) {
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
    for (idx i = 0; i < tiles; i++) {
      const idx from = rows * i / tiles, tall = rows * (i + 1) / tiles - from;
      of_height[tall - 1](N(vectors)(o, m->n), &p, x + from, y + from);
    }
  }
}

static void N(multiply)(const N(Packed) * m, idx rows, const real* const* x, real* const* y) {
  for (idx g = 0; g < m->groups; g++) {
    if (m->panels) {
      N(multiply_group)(m, g, rows, x, y);
      continue;
    }
    const idx first = g * m->stride;
    for (idx i = 0; i < rows; i++)
      N(multiply_unpacked)(m->n, m->k, m->w + first * m->ld, (m->bias ? m->bias : y[i]) + first,
                           x[i], y[i] + first);
  }
}
