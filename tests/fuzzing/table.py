"""The entries of the fuzzer's table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fuzzing.kinds import Argument
from fuzzing.wrong import HAVE_TORCH
from xrnn.cells import BY_NAME


@dataclass(frozen=True)
class Entry:
    """One public function.

    Parameters
    ----------
    name : str
        Its name in the list of all public functions, `test_fuzz.public`.
    call : str
        The text of the function; "it" is the subject.
    subjects : tuple of str
        The texts of objects that it belongs to; each call makes one of them.
    arguments : dict of str to Argument
        By name; a name with a leading "_" stands for an argument that is given by position.
    changes : bool
        Whether a call that works changes the subject or its arguments.
    shares : bool
        Whether its result is, or holds, what it was given; said in its documentation.
    own_dtype : bool
        Whether its result has a dtype of its own; said in its documentation.
    words : str
        Further words that name what a message is about.
    share : int
        How often the entry is chosen, compared with others.
    undo : str
        An expression that undoes what a call changed outside its arguments.
    """

    name: str
    call: str
    subjects: tuple[str, ...] = ("None",)
    arguments: dict[str, Argument] = field(default_factory=dict)
    changes: bool = False
    shares: bool = False
    own_dtype: bool = False
    words: str = ""
    share: int = 8
    undo: str = "None"


LAYERS = (
    "xrnn.LSTM(3, 5, rng=0)",
    "xrnn.LSTM(3, 5, dtype='float16', rng=0)",
    "xrnn.GRU(3, 5, 2, bidirectional=True, batch_first=True, dtype='float64', rng=0)",
    "xrnn.RNN(3, 5, reverse=True, rng=0, init='uniform')",
    "xrnn.InputGatedLSTM(3, 5, rng=0).freeze()",
    "xrnn.Layer(cells.MinGRU, 3, 5, device='array_api_strict', rng=0)",
    "xrnn.Layer(cells.PeepholeLSTM, 3, 5, 2, dropout=0.5, rng=0)",
    "xrnn.Layer(cells.GRUBefore, 3, 5, bias=False, precision='tf32', rng=0)",
    "xrnn.LSTM(3, 5, dtype='complex128', rng=0)",
    "xrnn.LSTM(3, 5, cell_clip=0.5, coupled=True, activations=['relu', 'elu', 'tanh'], rng=0)",
    "xrnn.GRU(3, 5, zoneout=0.2, recurrent_dropout=0.3, weight_drop=0.2, rng=0)",
    "xrnn.LSTM(3, (5, 4), proj_size=2, layer_norm=True, learn_state=True, rng=0)",
    "xrnn.RNN(3, (5, 4), clip=1.0, learn_state=True, rng=0)",
    *(["xrnn.GRU(3, 5, device='torch', rng=0)"] if HAVE_TORCH else []),
)
#: layers whose weights can be assigned
LOOSE = tuple(text for text in LAYERS if "freeze" not in text)
LINEAR = (
    "xrnn.Linear(3, 4, rng=0)",
    "xrnn.Linear(3, 4, activation='relu', bias=False, dtype='float64', rng=0)",
    "xrnn.Linear(3, 4, device='array_api_strict', rng=0)",
    "xrnn.Linear(3, 4, activation='softplus', rng=0)",
    *(["xrnn.Linear(3, 4, device='torch', rng=0)"] if HAVE_TORCH else []),
)
EMBEDDING = (
    "xrnn.Embedding(7, 3, rng=0)",
    "xrnn.Embedding(7, 3, padding_idx=1, rng=0)",
    "xrnn.Embedding(7, 3, dtype='float64', device='array_api_strict', rng=0)",
    *(["xrnn.Embedding(7, 3, device='torch', rng=0)"] if HAVE_TORCH else []),
)
NORMS = (
    "xrnn.LayerNorm(3)",
    "xrnn.LayerNorm(3, eps=0.1, dtype='float16')",
    "xrnn.LayerNorm(3, dtype='float64', device='array_api_strict')",
)
MODULES = (*LAYERS[:3], LAYERS[4], *LAYERS[9:12], LINEAR[1], EMBEDDING[0], NORMS[0])
ATTENTIVE = (
    "xrnn.AttentionPooling(3, 2, rng=0)",
    "xrnn.AttentionPooling(3, batch_first=True, dtype='float64', device='array_api_strict', rng=0)",
)
ATTENTIONS = (
    "xrnn.Attention(5, 3, 2, rng=0)",
    "xrnn.Attention(3, score='dot', batch_first=True, dtype='float64', device='array_api_strict', "
    "rng=0)",
)
SEQ2SEQS = (
    "xrnn.Seq2Seq(encoder=xrnn.GRU(3, 2, bidirectional=True, rng=0), "
    "target=xrnn.Embedding(7, 3, rng=0), decoder=xrnn.GRU(3, 4, rng=1), "
    "attention=xrnn.Attention(4, rng=2), readout=xrnn.Linear(4, 7, rng=3))",
    "xrnn.Seq2Seq(encoder=xrnn.LSTM(3, 2, rng=0), target=xrnn.Embedding(7, 3, rng=0), "
    "decoder=xrnn.LSTM(3, 2, rng=1), readout=xrnn.Sequential(xrnn.Dropout(0.3), "
    "xrnn.Linear(2, 7, rng=2)))",
)
TIED = (
    "xrnn.TiedLinear(xrnn.Embedding(7, 3, rng=0))",
    "xrnn.TiedLinear(xrnn.Embedding(7, 3, dtype='float64', device='array_api_strict', rng=0), "
    "activation='tanh', bias=False)",
)
POOLS = ("xrnn.Last()", "xrnn.Last(both_ends=True)", "xrnn.Mean(batch_first=True)", "xrnn.Max()")
DROPOUTS = ("xrnn.Dropout(0.5)", "xrnn.Dropout(0.0)")
MERGES = tuple(f"xrnn.Merge({mode!r})" for mode in ("sum", "mean", "mul", "max"))
MODELS = (
    "xrnn.Sequential(rnn=xrnn.GRU(3, 5, rng=0), norm=xrnn.LayerNorm(5), "
    "out=xrnn.Linear(5, 4, rng=0))",
    "xrnn.Sequential(xrnn.Dropout(0.3), rnn=xrnn.LSTM(3, 4, 2, bidirectional=True, dropout=0.2, "
    "dtype='float64', rng=0), merge=xrnn.Merge('max'), pool=xrnn.Mean())",
    "xrnn.Residual(xrnn.RNN(3, 3, batch_first=True, device='array_api_strict', rng=0))",
    "xrnn.Sequential(rnn=xrnn.Residual(a=xrnn.GRU(3, 3, rng=0)), out=xrnn.Last())",
    *(["xrnn.Sequential(rnn=xrnn.GRU(3, 5, device='torch', rng=0))"] if HAVE_TORCH else []),
)
CELLS = (
    *(f"cells.BY_NAME[{name!r}]" for name in BY_NAME),
    "cells.lstm_with(peephole=True, cell_clip=0.5)",
    "cells.lstm_with(proj_size=2, layer_norm='gates')",
    "cells.gru_with(layer_norm=True, zoneout=0.2)",
    "cells.rnn_with(activations=['softsign'], recurrent_dropout=0.3)",
    "cells.leaky_with(0.3, noise=0.1, potential=True)",
)
LEARNERS = (
    "learner()",
    "learner(cells.InputGatedLSTM)",
    "learner(cells.LSTM, method='snap1')",
    "learner(cells.MinGRU, state=(floats(2, 5),))",
)
OPTIMIZERS = ("xrnn.optim.SGD(0.1)", "xrnn.optim.SGD(0.1, momentum=0.5)", "xrnn.optim.Adam()")

#: arguments by name: the kind, and a text that is right
Given = dict[str, Any]

ENTRIES: list[Entry] = []


def add(
    name: str,
    call: str = "",
    subjects: tuple[str, ...] = ("None",),
    /,
    *,
    changes: bool = False,
    shares: bool = False,
    own_dtype: bool = False,
    words: str = "",
    share: int = 8,
    undo: str = "None",
    **arguments: Any,
) -> None:
    """Add an entry to the table."""
    given = {name: Argument(kind, right) for name, (kind, right) in arguments.items()}
    how: Any = {"changes": changes, "shares": shares, "own_dtype": own_dtype, "words": words}
    call = call or f"xrnn.{name}"
    ENTRIES.append(Entry(name, call, subjects, given, **how, share=share, undo=undo))
