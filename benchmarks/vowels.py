"""The data set Japanese Vowels, as the package aeon ships it: ``pip install aeon``.

Two vowels, spoken by nine men: 270 utterances to learn from and 370 to test with, of 7 to 29 steps
with 12 values each.  The class is the speaker.

M. Kudo, J. Toyama and M. Shimbo, "Multidimensional curve classification using passing-through
regions", Pattern Recognition Letters 20 (1999), 1103–1111; UCI Machine Learning Repository
(Japanese Vowels, CC BY 4.0).  Nothing of it lies in this repository, and nothing is downloaded:
the files are in the wheel of aeon (BSD 3-Clause).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

INPUTS, CLASSES = 12, 9

#: sequences (T, 12) in float32, and their classes 0 … 8
Labelled = tuple[list[np.ndarray], np.ndarray]


def load(seed: int) -> tuple[Labelled, Labelled]:
    """The training data in random order, and the test data.

    Each of the 12 values has mean 0 and variance 1 over all steps of the training data.
    """
    (x, y), test = _read("train"), _read("test")
    order = np.random.default_rng(seed).permutation(len(x))
    return ([x[n] for n in order], y[order]), test


@cache
def _read(split: str) -> Labelled:
    from aeon.datasets import load_japanese_vowels

    found: Any = [a.T for a in load_japanese_vowels("train")[0]]
    steps = np.concatenate(found)
    mean, deviation = steps.mean(axis=0), steps.std(axis=0)
    x, y = load_japanese_vowels(split)
    scaled = [((a.T - mean) / deviation).astype("float32") for a in x]
    return scaled, y.astype(int) - 1
