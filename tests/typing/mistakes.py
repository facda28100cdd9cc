"""A user's mistakes: a type checker reports every line that is marked, and no other.

The file is checked and never run, see `test_typing_user.py`.
"""

import numpy as np

import xrnn
from xrnn import cells

xs = np.zeros((7, 2, 3), "float32")
x = xs[0]

# Options of the layers

xrnn.LSTM(8, 32, bidirectionl=True)  # error
xrnn.LSTM(8, 32, 2, True)  # error
xrnn.GRU(8, 32, 1, "before")  # error
xrnn.RNN(3, 5, 1, "relu")  # error
xrnn.InputGatedLSTM(3, 5, 1, False)  # error
xrnn.Layer(cells.LSTM, 3, 5, 1, True)  # error
xrnn.LSTM(3)  # error
xrnn.LSTM("3", 5)  # error
xrnn.LSTM(3.0, 5)  # error
xrnn.LSTM(I=3, H=5)  # error
xrnn.Layer("lstm", 3, 5)  # error
xrnn.LSTM(3, 5, batch_first="False")  # error
xrnn.LSTM(3, 5, dropout="0.5")  # error
xrnn.LSTM(3, 5, dtype="float23")  # error
xrnn.LSTM(3, 5, dtype=32)  # error
xrnn.LSTM(3, 5, init="zeros")  # error
xrnn.LSTM(3, 5, precision="fast")  # error
xrnn.LSTM(3, 5, device=0)  # error
xrnn.GRU(3, 5, reset="never")  # error
xrnn.RNN(3, 5, nonlinearity="sin")  # error
xrnn.GRU(3, 5, forget_bias=1.0)  # error

# Options of the cells

xrnn.LSTM(3, 5, activations="tanh")  # error
xrnn.LSTM(3, 5, activations=["sigmoid", "tan", "tanh"])  # error
xrnn.GRU(3, 5, activations=[("Elu", 0.5), "tanh"])  # error
cells.rnn_with(activations=["gelu"])  # error
xrnn.LSTM(3, 5, activations=[0.2, "tanh", "tanh"])  # error
xrnn.LSTM(3, 5, activations=[("elu", "0.5"), "tanh", "tanh"])  # error
xrnn.LSTM(3, 5, activations=[("affine", 1.0, 0.0, 2.0), "tanh", "tanh"])  # error
xrnn.LSTM(3, 5, activation="tanh")  # error
xrnn.LSTM(3, 5, cell_clip="10")  # error
xrnn.LSTM(3, 5, coupled="yes")  # error
xrnn.LSTM(3, 5, proj_size=2.0)  # error
xrnn.LSTM(3, 5, layer_norm="all")  # error
xrnn.LSTM(3, 5, zoneout="0.1")  # error
xrnn.LSTM(3, 5, zoneout=(0.1, 0.2, 0.3))  # error
xrnn.LSTM(3, 5, reset="before")  # error
xrnn.GRU(3, 5, zoneout=(0.1, 0.2))  # error
xrnn.GRU(3, 5, layer_norm="gates")  # error
xrnn.GRU(3, 5, coupled=True)  # error
xrnn.RNN(3, 5, layer_norm=True)  # error
xrnn.RNN(3, 5, recurrent_dropout="0.5")  # error
xrnn.LSTM(3, 5, weight_drop=None)  # error
xrnn.LSTM(3, 5, learn_state="yes")  # error
xrnn.LSTM(3, (5, 4.0))  # error
cells.lstm_with(("tanh", "tanh", "tanh"))  # error
cells.lstm_with(cellclip=10.0)  # error
cells.gru_with(reset="never")  # error
cells.rnn_with(nonlinearity="relu")  # error
cells.leaky_with("0.2")  # error
cells.leaky_with(0.2, 0.05)  # error
cells.with_zoneout("lstm", 0.1, 0.1)  # error
cells.with_zoneout(cells.GRU, "0.1")  # error
xrnn.Layer(cells.gru_with(clip=3.0), 3, 5)(xs)[1].c  # error
xrnn.Layer(cells.lstm_with(clip=3.0), 3, 5)(xs)[1].d  # error

# Embedding and Linear

xrnn.Linear(5, 2, "relu")  # error
xrnn.Linear(5, 2, activation="gelu")  # error
xrnn.Linear(5, 2, biased=False)  # error
xrnn.Embedding(10, 4, "float64")  # error
xrnn.Embedding(10, 4, dtype="float")  # error

# Models of parts

xrnn.Sequential(3)  # error
xrnn.Sequential(xrnn.Dropout)  # error
xrnn.Dropout("0.5")  # error
xrnn.Merge("add")  # error
xrnn.Last(True)  # error
xrnn.LayerNorm(5, 1e-5)  # error
xrnn.Attention(3, score="additive")  # error
xrnn.AttentionPooling(3, 2, True)  # error
xrnn.Seq2Seq(xrnn.GRU(3, 4), xrnn.GRU(3, 4), xrnn.Linear(4, 2))  # error
xrnn.Seq2Seq(encoder=xrnn.Linear(3, 4), decoder=xrnn.GRU(3, 4), readout=xrnn.Linear(4, 2))  # error
xrnn.TiedLinear(xrnn.Linear(3, 4))  # error
xrnn.TiedLinear(xrnn.Embedding(3, 4), "tanh")  # error
model = xrnn.Sequential(rnn=xrnn.GRU(3, 5), last=xrnn.Last())
model.forward(xs, seeds=1)  # error
model(xs, seed=1)  # error
model.backward(3, xs)  # error
vectors, states, model_tape = model.forward(xs)  # error
model.part  # error
model.parts["rnn"] = xrnn.GRU(3, 5)  # error
xrnn.check_gradients(3, model.weights)  # error
xrnn.check_gradients(lambda w: (0.0, w), model.weights, method="exact")  # error

# Passes

lstm, gru = xrnn.LSTM(3, 5), xrnn.GRU(3, 5)
lstm.forward(xs, length=[7, 7])  # error
lstm.forward(xs, seed="1")  # error
lstm(xs, states=None)  # error
lstm(xs, seed=1)  # error
lstm(xs, None, None, np.ones((7, 2), bool))  # error
lstm(xs, masked="keep")  # error
lstm.forward(xs, None, None, np.ones((7, 2), bool))  # error
lstm.forward(xs, masks=None)  # error
lstm.forward(xs, reset=None)  # error
lstm.forward(xs, seed=1, t="7")  # error
lstm.initial_state("2")  # error
lstm(xs, xs)  # error
lstm.step(x, h=None)  # error
ys, state, tape = lstm.forward(xs)
lstm.backward(tape, ys, gates=True)  # error
lstm.backward(tape, dy=ys)  # error
lstm.backward(3, ys)  # error
ys, state = lstm.forward(xs)  # error
ys, state, tape = lstm(xs)  # error
dxs, dweights = lstm.backward(tape, ys)  # error

# States

state.d  # error
lstm(xs)[1].d  # error
lstm.step(x)[1].d  # error
lstm.initial_state(2).d  # error
gru(xs)[1].c  # error
gru.forward(xs)[1].c  # error
gru.step(x)[1].c  # error
xrnn.RNN(3, 5)(xs)[1].c  # error
xrnn.InputGatedLSTM(3, 5)(xs)[1].d  # error
xrnn.Layer(cells.MinGRU, 3, 5)(xs)[1].c  # error
state.h = ys  # error
h, c, n = state  # error
lstm.backward(tape, ys)[1].d  # error

# One cell

weights = {name: np.zeros(shape) for name, shape in cells.LSTM.shapes(3, 5).items()}
xrnn.unroll(cells.LSTM, weights, xs)[1].d  # error
xrnn.unroll(cells.GRU, weights, xs)[1].c  # error
xrnn.unroll(cells.LSTM, weights, xs, precision="fast")  # error
xrnn.unroll(cells.LSTM, weights, xs, length=[7, 7])  # error
xrnn.unroll("lstm", weights, xs)  # error
xrnn.unroll(cells.LSTM, weights, xs, masked="keep")  # error
xrnn.unroll(cells.LSTM, weights, xs, None, None, False, np.ones((7, 2), bool))  # error
xrnn.unroll(cells.LSTM, xs=xs)  # error
xrnn.unroll_backward(tape, dy=ys)  # error
ys, state = xrnn.unroll(cells.LSTM, weights, xs)  # error
cells.Cell(name="mine", gates=("a",), step=None)  # error
cells.LSTM.gate  # error
xrnn.online.Online(cells.LSTM, weights, 2, method="rtrl")  # error

# Names

xrnn.LTSM(3, 5)  # error
xrnn.cells.LSTMM  # error
xrnn.losses.softmax_crossentropy  # error
xrnn.optim.Adm(1e-3)  # error
xrnn.optim.Adam("fast")  # error
xrnn.losses.huber(xs, xs, reduction="max")  # error
xrnn.losses.huber(xs, xs, None, 2.0)  # error
xrnn.losses.quantile(xs, xs, tau=0.5)  # error
xrnn.losses.ctc(xs, xs, blank="-")  # error
xrnn.optim.cosine("1", 5)  # error
xrnn.optim.Plateau(0.5)  # error
xrnn.convert.from_pytorch  # error
xrnn.analysis.gate  # error
lstm.hidden  # error
lstm.bidirectonal  # error

# Weights, files and the certificate

lstm.weights = 3  # error
lstm.weights.foo  # error
lstm.cell = "lstm"  # error
lstm.precision = "fast"  # error
lstm.directions = 2  # error
lstm.to(0)  # error
xrnn.save(lstm)  # error
xrnn.load("lstm.safetensors", cast=True)  # error
xrnn.load("lstm.safetensors", dtype="float23")  # error
xrnn.load("lstm.safetensors", device=0)  # error
xrnn.load("lstm.safetensors", lstm, dtype="float64")  # error
xrnn.load("lstm.safetensors", 3)  # error
xrnn.load("lstm.safetensors", lstm)(xs)[1].d  # error
xrnn.certify(dtype="int8")  # error
xrnn.certify(cell=[cells.LSTM])  # error
xrnn.certify(cells=cells.LSTM)  # error
xrnn.certify().pased  # error
