"""Entries of the fuzzer's table: learning, analysis, files, backends, the command line."""

from fuzzing import kinds as k
from fuzzing import option_kinds as o
from fuzzing.table import (
    CELLS,
    EMBEDDING,
    LAYERS,
    LEARNERS,
    LINEAR,
    MODULES,
    OPTIMIZERS,
    Given,
    add,
)

# Learning -----------------------------------------------------------------------------------

add(
    "optim.clip_by_global_norm",
    dweights=(k.TREE, "tree()"),
    limit=(k.real(0, float("inf"), ends="(]"), "1.0"),
    words="gradient a.W E",
    share=16,
)
RATE: Given = {"lr": (k.real(0, 1e308, ends="(]"), "0.1")}
FRACTION = k.real(0, 1, ends="[)")
add("optim.SGD", **RATE, momentum=(FRACTION, "0.5"))
add(
    "optim.Adam",
    **RATE,
    beta1=(FRACTION, "0.9"),
    beta2=(FRACTION, "0.99"),
    eps=(k.real(0, 1e308), "1e-8"),
    weight_decay=(k.real(0, 1e308), "0.1"),
)
add("optim.Optimizer", **RATE, share=1)
add("Optimizer.config", "it.config", OPTIMIZERS, share=1)
add(
    "Optimizer.lr",
    "it.__setattr__",
    OPTIMIZERS,
    _name=(k.FIXED, "'lr'"),
    _value=(k.real(0, 1e308), "0.2"),
    words="lr",
    changes=True,
)
add(
    "Optimizer.update",
    "it.update",
    OPTIMIZERS,
    weights=(k.TREE, "tree()"),
    dweights=(k.TREE, "tree()"),
    words="gradient a.W a.b E",
    changes=True,
    share=24,
)
add(
    "Optimizer.update",
    "it.update",
    OPTIMIZERS,
    weights=(k.WEIGHTS, "xrnn.LSTM(3, 5, rng=0).weights"),
    dweights=(k.WEIGHTS, "gradients_of(xrnn.LSTM(3, 5, rng=0))"),
    words="gradient W_l0 U_l0 b_l0 weight",
    changes=True,
)
add(
    "online.Online",
    "xrnn.online.Online",
    CELLS,
    cell=(k.CELL, "it"),
    weights=(k.WEIGHTS, "weights_of(it)"),
    batch=(k.SIZE, "2"),
    state=(k.STATE, "cell_state(it)"),
    method=(k.choice("exact", "snap1"), "'exact'"),
    limit=(k.real(0, float("inf")), "2**20"),
    words="W U b v p P gain sensitivities",
    share=16,
)
add("Online.step", "it.step", LEARNERS, x=(k.ARRAY, "floats(2, 3)"), changes=True)
add("Online.gradient", "it.gradient", LEARNERS, dh=(k.ARRAY, "floats(2, 5)"))
add("Online.config", "it.config", LEARNERS, share=1)
add(
    "Online.reset",
    "it.reset",
    LEARNERS,
    rows=(k.ROWS, "[0]"),
    state=(k.STATE, "cell_state(it.cell)"),
    words="stream streams",
    changes=True,
)
add(
    "Online.state",
    "it.__setattr__",
    LEARNERS,
    _name=(k.FIXED, "'state'"),
    _value=(k.STATE, "cell_state(it.cell)"),
    words="state",
    changes=True,
)

# Analysis -----------------------------------------------------------------------------------

TAPES = (
    "cell_tape()",
    "cell_tape(cells.MinGRU)",
    "tape_of(xrnn.GRU(3, 5, dtype='float64', rng=0))",
)
IT: Given = {"tape": (k.ANY_TAPE, "it")}
add(
    "analysis.difference",
    "xrnn.analysis.difference",
    ("xrnn.GRU(3, 5, rng=0)", "xrnn.LSTM(3, 5, dtype='float64', batch_first=True, rng=0)"),
    model=(o.PART, "it"),
    other=(o.PART, "it"),
    xs=(k.ARRAY, "put(it, floats(4, 2, 3))"),
    words="outputs",
)
add("analysis.gates", "xrnn.analysis.gates", TAPES, **IT)
GRADIENTS: Given = {
    "dys": (k.optional(k.ARRAY), "floats(4, 2, 5)"),
    "dstate": (k.STATE, "dstate_of(it)"),
}
add(
    "analysis.gate_gradients",
    "xrnn.analysis.gate_gradients",
    TAPES,
    **IT,
    **GRADIENTS,
)
add(
    "analysis.gradient_flow", "xrnn.analysis.gradient_flow", TAPES, **IT, **GRADIENTS, words="dh dc"
)
add(
    "analysis.jacobian",
    "xrnn.analysis.jacobian",
    TAPES,
    **IT,
    t=(k.integer(-1, 4), "0"),
    span=(k.integer(0, 4), "2"),
    of=(k.STATE_NAME, "'h'"),
    by=(k.STATE_NAME, "None"),
    words="state",
)
add(
    "analysis.lyapunov",
    "xrnn.analysis.lyapunov",
    TAPES,
    **IT,
    k=(k.integer(1, 10), "2"),
    skip=(k.integer(0, 3), "1"),
)
add(
    "analysis.fixed_points",
    "xrnn.analysis.fixed_points",
    tuple(text for text in LAYERS if "directional" not in text and "reverse" not in text),
    layer=(k.FIXED, "it"),
    starts=(k.STATE, "state_of(it)"),
    x=(k.optional(k.ALONE), "put(it, floats(3))"),
    tolerance=(k.real(0, 1e308, ends="(]"), "1e-8"),
    distance=(k.real(0, 1e308, ends="(]"), "1e-3"),
    iterations=(k.SIZE, "20"),
    own_dtype=True,
    words="state h c",
)
add(
    "certify",
    device=(k.DEVICE, "'cpu'"),
    dtype=(k.choice("float32", "float64", "float16"), "'float32'"),
    cells=(k.CELLS, "[cells.Elman]"),
    laws=(k.LAWS, "['batch', 'cut']"),
    precision=(k.PRECISION, "'ieee'"),
    words="cell",
    share=1,
)

# Files, conversion, backends ----------------------------------------------------------------

add(
    "save",
    "xrnn.save",
    MODULES,
    path=(k.PATH, "folder() + '/written'"),
    part=(k.PARTS, "it"),
    metadata=(k.METADATA, "{'note': 'x'}"),
    share=16,
)
add(
    "load",
    "xrnn.load",
    MODULES,
    path=(k.READ, "saved(it)"),
    part=(k.optional(k.PARTS), "it"),
    cast=(k.FLAG, "False"),
    changes=True,
    words="weights safetensors file",
    share=16,
)
add(
    "load",
    "xrnn.load",
    (*MODULES, "{'a': xrnn.GRU(3, 5, rng=0), 'b': xrnn.optim.Adam()}"),
    path=(k.READ, "saved(it)"),
    dtype=(k.optional(k.DTYPE), "None"),
    device=(k.optional(k.DEVICE), "None"),
    words="weights safetensors file cast",
    share=16,
)
add(
    "convert.files.read",
    "files.read",
    MODULES,
    path=(k.READ, "saved(it)"),
    words="safetensors file",
)
# PyTorch has no module that only runs backward, so `to_torch` makes no state dict of it.
FORWARD = tuple(one for one in LAYERS[:4] if "reverse=True" not in one)
TORCH = (*LINEAR[:2], EMBEDDING[0])
add(
    "convert.from_torch",
    "xrnn.convert.from_torch",
    (*FORWARD, *TORCH),
    layer=(k.PARTS, "it"),
    state_dict=(k.OF_TORCH, "xrnn.convert.to_torch(it)"),
    prefix=(k.choice(None, ""), "None"),
    gradients=(k.FLAG, "False"),
    words="PyTorch weight_ih_l0 weight_hh_l0 weight bias bias_ih_l0 bias_hh_l0 frozen",
    changes=True,
    share=16,
)
add(
    "convert.to_torch",
    "xrnn.convert.to_torch",
    (*LAYERS[:4], *TORCH),
    layer=(k.PARTS, "it"),
    tree=(k.optional(k.OF_TORCH), "gradients_of(it)"),
    gradients=(k.optional(k.FLAG), "True"),
    words="PyTorch missing W_l0 U_l0 b_l0",
    share=16,
)
add(
    "convert.load_torch",
    "xrnn.convert.load_torch",
    FORWARD,
    path_or_mapping=(k.OF_TORCH, "xrnn.convert.to_torch(it)"),
    prefix=(k.choice(None, ""), "None"),
    batch_first=(k.FLAG, "False"),
    nonlinearity=(k.choice("tanh", "relu"), "'tanh'"),
    dtype=(k.optional(k.DTYPE), "None"),
    device=(k.DEVICE, "'cpu'"),
    words="path PyTorch weight_ih_l0 weight_hh_l0 weight bias bias_ih_l0 bias_hh_l0",
    share=16,
)
add("backends.locate", "backends.locate", device=(k.DEVICE, "'cpu'"))
add("backends.get", "backends.get", name=(k.DEVICE, "'cpu'"), words="device backend")
add(
    "backends.backend_of", "backends.backend_of", x=(k.ANYTHING, "floats(3)"), name=(k.FIXED, "'x'")
)
add(
    "backends.register",
    "backends.register",
    library=(k.NAME, "'mine'"),
    backend=(k.Kind(lambda value: False), "backends.get('cpu')"),
    changes=True,
    undo="forget()",
)
add(
    "backends.unregister",
    "backends.unregister",
    library=(k.choice("mine"), "registered('mine')"),
    changes=True,
    undo="forget()",
)
add("backends.folders", "backends.folders", share=1)

# The command line ---------------------------------------------------------------------------

add(
    "command train",
    "command",
    _command=(k.WORD, "'train'"),
    cell=(k.WORD, "'gru'"),
    text=(k.WORD, "'text.txt'"),
    out=(k.WORD, "'run'"),
    backend=(k.WORD, "'cpu'"),
    hidden=(k.WORD, "4"),
    layers=(k.WORD, "1"),
    embedding=(k.WORD, "3"),
    batch=(k.WORD, "2"),
    length=(k.WORD, "5"),
    steps=(k.FEW, "2"),
    seed=(k.WORD, "0"),
    lr=(k.WORD, "0.01"),
    share=2,
)
add(
    "command flow",
    "command",
    _command=(k.WORD, "'flow'"),
    cells=(k.WORD, "'rnn,lstm'"),
    steps=(k.WORD, "3"),
    hidden=(k.WORD, "4"),
    seed=(k.WORD, "0"),
    out=(k.WORD, "'flow.png'"),
    share=2,
)
add(
    "command sample",
    "command",
    _command=(k.WORD, "'sample'"),
    _folder=(k.WORD, "trained()"),
    prime=(k.WORD, "'to be'"),
    length=(k.FEW, "5"),
    temperature=(k.WORD, "0.7"),
    seed=(k.WORD, "0"),
    backend=(k.WORD, "'cpu'"),
    share=4,
)
add("command info", "command", _command=(k.WORD, "'info'"), nonsense=(k.WORD, "None"), share=1)
add(
    "command certify",
    "command",
    _command=(k.WORD, "'certify'"),
    backend=(k.WORD, "'nowhere'"),
    dtype=(k.WORD, "'float32'"),
    share=2,
)
