"""Weights and gradients in the conventions of other libraries, and files of weights."""

from xrnn.convert.torch import from_torch, to_torch

__all__ = ["from_torch", "to_torch"]
