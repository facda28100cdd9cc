"""Entries of the fuzzer's table: training."""

from fuzzing import kinds as k
from fuzzing import option_kinds as o
from fuzzing.table import add

MODEL = "xrnn.Sequential(xrnn.GRU(3, 4, rng=0), xrnn.Last(), xrnn.Linear(4, 2, rng=0))"

add(
    "fit",
    model=(o.MODEL, MODEL),
    data=(o.DATA, "([floats(4, 3), floats(2, 3)], [0, 1])"),
    loss=(o.LOSS, "xrnn.losses.softmax_cross_entropy"),
    validation=(k.FIXED, "([floats(4, 3), floats(2, 3)], [0, 1])"),
    epochs=(k.FIXED, "1"),
    steps=(k.optional(k.integer(1, 2**71)), "2"),
    every=(k.optional(k.COUNT), "1"),
    keep_best=(k.FLAG, "True"),
    carry_state=(k.FIXED, "False"),
    truncate=(k.FIXED, "None"),
    recompute=(o.CHECKPOINT, "2"),
    patience=(k.optional(k.COUNT), "3"),
    batch_size=(k.COUNT, "2"),
    optimizer=(k.FIXED, "xrnn.optim.SGD(0.1)"),
    clip=(k.optional(k.real(0, float("inf"), ends="(]")), "1.0"),
    schedule=(k.FIXED, "None"),
    metrics=(k.FIXED, "None"),
    rng=(k.RNG, "0"),
    checkpoint=(k.FIXED, "None"),
    metadata=(k.FIXED, "{'note': 1}"),
    callback=(k.FIXED, "None"),
    resume=(k.FLAG, "False"),
    progress=(k.FIXED, "False"),
    parallel=(k.FIXED, "None"),
    changes=True,
    words="checkpoint resume x y targets",
    share=8,
)
add("world", "xrnn.parallel.world", share=1)
add(
    "predict",
    model=(o.MODEL, MODEL),
    x=(o.SEQUENCES, "[floats(4, 3), floats(2, 3)]"),
    batch_size=(k.COUNT, "2"),
    share=8,
)
add(
    "truncated",
    "(lambda *given, **how: [window.ys for window in xrnn.truncated(*given, **how)])",
    model=(o.MODEL, "xrnn.GRU(3, 4, rng=0)"),
    xs=(k.ARRAY, "floats(4, 2, 3).astype('float32')"),
    k1=(k.COUNT, "1"),
    k2=(k.optional(k.COUNT), "2"),
    state=(k.FIXED, "None"),
    lengths=(k.LENGTHS, "[4, 2]"),
    mask=(k.STEPS, "np.ones((4, 2), bool)"),
    resets=(k.STEPS, "np.zeros((4, 2), bool)"),
    seed=(k.SEED, "3"),
    t=(o.STEP, "2"),
    checkpoint=(o.CHECKPOINT, "2"),
    words="k1 k2 whole sequences",
)
