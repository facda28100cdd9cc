"""Kernels as shared libraries of the host: one C++ file, one entry for each instance."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

Instance = tuple[str, str]  # ("lstm.cu", "lstm_forward<float, 4>")

HERE = Path(__file__).resolve().parent
KERNELS = HERE.parents[1] / "backends" / "cuda" / "kernels"
COMPILER = os.environ.get("CXX", "g++")
FLAGS = [
    *("-std=c++20", "-O1", "-fPIC", "-shared", "-Wno-unknown-pragmas"),
    *("-ffp-contract=off", "-U_FORTIFY_SOURCE"),  # fibers jump between stacks
    *("-fno-gnu-unique", "-fvisibility=hidden"),  # two kernels of one name never meet
]
ABSENT = "" if shutil.which(COMPILER) else f"no {COMPILER} here to build the kernels for the host"
# Looked up now: tests get a cache folder of their own, and every test would build again.
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "xrnn" / "shim"


def library(instances: Iterable[Instance], kernels: Path = KERNELS) -> dict[Instance, Any]:
    """The entry of each of these instances, built if no one has built them before.

    `kernels` is the folder of the sources; another than the product's keeps what is built
    from it.
    """
    wanted = sorted(set(instances))
    sources = sorted({source for source, _ in wanted})
    lines = ['#include "shim.h"', *(f'#include "{source}"' for source in sources)]
    text = "\n".join([*lines, *(_entry(i, name) for i, (_, name) in enumerate(wanted))])
    folder = CACHE if kernels == KERNELS else kernels / "built"
    built = _built(text, _texts(sources, kernels), folder, kernels)
    return {instance: getattr(built, f"entry_{i}") for i, instance in enumerate(wanted)}


def versions(edited: Sequence[tuple[Mapping[str, str], Instance]]) -> list[Any]:
    """Entries of instances of the product's sources with other texts in the place of some files.

    All are one program, each version in a namespace of its own, and compiled at once.
    """
    parts = ['#include "shim.h"']
    for i, (texts, (source, name)) in enumerate(edited):
        inlined = _inlined(source, texts, set())
        parts += [f"namespace version_{i} {{", inlined, _entry(i, name), "}"]
    built = _built("\n".join(parts), [], CACHE, KERNELS)
    return [getattr(built, f"entry_{i}") for i in range(len(edited))]


def _inlined(name: str, texts: Mapping[str, str], seen: set[str]) -> str:
    """The text of a file and of what it includes, each once."""
    if name in seen:
        return ""
    seen.add(name)
    text = texts[name] if name in texts else (KERNELS / name).read_text(encoding="utf-8")
    lines = []
    for line in text.replace("#pragma once", "").splitlines():
        included = re.match(r'#include "([^"]+)"', line)
        lines.append(_inlined(included[1], texts, seen) if included else line)
    return "\n".join(lines)


def _built(text: str, texts: Iterable[str], folder: Path, kernels: Path) -> ctypes.CDLL:
    """The library of a program that includes these texts besides shim.h."""
    parts = [*texts, *_texts((), HERE), text, *FLAGS, _version()]
    path = folder / f"{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:24]}.so"
    if not path.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError:  # a place that cannot be written
            path = Path(_own_folder().name) / path.name
        with _alone(path):
            if not path.exists():
                _build(text, path, kernels)
    return ctypes.CDLL(str(path))


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """While others who want the same path wait."""
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _entry(i: int, name: str) -> str:
    """The function that launches an instance."""
    return (
        f'extern "C" __attribute__((visibility("default"))) int entry_{i}(\n'
        "    const shim::Launch* how, void** arguments, const int* sizes, int count) {\n"
        f"  return shim::launch({name}, *how, arguments, sizes, count);\n"
        "}"
    )


def _texts(sources: Iterable[str], kernels: Path) -> list[str]:
    """The text of shim.h, of these files, and of all that they include."""
    texts: dict[str, str] = {}

    def read(name: str) -> None:
        if name in texts:
            return
        path = HERE / name if name.startswith("shim") else kernels / name
        texts[name] = path.read_text(encoding="utf-8")
        for included in re.findall(r'#include "([^"]+)"', texts[name]):
            read(included)

    for name in ("shim.h", *sources):
        read(name)
    return list(texts.values())


@cache
def _version() -> str:
    run = subprocess.run([COMPILER, "-v"], capture_output=True, text=True, check=True)
    return run.stderr


def _build(text: str, path: Path, kernels: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as work:
        program, built = Path(work, "kernels.cpp"), Path(work, "kernels.so")
        program.write_text(text, encoding="utf-8")
        include = [f"-I{folder}" for folder in (_precompiled(), HERE, kernels)]
        command = [COMPILER, *FLAGS, *include, str(program), "-o", str(built)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{COMPILER} does not compile the kernels:\n{done.stderr[:6000]}")
        built.replace(path)


@cache
def _precompiled() -> Path:
    """A folder with shim.h precompiled, which halves the time of a small compilation.

    A compiler that cannot use it finds shim.h itself in the next folder.
    """
    key = hashlib.sha256("\0".join([*_texts((), HERE), *FLAGS, _version()]).encode())
    folder = Path(_own_folder().name) / key.hexdigest()[:24]
    folder.mkdir(exist_ok=True)
    flags = [flag for flag in FLAGS if flag != "-shared"]
    header = ["-w", "-x", "c++-header", str(HERE / "shim.h"), "-o", str(folder / "shim.h.gch")]
    with suppress(OSError):
        subprocess.run([COMPILER, *flags, *header], capture_output=True)
    return folder


@cache
def _own_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder that goes with this process."""
    return tempfile.TemporaryDirectory(prefix="xrnn-shim-")
