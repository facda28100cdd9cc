"""One step of the recurrent layers of other libraries, on the arrays that they store.

Each function is written from the library's source or documentation, which its docstring names, in
the names and the order of gates that stand there, and knows nothing of `xrnn.convert`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from xrnn.convert.conventions import Stored
from xrnn.typing import Array

State = tuple[Array, ...]
#: what the library stores, in the fields of `Stored`, none of which a step uses where it is None
Arrays = Any


def sigmoid(a: Array) -> Array:
    return 1 / (1 + np.exp(-a))


def four(a: Array) -> list[Array]:
    return np.split(a, 4, axis=-1)


def three(a: Array) -> list[Array]:
    return np.split(a, 3, axis=-1)


# ---- PyTorch and cuDNN


def torch_lstm(s: Arrays, x: Array, state: State) -> State:
    """``torch.nn.LSTM``: weight_ih_l0 holds (W_ii|W_if|W_ig|W_io), weight_hr_l0 the projection."""
    h, c = state
    i, f, g, o = four(x @ s.W.T + s.b + h @ s.U.T + s.recurrent_bias)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(c)
    return (h if s.projection is None else h @ s.projection.T), c


def torch_gru(s: Arrays, x: Array, state: State) -> State:
    """``torch.nn.GRU``: weight_ih_l0 holds (W_ir|W_iz|W_in)."""
    (h,) = state
    ir, iz, in_ = three(x @ s.W.T + s.b)
    hr, hz, hn = three(h @ s.U.T + s.recurrent_bias)
    r, z = sigmoid(ir + hr), sigmoid(iz + hz)
    n = np.tanh(in_ + r * hn)
    return ((1 - z) * n + z * h,)


def torch_rnn(s: Arrays, x: Array, state: State) -> State:
    """``torch.nn.RNN``."""
    return (np.tanh(x @ s.W.T + s.b + state[0] @ s.U.T + s.recurrent_bias),)


def cudnn_lstm(s: Arrays, x: Array, state: State) -> State:
    """cuDNN, CUDNN_LSTM: linLayerID 0 to 3 are the input, forget, new memory and output gates; 4
    to 7 are those of the recurrent input."""
    h, c = state
    W, R = np.split(s.W, 4), np.split(s.U, 4)
    bW, bR = np.split(s.b, 4), np.split(s.recurrent_bias, 4)
    a = [x @ W[k].T + h @ R[k].T + bW[k] + bR[k] for k in range(4)]
    c = sigmoid(a[1]) * c + sigmoid(a[0]) * np.tanh(a[2])
    return sigmoid(a[3]) * np.tanh(c), c


def cudnn_gru(s: Arrays, x: Array, state: State) -> State:
    """cuDNN, CUDNN_GRU: linLayerID 0 to 2 are the reset, update (there i) and new memory gates."""
    (h,) = state
    W, R = np.split(s.W, 3), np.split(s.U, 3)
    bW, bR = np.split(s.b, 3), np.split(s.recurrent_bias, 3)
    r, i = (sigmoid(x @ W[k].T + h @ R[k].T + bW[k] + bR[k]) for k in range(2))
    new = np.tanh(x @ W[2].T + r * (h @ R[2].T + bR[2]) + bW[2])
    return ((1 - i) * new + i * h,)


# ---- ONNX


def onnx_lstm(s: Arrays, x: Array, state: State) -> State:
    """ONNX operator LSTM: W[iofc], R[iofc], B is [Wb, Rb], P[iof]."""
    H, C = state
    Wb, Rb = np.split(s.b, 2)
    Pi, Po, Pf = np.zeros((3, C.shape[-1])) if s.peephole is None else np.split(s.peephole, 3)
    i, o, f, c = four(x @ s.W.T + H @ s.U.T + Wb + Rb)
    it = sigmoid(i + Pi * C)
    ft = sigmoid(f + Pf * C)
    Ct = ft * C + it * np.tanh(c)
    return sigmoid(o + Po * Ct) * np.tanh(Ct), Ct


def onnx_lstm_input_forget(s: Arrays, x: Array, state: State) -> State:
    """ONNX operator LSTM with ``input_forget=1``, in onnxruntime: f = 1 − i."""
    H, C = state
    Wb, Rb = np.split(s.b, 2)
    i, o, _, c = four(x @ s.W.T + H @ s.U.T + Wb + Rb)
    it = sigmoid(i)
    Ct = (1 - it) * C + it * np.tanh(c)
    return sigmoid(o) * np.tanh(Ct), Ct


def onnx_gru(s: Arrays, x: Array, state: State) -> State:
    """ONNX operator GRU, ``linear_before_reset=0``: W[zrh], R[zrh], B is [Wb, Rb]."""
    (H,) = state
    (Wz, Wr, Wh), (Rz, Rr, Rh) = np.split(s.W, 3), np.split(s.U, 3)
    Wbz, Wbr, Wbh, Rbz, Rbr, Rbh = np.split(s.b, 6)
    zt = sigmoid(x @ Wz.T + H @ Rz.T + Rbz + Wbz)
    rt = sigmoid(x @ Wr.T + H @ Rr.T + Rbr + Wbr)
    ht = np.tanh(x @ Wh.T + (rt * H) @ Rh.T + Rbh + Wbh)
    return ((1 - zt) * ht + zt * H,)


def onnx_gru_linear_before_reset(s: Arrays, x: Array, state: State) -> State:
    """ONNX operator GRU, ``linear_before_reset=1``."""
    (H,) = state
    (Wz, Wr, Wh), (Rz, Rr, Rh) = np.split(s.W, 3), np.split(s.U, 3)
    Wbz, Wbr, Wbh, Rbz, Rbr, Rbh = np.split(s.b, 6)
    zt = sigmoid(x @ Wz.T + H @ Rz.T + Rbz + Wbz)
    rt = sigmoid(x @ Wr.T + H @ Rr.T + Rbr + Wbr)
    ht = np.tanh(x @ Wh.T + rt * (H @ Rh.T + Rbh) + Wbh)
    return ((1 - zt) * ht + zt * H,)


def onnx_rnn(s: Arrays, x: Array, state: State) -> State:
    """ONNX operator RNN."""
    Wbi, Rbi = np.split(s.b, 2)
    return (np.tanh(x @ s.W.T + state[0] @ s.U.T + Wbi + Rbi),)


def onnxruntime_quantized_lstm(s: Arrays, x: Array, state: State) -> State:
    """onnxruntime, com.microsoft.DynamicQuantizeLSTM, without its roundings: W (I, 4·H) and R
    (H, 4·H) in the order iofc; B and P as in LSTM."""
    return onnx_lstm(s._replace(W=s.W.T, U=s.U.T), x, state)


# ---- Keras


def keras_lstm(s: Arrays, x: Array, state: State) -> State:
    """Keras 3, LSTMCell.call: z0, z1, z2, z3 are i, f, c, o."""
    h, c = state
    z0, z1, z2, z3 = four(x @ s.W + h @ s.U + s.b)
    c = sigmoid(z1) * c + sigmoid(z0) * np.tanh(z2)
    return sigmoid(z3) * np.tanh(c), c


def keras_gru(s: Arrays, x: Array, state: State) -> State:
    """Keras 3, GRUCell.call with ``reset_after=True``: bias (2, 3·H), gates z, r, h."""
    (h,) = state
    input_bias, recurrent_bias = s.b
    x_z, x_r, x_h = three(x @ s.W + input_bias)
    recurrent_z, recurrent_r, recurrent_h = three(h @ s.U + recurrent_bias)
    z, r = sigmoid(x_z + recurrent_z), sigmoid(x_r + recurrent_r)
    hh = np.tanh(x_h + r * recurrent_h)
    return (z * h + (1 - z) * hh,)


def keras_gru_reset_before(s: Arrays, x: Array, state: State) -> State:
    """Keras 3, GRUCell.call with ``reset_after=False``."""
    (h,) = state
    x_z, x_r, x_h = three(x @ s.W + s.b)
    U_z, U_r, U_h = three(s.U)
    z, r = sigmoid(x_z + h @ U_z), sigmoid(x_r + h @ U_r)
    return (z * h + (1 - z) * np.tanh(x_h + (r * h) @ U_h),)


def keras_rnn(s: Arrays, x: Array, state: State) -> State:
    """Keras 3, SimpleRNNCell.call."""
    return (np.tanh(x @ s.W + s.b + state[0] @ s.U),)


def _plain_kernels(s: Arrays, gates: int) -> tuple[Array, Array]:
    """tf.keras, saving/hdf5_format.py, ``_convert_rnn_weights``: the kernels of LSTM and GRU, of
    those of CuDNNLSTM and CuDNNGRU."""
    kernel = [k.T.reshape(k.shape, order="F") for k in np.hsplit(s.W, gates)]
    return np.hstack(kernel), np.hstack([k.T for k in np.hsplit(s.U, gates)])


def keras_cudnn_lstm(s: Arrays, x: Array, state: State) -> State:
    """tf.keras CuDNNLSTM, as ``_convert_rnn_weights`` gives its weights to LSTM."""
    kernel, recurrent_kernel = _plain_kernels(s, 4)
    biases = np.sum(np.split(s.b, 2, axis=0), axis=0)
    return keras_lstm(Stored(kernel, recurrent_kernel, biases), x, state)


def keras_cudnn_gru(s: Arrays, x: Array, state: State) -> State:
    """tf.keras CuDNNGRU, as ``_convert_rnn_weights`` gives its weights to GRU."""
    kernel, recurrent_kernel = _plain_kernels(s, 3)
    return keras_gru(Stored(kernel, recurrent_kernel, s.b.reshape((2, -1))), x, state)


# ---- TensorFlow 1 and Lite, Core ML


def tensorflow_lstm(s: Arrays, x: Array, state: State) -> State:
    """TensorFlow 1, rnn_cell_impl.py, ``LSTMCell.call``, with its default ``forget_bias=1.0``."""
    m_prev, c_prev = state
    kernel = np.concatenate([s.W, s.U])
    i, j, f, o = four(np.concatenate([x, m_prev], 1) @ kernel + s.b)
    zero = np.zeros((3, c_prev.shape[-1]))
    w_f_diag, w_i_diag, w_o_diag = zero if s.peephole is None else np.split(s.peephole, 3)
    c = sigmoid(f + 1.0 + w_f_diag * c_prev) * c_prev + sigmoid(i + w_i_diag * c_prev) * np.tanh(j)
    m = sigmoid(o + w_o_diag * c) * np.tanh(c)
    return (m if s.projection is None else m @ s.projection), c


def normalised(a: Array, gain: Array | None, bias: Array) -> Array:
    """TensorFlow Lite, ``CalculateLstmGateFloat``: layer norm, then the bias."""
    if gain is None:
        return a + bias
    centred = a - a.mean(1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-8) * gain + bias


def lite_lstm(s: Arrays, x: Array, state: State) -> State:
    """TensorFlow Lite, kernels/lstm_eval.cc, ``LstmStepFloat``: the inputs of the operator are
    input_to_input_weights, input_to_forget_, input_to_cell_ and input_to_output_weights, in this
    order, then the recurrent ones, then cell_to_input_, cell_to_forget_ and cell_to_output_weights;
    projection_weights is (n_output, n_cell)."""
    output, cell = state
    Wi, Wf, Wg, Wo = np.split(s.W, 4)
    Ri, Rf, Rg, Ro = np.split(s.U, 4)
    bi, bf, bg, bo = np.split(s.b, 4)
    ni, nf, ng, no = [None] * 4 if s.gain is None else np.split(s.gain, 4)
    pi, pf, po = np.zeros((3, cell.shape[-1])) if s.peephole is None else np.split(s.peephole, 3)
    i = sigmoid(normalised(x @ Wi.T + output @ Ri.T + pi * cell, ni, bi))
    f = sigmoid(normalised(x @ Wf.T + output @ Rf.T + pf * cell, nf, bf))
    cell = f * cell + i * np.tanh(normalised(x @ Wg.T + output @ Rg.T, ng, bg))
    o = sigmoid(normalised(x @ Wo.T + output @ Ro.T + po * cell, no, bo))
    output = o * np.tanh(cell)
    return (output if s.projection is None else output @ s.projection.T), cell


def lite_lstm_coupled(s: Arrays, x: Array, state: State) -> State:
    """The same with ``use_cifg``: there is no input_to_input_weights, and the input gate is 1
    minus the forget gate (``UpdateLstmCellFloat``)."""
    output, cell = state
    Wf, Wg, Wo = np.split(s.W, 3)
    Rf, Rg, Ro = np.split(s.U, 3)
    bf, bg, bo = np.split(s.b, 3)
    nf, ng, no = [None] * 3 if s.gain is None else np.split(s.gain, 3)
    pf, po = np.zeros((2, cell.shape[-1])) if s.peephole is None else np.split(s.peephole, 2)
    f = sigmoid(normalised(x @ Wf.T + output @ Rf.T + pf * cell, nf, bf))
    cell = f * cell + (1 - f) * np.tanh(normalised(x @ Wg.T + output @ Rg.T, ng, bg))
    o = sigmoid(normalised(x @ Wo.T + output @ Ro.T + po * cell, no, bo))
    return o * np.tanh(cell), cell


def lite_rnn(s: Arrays, x: Array, state: State) -> State:
    """TensorFlow Lite, kernels/internal/kernel_utils.cc, ``RnnBatchStep``."""
    return (np.tanh(x @ s.W.T + state[0] @ s.U.T + s.b),)


def coreml_lstm(s: Arrays, x: Array, state: State) -> State:
    """Core ML, NeuralNetwork.proto, LSTMParams and LSTMWeightParams: inputGate, forgetGate,
    blockInput and outputGate, in the order of the numbers of their fields."""
    y, c = state
    (Wi, Wf, Wz, Wo), (Ri, Rf, Rz, Ro) = np.split(s.W, 4), np.split(s.U, 4)
    bi, bf, bz, bo = np.split(s.b, 4)
    pi, pf, po = np.zeros((3, c.shape[-1])) if s.peephole is None else np.split(s.peephole, 3)
    i = sigmoid(x @ Wi.T + y @ Ri.T + pi * c + bi)
    f = sigmoid(x @ Wf.T + y @ Rf.T + pf * c + bf)
    z = np.tanh(x @ Wz.T + y @ Rz.T + bz)
    c = c * f + i * z
    o = sigmoid(x @ Wo.T + y @ Ro.T + po * c + bo)
    return np.tanh(c) * o, c


def coreml_gru(s: Arrays, x: Array, state: State) -> State:
    """Core ML, NeuralNetwork.proto, GRULayerParams: updateGate, resetGate and outputGate."""
    (y,) = state
    (Wz, Wr, Wo), (Rz, Rr, Ro), (bz, br, bo) = (np.split(a, 3) for a in (s.W, s.U, s.b))
    z, r = sigmoid(x @ Wz.T + y @ Rz.T + bz), sigmoid(x @ Wr.T + y @ Rr.T + br)
    o = np.tanh(x @ Wo.T + (y * r) @ Ro.T + bo)
    return ((1 - z) * o + z * y,)


def coreml_rnn(s: Arrays, x: Array, state: State) -> State:
    """Core ML, NeuralNetwork.proto, SimpleRecurrentLayerParams."""
    return (np.tanh(x @ s.W.T + state[0] @ s.U.T + s.b),)


# ---- Others


def flax_lstm(s: Arrays, x: Array, state: State) -> State:
    """Flax, linen/recurrent.py, ``LSTMCell``: kernels ii, if, ig, io, and hi, hf, hg, ho with the
    biases, side by side."""
    h, c = state
    (ii, if_, ig, io), (hi, hf, hg, ho) = four(s.W), four(s.U)
    bi, bf, bg, bo = four(s.b)
    i, f = sigmoid(x @ ii + h @ hi + bi), sigmoid(x @ if_ + h @ hf + bf)
    g, o = np.tanh(x @ ig + h @ hg + bg), sigmoid(x @ io + h @ ho + bo)
    c = f * c + i * g
    return o * np.tanh(c), c


def flax_gru(s: Arrays, x: Array, state: State) -> State:
    """Flax, linen/recurrent.py, ``GRUCell``: ir, iz and in have biases; of hr, hz and hn the last
    one alone."""
    (h,) = state
    (ir, iz, in_), (hr, hz, hn) = three(s.W), three(s.U)
    bir, biz, bin_ = three(s.b)
    bhr, bhz, bhn = three(s.recurrent_bias)
    r, z = sigmoid(x @ ir + bir + h @ hr + bhr), sigmoid(x @ iz + biz + h @ hz + bhz)
    n = np.tanh(x @ in_ + bin_ + r * (h @ hn + bhn))
    return ((1 - z) * n + z * h,)


def dynet_lstm(s: Arrays, x: Array, state: State) -> State:
    """DyNet, nodes-lstm.cc, ``VanillaLSTMGates``: i, f, o, g, with 1 added to b_f."""
    h_tm1, c_tm1 = state
    ai, af, ao, ag = four(x @ s.W.T + h_tm1 @ s.U.T + s.b)
    c_t = sigmoid(ai) * np.tanh(ag) + sigmoid(af + 1) * c_tm1
    return sigmoid(ao) * np.tanh(c_t), c_t


def paddle_gru(s: Arrays, x: Array, state: State) -> State:
    """Paddle 1, operators/math/detail/gru_kernel.h, without ``origin_mode``: update, reset, state;
    with U as one matrix (H, 3·H)."""
    (h,) = state
    xu, xr, xc = three(x @ s.W + s.b)
    Uu, Ur, Uc = three(s.U)
    u, r = sigmoid(xu + h @ Uu), sigmoid(xr + h @ Ur)
    return ((1 - u) * h + u * np.tanh(xc + (r * h) @ Uc),)


def opus_gru(s: Arrays, x: Array, state: State) -> State:
    """Opus, dnn/nnet.c, ``compute_generic_gru``; its weights are (in, out)."""
    (h,) = state
    zrh, recur = x @ s.W + s.b, h @ s.U + s.recurrent_bias
    z, r = sigmoid(three(zrh)[0] + three(recur)[0]), sigmoid(three(zrh)[1] + three(recur)[1])
    return (z * h + (1 - z) * np.tanh(three(zrh)[2] + three(recur)[2] * r),)


def tesseract_lstm(s: Arrays, x: Array, state: State) -> State:
    """Tesseract, lstm/lstm.h and lstm.cpp: CI, GI, GF1, GO."""
    output, memory = state
    ci, gi, gf1, go = four(x @ s.W.T + output @ s.U.T + s.b)
    memory = memory * sigmoid(gf1) + np.tanh(ci) * sigmoid(gi)
    return np.tanh(memory) * sigmoid(go), memory
