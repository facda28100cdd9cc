"""Weights and gradients in the conventions of other libraries, and files of weights."""

from xrnn.convert.arrays import from_arrays
from xrnn.convert.coreml import load_coreml

__all__ = [
    "from_arrays",
    "load_coreml",
]
