// Numbers stored in 16 bits, float16 and bfloat16, which are computed with as float.
#if BITS == 32
typedef uint16_t N(halves) __attribute__((vector_size(VECTOR_BYTES / 2), aligned(2), may_alias));
typedef int32_t N(ints) __attribute__((vector_size(VECTOR_BYTES)));

// a in the lanes where the mask is set, else b.
static INLINE N(bits) N(where)(N(ints) mask, N(bits) a, N(bits) b) {
  return ((N(bits))mask & a) | (~(N(bits))mask & b);
}

// The nearest number that can be stored, of two equally near ones that whose last bit is 0.
static INLINE vec N(rounded)(int storage, vec x) {
  const N(bits) sign = (N(bits))x & 0x80000000u, a = (N(bits))x & 0x7fffffffu;
  const int drop = storage == FLOAT16 ? 13 : 16;
  N(bits) r = (a + ((1u << (drop - 1)) - 1) + ((a >> drop) & 1)) & ~((1u << drop) - 1);
  if (storage == FLOAT16) {
    // From 2^-14 down the numbers are multiples of 2^-24, the distance of floats from 0.5 to 1.
    const vec small = ((vec)a + N(set1)(0.5f)) - N(set1)(0.5f);
    r = N(where)((N(ints))a < 0x38800000, (N(bits))small, r);
    r = N(where)((N(ints))a >= 0x477ff000, (N(bits))N(zero)() + 0x7f800000u, r);  // from 65520 on
  }
  r = N(where)((N(ints))a > 0x7f800000, (N(bits))N(zero)() + 0x7fc00000u, r);  // NaN
  return (vec)(r | sign);
}

static INLINE vec N(widened)(int storage, N(halves) h) {
  const N(bits) all = __builtin_convertvector(h, N(bits));
  if (storage == BFLOAT16) return (vec)(all << 16);
  const N(bits) a = all & 0x7fffu;
  const vec small = __builtin_convertvector((N(ints))a, vec) * N(set1)(0x1p-24f);
  N(bits) r = (a << 13) + (112u << 23);
  r += (N(bits))((N(ints))a >= 0x7c00) & (112u << 23);  // infinite, or NaN
  r = N(where)((N(ints))a < 0x400, (N(bits))small, r);
  return (vec)(r | ((all & 0x8000u) << 16));
}

static INLINE N(halves) N(narrowed)(int storage, vec x) {
  const N(bits) r = (N(bits))N(rounded)(storage, x), a = r & 0x7fffffffu;
  if (storage == BFLOAT16) return __builtin_convertvector(r >> 16, N(halves));
  const N(ints) small = __builtin_convertvector((vec)a * N(set1)(0x1p24f), N(ints));
  N(bits) h = (a - (112u << 23)) >> 13;
  h = N(where)((N(ints))a >= 0x7f800000, 0x7c00u + ((a & 0x400000u) >> 13), h);
  h = N(where)((N(ints))a < 0x38800000, (N(bits))small, h);
  return __builtin_convertvector(h | (r >> 16 & 0x8000u), N(halves));
}

// n numbers as floats.
static void N(widen)(int storage, const void* from, void* to, idx n) {
  const uint16_t* x = from;
  float* y = to;
  for (idx i = 0; i < n; i += L) {
    uint16_t part[L] = {0};
    const int whole = n - i >= L;
    if (!whole) memcpy(part, x + i, (n - i) * sizeof *x);
    N(put)(y + i, N(widened)(storage, *(const N(halves)*)(whole ? x + i : part)), n - i);
  }
}

// n floats as numbers that are stored, rounded to the nearest.
static void N(narrow)(int storage, const void* from, void* to, idx n) {
  const float* x = from;
  uint16_t* y = to;
  for (idx i = 0; i < n; i += L) {
    const N(halves) h = N(narrowed)(storage, N(get)(x + i, n - i));
    if (n - i >= L)
      *(N(halves)*)(y + i) = h;
    else
      memcpy(y + i, &h, (n - i) * sizeof *y);
  }
}
#endif

// Rounds the outputs of time step t, which are also the state h of the next step.
static INLINE void N(round_outputs)(N(Slice) * s, idx t) {
#if BITS == 32
  for (idx i = 0; i < s->n; i++) {
    real* h = N(h_at)(s->p, t, s->b[i]);
    if (s->p->storage == FLOAT16)
      EACH_UNIT(s->out) N(put)(h + u, N(rounded)(FLOAT16, N(get)(h + u, n)), n);
    else
      EACH_UNIT(s->out) N(put)(h + u, N(rounded)(BFLOAT16, N(get)(h + u, n)), n);
  }
#else
  (void)s, (void)t;
#endif
}
