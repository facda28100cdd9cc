"""Weights and gradients in the conventions of other libraries, and files of weights."""

from xrnn.convert.arrays import from_arrays
from xrnn.convert.coreml import load_coreml
from xrnn.convert.keras import load_keras
from xrnn.convert.keras_writing import to_keras
from xrnn.convert.onnx_read import load_onnx
from xrnn.convert.onnx_write import to_onnx
from xrnn.convert.tflite import load_tflite
from xrnn.convert.torch import from_torch, to_torch
from xrnn.convert.torch_loading import load_torch

__all__ = [
    "from_arrays",
    "from_torch",
    "load_coreml",
    "load_keras",
    "load_onnx",
    "load_tflite",
    "load_torch",
    "to_keras",
    "to_onnx",
    "to_torch",
]
