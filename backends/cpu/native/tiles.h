// The products with weights of 8 bits by the tiles of AMX.  This file is included by bytes.h.
//
// A tile register holds up to 16 rows of 64 bytes.  One instruction multiplies a tile of rows of x,
// 64 values each, by a tile of the weights of 16 outputs, whose rows are rows of a panel.  Its sums
// are exact integers too, so results are the same as with all other instructions.

// Fewer rows take less time by the instructions for vectors.
#define ENOUGH_ROWS 3

// Not by the intrinsics, as those of GCC 12 do not say that they read memory.  No compiler uses
// tile registers for anything else.
#define TILE_LOAD(tile, from, apart) \
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile : : "r"(from), "r"(apart) : "memory")
#define TILE_STORE(tile, to, apart) \
  __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" : : "r"(to), "r"(apart) : "memory")
#define TILE_ZERO(tile) __asm__ volatile("tilezero %tmm" #tile)
#define TILE_ADD(sum, x, w) __asm__ volatile("tdpbusd %tmm" #w ", %tmm" #x ", %tmm" #sum)

// The shapes of the tiles: 0 to 3 hold sums and 4 and 5 x, all of them so many rows; 6 and 7 hold
// weights.
static INLINE void N(set_tiles)(idx rows) {
  const uint8_t r = (uint8_t)rows;
  const struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
  } shapes = {.palette = 1,
              .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
              .rows = {r, r, r, r, r, r, TILE_ROWS, TILE_ROWS}};
  __asm__ volatile("ldtilecfg %0" : : "m"(shapes));
}

typedef int32_t N(TileSums)[TILE_ROWS][L];

// sums[0] and [1] of the rows x, and with `two` sums[2] and [3] of the rows x2, times nw ≤ 2
// vectors of weights.  The rows of x are `width` bytes apart, and those of w `apart`.
static INLINE void N(add_tiles)(const int two, const int nw, const char* x, const char* x2,
                                idx width, const char* w, idx apart, idx depth,
                                N(TileSums) * sums) {
  const idx vector = 4 * L;
  TILE_ZERO(0);
  TILE_ZERO(1);
  TILE_ZERO(2);
  TILE_ZERO(3);
  for (idx i = 0; i < depth; i += TILE_ROWS) {
    TILE_LOAD(4, x + 4 * i, width);
    TILE_LOAD(6, w + apart * i, apart);
    TILE_ADD(0, 4, 6);
    if (nw == 2) {
      TILE_LOAD(7, w + apart * i + vector, apart);
      TILE_ADD(1, 4, 7);
    }
    if (two) {
      TILE_LOAD(5, x2 + 4 * i, width);
      TILE_ADD(2, 5, 6);
      if (nw == 2) TILE_ADD(3, 5, 7);
    }
  }
  TILE_STORE(0, sums[0], vector);
  if (nw == 2) TILE_STORE(1, sums[1], vector);
  if (two) TILE_STORE(2, sums[2], vector);
  if (two && nw == 2) TILE_STORE(3, sums[3], vector);
}

// The outputs of a panel of nv vectors for all rows.  The second tile of x holds the low bytes of
// the same rows or, if these are not wide, the next rows.  All tiles have the same number of rows:
// the last one may include some after the end, whose sums are not used.
static INLINE void N(rows_by_tiles)(const int wide, const int nv, const N(Panel) * p, idx rows,
                                    const void* const* x, void* const* y) {
  N(TileSums) sums[4] __attribute__((aligned(64)));
  const idx tiles = (rows + TILE_ROWS - 1) / TILE_ROWS, tall = (rows + tiles - 1) / tiles;
  const idx width = ROW_BYTES(p->k), at_once = wide ? tall : 2 * tall;
  const int32_t *starts = p->w + p->depth * nv * L, *scales = starts + nv * L;
  N(set_tiles)(tall);
  for (idx first = 0; first < rows; first += at_once) {
    const char* high = (const char*)x[first] + HIGH_BYTES;
    const char* second = high + (wide ? LOW_BYTES(p->k) - HIGH_BYTES : tall * width);
    const int two = wide || first + tall < rows;
    const idx n = rows - first < at_once ? rows - first : at_once;
    UNROLL for (int v = 0; v < nv; v += 2) {
      const int nw = nv - v < 2 ? 1 : 2;
      const char* w = (const char*)(p->w + v * L);
      if (two)
        N(add_tiles)(1, nw, high, second, width, w, 4 * nv * L, p->depth, sums);
      else
        N(add_tiles)(0, nw, high, second, width, w, 4 * nv * L, p->depth, sums);
      for (idx r = 0; r < n; r++) {
        const idx after = r >= tall;
        UNROLL for (int u = 0; u < nw; u++) {
          const idx o = (v + u) * L;
          const N(ints) sum = N(load_ints)(sums[2 * after + u][r - after * tall]);
          const N(ints) low = wide ? N(load_ints)(sums[2 + u][r]) : (N(ints)){0};
          N(finish)(wide, p, o, sum + N(load_ints)(starts + o), low, scales + o, x[first + r],
                    y[first + r]);
        }
      }
    }
  }
  __asm__ volatile("tilerelease");
}

static NOINLINE void N(multiply_tiles)(int wide, int nv, const N(Panel) * p, idx rows,
                                       const void* const* x, void* const* y) {
  UNROLL for (int v = 1; v <= 4; v++) {
    if (nv == v && wide) N(rows_by_tiles)(1, v, p, rows, x, y);
    if (nv == v && !wide) N(rows_by_tiles)(0, v, p, rows, x, y);
  }
}
