// What the kernels of cells with options share: activation functions of any kind, and limits.
//
// Kernels with options keep the sums of the gates, and backward computes the values again from
// them.  So the derivative of a function need not follow from its value.
#pragma once
#include "steps.cuh"

// The kinds of xrnn/cells/activations.py, but for those that are another one with fixed parameters
// (xrnn.backends.cuda.options).
enum Kind {
  SIGMOID,
  SCALED_TANH,
  THRESHOLDED_RELU,
  HARD_SIGMOID,
  AFFINE,
  LEAKY_RELU,
  ELU,
  SOFTSIGN,
  SOFTPLUS
};

template <class A>
struct Function {
  int kind;
  A alpha, beta;
};

// σ, φ and ψ of the equations, and ±limits: of the sums of the gates, and of c.  Infinite: none.
template <class A>
struct Options {
  Function<A> gate, candidate, output;
  A clip, cell_clip;
};

// The same as the last parameters of a kernel: the kinds in four bits each, then the numbers.  They
// come by value, and all threads take the same branches.
#define OPTIONS(A)                                                                        \
  int kinds, A alpha_0, A beta_0, A alpha_1, A beta_1, A alpha_2, A beta_2, A clip_value, \
      A cell_clip_value
#define OPTIONS_OF(A)                  \
  {{kinds & 15, alpha_0, beta_0},      \
   {kinds >> 4 & 15, alpha_1, beta_1}, \
   {kinds >> 8, alpha_2, beta_2},      \
   clip_value,                         \
   cell_clip_value}

#define EACH UNROLL for (int j = 0; j < V; j++)

// x limited to ±limit; a NaN stays a NaN.
template <class A>
__device__ __forceinline__ A limited(A x, A limit) {
  return x < -limit ? -limit : x > limit ? limit : x;
}

// d, the gradient of limited(x), as that of x: 0 where the limit was reached.
template <class A>
__device__ __forceinline__ A limited_backward(A x, A limit, A d) {
  return x <= -limit || x >= limit ? d * A(0) : d;
}

template <class A>
__device__ __forceinline__ A hard_sigmoid(const Function<A>& f, A x) {
  const A y = f.alpha * x + f.beta;
  return y < A(0) ? A(0) : y > A(1) ? A(1) : y;
}

// ln(1 + e^x)
template <class A>
__device__ __forceinline__ A softplus(A x) {
  const A below = x < A(0) ? x : -x;
  return (x < A(0) ? A(0) : x) + static_cast<A>(log1p(exp(below)));
}

// y = f(x)
template <class A, int V>
__device__ __forceinline__ void activate(const Function<A>& f, const A (&x)[V], A (&y)[V]) {
  switch (f.kind) {
    case SIGMOID:
      EACH y[j] = sigmoid(x[j]);
      break;
    case SCALED_TANH:
      EACH y[j] = f.alpha * tanh_of(f.beta * x[j]);
      break;
    case THRESHOLDED_RELU:
      EACH y[j] = x[j] <= f.alpha ? A(0) : x[j];
      break;
    case HARD_SIGMOID:
      EACH y[j] = hard_sigmoid(f, x[j]);
      break;
    case AFFINE:
      EACH y[j] = f.alpha * x[j] + f.beta;
      break;
    case LEAKY_RELU:
      EACH y[j] = x[j] <= A(0) ? f.alpha * x[j] : x[j];
      break;
    case ELU:
      EACH y[j] = x[j] <= A(0) ? f.alpha * static_cast<A>(expm1(x[j])) : x[j];
      break;
    case SOFTSIGN:
      EACH y[j] = x[j] / (A(1) + (x[j] < A(0) ? -x[j] : x[j]));
      break;
    default:
      EACH y[j] = softplus(x[j]);
  }
}

// y = f(x), and its derivative; at a kink as xrnn/cells/activations.py has it.
template <class A, int V>
__device__ __forceinline__ void differentiate(const Function<A>& f, const A (&x)[V], A (&y)[V],
                                              A (&slope)[V]) {
  switch (f.kind) {
    case SIGMOID:
      EACH y[j] = sigmoid(x[j]), slope[j] = sigmoid_slope(y[j]);
      break;
    case SCALED_TANH:
      EACH {
        const A tanh_x = tanh_of(f.beta * x[j]);
        y[j] = f.alpha * tanh_x, slope[j] = f.alpha * f.beta * tanh_slope(tanh_x);
      }
      break;
    case THRESHOLDED_RELU:
      EACH {
        const bool below = x[j] <= f.alpha;
        y[j] = below ? A(0) : x[j], slope[j] = below ? A(0) : A(1);
      }
      break;
    case HARD_SIGMOID:
      EACH {
        y[j] = hard_sigmoid(f, x[j]);
        slope[j] = y[j] > A(0) && y[j] < A(1) ? f.alpha : A(0);
      }
      break;
    case AFFINE:
      EACH y[j] = f.alpha * x[j] + f.beta, slope[j] = f.alpha;
      break;
    case LEAKY_RELU:
      EACH {
        slope[j] = x[j] <= A(0) ? f.alpha : A(1);
        y[j] = slope[j] * x[j];
      }
      break;
    case ELU:
      EACH {
        const bool below = x[j] <= A(0);
        y[j] = below ? f.alpha * static_cast<A>(expm1(x[j])) : x[j];
        slope[j] = below ? y[j] + f.alpha : A(1);
      }
      break;
    case SOFTSIGN:
      EACH {
        const A more = A(1) + (x[j] < A(0) ? -x[j] : x[j]);
        y[j] = x[j] / more, slope[j] = A(1) / more / more;
      }
      break;
    default:
      EACH y[j] = softplus(x[j]), slope[j] = sigmoid(x[j]);
  }
}

// The values of a gate from its sums a.
template <class A, int V>
__device__ __forceinline__ void gate(const Function<A>& f, A clip, const A (&a)[V], A (&y)[V]) {
  A x[V];
  EACH x[j] = limited(a[j], clip);
  activate(f, x, y);
}

// The same, and the derivatives by a.
template <class A, int V>
__device__ __forceinline__ void gate(const Function<A>& f, A clip, const A (&a)[V], A (&y)[V],
                                     A (&slope)[V]) {
  A x[V];
  EACH x[j] = limited(a[j], clip);
  differentiate(f, x, y, slope);
  EACH slope[j] = limited_backward(a[j], clip, slope[j]);
}
