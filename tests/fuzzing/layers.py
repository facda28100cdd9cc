"""Entries of the fuzzer's table: layers, their weights, and single cells."""

from fuzzing import kinds as k
from fuzzing import option_kinds as o
from fuzzing.table import CELLS, EMBEDDING, LAYERS, LINEAR, LOOSE, MODULES, Given, add

# Layers: how they are made ------------------------------------------------------------------

SIZES: Given = {"input_size": (k.SIZE, "3"), "hidden_size": (o.HIDDEN, "5")}
MADE: Given = {
    "dtype": (k.DTYPE, "'float32'"),
    "device": (k.DEVICE, "'cpu'"),
    "rng": (k.RNG, "0"),
}
FLAGS: Given = dict.fromkeys(
    ("bias", "batch_first", "bidirectional", "reverse", "learn_state"), (k.FLAG, "False")
)
RECURRENT: Given = {
    **SIZES,
    "num_layers": (k.SIZE, "2"),
    **FLAGS,
    "dropout": (o.RATE, "0.25"),
    **MADE,
    "init": (k.choice("orthogonal", "uniform"), "'uniform'"),
    "precision": (k.PRECISION, "'ieee'"),
}
BIAS: Given = {"forget_bias": (k.real(-1e308, 1e308), "1.0")}

DROPPED: Given = {"weight_drop": (o.RATE, "0.25")}

add("Layer", cell=(k.CELL, "cells.PeepholeLSTM"), **RECURRENT, **DROPPED, **BIAS, share=16)
OPTIONS: Given = {"clip": (o.LIMIT, "3.0"), "recurrent_dropout": (o.RATE, "0.3")}
OF_LSTM: Given = {
    "activations": (o.activations(3), "('hard_sigmoid', 'elu', 'tanh')"),
    **OPTIONS,
    "cell_clip": (o.LIMIT, "10.0"),
    "coupled": (k.FLAG, "True"),
    "peephole": (k.FLAG, "True"),
    "proj_size": (k.integer(0), "2"),
    "layer_norm": (o.LAYER_NORM, "'gates'"),
    "zoneout": (o.rates(2), "(0.1, 0.2)"),
}
OF_GRU: Given = {
    "reset": (k.choice("after", "before"), "'after'"),
    "activations": (o.activations(2), "('hard_sigmoid', 'elu')"),
    **OPTIONS,
    "layer_norm": (k.FLAG, "True"),
    "zoneout": (o.rates(1), "0.1"),
}
OF_RNN: Given = {
    "activations": (o.activations(1), "['elu']"),
    **OPTIONS,
    "zoneout": (o.rates(1), "0.1"),
}
NONLINEARITY: Given = {"nonlinearity": (k.choice("tanh", "relu"), "'tanh'")}

add("LSTM", **RECURRENT, **DROPPED, **BIAS, **OF_LSTM, share=24)
add("InputGatedLSTM", **RECURRENT, **BIAS)
add("RNN", **RECURRENT, **DROPPED, **NONLINEARITY, **OF_RNN, share=16)
add("GRU", **RECURRENT, **DROPPED, **OF_GRU, share=16)
add("cells.lstm_with", **OF_LSTM, words="lstm", share=16)
add("cells.gru_with", **OF_GRU, words="gru", share=16)
add("cells.rnn_with", **OF_RNN, words="rnn")
add(
    "cells.leaky_with",
    alpha=(k.real(0, 1, ends="(]"), "0.2"),
    activations=(o.activations(1), "['elu']"),
    noise=(k.real(0, 1e308), "0.1"),
    potential=(k.FLAG, "True"),
)
add(
    "cells.with_zoneout",
    _cell=(k.CELL, "cells.LSTM"),
    _h=(o.RATE, "0.1"),
    _c=(o.RATE, "0.2"),
    words="zoneout",
)
add(
    "Linear",
    in_features=(k.SIZE, "3"),
    out_features=(k.SIZE, "4"),
    activation=(k.choice("relu", "tanh", "sigmoid", "softplus", None), "'tanh'"),
    bias=(k.FLAG, "True"),
    **MADE,
)
add(
    "Embedding",
    num_embeddings=(k.SIZE, "7"),
    embedding_dim=(k.SIZE, "3"),
    padding_idx=(k.optional(k.integer(0, 6)), "2"),
    **MADE,
)

# Layers: how they run -----------------------------------------------------------------------

XS: Given = {
    "xs": (k.ARRAY, "sequence(it)"),
    "state": (k.STATE, "state_of(it)"),
    "lengths": (k.LENGTHS, "[4, 2]"),
    "mask": (k.STEPS, "steps_of(it)"),
    "masked": (k.choice("zero", "hold"), "'zero'"),
    "resets": (k.STEPS, "steps_of(it)"),
}
add("Layer.__call__", "it", LAYERS, **XS, share=24)
DRAWN: Given = {
    "seed": (k.SEED, "seed_of(it)"),
    "t": (o.STEP, "3"),
    "checkpoint": (o.CHECKPOINT, "2"),
}
add("Layer.forward", "it.forward", LAYERS, **XS, **DRAWN, share=24)
add(
    "Layer.backward",
    "it.backward",
    LAYERS,
    tape=(k.TAPE, "tape_of(it)"),
    dys=(k.optional(k.ARRAY), "outputs(it)"),
    dstate=(k.STATE, "state_of(it)"),
    omit_dxs=(k.FLAG, "False"),
    per_sample=(k.choice(None, "gradients", "norms"), "'norms'"),
    share=24,
)
add(
    "Layer.step",
    "it.step",
    LAYERS,
    x=(k.ARRAY, "put(it, floats(2, 3))"),
    state=(k.STATE, "state_of(it)"),
    share=24,
)
add("Layer.path", "it.path", LAYERS, shape=(k.SHAPE, "(4, 2, 3)"))
add("Layer.initial_state", "it.initial_state", LAYERS, B=(k.integer(0), "2"), words="state")
add("Architecture.inputs", "it.inputs", LAYERS, k=(k.integer(0, 2), "0"))
add("Architecture.widths", "it.widths", LAYERS, k=(k.integer(0, 2), "0"))
add("Architecture.suffixes", "it.suffixes", LAYERS, k=(k.integer(0, 2), "0"))
add("Architecture.parts", "it.parts", LAYERS, share=1)
add("Architecture.shapes", "it.shapes", LAYERS, share=1)
add("Architecture.config", "it.config", LAYERS, share=1)
add("Linear.config", "it.config", LINEAR, share=1)
add("Embedding.config", "it.config", EMBEDDING, share=1)
add("Linear.__call__", "it", LINEAR, hs=(k.ARRAY, "put(it, floats(4, 2, 3))"))
add("Linear.forward", "it.forward", LINEAR, hs=(k.ARRAY, "put(it, floats(4, 2, 3))"))
add(
    "Linear.backward",
    "it.backward",
    LINEAR,
    tape=(k.TAPE, "tape_of(it)"),
    dys=(k.ARRAY, "put(it, floats(4, 2, 4))"),
)
add("Embedding.__call__", "it", EMBEDDING, tokens=(k.INTEGERS, "tokens(it)"))
add("Embedding.forward", "it.forward", EMBEDDING, tokens=(k.INTEGERS, "tokens(it)"))
add(
    "Embedding.backward",
    "it.backward",
    EMBEDDING,
    tape=(k.INTEGERS, "tape_of(it)"),
    dxs=(k.ARRAY, "put(it, floats(4, 2, 3))"),
)

# Layers: their weights ----------------------------------------------------------------------

add("Module.to", "it.to", MODULES, device=(k.DEVICE, "'cpu'"), changes=True)
add("Module.freeze", "it.freeze", (*LINEAR, *EMBEDDING), share=1, changes=True)
FORM: Given = {"weights": (k.choice("int8", "bfloat16", None), "'int8'")}
add("Architecture.freeze", "it.freeze", LAYERS, **FORM, changes=True)
add(
    "Module.weights",
    "it.__setattr__",
    LOOSE,
    _name=(k.FIXED, "'weights'"),
    _value=(k.WEIGHTS, "copied(it)"),
    words="weights W_l0 cannot attribute",
    changes=True,
)
add(
    "Layer.precision",
    "it.__setattr__",
    LAYERS,
    _name=(k.FIXED, "'precision'"),
    _value=(k.PRECISION, "'tf32'"),
    words="precision cannot attribute",
    changes=True,
)
add(
    "Parameters.__setitem__",
    "it.weights.__setitem__",
    LOOSE,
    _name=(k.choice("W_l0"), "'W_l0'"),
    _array=(k.ARRAY, "copied(it)['W_l0']"),
    words="W_l0 weight weights",
    changes=True,
)
add(
    "Parameters.update",
    "it.weights.update",
    LOOSE,
    _arrays=(k.CHANGES, "copied(it)"),
    words="weight weights W_l0 U_l0 b_l0",
    changes=True,
)
add(
    "Parameters.update",
    "it.weights.update",
    LOOSE,
    W_l0=(k.ARRAY, "copied(it)['W_l0']"),
    words="weight weights",
    changes=True,
)
add(
    "Layer.hidden_size",
    "it.__setattr__",
    (*LAYERS[:2], LINEAR[0], EMBEDDING[0]),
    _name=(k.FIXED, "'dtype'"),
    _value=(k.ANYTHING, "'float64'"),
    words="dtype",
    share=2,
)
NAMED: Given = {"_name": (k.choice("W_l0"), "'W_l0'")}
add(
    "Parameters.__getitem__",
    "it.weights.__getitem__",
    LAYERS,
    **NAMED,
    words="weight",
    shares=True,
)
add("Parameters.__delitem__", "it.weights.__delitem__", LAYERS, **NAMED, words="weight")
add("Parameters.__contains__", "it.weights.__contains__", LAYERS, _name=(k.ANYTHING, "'U_l0'"))
add(
    "Parameters.__or__",
    "operator.or_",
    LOOSE,
    _left=(k.FIXED, "it.weights"),
    _right=(k.FIXED, "copied(it)"),
    shares=True,
)
add(
    "Parameters.__ior__",
    "it.weights.__ior__",
    LOOSE,
    _other=(k.CHANGES, "copied(it)"),
    words="weight weights",
    changes=True,
    shares=True,
)

# One cell -----------------------------------------------------------------------------------

add(
    "Cell",
    "cells.Cell",
    name=(k.NAME, "'mine'"),
    gates=(k.ANYTHING, "('a',)"),
    step=(k.ANYTHING, "cells.Elman.step"),
    step_backward=(k.ANYTHING, "cells.Elman.step_backward"),
    total=(k.ANYTHING, "cells.Elman.total"),
    states=(k.ANYTHING, "('h',)"),
    recurrent=(k.FLAG, "True"),
    extras=(k.ANYTHING, "{}"),
    biases=(k.ANYTHING, "('b',)"),
    projection=(k.optional(k.SIZE), "3"),
    analytic=(k.FLAG, "True"),
    linear=(k.Kind(lambda value: value is None), "None"),
    bias_in_step=(k.FLAG, "False"),
    ones=(k.ANYTHING, "()"),
    noise=(k.ANYTHING, "()"),
    options=(k.ANYTHING, "None"),
    maker=(k.ANYTHING, "None"),
)
add("Cell.shapes", "it.shapes", CELLS, I=(k.COUNT, "3"), H=(k.COUNT, "5"), bias=(k.FLAG, "True"))
add("Cell.widths", "it.widths", CELLS, H=(k.COUNT, "5"))
add("Cell.letters", "it.letters", CELLS, name=(k.choice("W", "b"), "'W'"), inputs=(k.NAME, "'I'"))
add("Cell.state", "it.state", CELLS, arrays=(k.ANYTHING, "cell_state(it)"), shares=True)
add(
    "unroll",
    "xrnn.unroll",
    CELLS,
    cell=(k.CELL, "it"),
    weights=(k.WEIGHTS, "weights_of(it)"),
    xs=(k.ARRAY, "floats(4, 2, 3)"),
    state=(k.STATE, "cell_state(it)"),
    lengths=(k.LENGTHS, "[4, 2]"),
    mask=(k.STEPS, "steps()"),
    masked=(k.choice("zero", "hold"), "'hold'"),
    resets=(k.STEPS, "steps()"),
    reverse=(k.FLAG, "False"),
    precision=(k.PRECISION, "'ieee'"),
    seed=(k.SEED, "cell_seed(it)"),
    t=(o.STEP, "3"),
    checkpoint=(o.CHECKPOINT, "3"),
    words="W U b v p P gain state",
    share=32,
)
add(
    "unroll_backward",
    "xrnn.unroll_backward",
    CELLS,
    tape=(k.ANY_TAPE, "cell_tape(it)"),
    dys=(k.optional(k.ARRAY), "cell_outputs(it)"),
    dstate=(k.STATE, "cell_state(it)"),
    words="layer",
    share=16,
)
