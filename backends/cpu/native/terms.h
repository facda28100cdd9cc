// The terms of a product: how packed weights and what they multiply are stored, and the operation
// that adds terms to a sum.
//
// A lane of packed weights holds PRODUCT terms of one output.
//
// PRODUCT 1: a real.  A term is one fma.
// PRODUCT 2: a pair of bfloat16, rounded to nearest even, the first of the pair in the high half.
// Both terms are added one after the other, each by an fma of float, whose product is exact.  The
// instruction vdpbf16ps (with DOT2) does just that: it adds the high halves first, rounds twice,
// and counts denormal numbers as 0.  So the sums have the bits of the float products of rounded
// numbers, on every processor.  Where k is odd, the last weight of a pair is -0 and what it
// multiplies is +0: the product -0 changes no sum, not even one that is -0.
//
// It defines:
// PARTS         the operations for a lane: 1, or 2 where the halves of a pair are multiplied apart
// lane(v)       PRODUCT vectors of weights, of terms k, k + 1, …, as one of lanes
// part(w, q)    of lanes w what the q-th operation takes
// add(w, x, sum)  the sum after the q-th operation, whose weights are part(w, q)
// filler()      the weights of a term that does not exist
// operand(v)    v as it is multiplied
// row_width(k)  the number of reals in which `take_row` stores a row of k numbers
// take_row      stores a row of numbers as what lanes multiply: PARTS reals for each lane
#define PARTS 1

#if PRODUCT == 1

static INLINE vec N(lane)(const vec* v) { return v[0]; }
static INLINE vec N(part)(vec w, int q) { return (void)q, w; }
static INLINE vec N(add)(vec w, vec x, vec sum) { return N(fma)(w, x, sum); }
static INLINE vec N(filler)(void) { return N(zero)(); }
static INLINE vec N(operand)(vec v) { return v; }

#else

// The bits of the nearest bfloat16, in the high half of each lane; the low half is 0.  A denormal
// number counts as 0, as in the rounding instructions.
static INLINE N(bits) N(nearest)(vec v) {
  const N(bits) u = (N(bits))v, size = u & 0x7fffffffu;
  const N(bits) quiet = (N(bits))(size > 0x7f800000u), tiny = (N(bits))(size < 0x00800000u);
  N(bits) r = u + 0x7fffu + (u >> 16 & 1u);
  r = (~quiet & r) | (quiet & (u | 0x00400000u));
  return ((~tiny & r) | (tiny & u & 0x80000000u)) & 0xffff0000u;
}

static INLINE vec N(operand)(vec v) { return (vec)N(nearest)(v); }

static INLINE vec N(filler)(void) { return N(set1)(-0.0f); }

#if defined DOT2

static INLINE vec N(lane)(const vec* v) {
  const __m512i order =
      _mm512_set_epi16(15, 31, 14, 30, 13, 29, 12, 28, 11, 27, 10, 26, 9, 25, 8, 24, 7, 23, 6, 22,
                       5, 21, 4, 20, 3, 19, 2, 18, 1, 17, 0, 16);
  const __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)v[1], (__m512)v[0]);
  return (vec)_mm512_permutexvar_epi16(order, both);
}

static INLINE vec N(part)(vec w, int q) { return (void)q, w; }

// Not by the intrinsic, around which GCC 12 copies the sum twice.
static INLINE vec N(add)(vec w, vec x, vec sum) {
  __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(x), "v"(w));
  return sum;
}

static INLINE idx N(row_width)(idx k) { return (k + 2 * L - 1) / (2 * L) * L; }

static INLINE void N(take_row)(const real* from, idx k, real* to) {
  for (idx i = 0; i < k; i += 2 * L) {
    const vec first = N(get)(from + i, k - i);
    const vec next = k - i > L ? N(get)(from + i + L, k - i - L) : N(zero)();
    const __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)next, (__m512)first);
    N(store)(to + i / 2, (vec)_mm512_rol_epi32(both, 16));
  }
}

#else

#undef PARTS
#define PARTS 2

static INLINE vec N(lane)(const vec* v) { return (vec)(N(nearest)(v[0]) | N(nearest)(v[1]) >> 16); }

static INLINE vec N(part)(vec w, int q) {
  return (vec)(q ? (N(bits))w << 16 : (N(bits))w & 0xffff0000u);
}

static INLINE vec N(add)(vec w, vec x, vec sum) { return N(fma)(w, x, sum); }

static INLINE idx N(row_width)(idx k) { return (k + L - 1) / L * L; }

static INLINE void N(take_row)(const real* from, idx k, real* to) {
  for (idx i = 0; i < k; i += L) N(store)(to + i, N(operand)(N(get)(from + i, k - i)));
}

#endif
#endif
