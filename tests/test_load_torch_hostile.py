"""Files that are damaged or made to do harm: refused by name, and nothing in them is run."""

from __future__ import annotations

import builtins
import importlib
import os
import pickle
import random
import tracemalloc
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save as safetensors
from torch_files import (
    GRU,
    REBUILD,
    Raw,
    archive,
    called,
    npz,
    pickled,
    read,
    refused,
    saved,
    tensor,
    with_another,
)

import xrnn
from xrnn.convert import pickles, torch_files


def program(data: bytes) -> bytes:
    """A file whose data.pkl holds these instructions."""
    return archive(b"\x80\x02" + data + b".", {})


class TestNothingRuns:
    @pytest.fixture(autouse=True)
    def _watched(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def forbidden(*arguments: Any, **options: Any) -> Any:
            raise AssertionError("something was run")

        for holder, name in ((os, "system"), (builtins, "eval"), (pickle, "loads")):
            monkeypatch.setattr(holder, name, forbidden)
        monkeypatch.setattr(importlib, "import_module", forbidden)

    @pytest.mark.parametrize("name", ["os.system", "builtins.eval", "builtins.exec", "mine.x"])
    def test_calls(self, name: str, tmp_path: Path) -> None:
        call = called(name, "touch /tmp/never")
        assert list(read(with_another(call, {}), tmp_path)) == ["rnn"]
        refused(program(call), tmp_path, "it holds no LSTM")

    @pytest.mark.parametrize(
        "data",
        [
            b"(cos\nsystem\nX\x02\0\0\0lso",  # OBJ
            b"(X\x02\0\0\0lsios\nsystem\n",  # INST
            b"X\x02\0\0\0osX\x06\0\0\0system\x93X\x02\0\0\0ls\x85R",  # STACK_GLOBAL
            b"cos\nsystem\nX\x02\0\0\0ls\x85\x81",  # NEWOBJ
            b"cos\nsystem\nX\x02\0\0\0ls\x85}\x92",  # NEWOBJ_EX
            b"cos\nsystem\n)R}X\x0c\0\0\0__setstate__cos\nsystem\nsb",  # BUILD
        ],
    )
    def test_every_kind_of_call(self, data: bytes, tmp_path: Path) -> None:
        refused(program(data), tmp_path, "it holds no LSTM")

    def test_names_of_our_own(self, tmp_path: Path) -> None:
        """What a pickle names is no attribute of anything here either."""
        for name in ("xrnn.save", "torch._utils.__class__", "collections.OrderedDict.__init__"):
            refused(program(called(name, 1)), tmp_path, "it holds no LSTM")


def of_storage(shape: Any, strides: Any, offset: Any = 0, size: int = 4) -> bytes:
    """A file with a GRU, and a tensor that is a view of 4 numbers."""
    return with_another(
        tensor("s", "FloatStorage", size, shape, strides, offset), {"data/s": bytes(16)}
    )


class TestSizes:
    @pytest.mark.parametrize(
        ("shape", "strides", "offset"),
        [
            ((5,), (1,), 0),
            ((4,), (1,), 1),
            ((2, 2), (3, 1), 0),
            ((2,), (4,), 0),
            ((1,), (1,), 4),
            ((2,), (2**40,), 0),
            ((2,), (2**61,), 0),
            ((1,), (1,), 2**61),
        ],
    )
    def test_no_view_reaches_beyond_its_storage(
        self, shape: Any, strides: Any, offset: int, tmp_path: Path
    ) -> None:
        refused(of_storage(shape, strides, offset), tmp_path, "does not fit in the 4 numbers")
        refused(of_storage(shape, strides, offset, size=2**40), tmp_path, "does not fit in the 4")

    @pytest.mark.parametrize(
        ("shape", "strides", "offset"),
        [
            ((-1,), (1,), 0),
            ((2,), (-1,), 1),
            ((2,), (1,), -1),
            ((2.0,), (1,), 0),
            ((2**62,), (0,), 0),
            ((2**200,), (0,), 0),
            (("a",), (1,), 0),
            ((True,), (1,), 0),
        ],
    )
    def test_sizes_are_natural_numbers(
        self, shape: Any, strides: Any, offset: int, tmp_path: Path
    ) -> None:
        refused(of_storage(shape, strides, offset), tmp_path, "its pickle cannot be read")

    @pytest.mark.parametrize("shape", [(2**30,), (2**20, 2**20), (2**61, 2**61)])
    def test_repeated_numbers_take_no_memory(self, shape: Any, tmp_path: Path) -> None:
        data = of_storage(shape, (0,) * len(shape))
        tracemalloc.start()
        refused(data, tmp_path, "repeats 4 numbers")
        assert tracemalloc.get_traced_memory()[1] < 2**24
        tracemalloc.stop()

    def test_records_that_are_missing(self, tmp_path: Path) -> None:
        data = with_another(tensor("gone", "FloatStorage", 4, (4,), (1,)), {})
        refused(data, tmp_path, r"it holds no model/data/gone; it is damaged")
        data = with_another(tensor("../../etc/passwd", "FloatStorage", 4, (4,), (1,)), {})
        refused(data, tmp_path, "it holds no model/data/")

    @pytest.mark.parametrize("name", ["a/data.pkl", "a.npy"])
    def test_zip_bombs(self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch_files, "UNPACKED", 2**20)
        file = BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as found:
            found.writestr(name, bytes(2**22))
        assert len(file.getvalue()) < 2**13
        tracemalloc.start()
        refused(file.getvalue(), tmp_path, "bytes would unpack to 4194304; it is damaged")
        assert tracemalloc.get_traced_memory()[1] < 2**20
        tracemalloc.stop()

    @pytest.mark.parametrize("shape", [(2**40,), (3,), (2**62, 2**62)])
    def test_headers_of_arrays_that_lie(self, shape: tuple[int, ...], tmp_path: Path) -> None:
        file = BytesIO()
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f8", "fortran_order": False, "shape": shape}
        )
        archived = BytesIO()
        with zipfile.ZipFile(archived, "w") as found:
            found.writestr("a.npy", file.getvalue() + bytes(16))
        refused(archived.getvalue(), tmp_path, "does not have the size of its shape")


class TestPickles:
    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"R",
            b"t",
            b"0",
            b"b",
            b"u",
            b"e",
            b"h\x05",
            b"\x82\x01",
            b"X\xff\xff\xff\xff",
            b"\x8e" + b"\xff" * 8,
            b"\x8b\xff\xff\xff\x7f",
            b"L" + b"9" * 5000 + b"L\n",
            b"Px\n",
            b"NQ",
            b"\xff",
            REBUILD + b")R",
            REBUILD + b"(NNNNtR",
            REBUILD + pickled((Raw(b"(lQ"), 0, (), (), 0, 0)) + b"R",
            b"(" * 3000 + b"t" * 2999,
        ],
        ids=lambda data: repr(data[:12]),
    )
    def test_nonsense(self, data: bytes, tmp_path: Path) -> None:
        refused(program(data), tmp_path, "its pickle|it holds no LSTM|nested too deeply")

    def test_what_grows_without_end(self, tmp_path: Path) -> None:
        """Tuples of tuples: 2^60 values in a few bytes, which are neither counted nor compared."""
        doubled = b")" + b"q\x00h\x00\x86" * 60
        refused(program(doubled), tmp_path, "it holds no LSTM")
        refused(program(b"}" + doubled + b"Ns"), tmp_path, "it holds no LSTM")
        deep = b"}X\x01\0\0\0a" * 3000 + b"N" + b"s" * 3000
        refused(program(deep), tmp_path, "nested too deeply")

    def test_names_of_many_parts(self, tmp_path: Path) -> None:
        data = saved({"a." * 300_000 + "weight": np.ones((2, 2), "float32")})
        refused(data, tmp_path, "its names are nested too deeply")

    def test_a_memo_of_any_number(self, tmp_path: Path) -> None:
        refused(program(b"}r\xff\xff\xff\xff"), tmp_path, "it holds no LSTM")

    def test_it_reads_what_pickle_writes(self) -> None:
        """Of every protocol, and whatever is built in."""
        values: list[Any] = [
            None,
            True,
            3,
            -(2**70),
            2.5,
            "ünï",
            b"\x00",
            (1,),
            [1, [2]],
            {"a": {1: ()}},
        ]
        values += ["x" * 300, b"y" * 300, list(range(1000)), 2**31, -1, ("a", "b", "c", "d")]
        shared = ["z"]
        values.append([shared, shared])
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            for value in values:
                if protocol < 3 and isinstance(value, bytes):
                    continue  # then they are calls of codecs.encode
                data = pickle.dumps(value, protocol)
                assert pickles.read(data, {}, stored=lambda key: key) == value


SEEDS = {
    "pt": saved({"state_dict": GRU, "epoch": 3, "notes": ["a", (1.5, None)]}),
    "safetensors": safetensors(GRU),
    "npz": npz(GRU, compressed=True),
}


@pytest.mark.parametrize("kind", SEEDS)
def test_damage_at_random(kind: str, tmp_path: Path) -> None:
    """Whatever is done to a file, it is read or refused in words."""
    rng = random.Random(kind)
    found = [refusal(damaged(SEEDS[kind], rng), tmp_path) for _ in range(150)]
    assert sum(message is not None for message in found) > 50


def refusal(data: bytes, folder: Path) -> str | None:
    """Why a file is refused; None if it is read."""
    path = folder / "weights.bin"
    path.write_bytes(data)
    try:
        with np.errstate(all="ignore"):  # numbers may have become infinite
            xrnn.convert.load_torch(path)
    except (ValueError, TypeError) as error:
        message = str(error)
    else:
        return None
    assert message.startswith(str(path))
    return message


def damaged(data: bytes, rng: random.Random) -> bytes:
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        n = rng.randrange(len(found) or 1)
        how = rng.randrange(5)
        if not found:
            break
        if how == 0:
            found[n] ^= 1 << rng.randrange(8)
        elif how == 1:
            found[n] = rng.choice((0, 1, 127, 128, 255, *b"RbQ.(tcX"))
        elif how == 2:
            del found[n : n + rng.choice((1, 4, 1000))]
        elif how == 3:
            found[n:n] = rng.randbytes(rng.choice((1, 4, 16)))
        else:
            found = found[: max(n, 1)]
    return bytes(found)


def test_damage_of_the_pickle_alone(tmp_path: Path) -> None:
    """The checksums of a zip archive would hide it."""
    rng = random.Random(0)
    with zipfile.ZipFile(BytesIO(SEEDS["pt"])) as whole:
        records = {name: whole.read(name) for name in whole.namelist()}
    program = records.pop("model/data.pkl")
    inside = {name.removeprefix("model/"): data for name, data in records.items()}
    del inside["byteorder"]
    found = [refusal(archive(damaged(program, rng), inside), tmp_path) for _ in range(200)]
    assert sum(message is not None for message in found) > 50
