"""`load_keras`: the recurrent layers of a model that Keras saved."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from xrnn.backends import host, locate
from xrnn.cells.options import GivenActivation
from xrnn.convert.conventions import CONVENTIONS, Convention, Stored
from xrnn.convert.keras_activations import HARD_SIGMOID, functions_of, spec_of
from xrnn.convert.keras_files import KerasFile, opened
from xrnn.convert.keras_found import RECURRENT, Found, split
from xrnn.convert.keras_layers import layers_of
from xrnn.convert.keras_nodes import masks_of, node_of
from xrnn.convert.keras_notes import notes_of, policy_notes, spelled
from xrnn.convert.loaded import Kind, Loaded, LoadedPart, assign, make_layer, within
from xrnn.convert.paths import accept_path
from xrnn.engine.checks import REAL_DTYPES, accept_dtype
from xrnn.layers.embedding import Embedding
from xrnn.layers.linear import Linear, LinearActivation
from xrnn.typing import Array, GivenDType, dtype_name

KINDS: Mapping[str, Kind] = {"LSTM": "lstm", "GRU": "gru", "SimpleRNN": "rnn"}

#: how many places a kind has for σ, and for φ (and ψ)
PLACES: Mapping[str, tuple[int, int]] = {"LSTM": (1, 2), "GRU": (1, 1), "SimpleRNN": (0, 1)}

#: the functions that a Linear has too, by the same names
LINEAR: tuple[LinearActivation, ...] = get_args(LinearActivation)

#: gate in `Convention.gates` → the letter of Keras 1, and the order in which it listed the gates
LETTERS: Mapping[str, str] = {"g": "c", "n": "h"}
LISTED: Mapping[int, str] = {12: "icfo", 9: "zrh"}

#: the names of Keras 1 for arrays of all gates
NAMES: Mapping[str, str] = {"W": "kernel", "U": "recurrent_kernel", "b": "bias"}


def load_keras(
    path: str | os.PathLike[str],
    recurrent_activation: GivenActivation | None = None,
    *,
    dtype: GivenDType | None = None,
    device: str = "cpu",
) -> Loaded:
    """The layers with weights of a model that Keras saved, without Keras.

    These are the layers SimpleRNN, LSTM, GRU, CuDNNLSTM, CuDNNGRU, RNN of their cells, and each of
    them in a Bidirectional; Dense and Embedding; also where they lie in a TimeDistributed or in
    models within the model.  All other layers that compute something are named in ``skipped``,
    classes of the user too; their arrays are in ``unused``.

    Parameters
    ----------
    path : path
        A ``.keras`` file or an HDF5 file (``.h5``, ``.hdf5``), a whole model or its weights alone,
        of Keras 1, 2 or 3 or tf.keras.
    recurrent_activation : str or tuple, optional
        σ of the gates, for a file of weights alone, which does not say it: "sigmoid" or
        "hard_sigmoid"; ("hard_sigmoid", 0.2, 0.5) or ("hard_sigmoid", 1/6, 0.5) if the file does
        not say either which version of Keras wrote it.
    dtype : str, optional
        The dtype of the parts.  Default: that of their arrays.
    device : str
        As for `xrnn.Layer`.

    Returns
    -------
    Loaded
        The parts by the names of Keras's layers, such as "lstm" or, in a model within the model,
        "encoder/lstm".  Layers take (B, T, I), as in Keras, unless it had ``time_major=True``.
        ``notes`` say for each part what else Keras does: return one output alone, mask steps,
        apply a softmax.

    Raises
    ------
    ValueError
        If the file is not one of Keras, or is damaged; if it has no such layer; if xrnn has no
        such layer, or the file does not say which of two it is.  Nothing is loaded then.
    TypeError
        If an argument is of a wrong type.
    ImportError
        If h5py is not installed (``pip install xrnn-array[keras]``).
    OSError
        If the file cannot be opened.

    Notes
    -----
    No code in a file is run: the configuration is JSON, and Lambda layers are not looked at.

    Examples
    --------
    See the page ``coming-from-keras.md`` of the guide.
    """
    _check_activation(recurrent_activation)
    if dtype is not None:
        dtype = accept_dtype("load_keras", dtype, REAL_DTYPES)
    locate(device)
    loaded, name = Loaded(), accept_path(path, "model.keras")
    with within(name), opened(name) as file:
        found = layers_of(file)
        loaded.skipped |= {one.name: ". ".join(one.notes) for one in found if not one.kind}
        found = [one for one in found if one.kind]
        if not found:
            raise ValueError(
                "it has no layer LSTM, GRU, SimpleRNN, Dense or Embedding that can be loaded; its "
                f"arrays are {', '.join(file.unread) or 'none'}"
                + "".join(f"; {name}: {why}" for name, why in loaded.skipped.items())
            )
        masks = [] if file.config is None else masks_of(node_of(file.config))
        reading = Reading(file, recurrent_activation, masks, dtype, device)
        for one in found:
            with within(one.name):
                part, notes = reading.part(one)
            loaded.add(one.name, part, *notes, *one.notes)
        loaded.unused |= {path: file.read(path) for path in list(file.unread)}
    return loaded


@dataclass(frozen=True)
class Reading:
    """A file that is read, and what the caller says of it."""

    file: KerasFile
    recurrent_activation: GivenActivation | None
    masks: list[str]
    dtype: GivenDType | None
    device: str

    def part(self, found: Found) -> tuple[LoadedPart, list[str]]:
        """The part of one layer, and the notes on it."""
        if found.kind in RECURRENT:
            return self._recurrent(found)
        arrays = [self._read(path) for path in found.arrays[0]]
        if found.kind == "Embedding":
            return self._embedding(found, arrays)
        return self._linear(found, arrays)

    def _embedding(self, found: Found, arrays: list[Array]) -> tuple[Embedding, list[str]]:
        _check_shapes(arrays, len(arrays) == 1 and arrays[0].ndim == 2, "one array (V, I)")
        V, I = arrays[0].shape
        _check_units(found, I)
        part = Embedding(V, I, dtype=self._dtype(arrays), device=self.device)
        assign(part, {"E": arrays[0]})
        masks = found.config is not None and found.config.get("mask_zero")
        return part, ["mask_zero: Keras masks the steps of token 0"] * bool(masks)

    def _linear(self, found: Found, arrays: list[Array]) -> tuple[Linear, list[str]]:
        fits = len(arrays) in (1, 2) and arrays[0].ndim == 2
        fits = fits and all(one.shape == arrays[0].shape[1:] for one in arrays[1:])
        _check_shapes(arrays, fits, "(I, O), and (O,) of a bias")
        I, O = arrays[0].shape
        _check_units(found, O)
        config = found.config or {}
        name, notes = config.get("activation") or "linear", policy_notes(config)
        if found.config is None:
            notes.append("the file does not say which activation function follows")
        elif name not in (*LINEAR, "linear"):
            notes.append(f"{spelled(name)} follows: apply it to the outputs")
        part = Linear(
            I,
            O,
            activation=next((one for one in LINEAR if one == name), None),
            bias=len(arrays) == 2,
            dtype=self._dtype(arrays),
            device=self.device,
        )
        assign(part, dict(zip(("W", "b"), (arrays[0].T, *arrays[1:]), strict=False)))
        return part, notes

    def _recurrent(self, found: Found) -> tuple[LoadedPart, list[str]]:
        plain, config = found.kind.removeprefix("CuDNN"), found.config or {}
        named = [self._named(found, paths) for paths in found.arrays]
        library = found.kind
        if found.kind == "GRU" and not _resets_after(found, named[0]):
            library = "GRU(reset_after=False)"
        convention = CONVENTIONS["Keras", library]
        cells = [_stored(convention, one) for one in named]
        _check_shapes([cells[0].W, cells[-1].W], cells[0].W.shape == cells[-1].W.shape, "equal")
        _check_units(found, cells[0].W.shape[1] // len(convention.gates))
        sigma, phi = self._activations(found)
        sigmas, phis = PLACES[plain]
        options: dict[str, Any] = {"activations": [sigma] * sigmas + [phi] * phis}
        layer = make_layer(
            KINDS[plain],
            convention,
            cells,
            bidirectional=len(cells) == 2,
            reverse=bool(config.get("go_backwards")),
            batch_first=not config.get("time_major"),
            options=options,
            dtype=self.dtype,
            device=self.device,
        )
        read_as = f"{library} of Keras {self.file.version}".rstrip()
        return layer, [read_as, *notes_of(found, self.masks)]

    def _read(self, path: str) -> Array:
        """The array of that path, which must be of floating-point numbers."""
        array = self.file.read(path)
        dtype = array.dtype
        if dtype_name(dtype) != "bfloat16" and not host.xp.isdtype(dtype, "real floating"):
            raise ValueError(
                f"{path} is {dtype}; it must be of floating-point numbers: save the model "
                "before it is quantised"
            )
        return array

    def _named(self, found: Found, paths: list[str]) -> dict[str, Array]:
        """The arrays of one direction by the names of Keras 2 and 3, or those of single gates."""
        gates = [f"{w}_{k}" for k in LISTED.get(len(paths), "") for w in "WUb"]
        usual = gates or ["kernel", "recurrent_kernel", "bias"][: len(paths)]
        names = [NAMES.get(name, name) for name in (split(path)[1] for path in paths)]
        if not all(names):
            names = usual
        if sorted(names) != sorted(usual) or len(paths) < 2:
            raise ValueError(
                f"its arrays are {', '.join(paths)}; they must be kernel, recurrent_kernel and bias"
            )
        if found.config is not None and found.config.get("use_bias", True) == (len(paths) == 2):
            raise ValueError(
                f"use_bias is {found.config.get('use_bias', True)}, and its arrays are "
                f"{', '.join(paths)}"
            )
        return {name: self._read(path) for name, path in zip(names, paths, strict=True)}

    def _activations(self, found: Found) -> tuple[GivenActivation, GivenActivation]:
        """σ and φ."""
        known, config = functions_of(self.file.major), found.config
        if found.kind.startswith("CuDNN"):
            return self._agreed(known["sigmoid"]), known["tanh"]
        phi = known["tanh"] if config is None else self._function(config, "activation")
        if found.kind == "SimpleRNN":
            return known["sigmoid"], phi
        if config is None:
            return self._given(), phi
        keras_1 = "inner_activation" in config
        sigma = self._function(config, "inner_activation" if keras_1 else "recurrent_activation")
        return self._agreed(sigma), phi

    def _agreed(self, sigma: GivenActivation) -> GivenActivation:
        """σ of the file; ValueError if the caller says another one."""
        if self.recurrent_activation is not None and spec_of(self._given()) != spec_of(sigma):
            raise ValueError(
                f"recurrent_activation is {self.recurrent_activation!r}; the file says {sigma!r}: "
                "leave it out"
            )
        return sigma

    def _function(self, config: Mapping[str, Any], key: str) -> GivenActivation:
        """An activation function in a configuration."""
        if key not in config:
            raise ValueError(f"its configuration does not say its {key}")
        known, name = functions_of(self.file.major), config[key] or "linear"
        if not isinstance(name, str) or name not in known:
            raise ValueError(f"{key} is {spelled(name)}; the cells of xrnn have {', '.join(known)}")
        return known[name]

    def _given(self) -> GivenActivation:
        """σ as the caller said it."""
        given, version = self.recurrent_activation, self.file.version
        if given is None:
            raise ValueError(
                "the file has weights but no configuration, and does not say the recurrent "
                f"activation (it was written by Keras {version or 'of an unknown version'}); say "
                "recurrent_activation='sigmoid', the default since Keras 2.3 and in TensorFlow 2, "
                "or 'hard_sigmoid', the default before"
            )
        if given == "hard_sigmoid" and self.file.major is None:
            raise ValueError(
                "recurrent_activation is 'hard_sigmoid', and the file does not say the version of "
                "Keras; say ('hard_sigmoid', 0.2, 0.5) for Keras 1, 2 and tf.keras, or "
                "('hard_sigmoid', 1/6, 0.5) for Keras 3"
            )
        known = functions_of(self.file.major)
        return known.get(given, given) if isinstance(given, str) else given

    def _dtype(self, arrays: list[Array]) -> Any:
        return dtype_name(arrays[0].dtype) if self.dtype is None else self.dtype


def _check_activation(given: Any) -> None:
    """Raise TypeError or ValueError unless this can be a recurrent activation."""
    known = functions_of(max(HARD_SIGMOID))
    if given is None or (isinstance(given, str) and given in known):
        return
    try:
        spec_of(given)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"load_keras: recurrent_activation is {given!r:.80}; it must be of {', '.join(known)}, "
            "or such as ('hard_sigmoid', 0.2, 0.5)"
        ) from None


def _resets_after(found: Found, named: Mapping[str, Array]) -> bool:
    """Whether the reset gate of a GRU acts after the product."""
    if found.config is not None:
        return bool(found.config.get("reset_after", False))
    if "bias" not in named:
        # Single gates are of Keras 1, whose GRU resets before.
        if "b_z" in named:
            return False
        raise ValueError(
            "the file has no configuration, and this GRU no bias, so that nothing says whether its "
            "reset gate acts after the product; read the arrays with h5py and give them to "
            "xrnn.convert.from_arrays"
        )
    return bool(named["bias"].ndim == 2)


def _stored(convention: Convention, named: Mapping[str, Array]) -> Stored:
    """The arrays of one direction, after their shapes have been checked."""
    if "kernel" in named:
        W, U, b = named["kernel"], named["recurrent_kernel"], named.get("bias")
    else:
        gates = [LETTERS.get(k, k) for k in convention.gates]
        W, U, b = (host.xp.concat([named[f"{w}_{k}"] for k in gates], axis=-1) for w in "WUb")
    arrays = [W, U] if b is None else [W, U, b]
    G = len(convention.gates)
    H = len(U) if U.ndim == 2 else 0
    shape = {"one": (G * H,), "stacked": (2, G * H), "joined": (2 * G * H,)}[convention.biases]
    fits = W.ndim == 2 and W.shape[1] == G * H and U.shape == (H, G * H)
    letters = {"one": f"({G}·H,)", "stacked": f"(2, {G}·H)", "joined": f"({2 * G}·H,)"}
    _check_shapes(
        arrays,
        H > 0 and fits and (b is None or b.shape == shape),
        f"(I, {G}·H), (H, {G}·H) and {letters[convention.biases]}",
    )
    return Stored(W, U, b)


def _check_shapes(arrays: Sequence[Array], fits: bool, wanted: str) -> None:
    if not fits:
        shapes = ", ".join(str(one.shape) for one in arrays)
        raise ValueError(f"its arrays have the shapes {shapes}; they must be {wanted}")


def _check_units(found: Found, units: int) -> None:
    config = found.config or {}
    said = config.get("units", config.get("output_dim", units))
    if said != units:
        raise ValueError(f"units is {said}; its arrays have {units}")
