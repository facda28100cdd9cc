// Matrix products: C (m, n) = A (m, k) B (k, n).
//
// Each element of C is one chain of fma operations over k = 0, 1, …, beginning with its initial
// value.  The lanes of a vector are different columns of C, never parts of one sum, and a block of
// rows of B continues the chain from the value in memory.  So no result depends on the sizes of
// blocks, on the number of threads, on the other rows of A, or on how A and B are stored.
//
// A block of B of GEMM_K rows and GEMM_N columns is packed, and stays in the level-2 cache.  A tile
// of GEMM_ROWS rows of A stays in the level-1 cache while it is multiplied by this block.  Both
// have the same size in bytes for each kind of products.

#define GEMM_NV 2  // the width of a tile in vectors; with 12 rows, this needs the fewest loads
#define GEMM_ROWS (REGISTERS >= 32 ? 12 : 6)
#define GEMM_WIDE (GEMM_NV * L)
#define GEMM_K (256 * PRODUCT / PARTS)  // a multiple of PRODUCT
#define GEMM_N (512 * 32 / BITS)
#define GEMM_M 96                  // how many rows of A are copied at once
#define GEMM_STRIDE (GEMM_K + 16)  // their distance; a power of two would cause cache conflicts

// The transpose of some columns, at most L, of n rows, at most L, which are ldw apart: v[i][lane] =
// W[lane][i].  The lanes from n on are set to 0.
static INLINE void N(turn)(const real* W, idx ldw, int n, int some, vec v[L]) {
  if (n == L && some == L) {
    N(load_columns)(W, ldw, v);
    return;
  }
  for (int l = 0; l < L; l++) v[l] = l < n ? N(load_part)(W + l * ldw, some) : N(zero)();
  N(transpose)(v);
}

// Packs the weights W (n, k) of n outputs, at most L, as lanes [k / PRODUCT][L], `stride` apart.
static INLINE void N(pack_lanes)(const real* W, idx ldw, int n, idx k, real* panel, idx stride) {
  vec v[L];
  for (idx i = 0; i < k; i += L) {
    const int some = k - i < L ? (int)(k - i) : L;
    N(turn)(W + i, ldw, n, some, v);
    real* to = panel + i / PRODUCT * stride;
    if (some == L) {
      UNROLL for (int l = 0; l < L / PRODUCT; l++)
          N(store)(to + l * stride, N(lane)(v + l * PRODUCT));
      continue;
    }
    if (some % PRODUCT) v[some] = N(filler)();
    for (int l = 0; l * PRODUCT < some; l++) N(store)(to + l * stride, N(lane)(v + l * PRODUCT));
  }
}

// Packs the weights W (k, n) of n outputs as lanes [k / PRODUCT][n], in nv whole vectors.
static INLINE void N(pack_down)(const real* W, idx ldw, idx n, idx k, int nv, real* panel) {
  for (idx i = 0; i < k; i += PRODUCT)
    for (int j = 0; j < nv; j++, panel += L) {
      vec v[PRODUCT];
      UNROLL for (int l = 0; l < PRODUCT; l++) {
        v[l] = i + l < k ? N(get)(W + (i + l) * ldw + j * L, n - j * L) : N(filler)();
      }
      N(store)(panel, N(lane)(v));
    }
}

// Packs B (k, n), or the transpose of B (n, k), into panels [n / GEMM_WIDE][k /
// PRODUCT][GEMM_WIDE], in the order in which a tile reads them.  The last panel has only as many
// vectors as its columns need; lanes without a column are 0.
static void N(gemm_pack)(const real* B, idx ldb, int transposed, idx k, idx n, real* panels) {
  const idx deep = (k + PRODUCT - 1) / PRODUCT;
  for (idx j = 0; j < n; j += GEMM_WIDE) {
    const idx wide = n - j < GEMM_WIDE ? (n - j + L - 1) / L * L : GEMM_WIDE;
    real* panel = panels + j * deep;
    if (!transposed) N(pack_down)(B + j, ldb, n - j, k, (int)(wide / L), panel);
    for (idx v = 0; transposed && v < wide; v += L)
      N(pack_lanes)(B + (j + v) * ldb, ldb, n - j - v < L ? (int)(n - j - v) : L, k, panel + v,
                    wide);
  }
}

// Copies m rows of k numbers of A, as what tiles multiply, to rows that are GEMM_STRIDE apart.
static void N(gemm_rows_of)(const real* A, idx lda, int transposed, idx m, idx k, real* rows) {
  vec v[L];
  for (idx q = 0; transposed && q < k; q += L)
    for (idx i = 0; i < m; i += L) {
      const int some = m - i < L ? (int)(m - i) : L;
      N(turn)(A + q * lda + i, lda, k - q < L ? (int)(k - q) : L, some, v);
      real* to = rows + i * GEMM_STRIDE + q;
      if (some == L)
        UNROLL for (int l = 0; l < L; l++) N(store)(to + l * GEMM_STRIDE, v[l]);
      else
        for (int l = 0; l < some; l++) N(store)(to + l * GEMM_STRIDE, v[l]);
    }
#if PRODUCT > 1
  for (idx i = 0; i < m; i++)
    N(take_row)(transposed ? rows + i * GEMM_STRIDE : A + i * lda, k, rows + i * GEMM_STRIDE);
#endif
}

// Adds Σ_i x[r][i] · panel[i][v] to acc[r·nv + v], for `deep` lanes.  If `rows` and nv are
// constants, the compiler keeps everything in registers: rows · nv sums, nv vectors of the panel
// and one value of x.
static INLINE void N(tile)(const int rows, const int nv, idx deep, const real* panel, const real* x,
                           idx ldx, vec* acc) {
  const int fits = rows > 1 && (rows + 1) * nv < REGISTERS;  // see tile_of in rows.h
  for (idx i = 0; i < deep; i++) {
    UNROLL for (int q = 0; q < PARTS; q++) {
      vec w[GEMM_NV];
      UNROLL for (int v = 0; v < nv; v++) {
        w[v] = N(part)(N(load)(panel + (i * nv + v) * L), q);
        if (fits) w[v] = N(in_register)(w[v]);
      }
      UNROLL for (int r = 0; r < rows; r++) {
        const vec a = N(set1)(x[r * ldx + i * PARTS + q]);
        UNROLL for (int v = 0; v < nv; v++) acc[r * nv + v] = N(add)(w[v], a, acc[r * nv + v]);
      }
    }
  }
}

// A tile of C with this number of columns; its last vector may be incomplete.
typedef struct {
  idx deep, ldx, ldfrom, ldc;
  const real *panel, *x;
  const real* from;  // the initial values: C, or the bias (with ldfrom 0), or null for 0
  real* C;
  int columns;
} N(Tile);

static INLINE void N(gemm_rows)(const int rows, const int nv, const N(Tile) * t) {
  vec acc[GEMM_ROWS * GEMM_NV];
  const int last = t->columns - (nv - 1) * L;  // lanes in the last vector
#define AT(pointer, ld) ((pointer) + i / nv * (ld) + i % nv * L)
#define EACH UNROLL for (int i = 0; i < rows * nv; i++)
  if (!t->from)
    EACH acc[i] = N(zero)();
  else if (last == L)
    EACH acc[i] = N(load)(AT(t->from, t->ldfrom));
  else
    EACH acc[i] = N(load_part)(AT(t->from, t->ldfrom), i % nv == nv - 1 ? last : L);
  N(tile)(rows, nv, t->deep, t->panel, t->x, t->ldx, acc);
  if (last == L)
    EACH N(store)(AT(t->C, t->ldc), acc[i]);
  else
    EACH N(store_part)(AT(t->C, t->ldc), acc[i], i % nv == nv - 1 ? last : L);
#undef AT
#undef EACH
}

static INLINE void N(gemm_high)(const int rows, const N(Tile) * t) {
  if (t->columns > L)
    N(gemm_rows)(rows, 2, t);
  else
    N(gemm_rows)(rows, 1, t);
}

// The same with a constant number of rows, for each number that a tile can have.
static void N(gemm_tile)(int rows, const N(Tile) * t) {
  switch (rows) {
    case 1:
      return N(gemm_high)(1, t);
    case 2:
      return N(gemm_high)(2, t);
    case 3:
      return N(gemm_high)(3, t);
    case 4:
      return N(gemm_high)(4, t);
    case 5:
      return N(gemm_high)(5, t);
    case 6:
      return N(gemm_high)(6, t);
#if REGISTERS >= 32
    case 7:
      return N(gemm_high)(7, t);
    case 8:
      return N(gemm_high)(8, t);
    case 9:
      return N(gemm_high)(9, t);
    case 10:
      return N(gemm_high)(10, t);
    case 11:
      return N(gemm_high)(11, t);
    case 12:
      return N(gemm_high)(12, t);
#endif
  }
}

// Adds k terms of the sums, from term l on, to the rows i0 to i1 (exclusive) and n columns of C
// from column j on.  `panels` are the packed block of B; `rows` is memory for rows of A.
static void N(gemm_block)(const Gemm* p, idx i0, idx i1, idx j, idx n, idx l, idx k,
                          const real* panels, real* rows, Watch* watch) {
  const real *A = p->A, *bias = p->bias;
  const idx deep = (k + PRODUCT - 1) / PRODUCT;
  for (idx i = i0; i < i1; i += GEMM_M) {
    const idx m = i1 - i < GEMM_M ? i1 - i : GEMM_M;
    if (stopped(watch, 2.0 * m * n * k)) return;
    const real* x = A + (p->a_transposed ? l * p->lda + i : i * p->lda + l);
    idx ldx = p->lda;
    if (p->a_transposed || PRODUCT > 1) {
      N(gemm_rows_of)(x, p->lda, p->a_transposed, m, k, rows);
      x = rows, ldx = GEMM_STRIDE;
    }
    // All tiles have about the same number of rows: 20 rows are 10 + 10, not 12 + 8.
    const idx tiles = (m + GEMM_ROWS - 1) / GEMM_ROWS;
    for (idx t = 0; t < tiles; t++) {
      const idx top = m * t / tiles, high = m * (t + 1) / tiles - top;
      for (idx v = 0; v < n; v += GEMM_WIDE) {
        real* C = (real*)p->C + (i + top) * p->ldc + j + v;
        const real* from = l || p->accumulate ? C : bias ? bias + j + v : NULL;
        const N(Tile) tile = {
            .deep = deep,
            .panel = panels + v * deep,
            .x = x + top * ldx,
            .ldx = ldx,
            .from = from,
            .ldfrom = from == C ? p->ldc : 0,
            .C = C,
            .ldc = p->ldc,
            .columns = n - v < GEMM_WIDE ? (int)(n - v) : GEMM_WIDE,
        };
        N(gemm_tile)((int)high, &tile);
      }
    }
  }
}

typedef struct {
  const Gemm* p;
  real* memory;
} N(GemmJob);

#define GEMM_PANELS ((size_t)GEMM_K / PRODUCT * GEMM_N)
#define GEMM_MEMORY (GEMM_PANELS + (size_t)GEMM_M * GEMM_STRIDE)

// Computes one of `threads` shares of C.  Its rows are divided, or its columns if there are more.
static void N(gemm_share)(void* data, int share, int threads) {
  const N(GemmJob)* job = data;
  const Gemm* p = job->p;
  const int tall = p->m >= p->n;
  const idx size = tall ? p->m : p->n, unit = tall ? GEMM_ROWS : GEMM_WIDE;
  const idx start = share_start(size, unit, share, threads);
  const idx end = share_start(size, unit, share + 1, threads);
  const idx i0 = tall ? start : 0, i1 = tall ? end : p->m;
  const idx j0 = tall ? 0 : start, j1 = tall ? p->n : end;
  Watch w = watch_of(p->team, share);
  real *panels = job->memory + share * GEMM_MEMORY, *rows = panels + GEMM_PANELS;
  for (idx j = j0; j < j1 && i0 < i1; j += GEMM_N) {
    const idx n = j1 - j < GEMM_N ? j1 - j : GEMM_N;
    // The loop runs once for k = 0 too, to write the initial values.
    for (idx l = 0; l == 0 || l < p->k; l += GEMM_K) {
      const idx k = p->k - l < GEMM_K ? p->k - l : GEMM_K;
      const real* B = (const real*)p->B + (p->b_transposed ? j * p->ldb + l : l * p->ldb + j);
      if (stopped(&w, 16.0 * n * k)) return;
      N(gemm_pack)(B, p->ldb, p->b_transposed, k, n, panels);
      N(gemm_block)(p, i0, i1, j, n, l, k, panels, rows, &w);
    }
  }
}

// See Products in native.h.
static int N(gemm)(const void* gemm) {
  const Gemm* p = gemm;
  if (p->m <= 0 || p->n <= 0) return 0;
  const int threads = worth(p->team, 2.0 * (double)p->m * (double)p->n * (double)p->k);
  N(GemmJob) job = {p, aligned_memory((size_t)threads * GEMM_MEMORY * sizeof(real))};
  if (!job.memory) return -1;
  parallel(p->team, threads, N(gemm_share), &job);
  free(job.memory);
  return 0;
}

#undef GEMM_NV
#undef GEMM_ROWS
#undef GEMM_WIDE
#undef GEMM_K
#undef GEMM_N
#undef GEMM_M
#undef GEMM_STRIDE
#undef GEMM_PANELS
#undef GEMM_MEMORY
