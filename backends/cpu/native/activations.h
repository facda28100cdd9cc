// The activation functions tanh and σ on vectors.
//
// The error is at most 2 units in the last place for float and 2.2 for double, for every argument;
// a denormal result is 0 (see denormals.h).  NaN gives NaN.  Both functions are computed from
// e^x - 1 for x <= 0, which cannot overflow.

#if BITS == 32
#define LOG2_E 1.44269504088896f
#define LN2_HIGH 0.693359375f  // has 10 bits, so that its product with n is exact
#define LN2_LOW -2.12194440e-4f
#define SHIFTER \
  12582912.0f  // 1.5 · 2^23: the last bits of x + SHIFTER are the integer nearest to x
#define MANTISSA 23
#define BIAS 127
#define TANH_IS_1 20.0f      // from this x on, tanh x is rounded to 1
#define SIGMOID_IS_0 104.5f  // from this x on, σ(-x) is rounded to 0
// The coefficients of a polynomial for (e^r - 1 - r - r²/2) / r³, where |r| <= ln 2 / 2.  The
// relative error of e^r - 1 that results is at most 1.4e-8.
static const real N(tail)[] = {0.166665485222044061f, 0.0416668545049591914f,
                               0.0083660667472439948f, 0.00138982318865565116f};
#else
#define LOG2_E 1.44269504088896341
#define LN2_HIGH 6.93147180369123816490e-01  // 33 bits
#define LN2_LOW 1.90821492927058770002e-10
#define SHIFTER 6755399441055744.0  // 1.5 · 2^52
#define MANTISSA 52
#define BIAS 1023
#define TANH_IS_1 20.0
#define SIGMOID_IS_0 745.5
// The same, with a relative error of at most 2.5e-17.
static const real N(tail)[] = {
    0.166666666666666016,   0.0416666666666198493,   0.00833333333338857333,
    0.00138888889205758966, 0.000198412697089989693, 0.0000248015162474432909,
    2.75574252690481137e-6, 2.76222732056742137e-7,  2.50458884739499864e-8};
#endif
#define TERMS (int)(sizeof N(tail) / sizeof *N(tail))

// Splits e^x = 2^n (1 + p), where |p| < 0.42.  Returns p, and in `scale` 2^(n + offset).  x must be
// at most 0, and so large that 2^(n + offset) is a normal number.
static INLINE vec N(vexp_parts)(vec x, int offset, vec* scale) {
  const vec shifted = N(fma)(x, N(set1)(LOG2_E), N(set1)(SHIFTER));  // n is in the last bits
  const vec n = shifted - N(set1)(SHIFTER);
  const vec r = N(fma)(n, N(set1)(-LN2_LOW), N(fma)(n, N(set1)(-LN2_HIGH), x));
  vec q = N(set1)(N(tail)[TERMS - 1]);
  UNROLL for (int i = TERMS - 2; i >= 0; i--) q = N(fma)(q, r, N(set1)(N(tail)[i]));
  q = N(fma)(q, r, N(set1)(0.5));
  const N(bits) one = (N(bits))N(set1)(0) + ((real_bits)(BIAS + offset) << MANTISSA);
  *scale = (vec)(((N(bits))shifted << MANTISSA) + one);
  return N(fma)(r * r, q, r);
}

// tanh x = ± (1 - e^-2|x|) / (1 + e^-2|x|).  The numerator is computed from e^-2|x| - 1 directly,
// so that no digits cancel near 0.
static INLINE vec N(vtanh)(vec x) {
  const N(bits) sign = (N(bits))N(set1)((real)-0.0);
  const vec minus = (vec)((N(bits))x | sign);  // -|x|
  const vec y = N(vmax)(N(set1)(-TANH_IS_1), minus);
  vec scale;
  const vec p = N(vexp_parts)(y + y, 0, &scale);
  const vec less = N(fma)(scale, p, scale - N(set1)(1));  // e^-2|x| - 1
  const vec more = N(fma)(scale, p, scale + N(set1)(1));
  const vec size = less / -more;
  return (vec)(((N(bits))size & ~sign) | ((N(bits))x & sign));
}

// e^x for x <= 0.  It is multiplied by 2^64 until the last operation, so that no operation before
// it has a denormal result.
static INLINE vec N(vexp_below)(vec x) {
  vec scale;
  const vec p = N(vexp_parts)(N(vmax)(N(set1)(-SIGMOID_IS_0), x), 64, &scale);
  return N(fma)(scale, p, scale) * N(set1)((real)0x1p-64);
}

// σ(x) = 1 / (1 + e^-|x|) for x > 0, else e^-|x| / (1 + e^-|x|).
//
// The rounding error `lost` of sum = 1 + e^-|x| is corrected at the end:
// y / (sum + lost) ≈ y / sum · (1 - lost).
static INLINE vec N(vsigmoid)(vec x) {
  const N(bits) sign = (N(bits))N(set1)((real)-0.0);
  const vec e = N(vexp_below)((vec)((N(bits))x | sign));
  const vec sum = N(set1)(1) + e;
  const vec lost = e - (sum - N(set1)(1));
  const vec y = N(positive)(x, N(set1)(1), e) / sum;
  return N(fma)(y, -lost, y);
}

static void N(map_tanh)(const void* x, void* y, idx n) {
  const real* in = x;
  real* out = y;
  idx i = 0;
  for (; i + L <= n; i += L) N(store)(out + i, N(vtanh)(N(load)(in + i)));
  if (i < n) N(store_part)(out + i, N(vtanh)(N(load_part)(in + i, (int)(n - i))), (int)(n - i));
}

static void N(map_sigmoid)(const void* x, void* y, idx n) {
  const real* in = x;
  real* out = y;
  idx i = 0;
  for (; i + L <= n; i += L) N(store)(out + i, N(vsigmoid)(N(load)(in + i)));
  if (i < n) N(store_part)(out + i, N(vsigmoid)(N(load_part)(in + i, (int)(n - i))), (int)(n - i));
}

#undef LOG2_E
#undef LN2_HIGH
#undef LN2_LOW
#undef SHIFTER
#undef MANTISSA
#undef BIAS
#undef TANH_IS_1
#undef SIGMOID_IS_0
#undef TERMS
