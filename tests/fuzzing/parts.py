"""Entries of the fuzzer's table: parts of models, and models of parts."""

from fuzzing import kinds as k
from fuzzing import option_kinds as o
from fuzzing.layers import FORM, MADE
from fuzzing.table import (
    ATTENTIONS,
    ATTENTIVE,
    DROPOUTS,
    LAYERS,
    MERGES,
    MODELS,
    NORMS,
    POOLS,
    SEQ2SEQS,
    TIED,
    Given,
    add,
)

# How they are made --------------------------------------------------------------------------

add("Dropout", rate=(o.RATE, "0.25"))
add("Merge", mode=(k.choice("sum", "mean", "mul", "max"), "'max'"))
for name in ("Mean", "Max"):
    add(name, batch_first=(k.FLAG, "True"), share=2)
add("Last", batch_first=(k.FLAG, "True"), both_ends=(k.FLAG, "True"), share=2)
add(
    "LayerNorm",
    size=(k.SIZE, "3"),
    eps=(k.real(1e-30, 1, ends="[)"), "1e-3"),
    **{name: MADE[name] for name in ("dtype", "device")},
)
add(
    "TiedLinear",
    embedding=(o.EMBEDDING, "xrnn.Embedding(7, 3, rng=0)"),
    activation=(k.choice("relu", "tanh", "sigmoid", "softplus", None), "'tanh'"),
    bias=(k.FLAG, "True"),
)
add(
    "AttentionPooling",
    size=(k.SIZE, "3"),
    attention_size=(k.optional(k.SIZE), "2"),
    batch_first=(k.FLAG, "True"),
    **MADE,
    words="attention_pooling",
)
add(
    "Attention",
    query_size=(k.SIZE, "3"),
    memory_size=(k.optional(k.SIZE), "4"),
    output_size=(k.optional(k.SIZE), "2"),
    score=(k.choice("general"), "'general'"),
    batch_first=(k.FLAG, "True"),
    **MADE,
    words="attention",
)
add(
    "Seq2Seq",
    encoder=(o.LAYER, "xrnn.GRU(3, 4, rng=0)"),
    decoder=(o.LAYER, "xrnn.GRU(3, 4, rng=0)"),
    readout=(o.PART, "xrnn.Linear(4, 2, rng=0)"),
    attention=(o.ATTENTION, "xrnn.Attention(4, rng=0)"),
    source=(k.optional(o.PART), "xrnn.Embedding(7, 3, rng=0)"),
    target=(k.optional(o.PART), "xrnn.Embedding(7, 3, rng=0)"),
    words="seq2seq",
)
add("Sequential", _a=(o.PART, "xrnn.GRU(3, 5, rng=0)"), b=(o.PART, "xrnn.Last()"), words="part")
add("Residual", _a=(o.PART, "xrnn.GRU(3, 3, rng=0)"), b=(o.PART, "xrnn.Dropout(0)"), words="part")

# How they run -------------------------------------------------------------------------------

X: Given = {"x": (k.ALONE, "of_part(it)")}
TAPE = (k.TAPE, "made_by(it)[1]")
DY: Given = {"tape": TAPE, "dy": (k.ARRAY, "made_by(it)[0]")}
SEEDED: Given = {"seed": (k.SEED, "3"), "t": (o.STEP, "2")}

add("Dropout.__call__", "it", DROPOUTS, **X, shares=True)
add("Dropout.forward", "it.forward", DROPOUTS[:1], **X, **SEEDED, words="dropout")
add("Dropout.forward", "it.forward", DROPOUTS[1:], **X, **SEEDED, shares=True)
add("Dropout.backward", "it.backward", DROPOUTS[:1], **DY)
add("Dropout.backward", "it.backward", DROPOUTS[1:], **DY, shares=True)
add("Dropout.config", "it.config", DROPOUTS, share=1)
add("Weightless.to", "it.to", (*DROPOUTS, *POOLS), device=(k.DEVICE, "'cpu'"), share=2)
add("Weightless.freeze", "it.freeze", (*DROPOUTS, *MERGES), share=1)

add("Merge.__call__", "it", MERGES, **X)
add("Merge.forward", "it.forward", MERGES, **X)
add("Merge.backward", "it.backward", MERGES, **DY)
add("Merge.config", "it.config", MERGES, share=1)

OWN: Given = {"x": (k.ARRAY, "of_part(it)")}
add("LayerNorm.__call__", "it", NORMS, **OWN)
add("LayerNorm.forward", "it.forward", NORMS, **OWN)
add("LayerNorm.backward", "it.backward", NORMS, **DY)
add("LayerNorm.config", "it.config", NORMS, share=1)

HS: Given = {"hs": (k.ARRAY, "of_tied(it)")}
add("TiedLinear.__call__", "it", TIED, **HS)
add("TiedLinear.forward", "it.forward", TIED, **HS)
add(
    "TiedLinear.backward",
    "it.backward",
    TIED,
    tape=(k.TAPE, "it.forward(of_tied(it))[1]"),
    dys=(k.ARRAY, "it(of_tied(it))"),
    words="dy",
)

STEPS: Given = {"lengths": (k.LENGTHS, "[4, 2]"), "mask": (k.STEPS, "steps_in(it)")}
SEQUENCES: Given = {"x": (k.ALONE, "of_pool(it)"), **STEPS}
add("Pooling.__call__", "it", POOLS, **SEQUENCES)
add("Pooling.forward", "it.forward", POOLS, **SEQUENCES)
add("Pooling.backward", "it.backward", POOLS, **DY)
add("Pooling.config", "it.config", POOLS, share=1)
add("Last.config", "it.config", POOLS[:2], share=1)

OWN_SEQUENCES: Given = {"x": (k.ARRAY, "put(it, of_pool(it))"), **STEPS}
add("AttentionPooling.__call__", "it", ATTENTIVE, **OWN_SEQUENCES)
add("AttentionPooling.forward", "it.forward", ATTENTIVE, **OWN_SEQUENCES)
add("AttentionPooling.attention", "it.attention", ATTENTIVE, **OWN_SEQUENCES)
add("AttentionPooling.backward", "it.backward", ATTENTIVE, **DY)
add("AttentionPooling.config", "it.config", ATTENTIVE, share=1)

READ: Given = {
    "queries": (k.ARRAY, "read_by(it)[0]"),
    "memory": (k.ARRAY, "read_by(it)[1]"),
    **STEPS,
}
add("Attention.__call__", "it", ATTENTIONS, **READ)
add("Attention.forward", "it.forward", ATTENTIONS, **READ)
add("Attention.attention", "it.attention", ATTENTIONS, **READ)
add(
    "Attention.backward",
    "it.backward",
    ATTENTIONS,
    tape=(k.TAPE, "it.forward(*read_by(it))[1]"),
    dys=(k.ARRAY, "it(*read_by(it))"),
    words="dy",
)
add("Attention.config", "it.config", ATTENTIONS, share=1)

# Models -------------------------------------------------------------------------------------

STATE = (o.STATES, "states_in(it)")
RUN: Given = {
    "x": (k.ARRAY, "of_model(it)"),
    "state": STATE,
    **STEPS,
    "resets": (k.STEPS, "steps_in(it)"),
}
OF_PARTS = "xs hs state rnn a gru lstm"
add("Sequential.__call__", "it", MODELS, **RUN, words=OF_PARTS, share=16)
add("Sequential.run", "it.run", MODELS, **RUN, words=OF_PARTS, share=4)
add(
    "Sequential.forward",
    "it.forward",
    MODELS,
    **RUN,
    **SEEDED,
    checkpoint=(o.CHECKPOINT, "2"),
    words=OF_PARTS,
    share=16,
)
add(
    "Sequential.backward",
    "it.backward",
    MODELS,
    **DY,
    dstate=STATE,
    omit_dxs=(k.FLAG, "False"),
    words=f"dys {OF_PARTS}",
    share=16,
)
add("Sequential.step", "it.step", MODELS, x=(k.ARRAY, "of_model(it)[0, ...]"), state=STATE)
add("Sequential.initial_state", "it.initial_state", MODELS, B=(k.integer(0), "2"), words="state")
add("Sequential.path", "it.path", MODELS, shape=(k.SHAPE, "(4, 2, 3)"))
#: any state: nested tuples and dicts of arrays
ANY_STATE = k.Kind(
    lambda value: isinstance(value, tuple | list | dict) or value is None or k.ARRAY.takes(value),
    k.damages_of(
        same="tuple({})",
        error="iter({}) | (*{}, 'h') | (*{}, np.ones(3)) | ({}, np.ones((9, 2))) | {5: set({})}",
        any="{}[0] | {}[:1] | (*{}, None) | {'a': {}} | ({}, {}) | list({})",
    ),
)
#: booleans (B,); their transpose, and a flat copy, are the same
CHOICE = k.Kind(
    k.STEPS.takes,
    tuple(d for d in k.STEPS.damages if "flat" not in d.template and d.template != "{}.T"),
)
#: a state may hold no array, and then nothing tells how many sequences there are
ROWS = k.Kind(
    lambda value: k.ROWS.takes(value) or k.integer(2, 2**31 - 1).takes(value),
    tuple(d if d.template != "[2]" else k.Damage("[2]", "any") for d in k.ROWS.damages),
)
STATEFUL = tuple(f"state_of({layer})" for layer in LAYERS)
add(
    "states.take",
    "xrnn.states.take",
    STATEFUL,
    state=(ANY_STATE, "it"),
    rows=(ROWS, "[0]"),
)
add(
    "states.put",
    "xrnn.states.put",
    STATEFUL,
    state=(ANY_STATE, "it"),
    rows=(ROWS, "[0]"),
    new=(ANY_STATE, "xrnn.states.take(it, [0])"),
    changes=True,
    shares=True,
)
add(
    "states.where",
    "xrnn.states.where",
    STATEFUL,
    mask=(CHOICE, "np.array([True, False])"),
    a=(ANY_STATE, "it"),
    b=(ANY_STATE, "xrnn.states.take(it, [1, 0])"),
)
LISTS = k.Kind(
    lambda value: isinstance(value, list | tuple) and len(value) > 0,
    k.damages_of(
        same="tuple({}) | [one.tolist() for one in {}] | [np.asfortranarray(one) for one in {}]",
        error="[] | iter({}) | {}[0] | [*{}, np.ones(3)] | [*{}, np.array(1.0)] | [*{}, 'x']"
        "| [*{}, None] | [*{}, [[1], [2, 3]]] | {0: 1} | [1.5] | [*{}, strict.ones((4, 3))]",
        any="[one[:0] for one in {}] | {}[:1] | [*{}, np.ones((2, 3), int)] | [[True], []]",
    ),
)
add(
    "pad",
    sequences=(LISTS, "[floats(4, 3), floats(2, 3)]"),
    batch_first=(k.FLAG, "False"),
)
add("Composite.to", "it.to", MODELS, device=(k.DEVICE, "'cpu'"), changes=True)
add("Composite.freeze", "it.freeze", MODELS, **FORM, changes=True, share=1)
add("Composite.config", "it.config", (*MODELS, *TIED), share=1)
#: tokens; one that lies behind the end of its sequence may be anything
TOKENS = k.Kind(
    k.INTEGERS.takes,
    tuple(
        k.Damage(damage.template, "any") if "filled" in damage.template else damage
        for damage in k.INTEGERS.damages
    ),
)
TRANSLATED: Given = {
    "sources": (k.ARRAY, "floats(4, 2, 3).astype('f4')"),
    "lengths": (k.LENGTHS, "[4, 2]"),
}
WRITTEN: Given = {
    **TRANSLATED,
    "targets": (TOKENS, "np.array([[0, 1], [6, 2], [3, 4], [5, 5]])"),
    "target_lengths": (k.LENGTHS, "[4, 2]"),
}
add("Seq2Seq.__call__", "it", SEQ2SEQS, **WRITTEN, words="x xs tokens lengths")
add(
    "Seq2Seq.forward",
    "it.forward",
    SEQ2SEQS,
    **WRITTEN,
    seed=(k.SEED, "3"),
    checkpoint=(o.CHECKPOINT, "2"),
    words="x xs tokens lengths",
)
add(
    "Seq2Seq.backward",
    "it.backward",
    SEQ2SEQS,
    tape=(k.TAPE, "translated(it)[1]"),
    dlogits=(k.ARRAY, "translated(it)[0]"),
    omit_dxs=(k.FLAG, "False"),
    words="dy dys",
)
add(
    "Seq2Seq.generate",
    "it.generate",
    SEQ2SEQS,
    **TRANSLATED,
    start=(k.integer(0, 6), "0"),
    stop=(k.integer(0, 2**31 - 1), "1"),
    longest=(k.integer(1, 50), "3"),
    words="x xs tokens lengths",
)
add(
    "check_gradients",
    "xrnn.check_gradients",
    f=(k.FIXED, "squares"),
    weights=(k.OF_TORCH, "tree()"),
    method=(k.choice("differences", "complex"), "'differences'"),
    directions=(k.integer(1, 100), "1"),
    bound=(k.optional(k.real(0, 1e308, ends="(]")), "1e-5"),
    rng=(k.RNG, "0"),
    raises=(k.FLAG, "True"),
    words="gradient a.W a.b E",
)
