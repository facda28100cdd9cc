"""Recurrent networks with explicit forward and backward passes, on NumPy and CuPy arrays."""

from xrnn import analysis, cells, convert
from xrnn._version import __version__
from xrnn.certify import certify
from xrnn.convert.files import load, save
from xrnn.engine.unroll import unroll, unroll_backward
from xrnn.layers import states
from xrnn.layers.attention import Attention
from xrnn.layers.attention_pooling import AttentionPooling
from xrnn.layers.dropout import Dropout
from xrnn.layers.embedding import Embedding
from xrnn.layers.gru import GRU
from xrnn.layers.input_gated import InputGatedLSTM
from xrnn.layers.layer import Layer
from xrnn.layers.layer_norm import LayerNorm
from xrnn.layers.linear import Linear
from xrnn.layers.lstm import LSTM
from xrnn.layers.merge import Merge
from xrnn.layers.pooling import Last, Max, Mean
from xrnn.layers.residual import Residual
from xrnn.layers.rnn import RNN
from xrnn.layers.seq2seq import Seq2Seq
from xrnn.layers.sequential import Sequential
from xrnn.layers.tied_linear import TiedLinear
from xrnn.learn import losses, online, optim, parallel
from xrnn.learn.gradient_check import check_gradients
from xrnn.learn.padding import pad
from xrnn.learn.second_order import gnvp, hvp, jvp
from xrnn.learn.truncated import truncated
from xrnn.training.fit import fit
from xrnn.training.predict import predict

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Attention",
    "AttentionPooling",
    "Dropout",
    "Embedding",
    "InputGatedLSTM",
    "Last",
    "Layer",
    "LayerNorm",
    "Linear",
    "Max",
    "Mean",
    "Merge",
    "Residual",
    "Seq2Seq",
    "Sequential",
    "TiedLinear",
    "__version__",
    "analysis",
    "cells",
    "certify",
    "check_gradients",
    "convert",
    "fit",
    "gnvp",
    "hvp",
    "jvp",
    "load",
    "losses",
    "online",
    "optim",
    "pad",
    "parallel",
    "predict",
    "save",
    "states",
    "truncated",
    "unroll",
    "unroll_backward",
]


def __dir__() -> list[str]:
    return __all__
