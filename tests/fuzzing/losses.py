"""Entries of the fuzzer's table: losses, and what goes with optimizers."""

from fuzzing import kinds as k
from fuzzing.table import Given, add

# Losses -------------------------------------------------------------------------------------

REDUCTION = k.Kind(lambda value: isinstance(value, str) and value in ("mean", "sum", "none"))
#: one number for each class or output, of any library
NUMBERS = k.Kind(
    lambda value: value is None or isinstance(value, list | tuple) or k.is_real(value),
    k.damages_of(
        same="{}.tolist() | tuple({}) | at({}, strided) | at({}, readonly) | at({}, in_torch)"
        "| at({}, elsewhere) | at({}, swapped)",
        error="at({}, objects) | at({}, text) | at({}, structured) | at({}, shorter) | {}[:1]"
        "| at({}, deeper) | at({}, cast, 'bool') | at({}, cast, 'complex128') | at({}, masked)"
        "| at({}, filled, nan) | at({}, filled, inf) | at({}, filled, -1) | {}.tolist() + ['a']",
        any="at({}, other_float) | at({}, cast, 'int64')",
    ),
)
POSITIONS: Given = {
    "mask": (k.MASK, "floats(4, 2) > -9"),
    "lengths": (k.LENGTHS, "[2, 4]"),
    "batch_first": (k.FLAG, "False"),
    "reduction": (REDUCTION, "'sum'"),
}
LOSS: Given = {"targets": (k.TARGETS, "floats(4, 2, 6, seed=1) ** 2"), **POSITIONS}
CLASSES: Given = {
    "class_weights": (k.optional(NUMBERS), "(1 + floats(6, seed=2) ** 2)"),
    "label_smoothing": (k.real(0, 1), "0.1"),
}
add(
    "losses.softmax_cross_entropy",
    logits=(k.ARRAY, "floats(4, 2, 6)"),
    targets=(k.INTEGERS, "np.arange(8).reshape(4, 2) % 6"),
    ignore_index=(k.optional(k.integer(-(2**71), 2**71)), "3"),
    **POSITIONS,
    **CLASSES,
    words="rest",
    share=16,
)
add(
    "losses.softmax_cross_entropy",
    logits=(k.ARRAY, "floats(4, 2, 6)"),
    **LOSS,
    **CLASSES,
    words="rest",
)
YS: Given = {"ys": (k.ARRAY, "floats(4, 2, 6)"), **LOSS}
add("losses.squared_error", **YS, words="rest", share=16)
add("losses.huber", **YS, delta=(k.real(0, 1e308, ends="(]"), "0.5"), words="rest")
add("losses.quantile", **YS, level=(NUMBERS, "(np.arange(1, 7) / 8)"), words="rest")
add("losses.quantile", **YS, level=(k.real(0, 1, ends="()"), "0.5"), words="rest")
add(
    "losses.binary_cross_entropy",
    logits=(k.ARRAY, "floats(4, 2, 6)"),
    **LOSS,
    pos_weight=(NUMBERS, "(np.arange(1, 7) / 8)"),
    words="rest",
)
#: without alignments, as where lengths are 0, the loss is infinite but for `zero_infinity`
CTC: Given = {
    "targets": (k.INTEGERS, "np.arange(1, 5).reshape(2, 2)"),
    "blank": (k.integer(0, 5), "0"),
    "batch_first": (k.FLAG, "False"),
    "reduction": (REDUCTION, "'mean'"),
}
add(
    "losses.ctc",
    "functools.partial(xrnn.losses.ctc, zero_infinity=True)",
    logits=(k.ARRAY, "floats(4, 2, 6)"),
    lengths=(k.LENGTHS, "[3, 4]"),
    target_lengths=(k.LENGTHS, "[1, 2]"),
    **CTC,
    share=16,
)
add(
    "losses.ctc",
    logits=(k.FIXED, "floats(4, 2, 6)"),
    zero_infinity=(k.FLAG, "False"),
    **CTC,
    words="lengths target_lengths",
)
add("losses.softmax_jacobian", p=(k.ALONE, "floats(2, 6) ** 2"))

# Schedules, sums and averages ---------------------------------------------------------------

FRACTION = k.real(0, 1, ends="[)")
STEP: Given = {"step": (k.real(0, 1e308), "3"), "steps": (k.COUNT, "7")}
add("optim.warmup", **STEP, share=4)
add("optim.cosine", **STEP, least=(k.real(0, 1), "0.1"), share=4)
add(
    "optim.Plateau",
    shrink=(FRACTION, "0.5"),
    patience=(k.COUNT, "2"),
    threshold=(k.real(0, 1e308), "0.1"),
    least=(k.real(0, 1), "0.1"),
)
add(
    "Plateau.update",
    "it.update",
    ("xrnn.optim.Plateau()", "xrnn.optim.Plateau(patience=1)"),
    measure=(k.Kind(k.is_real), "0.5"),
    changes=True,
)
add("Plateau.config", "it.config", ("xrnn.optim.Plateau()",), share=1)
add("Average.config", "it.config", ("xrnn.optim.Average(0.5)",), share=1)
add(
    "optim.accumulate",
    total=(k.optional(k.TREE), "tree()"),
    dweights=(k.TREE, "tree()"),
    factor=(k.real(-1e308, 1e308), "0.5"),
    words="gradient a.W a.b E",
    share=16,
)
add("optim.Average", decay=(FRACTION, "0.5"), share=4)
AVERAGES = ("averaging(tree())", "averaging(tree(), decay=0.0)")
AVERAGED: Given = {"weights": (k.OF_TORCH, "tree()")}
for name in ("update", "copy_to"):
    add(
        f"Average.{name}",
        f"it.{name}",
        AVERAGES,
        **AVERAGED,
        words="a.W a.b E average",
        changes=True,
        share=16,
    )
add("Average.swapped", "entered(it)", AVERAGES, **AVERAGED, words="a.W a.b E average", share=8)
