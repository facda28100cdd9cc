"""What is found in a file of Keras: a layer and its arrays, and what the names of arrays say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from xrnn.convert.keras_files import KerasFile

#: the layers that can be loaded
RECURRENT = ("LSTM", "GRU", "SimpleRNN", "CuDNNLSTM", "CuDNNGRU")
LOADED = (*RECURRENT, "Dense", "Embedding")


class Found(NamedTuple):
    """A layer whose weights the file holds.

    - name: its name, after those of the models that hold it: "encoder/lstm"
    - kind: one of `LOADED`, or "" if it cannot be loaded, which `notes` explain
    - config: its configuration; None if the file has none
    - arrays: the paths of its arrays in order, for each direction
    - notes: what is to be known of it
    """

    name: str
    kind: str
    config: Mapping[str, Any] | None
    arrays: list[list[str]]
    notes: tuple[str, ...] = ()


#: the last part of a path: the name that Keras gives an array, and in Keras 1 its owner before it
MODERN = re.compile(r"(?:(.*)/)?(kernel|recurrent_kernel|bias|embeddings)(?:_\d+)?(?::\d+)?")
KERAS_1 = re.compile(r"(?:(.*?)[/_])?([WUb](?:_[ifcozrh])?)(?::\d+)?")


def split(path: str) -> tuple[str, str]:
    """The owner of an array, and the name of the array; "" if Keras has no such name."""
    found = MODERN.fullmatch(path) or KERAS_1.fullmatch(path)
    return (found[1] or "", found[2]) if found else (path.rpartition("/")[0], "")


def arrays_in(file: KerasFile, group: str) -> list[str]:
    """The paths of the arrays of one object, in order."""
    start = f"{group}/vars/"
    numbers = sorted(
        int(p[len(start) :]) for p in file.unread if re.fullmatch(re.escape(start) + r"\d+", p)
    )
    return [f"{start}{n}" for n in numbers]
