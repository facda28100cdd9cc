"""Losses: each function returns the loss and its gradient.

All have the same conventions:

- **Positions that count.**  `mask`, booleans of the shape of the positions, and `lengths`, the
  number of steps of each sequence, say which positions count: those where both do.  What stands
  at the others is not read; it may be NaN, and its gradient is exactly 0.
- **Reduction.**  "mean" is the mean over what counts, and 0 where nothing does (PyTorch gives NaN
  there); "sum" is the sum.  "none" gives every loss by itself, exactly 0 where a position does not
  count, and the gradient of their sum: that of each loss with respect to its own inputs.
- **Half precision.**  Losses of float16 and bfloat16 are computed in float32 and are float32.
  Gradients have the dtype of what they are the gradients of.
- **No warnings.**  Nothing here signals a floating-point warning: values too small for the dtype
  become 0, and what has diverged gives the values that are documented.
"""

from xrnn.learn.losses.ctc import ctc
from xrnn.learn.losses.elementwise import binary_cross_entropy, huber, quantile, squared_error
from xrnn.learn.losses.softmax import softmax_cross_entropy, softmax_jacobian

__all__ = [
    "binary_cross_entropy",
    "ctc",
    "huber",
    "quantile",
    "softmax_cross_entropy",
    "softmax_jacobian",
    "squared_error",
]
