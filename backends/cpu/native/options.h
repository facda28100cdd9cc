// The elementwise functions of the cells with options: activation functions and limits.
//
// Cells with options keep their pre-activations, and the backward pass computes the values again
// from them.  So each function may be of any kind: its derivative need not follow from its value.

// An activation function.  The kinds are defined in xrnn/cells/activations.py.
typedef struct {
  int kind;
  vec alpha, beta;
} N(Function);

// Options of native.h, for vectors.
typedef struct {
  N(Function) gate, candidate, output;
  vec clip, cell_clip;
} N(Choices);

static INLINE N(Choices) N(choices)(const Pass* p) {
  const Options* o = &p->options;
  N(Choices) c = {.clip = N(set1)((real)o->clip), .cell_clip = N(set1)((real)o->cell_clip)};
  N(Function)* const all[MAX_FUNCTIONS] = {&c.gate, &c.candidate, &c.output};
  for (int k = 0; k < MAX_FUNCTIONS; k++) {
    all[k]->kind = o->functions[k].kind;
    all[k]->alpha = N(set1)((real)o->functions[k].alpha);
    all[k]->beta = N(set1)((real)o->functions[k].beta);
  }
  return c;
}

static INLINE vec N(vabs)(vec x) { return (vec)((N(bits))x & ~(N(bits))N(set1)((real)-0.0)); }

// e^x - 1 for x <= 0.
static INLINE vec N(expm1_below)(vec x) {
  vec scale;
  const vec p = N(vexp_parts)(N(vmax)(N(set1)(-40), x), 0, &scale);  // from -40 on it is -1
  return N(fma)(scale, p, scale - N(set1)(1));
}

// ln(1 + e^x) = max(x, 0) + ln(1 + e), where e = e^-|x| and ln(1 + e) = 2 artanh(e / (2 + e)).
static INLINE vec N(softplus)(vec x) {
  const vec e = N(vexp_below)(N(zero)() - N(vabs)(x));
  const vec s = e / (N(set1)(2) + e), square = s * s;
  vec sum = N(zero)();
  for (int k = BITS == 32 ? 8 : 17; k >= 0; k--)
    sum = N(fma)(sum, square, N(set1)((real)2 / (2 * k + 1)));
  return N(fma)(sum, s, N(vmax)(N(zero)(), x));
}

// The kinds that few cells have.
static NOINLINE vec N(activate_other)(const N(Function) * f, vec x) {
  const vec below = N(vmin)(N(zero)(), x);  // NaN of NaN
  switch (f->kind) {
    case AFFINE:
      return N(fma)(f->alpha, x, f->beta);
    case LEAKY_RELU:
      return N(positive)(x, x, f->alpha * x);
    case THRESHOLDED_RELU:
      return N(positive)(x - f->alpha, x, N(vmax)(N(zero)(), below));
    case SCALED_TANH:
      return f->alpha * N(vtanh)(f->beta * x);
    case ELU:
      return N(positive)(x, x, f->alpha * N(expm1_below)(below));
    case SOFTSIGN:
      return x / (N(set1)(1) + N(vabs)(x));
    default:
      return N(softplus)(x);
  }
}

static INLINE vec N(activate)(const N(Function) * f, vec x) {
  switch (f->kind) {
    case SIGMOID:
      return N(vsigmoid)(x);
    case TANH:
      return N(vtanh)(x);
    case RELU:
      return N(vmax)(N(zero)(), x);
    case HARD_SIGMOID:
      return N(vmin)(N(set1)(1), N(vmax)(N(zero)(), N(fma)(f->alpha, x, f->beta)));
    default:
      return N(activate_other)(f, x);
  }
}

static NOINLINE vec N(slope_of_other)(const N(Function) * f, vec x, vec y) {
  const vec one = N(set1)(1);
  switch (f->kind) {
    case AFFINE:
      return f->alpha;
    case LEAKY_RELU:
      return N(positive)(x, one, f->alpha);
    case THRESHOLDED_RELU:
      return N(positive)(x - f->alpha, one, N(zero)());
    case SCALED_TANH:
      return f->alpha * f->beta * N(tanh_slope)(N(vtanh)(f->beta * x));
    case ELU:
      return N(positive)(x, one, y + f->alpha);
    case SOFTSIGN: {
      const vec more = one + N(vabs)(x);
      return one / more / more;
    }
    default:
      return N(vsigmoid)(x);
  }
}

// The derivative at x, where y is the value.
static INLINE vec N(slope)(const N(Function) * f, vec x, vec y) {
  switch (f->kind) {
    case SIGMOID:
      return N(sigmoid_slope)(y);
    case TANH:
      return N(tanh_slope)(y);
    case RELU:
      return N(positive)(y, N(set1)(1), N(zero)());
    case HARD_SIGMOID:
      return N(positive)(N(sigmoid_slope)(y), f->alpha, N(zero)());  // 0 < y < 1
    default:
      return N(slope_of_other)(f, x, y);
  }
}

static INLINE vec N(limited)(vec x, vec limit) {
  return N(vmin)(limit, N(vmax)(N(zero)() - limit, x));
}

// The gradient of x from that of its limited value: 0 where the limit was reached, NaN of NaN.
static INLINE vec N(limited_backward)(vec x, vec limit, vec d) {
  return N(positive)(limit - N(vabs)(x), d, d * N(zero)());
}

// A gate and its derivative, from its pre-activation.
static INLINE vec N(gate)(const N(Function) * f, vec clip, vec a) {
  return N(activate)(f, N(limited)(a, clip));
}

static INLINE vec N(gate_slope)(const N(Function) * f, vec clip, vec a, vec y) {
  return N(limited_backward)(a, clip, N(slope)(f, N(limited)(a, clip), y));
}
