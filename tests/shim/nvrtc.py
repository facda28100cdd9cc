"""Kernels → machine code by NVRTC, as CuPy compiles them, where there is no GPU and no driver.

What the machine code needs of the chip (registers, stack) is read by cuobjdump, which comes
as a wheel of its own.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KERNELS = Path(__file__).parents[2] / "backends" / "cuda" / "kernels"

#: what CuPy 14 adds to the options of a RawModule
OPTIONS = ("-ftz=true", "--device-as-default-execution-space")

COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
#: cuobjdump's two lines on a function, its mangled name and what it uses
FUNCTION = re.compile(r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")


@dataclass(frozen=True)
class Usage:
    """What one kernel needs: registers of a thread, the other three in bytes.

    Spilled registers lie in the stack; `shared` is the static part (1024 of it are the
    driver's from sm_90 on).
    """

    registers: int
    stack: int
    shared: int
    local: int


def sources(folder: Path = KERNELS) -> list[str]:
    """The names of the files that hold kernels."""
    return sorted(path.name for path in folder.glob("*.cu"))


def kernels(text: str) -> list[str]:
    """The names of the kernels that a source defines: __global__ functions, and those of one
    step (steps.cuh)."""
    found = []
    for part in re.split("__global__|STEP_KERNEL", COMMENT.sub("", text))[1:]:
        head = re.sub(r"\b__\w+__\s*\((?:[^()]|\([^()]*\))*\)", "", part.partition("{")[0])
        name = re.search(r"(\w+)\s*\(", head)
        if name is None:
            raise ValueError(f"no name of a kernel in {part[:60]!r}")
        found.append(name[1])
    return found


def missing() -> str | None:
    """What keeps kernels from being compiled here, or None."""
    for module in ("cupy", "cupy_backends"):
        if importlib.util.find_spec(module) is None:
            return "CuPy is not installed (pip install cupy-cuda13x)"
    from cupy_backends.cuda.libs import nvrtc

    try:
        nvrtc.getVersion()
    except Exception as error:  # CuPy has had several ways to say that a library is not there
        reason = str(error).partition("\n")[0]
        return f"NVRTC cannot be loaded (pip install nvidia-cuda-nvrtc): {reason}"
    return None


def cuobjdump() -> str | None:
    """Where the program lies: on the PATH or in its wheel; None where it is not installed."""
    if found := shutil.which("cuobjdump"):
        return found
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec and spec.submodule_search_locations) or ():
        for file in sorted(Path(folder).glob("*/bin/cuobjdump")):
            return str(file)
    return None


def compiled(
    text: str,
    instances: Iterable[str],
    arch: int,
    options: tuple[str, ...] = ("-std=c++17",),
    method: str = "cubin",
) -> tuple[bytes, dict[str, str]]:
    """The cubin (method "ptx": the PTX) of these instances for sm_<arch>, and the mangled name of
    each.

    Raises
    ------
    cupy.cuda.compiler.CompileException
        With NVRTC's messages.
    """
    from cupy._core import core
    from cupy.cuda import compiler

    all_options = (
        *core.assemble_cupy_compiler_options(options),
        *OPTIONS,
        # CuPy 14.0 adds CUDA's headers from a wheel here, later ones above.
        *getattr(compiler, "_get_extra_include_dir_opts", tuple)(),
        f"-arch=sm_{arch}",
    )
    # A private class: what CuPy exports asks for a device even where the target is named.
    program: Any = compiler._NVRTCProgram(
        text, "xrnn.cu", name_expressions=tuple(instances), method=method
    )
    cubin, mangled = program.compile(all_options)
    return cubin + b"\0", mangled  # CuPy cuts the last byte off, and tools miss it


def usage(cubin: bytes, folder: Path) -> dict[str, Usage]:
    """What every kernel of a cubin needs, by mangled name; `folder` is for the file."""
    program = cuobjdump()
    if program is None:
        raise FileNotFoundError("cuobjdump is not installed (pip install nvidia-cuda-cuobjdump)")
    file = folder / "xrnn.cubin"
    file.write_bytes(cubin)
    done = subprocess.run(
        [program, "-res-usage", str(file)], capture_output=True, text=True, check=True
    )
    return {
        name: Usage(int(registers), int(stack), int(shared), int(local))
        for name, registers, stack, shared, local in FUNCTION.findall(done.stdout)
    }


def has_device() -> bool:
    """Whether there is a GPU to run on after all."""
    from xrnn.backends import get

    try:
        get("cuda")
    except ImportError:
        return False
    return True
