"""What other libraries store, and what they compute of it: a step of each row of the table of
conventions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import library_steps as steps
from library_steps import Arrays, State

from xrnn.cells import GRU, LSTM, Cell, Elman, GRUBefore, PeepholeLSTM, lstm_with
from xrnn.convert.conventions import Stored
from xrnn.typing import Array

Step = Callable[[Arrays, Array, State], State]

I, H, P = 3, 4, 2


@dataclass(frozen=True)
class Library:
    """The cell of xrnn that computes what a step of a library computes, and the shapes of what the
    library stores for it."""

    step: Step
    cell: Cell[Any]
    W: tuple[int, ...]
    U: tuple[int, ...]
    b: tuple[int, ...]
    recurrent_bias: tuple[int, ...] | None = None
    peephole: tuple[int, ...] | None = None
    projection: tuple[int, ...] | None = None
    gain: tuple[int, ...] | None = None

    def shapes(self) -> dict[str, tuple[int, ...] | None]:
        return {name: getattr(self, name) for name in Stored._fields}


def rows(step: Step, cell: Cell[Any], G: int, b: tuple[int, ...], *more: Any) -> Library:
    h = H if cell.projection is None else cell.projection
    return Library(step, cell, (G * H, I), (G * H, h), b, *more)


def columns(step: Step, cell: Cell[Any], G: int, b: tuple[int, ...], *more: Any) -> Library:
    h = H if cell.projection is None else cell.projection
    return Library(step, cell, (I, G * H), (h, G * H), b, *more)


PROJECTED: Cell[Any] = lstm_with(proj_size=P)
NORMALISED: Cell[Any] = lstm_with(layer_norm="gates", peephole=True)
COUPLED: Cell[Any] = lstm_with(coupled=True)
COUPLED_PEEPHOLES: Cell[Any] = lstm_with(coupled=True, peephole=True)
COUPLED_NORMALISED: Cell[Any] = lstm_with(coupled=True, layer_norm="gates")

#: a row of the table of conventions → what the library does with weights in this convention
LIBRARIES: dict[tuple[str, str], list[Library]] = {
    ("PyTorch", "LSTM"): [
        rows(steps.torch_lstm, LSTM, 4, (4 * H,), (4 * H,)),
        rows(steps.torch_lstm, PROJECTED, 4, (4 * H,), (4 * H,), None, (P, H)),
    ],
    ("PyTorch", "GRU"): [rows(steps.torch_gru, GRU, 3, (3 * H,), (3 * H,))],
    ("PyTorch", "RNN"): [rows(steps.torch_rnn, Elman, 1, (H,), (H,))],
    ("cuDNN", "LSTM"): [rows(steps.cudnn_lstm, LSTM, 4, (4 * H,), (4 * H,))],
    ("cuDNN", "GRU"): [rows(steps.cudnn_gru, GRU, 3, (3 * H,), (3 * H,))],
    ("ONNX", "LSTM"): [
        rows(steps.onnx_lstm, LSTM, 4, (8 * H,)),
        rows(steps.onnx_lstm, PeepholeLSTM, 4, (8 * H,), None, (3 * H,)),
        rows(steps.onnx_lstm_input_forget, COUPLED, 4, (8 * H,)),
    ],
    ("ONNX", "GRU"): [
        rows(steps.onnx_gru, GRUBefore, 3, (6 * H,)),
        rows(steps.onnx_gru_linear_before_reset, GRU, 3, (6 * H,)),
    ],
    ("ONNX", "RNN"): [rows(steps.onnx_rnn, Elman, 1, (2 * H,))],
    ("onnxruntime", "DynamicQuantizeLSTM"): [
        columns(steps.onnxruntime_quantized_lstm, LSTM, 4, (8 * H,)),
        columns(steps.onnxruntime_quantized_lstm, PeepholeLSTM, 4, (8 * H,), None, (3 * H,)),
    ],
    ("Keras", "LSTM"): [columns(steps.keras_lstm, LSTM, 4, (4 * H,))],
    ("Keras", "GRU"): [columns(steps.keras_gru, GRU, 3, (2, 3 * H))],
    ("Keras", "GRU(reset_after=False)"): [
        columns(steps.keras_gru_reset_before, GRUBefore, 3, (3 * H,)),
    ],
    ("Keras", "SimpleRNN"): [columns(steps.keras_rnn, Elman, 1, (H,))],
    ("Keras", "CuDNNLSTM"): [columns(steps.keras_cudnn_lstm, LSTM, 4, (8 * H,))],
    ("Keras", "CuDNNGRU"): [columns(steps.keras_cudnn_gru, GRU, 3, (6 * H,))],
    ("TensorFlow 1", "LSTMCell"): [
        columns(steps.tensorflow_lstm, LSTM, 4, (4 * H,)),
        columns(steps.tensorflow_lstm, PeepholeLSTM, 4, (4 * H,), None, (3 * H,)),
        columns(steps.tensorflow_lstm, PROJECTED, 4, (4 * H,), None, None, (H, P)),
    ],
    ("TensorFlow Lite", "LSTM"): [
        rows(steps.lite_lstm, LSTM, 4, (4 * H,)),
        rows(steps.lite_lstm, PeepholeLSTM, 4, (4 * H,), None, (3 * H,)),
        rows(steps.lite_lstm, PROJECTED, 4, (4 * H,), None, None, (P, H)),
        rows(steps.lite_lstm, NORMALISED, 4, (4 * H,), None, (3 * H,), None, (4 * H,)),
    ],
    ("TensorFlow Lite", "LSTM (coupled)"): [
        rows(steps.lite_lstm_coupled, COUPLED, 3, (3 * H,)),
        rows(steps.lite_lstm_coupled, COUPLED_PEEPHOLES, 3, (3 * H,), None, (2 * H,)),
        rows(steps.lite_lstm_coupled, COUPLED_NORMALISED, 3, (3 * H,), None, None, None, (3 * H,)),
    ],
    ("TensorFlow Lite", "RNN"): [rows(steps.lite_rnn, Elman, 1, (H,))],
    ("Core ML", "LSTM"): [
        rows(steps.coreml_lstm, LSTM, 4, (4 * H,)),
        rows(steps.coreml_lstm, PeepholeLSTM, 4, (4 * H,), None, (3 * H,)),
    ],
    ("Core ML", "GRU"): [rows(steps.coreml_gru, GRUBefore, 3, (3 * H,))],
    ("Core ML", "RNN"): [rows(steps.coreml_rnn, Elman, 1, (H,))],
    ("Flax", "LSTMCell"): [columns(steps.flax_lstm, LSTM, 4, (4 * H,))],
    ("Flax", "GRUCell"): [columns(steps.flax_gru, GRU, 3, (3 * H,), (3 * H,))],
    ("DyNet", "VanillaLSTM"): [rows(steps.dynet_lstm, LSTM, 4, (4 * H,))],
    ("Paddle 1", "dynamic_gru"): [columns(steps.paddle_gru, GRUBefore, 3, (3 * H,))],
    ("Opus", "GRU"): [columns(steps.opus_gru, GRU, 3, (3 * H,), (3 * H,))],
    ("Tesseract", "LSTM"): [rows(steps.tesseract_lstm, LSTM, 4, (4 * H,))],
}
