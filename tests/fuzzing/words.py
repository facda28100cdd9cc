"""Everything that may stand in the text of a call.

A call of the fuzzer is a text, such as ``it.forward(at(sequence(it), cast, "int64"))``, so that a
fault can be repeated by pasting it after ``from fuzzing.words import *``.
"""

# ruff: noqa: F401, F403

import copy
import functools
import operator
import sys
from collections import OrderedDict
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType

import array_api_strict as strict
import numpy as np

import xrnn
from fuzzing.command import *
from fuzzing.right import *
from fuzzing.right_parts import *
from fuzzing.wrong import *
from xrnn import backends, cells
from xrnn.convert import files

nan, inf = float("nan"), float("inf")
