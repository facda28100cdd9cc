"""The command line: ``xrnn train | sample | certify | flow | info``.

An error of the user is reported in one line on standard error, with exit status 2.  If a law does
not hold, the exit status is 1.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import os
import platform
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn, TextIO

from xrnn._version import __version__
from xrnn.backends import Backend, folders, get, host, locate
from xrnn.backends.environment import VariableError
from xrnn.cells import BY_NAME
from xrnn.certify import report
from xrnn.charlm.config import Config, RefusedError, check_integer, check_memory
from xrnn.engine.checks import PRECISIONS
from xrnn.engine.select import choose
from xrnn.typing import dtype_name

DEFAULTS = Config()

#: the sizes (T, B, I, H) for which `xrnn info` shows what runs
TYPICAL = (100, 32, 128, 128)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status."""
    _prepare_streams()
    if sys.stdout is None:
        return _fail("standard output is closed; give it a file, such as /dev/null")
    return _finish(_run(argv))


def _run(argv: Sequence[str] | None) -> int:
    arguments = parser().parse_args(argv)
    try:
        return int(arguments.command(arguments))
    except BrokenPipeError:  # the reader (head, less) has closed the pipe
        return 0
    except KeyboardInterrupt:
        _say("xrnn: interrupted")
        return 130
    except MemoryError as error:
        return _fail(f"out of memory ({error}); choose smaller sizes")
    except (RefusedError, VariableError, ImportError, OSError) as error:
        return _fail(str(error))


def _prepare_streams() -> None:
    """Make standard error a file, and let both streams take every character."""
    if sys.stderr is None:
        # Its number would else be that of the next file that is opened.
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Characters that the encoding of the terminal or file lacks become question marks.
            stream.reconfigure(errors="replace")


def _finish(status: int) -> int:
    """Write what is left in buffers; return the exit status, an error if that fails."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _drop(sys.stdout)
    except OSError as error:
        _drop(sys.stdout)
        status = status or _fail(f"standard output: {error}")
    try:
        sys.stderr.flush()
    except OSError:
        _drop(sys.stderr)
    return status


def _drop(stream: TextIO) -> None:
    """Let what a stream still holds go nowhere, because its file takes no more."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _say(line: str) -> None:
    with suppress(OSError):  # nobody reads it
        print(line, file=sys.stderr, flush=True)


def _fail(problem: str) -> int:
    """Report an error of the user; return the exit status for it."""
    _say(f"xrnn: error: {problem}")
    return 2


class Parser(argparse.ArgumentParser):
    """A parser that reports its errors as all others are."""

    def error(self, message: str) -> NoReturn:
        self.exit(_fail(f"{message}; see {self.prog} --help"))

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        if message:
            _say(message.rstrip())
        sys.exit(_finish(status))


def integer(word: str) -> int:
    """An integer of the command line."""
    try:
        return int(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{word!r:.80} must be an integer") from None


def some_path(word: str) -> str:
    """The name of a file or folder; the empty name would be that of the current folder."""
    if not word:
        raise argparse.ArgumentTypeError("it is empty; it must be a name")
    if "\0" in word:
        raise argparse.ArgumentTypeError(f"{word!r:.80} must not contain \\0")
    try:
        os.fsencode(word)
    except UnicodeEncodeError as error:
        # Python can decode what it cannot encode, with some encodings of East Asia.
        raise argparse.ArgumentTypeError(
            f"{word!r:.80} must be a name in {error.encoding}, the encoding of names of files here"
        ) from None
    return word


def number(word: str) -> float:
    """A number of the command line."""
    try:
        return float(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{word!r:.80} must be a number") from None


def parser() -> argparse.ArgumentParser:
    """The options of all commands."""
    top = Parser(prog="xrnn", description="Recurrent networks on array libraries.")
    top.add_argument("--version", action="version", version=f"xrnn {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    _add_train(commands)
    _add_sample(commands)
    _add_certify(commands)
    _add_flow(commands)
    info = commands.add_parser("info", help="versions, backends, and what runs fused where")
    info.set_defaults(command=show_info)
    return top


def _add_train(commands: Any) -> None:
    p = commands.add_parser(
        "train",
        help="train a character language model",
        description="Train a character language model; without --text on Python's own "
        "language reference.  mpiexec -n 4 xrnn train … trains it with four processes.",
        argument_default=argparse.SUPPRESS,
    )
    p.add_argument("--text", type=some_path, metavar="FILE", help="UTF-8 text to learn")
    p.add_argument("--cell", metavar="CELL", help=f"{' | '.join(BY_NAME)} (default: lstm)")
    numbers = {
        "hidden": "hidden units",
        "layers": "layers",
        "embedding": "size of a character's vector",
        "batch": "parallel streams",
        "length": "steps of a window of backpropagation",
        "steps": "windows to learn from",
        "seed": "of the weights",
    }
    for name, words in numbers.items():
        default = getattr(DEFAULTS, name)
        p.add_argument(f"--{name}", type=integer, metavar="N", help=f"{words} (default: {default})")
    p.add_argument("--lr", type=number, help=f"learning rate at the start (default: {DEFAULTS.lr})")
    words = f"of the layers' products: {' | '.join(PRECISIONS)} (default: {DEFAULTS.precision})"
    p.add_argument("--precision", metavar="P", help=words)
    _add_backend(p)
    p.add_argument(
        "--out", type=some_path, metavar="DIR", default="xrnn-run", help="default: xrnn-run"
    )
    p.add_argument("--resume", action="store_true", default=False, help="continue the run in DIR")
    p.set_defaults(command=train)


def _add_sample(commands: Any) -> None:
    p = commands.add_parser("sample", help="write text with a trained model")
    p.add_argument("folder", metavar="DIR", type=some_path, help="the folder of a training run")
    p.add_argument("--prime", metavar="TEXT", default="", help="the text to continue")
    words = "characters to write after TEXT; 0: TEXT alone (default: 500)"
    p.add_argument("--length", type=integer, default=500, metavar="N", help=words)
    p.add_argument("--temperature", type=number, default=0.7, metavar="T", help="default: 0.7")
    p.add_argument("--seed", type=integer, default=0, metavar="N", help="default: 0")
    _add_backend(p)
    p.set_defaults(command=sample)


def _add_certify(commands: Any) -> None:
    about = (
        "Check the laws for every cell; xrnn.certify(cells=[...]) in Python, for one with options."
    )
    p = commands.add_parser("certify", help="check the laws on this machine", description=about)
    _add_backend(p)
    p.add_argument("--dtype", choices=list(report.BOUNDS), default="float32")
    p.add_argument("--json", action="store_true", help="verdicts as JSON instead of a table")
    p.set_defaults(command=run_certify)


def _add_flow(commands: Any) -> None:
    p = commands.add_parser(
        "flow",
        help="draw the size of gradients over time",
        description="Draw the gradient of the state at every step, for a loss at the last one.",
    )
    names = "rnn,lstm,gru,input-gated"
    p.add_argument("--cells", metavar="A,B", default=names, help=f"default: {names}")
    p.add_argument("--steps", type=integer, default=200, metavar="N", help="default: 200")
    p.add_argument("--hidden", type=integer, default=64, metavar="N", help="default: 64")
    p.add_argument("--seed", type=integer, default=0, metavar="N", help="default: 0")
    p.add_argument("--out", metavar="FILE", default="flow.png", type=some_path, help="a PNG")
    p.set_defaults(command=show_flow)


def _add_backend(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--backend",
        default="auto",
        metavar="NAME",
        help="auto | cpu | cuda | the import name of an array library (default: auto: cuda "
        "where it works, else cpu)",
    )


def train(arguments: argparse.Namespace) -> int:
    """`xrnn train`."""
    _need("train", "tqdm", "matplotlib")
    from xrnn.charlm import command

    options = vars(arguments)
    given = {f.name: options[f.name] for f in fields(Config) if f.name in options}
    world = command.ranks()
    try:
        with world.guard():
            where = Path(arguments.out), given, options.get("text"), _device(arguments.backend)
            return command.train(*where, arguments.resume, world)
    except Exception:
        if world.rank == 0:
            raise
        return 2  # rank 0 has the same error, and reports it


def sample(arguments: argparse.Namespace) -> int:
    """`xrnn sample`."""
    from xrnn.charlm.resume import load_model

    check_integer("length", arguments.length, 0)
    check_integer("seed", arguments.seed, 0)
    if not 0 <= arguments.temperature < float("inf"):
        raise RefusedError(f"--temperature is {arguments.temperature}; it must be at least 0")
    model = load_model(Path(arguments.folder), _device(arguments.backend))
    written = model.sample(arguments.prime, arguments.length, arguments.temperature, arguments.seed)
    first = next(written, "")
    print(arguments.prime + first, end="", flush=True)
    for character in written:
        print(character, end="", flush=True)
    print()
    return 0


def run_certify(arguments: argparse.Namespace) -> int:
    """`xrnn certify`."""
    device = _device(arguments.backend)
    verdicts = report.verdicts(device, arguments.dtype, BY_NAME.values())
    if arguments.json:
        found = list(verdicts)
        print(report.as_json(found))
        return 0 if all(verdict.passed for verdict in found) else 1
    backend, _ = locate(device)
    print(f"{_versions()}; {device}: {backend.describe() or backend.name}")
    print(f"largest relative error in {arguments.dtype}\n")
    return 0 if report.as_table(verdicts) else 1


def show_flow(arguments: argparse.Namespace) -> int:
    """`xrnn flow`."""
    _need("flow", "matplotlib")
    from xrnn.analysis import flow_chart

    names = arguments.cells.split(",")
    if unknown := [name for name in names if name not in BY_NAME]:
        raise RefusedError(f"--cells has {unknown[0]!r}; it must be of {', '.join(BY_NAME)}")
    for name, at_least in (("steps", 1), ("hidden", 1), ("seed", 0)):
        check_integer(name, getattr(arguments, name), at_least)
    check_memory(flow_chart.memory(arguments.steps, arguments.hidden), "--steps or --hidden")
    out = Path(arguments.out)
    _check_target(out)
    flows = [
        flow_chart.measure(BY_NAME[name], arguments.steps, arguments.hidden, arguments.seed)
        for name in names
    ]
    print("\n".join(flow_chart.table(flows)))
    flow_chart.picture(flows, out)
    print(f"written to {out}")
    return 0


def show_info(arguments: argparse.Namespace) -> int:
    """`xrnn info`."""
    print(_versions())
    for name in folders().values():
        try:
            backend = get(name)
        except ImportError as error:
            print(f"{name}: not here ({error})")
            continue
        print(f"{name}: {backend.describe()}")
        for line in _fused(backend):
            print(f"  {line}")
    others = [m for m in ("torch", "array_api_strict") if importlib.util.find_spec(m)]
    print(f"other array libraries found: {', '.join(others) or 'none'} (the cells as written)")
    print("cells with options: path((T, B, I)) of a layer says what runs it")
    return 0


def _check_target(path: Path) -> None:
    """Raise RefusedError unless a file can be written there."""
    if path.exists() and not path.is_file():
        raise RefusedError(f"--out is {path}, a folder or a device; give the name of a file")
    if not path.parent.is_dir():
        raise RefusedError(f"--out is {path}: No such file or directory; make its folder first")


def _need(command: str, *modules: str) -> None:
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise ImportError(f'xrnn {command} needs {module}: pip install "xrnn-array[cli]"')


def _fused(backend: Backend) -> list[str]:
    """For every cell, what runs it."""
    lines = []
    for name, cell in BY_NAME.items():
        kernels = backend.kernels_of(cell)
        kinds = {dtype_name(kind): kind for kernel in kernels for kind in kernel.dtypes}
        paths: dict[str, list[str]] = {}
        for dtype, kind in sorted(kinds.items()):
            try:
                kind = host.named_dtype(kind) if isinstance(kind, str) else kind
            except ImportError:  # bfloat16, whose package is not installed
                continue
            words = choose(backend, cell, TYPICAL, kind).path(*TYPICAL)
            paths.setdefault(words, []).append(dtype)
        served = "; ".join(f"{', '.join(names)}: {words}" for words, names in paths.items())
        lines.append(f"{name:<12} {served or 'as written'}")
    return [f"at T, B, I, H = {', '.join(map(str, TYPICAL))}:", *lines, *backend.notes()]


def _versions() -> str:
    import array_api_compat

    return (
        f"xrnn {__version__}, Python {platform.python_version()}, "
        f"array-api-compat {array_api_compat.__version__}"
    )


def _device(name: str) -> str:
    """The backend asked for; "auto" is cuda where it works, else cpu."""
    if name != "auto":
        try:
            locate(name)
        except ValueError as error:
            raise RefusedError(str(error)) from None
        return name
    try:
        get("cuda")
    except ImportError:
        return "cpu"
    return "cuda"
