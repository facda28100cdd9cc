"""A user's program without mistakes: type checkers report nothing, and it runs."""

from typing import Any

import numpy as np

import xrnn
from xrnn import cells
from xrnn.cells.base import Cell
from xrnn.typing import Array, Contribution, HCState, HState, Namespace, State, Weights

xs = np.zeros((7, 2, 3), "float32")
x = xs[0]

# Sizes and options

sizes = np.array([3, 5])
lstm = xrnn.LSTM(sizes[0], sizes[1], num_layers=2, bias=True, dropout=0.5, rng=0)
rnn = xrnn.RNN(np.int64(3), np.int32(5), nonlinearity="relu", init="uniform", reverse=True)
gru = xrnn.GRU(3, 5, reset="before", batch_first=False, rng=np.random.default_rng(0))
uneven = xrnn.GRU(3, (5, 4), learn_state=True)
options = xrnn.LSTM(
    3,
    [5, 4],
    activations=["hard_sigmoid", ("scaled_tanh", 1.7, 0.6), ("elu", 0.5)],
    cell_clip=10.0,
    coupled=True,
    proj_size=2,
    layer_norm="gates",
    zoneout=(0.1, 0.2),
)
limited = xrnn.GRU(3, 5, activations=("hard_sigmoid", "relu"), clip=3, layer_norm=True, zoneout=0.1)
softsign = xrnn.RNN(3, 5, activations=["softsign"], recurrent_dropout=0.2, weight_drop=0.5)
peephole = xrnn.Layer(cells.PeepholeLSTM, 3, 5, dtype="float32", precision="tf32")
readout = xrnn.Linear(5, 2, activation="relu", dtype=np.float32)
embedding = xrnn.Embedding(10, 3, dtype=np.dtype("float32"), device="numpy:cpu")
xs, token_tape = embedding.forward(np.zeros((7, 2), int))

# Passes and states

ys, state = lstm(xs)
print(state.h.shape, state.c.shape)
h, c = state
ys, state = lstm(xs, state, [7, 3])
ys, state = lstm(xs, (h, None), np.array([7, 3]))
ys, state = lstm(xs, [h, c])
ys, state = lstm(xs, (None, None), lengths=(7, 0))
every = np.ones((7, 2), bool)
ys, state = lstm(xs, mask=every, masked="hold", resets=~every)
ys, state, tape = lstm.forward(xs, state, mask=every.tolist(), seed=0)
dxs, dstate, dweights = lstm.backward(tape, ys)
dxs, dstate, dweights = lstm.backward(tape, None, (h, None))
print(dstate.c.shape, dweights["U_l1"].shape)
print(options(xs)[1].c, limited.forward(xs, seed=0, t=7)[1].h, softsign.forward(xs, seed=0)[2])
y, last = gru.step(x)
y, last = gru.step(x, last)
y, last = gru.step(x, (last.h,))
print(gru.initial_state(2).h, rnn(xs)[1].h, peephole(xs)[1].c)
state_again: HCState = peephole(xs)[1]
only_h: HState = gru(xs)[1]

# Weights

W = lstm.weights["W_l0"]
lstm.weights["W_l0"] = 2 * W
lstm.weights["W_l0"] *= 0.5
lstm.weights.update({"W_l0": W})
lstm.weights = {name: w.copy() for name, w in lstm.weights.items()}
lstm.weights = {**lstm.weights, "W_l0": W}
readout.weights = {"W": np.ones((2, 5), "float32"), "b": np.ones(2, "float32")}
frozen: xrnn.LSTM = lstm.freeze()
moved: xrnn.GRU = gru.to("cpu")
gru.precision = "tf32"

# Losses and optimizers

logits, readout_tape = readout.forward(ys)
loss, dlogits = xrnn.losses.softmax_cross_entropy(logits, np.zeros((7, 2), int))
dys, dreadout = readout.backward(readout_tape, dlogits)
xrnn.optim.Adam(1e-3).update(readout.weights, dreadout)
loss, dlogits = xrnn.losses.softmax_cross_entropy(
    logits, np.zeros((7, 2), int), lengths=[7, 3], class_weights=(1, 2), label_smoothing=0.1
)
loss, dys = xrnn.losses.squared_error(logits, logits, np.ones((7, 2), bool), reduction="none")
loss, dys = xrnn.losses.huber(logits, logits, delta=2, lengths=np.array([7, 3]))
loss, dys = xrnn.losses.quantile(logits, logits, level=(0.1, 0.9), reduction="sum")
loss, dys = xrnn.losses.binary_cross_entropy(logits, logits > 0, pos_weight=[1.0, 3.0])
loss, dlogits = xrnn.losses.ctc(logits, np.ones((2, 3), int), [7, 3], [2, 0], zero_infinity=True)
plateau, average = xrnn.optim.Plateau(patience=2), xrnn.optim.Average(0.99)
adam = xrnn.optim.Adam(1e-3)
adam.lr = 1e-3 * xrnn.optim.warmup(adam.steps, 10) * xrnn.optim.cosine(adam.steps, 100)
adam.lr *= plateau.update(loss)
summed = xrnn.optim.accumulate(None, dreadout)
adam.update(readout.weights, xrnn.optim.accumulate(summed, dreadout, 0.5))
average.update(readout.weights)
with average.swapped(readout.weights):
    print(readout(ys))

# Files

adam = xrnn.optim.Adam(1e-3)
xrnn.save("parts", {"rnn": rnn, "readout": readout, "adam": adam}, {"note": "all"})
parts = xrnn.load("parts", dtype=np.float64, device="cpu")
print(parts["rnn"].weights["W_l0"].dtype, parts["adam"].steps)
both: dict[str, xrnn.RNN | xrnn.Linear | xrnn.optim.Adam]
both = xrnn.load("parts", {"rnn": rnn, "readout": readout, "adam": adam}, cast=True)
xrnn.save("peephole", peephole)
print(xrnn.load("peephole", peephole)(xs)[1].c)
loaded: xrnn.Layer[HCState] = xrnn.load("peephole")
both_parts = xrnn.Sequential(rnn, xrnn.Dropout(0.5), readout)
xrnn.save("model", both_parts)
model: xrnn.Sequential = xrnn.load("model", both_parts)

# Models of parts

model = xrnn.Sequential(
    xrnn.GRU(3, 5, bidirectional=True),
    xrnn.Merge("sum"),
    block=xrnn.Residual(xrnn.LayerNorm(5), xrnn.Dropout(0.1), xrnn.Linear(5, 5)),
    pool=xrnn.Mean(),
    out=xrnn.Linear(5, 2, activation="softplus"),
)
tied = xrnn.Sequential(words=embedding, out=xrnn.TiedLinear(embedding, activation="tanh"))
print(tied(np.zeros((7, 2), int)).shape, tied.weights["words"]["E"])
logits, model_tape = model.forward(xs, lengths=[7, 3], seed=0)
dmodel_xs, dmodel = model.backward(model_tape, logits)
xrnn.optim.SGD(0.1).update(model.weights, dmodel)
print(model(xs, mask=every).shape, model.to("cpu").freeze().config(), model.parts["pool"])
stream = xrnn.Sequential(rnn=xrnn.GRU(3, 5), out=xrnn.Linear(5, 2))
y, states = stream.step(x)
y, states = stream.step(x, states)
seq2seq = xrnn.Seq2Seq(
    source=embedding,
    encoder=xrnn.LSTM(3, 5, bidirectional=True),
    target=embedding,
    decoder=xrnn.LSTM(3, 10),
    attention=xrnn.Attention(10, 10, 3, score="dot"),
    readout=xrnn.TiedLinear(embedding),
)
words = np.zeros((7, 2), int)
logits, words_tape = seq2seq.forward(words, words[:4], [7, 3], target_lengths=[4, 2], seed=0)
xrnn.optim.Adam().update(seq2seq.weights, seq2seq.backward(words_tape, logits)[1])
tokens, ends = seq2seq.generate(words, start=0, stop=1, longest=5, lengths=[7, 3])
pooled = xrnn.AttentionPooling(3, 2).attention(xs, lengths=[7, 3])
vectors, pool_tape = xrnn.Last(batch_first=True).forward(np.ones((2, 7, 3)), [7, 3])
print(xrnn.check_gradients(lambda w: (0.0, {"w": 0 * w["w"]}), {"w": np.ones(2)}).ok)

# One cell

weights = {name: np.ones(shape, "float32") for name, shape in cells.LSTM.shapes(3, 5).items()}
ys, one, cell_tape = xrnn.unroll(cells.LSTM, weights, xs, reverse=True)
print(one.c, xrnn.unroll(cells.LSTM, weights, xs, (None, one.c))[1].c)
dxs, done, dweights = xrnn.unroll_backward(cell_tape, ys)
dxs, done, dweights = xrnn.unroll_backward(cell_tape, ys, (None, one.c))
gates = xrnn.analysis.gates(cell_tape)
dgates, dstates = xrnn.analysis.gate_gradients(cell_tape, ys)


# Cells with options

coupled: Cell[HCState] = cells.lstm_with(coupled=True, layer_norm=True, zoneout=(0.0, 0.5))
before: Cell[HState] = cells.gru_with(reset="before", clip=3.0)
elu: Cell[HState] = cells.rnn_with(activations=[("elu", 0.5)])
leaky = cells.leaky_with(0.2, activations=["softplus"], noise=0.05, potential=True)
zoned: Cell[HState] = cells.with_zoneout(cells.JANET, 0.1)
print(xrnn.Layer(coupled, 3, 5)(xs)[1].c, xrnn.Layer(before, 3, 5)(xs)[1].h, elu.name, leaky.name)
print(xrnn.Layer(zoned, 3, 5).forward(xs, seed=0)[1].h, cells.MGU.states)

# A cell of one's own


def step(ax: Array, state: State, weights: Weights, *, xp: Namespace) -> tuple[State, Any]:
    """h = tanh(a + U h)."""
    (h_prev,) = state
    h = xp.tanh(ax + h_prev @ weights["U"].T)
    return (h,), (h, h_prev)


def step_backward(
    dstate: State, saved: Any, weights: Weights, *, xp: Namespace
) -> tuple[Array, State, dict[str, Contribution]]:
    """The same, backward."""
    h, h_prev = saved
    da = dstate[0] * (1 - h * h)
    return da, (da @ weights["U"],), {"U": ((da, h_prev),)}


Mine: Cell[HState] = Cell(name="mine", gates=("a",), step=step, step_backward=step_backward)
weights_of_mine = {name: np.ones(shape, "float32") for name, shape in Mine.shapes(3, 5).items()}
mine = xrnn.Layer(Mine, 3, 5, num_layers=2, bidirectional=True)
print(mine(xs)[1].h, mine.cell.states, xrnn.unroll(Mine, weights_of_mine, xs)[1].h)
assert xrnn.certify(dtype="float64", cells=[Mine]).passed
