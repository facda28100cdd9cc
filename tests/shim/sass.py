"""The machine code of kernels, as nvdisasm writes it: what their loop over time consists of.

nvdisasm comes as a wheel of its own.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

NO_NVDISASM = "nvdisasm is not installed (pip install nvidia-cuda-nvdisasm)"

#: a kernel's code begins; a place to jump to; an instruction, without its guard
KERNEL = re.compile(r"\.text\.(\S+):")
LABEL = re.compile(r"(\.L_x_\d+):")
INSTRUCTION = re.compile(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(.*?)\s*;")
JUMP = re.compile(r"BRA .*`\((\.L_x_\d+)\)")

#: what ends a wait at an mbarrier, and what follows the last letters of a wide load's name
WAIT, WIDTHS = "SYNCS.PHASECHK", {"64": 2, "128": 4}


@dataclass(frozen=True)
class Code:
    """The instructions of a kernel, and the position of each label among them."""

    instructions: list[str]
    labels: dict[str, int]


def nvdisasm() -> str | None:
    """Where the program lies: on the PATH or in its wheel; None where it is not installed."""
    if found := shutil.which("nvdisasm"):
        return found
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec and spec.submodule_search_locations) or ():
        for file in sorted(Path(folder).glob("*/bin/nvdisasm")):
            return str(file)
    return None


def disassembled(cubin: bytes, folder: Path) -> dict[str, Code]:
    """The code of every kernel of a cubin, by mangled name; `folder` is for the file."""
    program = nvdisasm()
    if program is None:
        raise FileNotFoundError(NO_NVDISASM)
    file = folder / "xrnn.cubin"
    file.write_bytes(cubin)
    # Libraries that stand for NVIDIA's are not for NVIDIA's programs.
    environment = {k: v for k, v in os.environ.items() if k != "LD_LIBRARY_PATH"}
    done = subprocess.run(
        [program, "-c", str(file)], capture_output=True, text=True, check=True, env=environment
    )
    parts = KERNEL.split(done.stdout)
    return {name: parsed(body) for name, body in zip(parts[1::2], parts[2::2], strict=True)}


def parsed(text: str) -> Code:
    """Code from its lines."""
    instructions: list[str] = []
    labels: dict[str, int] = {}
    for line in text.splitlines():
        if label := LABEL.match(line):
            labels[label[1]] = len(instructions)
        elif found := INSTRUCTION.match(line):
            instructions.append(found[1])
    return Code(instructions, labels)


def time_loop(code: Code) -> list[str]:
    """The innermost loop that holds matrix products and a barrier of the block."""
    found: list[list[str]] = []
    for end, instruction in enumerate(code.instructions):
        jump = JUMP.match(instruction)
        if jump and (begin := code.labels[jump[1]]) <= end:
            loop = code.instructions[begin : end + 1]
            if all(any(i.startswith(op) for i in loop) for op in ("HMMA", "BAR.SYNC")):
                found.append(loop)
    return min(found, key=len)


def used_too_early(loop: list[str]) -> list[str]:
    """The loads from global memory whose results are used before the next wait."""
    early = []
    for at, load in enumerate(loop):
        if not load.startswith("LDG"):
            continue
        name, first = load.split()[0], int(re.findall(r"\bR(\d+)", load)[0])
        results = {f"R{first + k}" for k in range(WIDTHS.get(name.rpartition(".")[2], 1))}
        for later in loop[at + 1 :] + loop[:at]:
            if later.startswith(WAIT):
                break
            if results & sources(later):
                early.append(f"{load}: {later}")
                break
    return early


def sources(instruction: str) -> set[str]:
    """The registers that an instruction reads; of a pair the first."""
    name, _, operands = instruction.partition(" ")
    given = operands.split(",")
    if not name.startswith(("ST", "RED", "BAR", "BRA")):
        given = given[1:]  # behind the result
    return set(re.findall(r"\bR\d+", ",".join(given)))
