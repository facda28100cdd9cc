"""The checks of dropout, between layers and of weights."""

from __future__ import annotations

from numbers import Real


def check_dropout(kind: str, dropout: float, num_layers: int) -> None:
    """Raise ValueError unless `dropout` is in [0, 1), and 0 if there is only one layer."""
    if not _is_rate(dropout):
        raise ValueError(f"{kind}: dropout is {dropout!r:.80}; it must be in [0, 1)")
    if dropout and num_layers == 1:
        raise ValueError(
            f"{kind}: dropout is {dropout} and num_layers is 1; it acts between layers: give "
            "num_layers ≥ 2, or dropout=0"
        )


def check_weight_drop(kind: str, weight_drop: float, recurrent: bool) -> None:
    """Raise ValueError unless `weight_drop` is in [0, 1), and 0 if there is no U."""
    if not _is_rate(weight_drop):
        raise ValueError(f"{kind}: weight_drop is {weight_drop!r:.80}; it must be in [0, 1)")
    if weight_drop and not recurrent:
        raise ValueError(f"{kind}: weight_drop is {weight_drop}, and there is no U; give 0")


def _is_rate(given: object) -> bool:
    return isinstance(given, Real) and not isinstance(given, bool) and not given < 0 and given < 1
