"""The first state of a decoder from the last state of an encoder.

Where the encoder has two directions, the states of both stand side by side in the decoder, as their
outputs do: so the hidden size of the decoder is twice that of the encoder.
"""

from __future__ import annotations

from typing import Any

from xrnn.layers.layer import Layer
from xrnn.typing import Array, Namespace


class Bridge:
    """The way from the states of one layer to those of another, and back.

    Parameters
    ----------
    kind : str
        The name of the owner in messages.
    encoder, decoder : Layer
        Both layers.

    Raises
    ------
    ValueError
        If their states do not fit.
    """

    def __init__(self, kind: str, encoder: Layer[Any], decoder: Layer[Any]) -> None:
        mine, theirs = encoder.cell.states, decoder.cell.states
        if mine != theirs or encoder.num_layers != decoder.num_layers:
            raise ValueError(
                f"{kind}: encoder has the states {', '.join(mine)} in {encoder.num_layers} layers "
                f"and decoder {', '.join(theirs)} in {decoder.num_layers}; the decoder starts from "
                "the encoder's last state and must have the same"
            )
        self.D = encoder.directions
        #: the sizes of the states of each layer of the encoder
        self.sizes = [encoder.widths(k) for k in range(encoder.num_layers)]
        for k, widths in enumerate(self.sizes):
            needed = tuple(self.D * n for n in widths)
            if decoder.widths(k) != needed:
                raise ValueError(
                    f"{kind}: the states of layer {k} of decoder have {decoder.widths(k)} units; "
                    f"they must have {self.D}·{widths} = {needed}, those of encoder"
                    f"{' in both directions' if self.D == 2 else ''}"
                )

    def forward(self, state: tuple[Any, ...], *, xp: Namespace) -> tuple[Any, ...]:
        """The decoder's first state from the encoder's last."""
        D, found = self.D, []
        for part in state:
            cells = list(part) if isinstance(part, tuple) else _cells(part)
            layers = [xp.concat(cells[k : k + D], axis=-1) for k in range(0, len(cells), D)]
            found.append(self._joined(layers, [n.shape[-1] for n in layers], xp=xp))
        return tuple(found)

    def backward(self, dstate: tuple[Any, ...], *, xp: Namespace) -> tuple[Any, ...]:
        """The gradient of the encoder's last state from that of the decoder's first."""
        found = []
        for s, part in enumerate(dstate):
            cells, sizes = [], []
            for k, layer in enumerate(list(part) if isinstance(part, tuple) else _cells(part)):
                n = self.sizes[k][s]
                cells += [layer[..., d * n : (d + 1) * n] for d in range(self.D)]
                sizes += [n] * self.D
            found.append(self._joined(cells, sizes, xp=xp))
        return tuple(found)

    @staticmethod
    def _joined(cells: list[Array], sizes: list[int], *, xp: Namespace) -> Any:
        """One array, or a tuple of arrays where the sizes differ, as layers take them."""
        return xp.stack(cells) if len(set(sizes)) == 1 else tuple(cells)


def _cells(part: Array) -> list[Array]:
    return [part[k, ...] for k in range(part.shape[0])]
