"""Recurrent networks with explicit forward and backward passes, on NumPy and CuPy arrays."""

from xrnn import cells, certify, convert, diagnose, losses, online, optim
from xrnn.files import load, save
from xrnn.gates import gates
from xrnn.layer import Layer
from xrnn.layers import GRU, LSTM, RNN, InputGatedLSTM
from xrnn.readout import Embedding, Linear
from xrnn.unroll import unroll, unroll_backward

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Embedding",
    "InputGatedLSTM",
    "Layer",
    "Linear",
    "cells",
    "certify",
    "convert",
    "diagnose",
    "gates",
    "load",
    "losses",
    "online",
    "optim",
    "save",
    "unroll",
    "unroll_backward",
]
