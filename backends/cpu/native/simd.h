// Vector operations for one instruction set and one real type.  This file is included once for each
// such pair (see set.h), with these macros:
//   real, real_bits, BITS   float, uint32_t, 32 or double, uint64_t, 64
//   VECTOR_BYTES, L         the size of a vector: 64, 32 or 16 bytes, and the same in reals
//   N(name)                 the identifier `name` with a suffix for this pair
//   MM(op)                  the intrinsic for an operation, if AVX512 or AVX2 is defined

// It defines:
// vec                 a vector of L reals, with the operators + - * /
// load, store         a whole vector; the address need not be aligned
// load_part           the first n lanes; the other lanes are 0, and memory for them is not read
// store_part          the first n lanes; memory for the others is not changed
// get, put            the same for the first min(n, L) lanes, n ≥ 1
// in_register(a)      a, which the compiler does not read from memory again for each operation
// set1, zero          a vector of L equal values, of zeros
// fma(a, b, c)        a·b + c, rounded once if the processor has such an instruction
// vmax(a, b), vmin    the larger and the smaller value; b if one of them is NaN
// positive(x, a, b)   a in the lanes where x > 0, else b
// load_columns(p, ld, v), transpose(v)   see below
#define vec N(vec)
typedef real vec __attribute__((vector_size(VECTOR_BYTES)));
typedef real_bits N(bits) __attribute__((vector_size(VECTOR_BYTES)));
typedef real N(vec_any)
    __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(real)), may_alias));

static INLINE vec N(load)(const real* p) { return *(const N(vec_any)*)p; }

static INLINE void N(store)(real* p, vec a) { *(N(vec_any)*)p = a; }

// a - 0 equals a for every a, also for -0 and NaN, so the compiler removes the subtraction.
static INLINE vec N(set1)(real a) { return a - (vec){0}; }

static INLINE vec N(in_register)(vec a) {
#if defined AVX512
  __asm__("" : "+v"(a));
#elif defined __x86_64__
  __asm__("" : "+x"(a));
#endif
  return a;
}

static INLINE vec N(zero)(void) { return (vec){0}; }

#if defined AVX512

static INLINE vec N(load_part)(const real* p, int n) { return MM(maskz_loadu)((1u << n) - 1, p); }
static INLINE void N(store_part)(real* p, vec a, int n) { MM(mask_storeu)(p, (1u << n) - 1, a); }
static INLINE vec N(fma)(vec a, vec b, vec c) { return MM(fmadd)(a, b, c); }
static INLINE vec N(vmax)(vec a, vec b) { return MM(max)(a, b); }
static INLINE vec N(vmin)(vec a, vec b) { return MM(min)(a, b); }
static INLINE vec N(positive)(vec x, vec a, vec b) {
  return MM(mask_blend)(MM_MASK(x, N(zero)(), _CMP_GT_OQ), b, a);
}

#else

static INLINE vec N(load_part)(const real* p, int n) {
  vec v = N(zero)();
  for (int l = 0; l < n; l++) v[l] = p[l];
  return v;
}

static INLINE void N(store_part)(real* p, vec a, int n) {
  for (int l = 0; l < n; l++) p[l] = a[l];
}

#if defined AVX2

static INLINE vec N(fma)(vec a, vec b, vec c) { return MM(fmadd)(a, b, c); }
static INLINE vec N(vmax)(vec a, vec b) { return MM(max)(a, b); }
static INLINE vec N(vmin)(vec a, vec b) { return MM(min)(a, b); }
static INLINE vec N(positive)(vec x, vec a, vec b) {
  return MM(blendv)(b, a, MM(cmp)(x, N(zero)(), _CMP_GT_OQ));
}

#else

static INLINE vec N(choose)(N(bits) mask, vec a, vec b) {
  return (vec)((mask & (N(bits))a) | (~mask & (N(bits))b));
}

static INLINE vec N(fma)(vec a, vec b, vec c) {
#if defined FAST_FMA
  vec v;
  UNROLL for (int l = 0; l < L; l++) v[l] = FAST_FMA(a[l], b[l], c[l]);
  return v;
#else
  return a * b + c;
#endif
}

static INLINE vec N(vmax)(vec a, vec b) { return N(choose)((N(bits))(a > b), a, b); }
static INLINE vec N(vmin)(vec a, vec b) { return N(choose)((N(bits))(a < b), a, b); }
static INLINE vec N(positive)(vec x, vec a, vec b) {
  return N(choose)((N(bits))(x > N(zero)()), a, b);
}

#endif
#endif

static INLINE vec N(get)(const real* p, idx n) {
  return n >= L ? N(load)(p) : N(load_part)(p, (int)n);
}

static INLINE void N(put)(real* p, vec v, idx n) {
  if (n >= L)
    N(store)(p, v);
  else
    N(store_part)(p, v, (int)n);
}

// Transposition of L × L values.
//
// A vector consists of parts of 16 bytes, PART reals each.  Values get into the right part when
// they are loaded; after that, two or four vectors are interleaved within the parts.  This needs
// half as many shuffle instructions as a transposition of whole vectors in registers.
#define PART (128 / BITS)
#if defined __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (N(bits)){__VA_ARGS__})
#endif
#if BITS == 32
#define LOW(i) i, L + i, i + 1, L + i + 1
#define HIGH(i) i + 2, L + i + 2, i + 3, L + i + 3
#define LOW_PAIR(i) i, i + 1, L + i, L + i + 1
#define HIGH_PAIR(i) i + 2, i + 3, L + i + 2, L + i + 3
#else
#define LOW(i) i, L + i
#define HIGH(i) i + 1, L + i + 1
#endif
#if defined AVX512
#define PARTS(f) f(0), f(PART), f(2 * PART), f(3 * PART)
#elif defined AVX2
#define PARTS(f) f(0), f(PART)
#else
#define PARTS(f) f(0)
#endif

// A vector whose parts are loaded from p, p + step, p + 2·step, …
static INLINE vec N(load_parts)(const real* p, idx step) {
#if defined AVX512
  __m512 v = _mm512_castps128_ps512(_mm_loadu_ps((const float*)p));
  v = _mm512_insertf32x4(v, _mm_loadu_ps((const float*)(p + step)), 1);
  v = _mm512_insertf32x4(v, _mm_loadu_ps((const float*)(p + 2 * step)), 2);
  return (vec)_mm512_insertf32x4(v, _mm_loadu_ps((const float*)(p + 3 * step)), 3);
#elif defined AVX2
  const __m256 v = _mm256_castps128_ps256(_mm_loadu_ps((const float*)p));
  return (vec)_mm256_insertf128_ps(v, _mm_loadu_ps((const float*)(p + step)), 1);
#else
  (void)step;
  return N(load)(p);
#endif
}

// Loads L rows of L reals, and returns the columns as vectors: v[j][i] = p[i·ld + j].
static INLINE void N(load_columns)(const real* p, idx ld, vec v[L]) {
  UNROLL for (int j = 0; j < L; j += PART) {
    vec a[PART];
    UNROLL for (int i = 0; i < PART; i++) a[i] = N(load_parts)(p + i * ld + j, PART * ld);
#if BITS == 32
    const vec low = SHUFFLE(a[0], a[1], PARTS(LOW));
    const vec high = SHUFFLE(a[0], a[1], PARTS(HIGH));
    const vec low2 = SHUFFLE(a[2], a[3], PARTS(LOW));
    const vec high2 = SHUFFLE(a[2], a[3], PARTS(HIGH));
    v[j] = SHUFFLE(low, low2, PARTS(LOW_PAIR));
    v[j + 1] = SHUFFLE(low, low2, PARTS(HIGH_PAIR));
    v[j + 2] = SHUFFLE(high, high2, PARTS(LOW_PAIR));
    v[j + 3] = SHUFFLE(high, high2, PARTS(HIGH_PAIR));
#else
    v[j] = SHUFFLE(a[0], a[1], PARTS(LOW));
    v[j + 1] = SHUFFLE(a[0], a[1], PARTS(HIGH));
#endif
  }
}

// Exchanges v[i][j] and v[j][i].
static INLINE void N(transpose)(vec v[L]) {
  real square[L * L];
  for (int i = 0; i < L; i++) N(store)(square + i * L, v[i]);
  N(load_columns)(square, L, v);
}

#undef PART
#undef SHUFFLE
#undef PARTS
#undef LOW
#undef HIGH
#undef LOW_PAIR
#undef HIGH_PAIR
