"""What else a layer of Keras does than the part that is made of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from xrnn.convert.keras_found import Found


def notes_of(found: Found, masks: Sequence[str]) -> Iterator[str]:
    """Those on a recurrent layer; `masks` are the layers of the model that mask steps."""
    config, both = found.config, len(found.arrays) == 2
    if config is None:
        assumed = [] if found.kind.startswith("CuDNN") else ["tanh" + " in both directions" * both]
        if both:
            assumed.append("that the outputs are joined by merge_mode='concat'")
        else:
            assumed.append("that the layer runs from the start to the end")
        yield f"the file has no configuration; assumed: {', and '.join(assumed)}"
        return
    if not config.get("return_sequences"):
        batch = "" if config.get("time_major") else ":, "
        last = f"ys[{batch}{0 if config.get('go_backwards') else -1}]"
        if both:
            H = config.get("units", config.get("output_dim"))
            last = f"ys[{batch}-1, …, :{H}] and ys[{batch}0, …, {H}:] side by side"
        pool = ", as xrnn.Last(both_ends=True) does" if both else ""
        yield f"return_sequences=False: Keras returns {last} alone{pool}"
    if config.get("go_backwards"):
        yield (
            "go_backwards: the layer has reverse=True, and its outputs are in the order of time; "
            "Keras returns them in the order in which it computes them, the last step first"
        )
    if config.get("stateful"):
        yield "stateful: give every call the state that the one before returned"
    if config.get("time_major"):
        yield "time_major: inputs and outputs are (T, B, …)"
    if config.get("dropout") or config.get("recurrent_dropout"):
        yield "dropout of inputs and outputs, which acts in training alone, is left out"
    if masks:
        masked = "zero" if config.get("zero_output_for_mask") else "hold"
        yield f"the model masks steps ({', '.join(masks)}): give mask, and masked={masked!r}"
    yield from policy_notes(config)


def policy_notes(config: Mapping[str, Any]) -> list[str]:
    """The note on a layer that computes in another dtype than that of its weights."""
    policy = config.get("dtype")
    if isinstance(policy, Mapping):
        policy = policy.get("config", {}).get("name")
    if not isinstance(policy, str) or not policy.startswith("mixed_"):
        return []
    dtype = policy.removeprefix("mixed_")
    return [f"Keras computes in {dtype}, and the part in the dtype of its weights"]


def spelled(function: Any) -> str:
    """An activation function in a configuration, for messages: its name, or that of its class."""
    if isinstance(function, Mapping):
        inner, class_name = function.get("config"), function.get("class_name")
        if class_name in (None, "__lambda__"):
            return "a lambda, of which the file has nothing but code, which xrnn does not read"
        return repr(inner if isinstance(inner, str) else class_name)
    return repr(function)
