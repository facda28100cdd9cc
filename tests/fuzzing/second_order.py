"""Entries of the fuzzer's table: derivatives along directions, and products of second order."""

from fuzzing import kinds as k
from fuzzing.table import LAYERS, LINEAR, Given, add

#: layers of real numbers
REAL = tuple(text for text in LAYERS if "complex" not in text)
OF_LAYERS: Given = {
    "part": (k.FIXED, "it"),
    "xs": (k.ARRAY, "sequence(it)"),
    "vector": (k.OF_TORCH, "gradients_of(it)"),
    "lengths": (k.LENGTHS, "[4, 2]"),
    "state": (k.STATE, "state_of(it)"),
    "seed": (k.SEED, "seed_of(it)"),
}
WORDS = "W_l0 U_l0 b_l0 v_l0 p_l0 x h c seed"
add(
    "jvp",
    "xrnn.jvp",
    REAL,
    **OF_LAYERS | {"vector": (k.optional(k.OF_TORCH), "gradients_of(it)")},
    xs_vector=(k.optional(k.ARRAY), "sequence(it)"),
    state_vector=(k.STATE, "state_of(it)"),
    words=WORDS,
    share=16,
)
SEVERAL: Given = {"loss": (k.FIXED, "halves")}
add("hvp", "xrnn.hvp", REAL, **OF_LAYERS, **SEVERAL, words=WORDS, share=16)
add("gnvp", "xrnn.gnvp", REAL, **OF_LAYERS, **SEVERAL, words=WORDS, share=16)
OF_LINEAR: Given = {
    "part": (k.PARTS, "it"),
    "xs": (k.ARRAY, "put(it, floats(4, 2, 3))"),
    **SEVERAL,
    "vector": (k.OF_TORCH, "gradients_of(it)"),
}
add("hvp", "xrnn.hvp", LINEAR, **OF_LINEAR, words="W b hs")
add("gnvp", "xrnn.gnvp", LINEAR, **OF_LINEAR, words="W b hs")
