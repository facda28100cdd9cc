"""The fuzzer over all public functions: a part of its calls, and that none of them is left out."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import fuzz
import numpy as np
import pytest
from fuzzing.conversions import HAVE_ONNX
from fuzzing.judge import check_error, check_memory, check_result, is_alike, picture
from fuzzing.kinds import FLAG, SIZE, Argument
from fuzzing.table import ENTRIES, Entry

import xrnn
from xrnn import backends
from xrnn.convert import files
from xrnn.engine.parameters import Parameters

#: the calls of the suite, and those of `pytest -m fuzz`
SEED, CALLS = 20_26, 1500
MANY = int(os.environ.get("XRNN_FUZZ_CALLS", "20000"))

#: modules whose public functions can be reached by public names.  `xrnn.adapters` is not among
#: them: its functions take the objects of other libraries, whose own checks and errors they keep.
MODULES = (
    xrnn,
    xrnn.cells,
    xrnn.losses,
    xrnn.optim,
    xrnn.online,
    xrnn.parallel,
    xrnn.analysis,
    xrnn.states,
    xrnn.convert,
    files,
    backends,
)

#: what the fuzzer does not call, and why
LEFT_OUT = {
    "Backend": "made by the authors of backends; `register` checks that it is one",
    "Backend.kernels_of": "behind the choice of a kernel",
    "Backend.from_host": "for arrays of NumPy that the library itself has made",
    "Kernel": "made by the authors of backends; each is verified before it is used",
    "Module.check_unchanged": "for the parameters and the version that a tape holds",
    "Module.config": "abstract",
    "Online.memory": "takes no argument; behind `save`",
    "Online.remember": "behind `load`",
    "Parameters.check_changeable": "takes no argument; behind `Parameters.update`",
    "Parameters.held": "takes no argument; behind `save`",
    "Parameters.operand": "behind the passes",
    "Parameters.frozen_copy": "takes no argument; behind `Module.freeze`",
    "Parameters.moved": "behind `Module.to`",
    "Parameters.replaced": "behind the assignment of `Module.weights`",
    "Weightless.config": "abstract",
    "write": "behind `save` and the checkpoints of `xrnn train`",
}

if not HAVE_ONNX:
    LEFT_OUT |= dict.fromkeys(("load_onnx", "to_onnx"), "they need onnx, which is not installed")

#: operators, which are public although their names begin with an underscore
OPERATORS = ("call", "contains", "delitem", "getitem", "ior", "or", "setitem")


def functions(module: ModuleType) -> Iterator[str]:
    """The names of the public functions and classes of a module, and of the methods of those."""
    listed = getattr(module, "__all__", None)
    for name, value in vars(module).items():
        value = inspect.unwrap(value) if callable(value) else value
        if not (inspect.isclass(value) or inspect.isfunction(value)):
            continue
        mine = name in listed if listed is not None else value.__module__ == module.__name__
        if mine and not name.startswith("_"):
            yield value.__qualname__
            for owner in getattr(value, "__mro__", ()):
                if owner.__module__.startswith("xrnn"):
                    yield from methods(owner)


def methods(owner: type) -> Iterator[str]:
    """The names of the public methods that a class defines."""
    for name, value in vars(owner).items():
        mine = inspect.isfunction(value) and value.__qualname__ == f"{owner.__qualname__}.{name}"
        if mine and (not name.startswith("_") or name.strip("_") in OPERATORS):
            yield value.__qualname__


def public() -> set[str]:
    """The names of all public functions, classes and methods."""
    names = {name for module in MODULES for name in functions(module)}
    return names | set(methods(Parameters))


def test_every_public_function_is_called() -> None:
    called = {re.sub(r"^([a-z]+\.)+", "", entry.name) for entry in ENTRIES}
    assert sorted(public() - called - set(LEFT_OUT)) == []
    assert sorted(set(LEFT_OUT) - public()) == []


def test_every_argument_is_given() -> None:
    """Each parameter of each function in an entry of the table."""
    given: dict[str, set[str]] = {}
    for entry in ENTRIES:
        given.setdefault(entry.name, set()).update(entry.arguments)
    missing = []
    for entry in ENTRIES:
        subject = eval(entry.subjects[0], dict(fuzz.WORDS))
        target = eval(entry.call, {**fuzz.WORDS, "it": subject})
        names = given[entry.name]
        if entry.call == "command" or any(name.startswith("_") for name in names):
            continue
        missing += [f"{entry.name}: {name}" for name in parameters(target) - names]
    assert sorted(set(missing)) == []


def parameters(target: Any) -> set[str]:
    """The names of the parameters that a function takes."""
    found = inspect.signature(target).parameters.values()
    return {p.name for p in found if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}


def test_every_subject_and_every_right_call_works() -> None:
    refused = []
    for entry in ENTRIES:
        texts = {name: argument.right for name, argument in entry.arguments.items()}
        outcomes = []
        for subject in entry.subjects:
            verdict = fuzz.judge(fuzz.Call(entry, subject, texts))
            outcomes.append(verdict)
            assert verdict[0] in ("right", "clear"), f"{entry.name}, {subject}: {verdict[1]}"
        if ("right", "") not in outcomes:
            refused.append(entry.name)
    # What must not be; and a command that takes many seconds where its options are right.
    fixed = {"Parameters.__delitem__", "Layer.hidden_size", "Online.state"}
    assert set(refused) == {*fixed, "command certify"}


def test_calls_with_up_to_two_things_wrong() -> None:
    report = fuzz.run(SEED, CALLS)
    print(report)
    assert not report.faults, "\n\n".join([str(report), *report.faults[:20]])
    assert report.right > CALLS // 5
    assert report.clear > CALLS // 3


@pytest.mark.fuzz
def test_many_calls_with_up_to_two_things_wrong() -> None:
    report = fuzz.run(int(os.environ.get("XRNN_FUZZ_SEED", "0")), MANY)
    print(report)
    assert not report.faults, "\n\n".join([str(report), *report.faults])


# The judge itself ---------------------------------------------------------------------------


def _careless(size: Any, flag: Any = True) -> Any:
    """A function without checks."""
    return np.full(size, 1.0)[0] / (size - 1)


def judged(text: str) -> tuple[str, str]:
    """The verdict on a call of `_careless`."""
    arguments = {"size": Argument(SIZE, "2"), "flag": Argument(FLAG, "True")}
    fuzz.WORDS["careless"] = _careless
    entry = Entry("careless", "careless", arguments=arguments)
    texts = dict(part.split("=") for part in text.split(", "))
    odd = tuple(set(texts) & set(arguments))
    return fuzz.judge(fuzz.Call(entry, "None", texts, "any", odd))


@pytest.mark.parametrize(
    ("call", "verdict"),
    [
        ("size=2", "right"),
        ("size=3, flag=False", "right"),
        ("size=2, flag=None", "accepted: flag"),
        ("size='a'", "raised in"),
        ("size=0", "raised in .*IndexError"),
        ("size=1", "RuntimeWarning: divide by zero"),
        ("size=2, nonsense=1", "clear"),
    ],
)
def test_the_judge_finds_each_kind_of_fault(call: str, verdict: str) -> None:
    kind, wrong = judged(call)
    assert kind == verdict or (kind == "fault" and re.search(verdict, wrong)), wrong


def test_the_judge_sees_results_and_changes() -> None:
    assert "not finite" in check_result(np.array([np.nan]), np.ones(2))
    assert "float32" in check_result(np.ones(2, "f4"), np.ones(2))
    assert check_result(np.array([np.nan]), np.array([np.inf])) == ""
    layer = xrnn.LSTM(3, 5, rng=0)
    before = picture(layer)
    assert is_alike(before, picture(layer))
    layer.weights["b_l0"] += 1e-3
    assert not is_alike(before, picture(layer))


def test_the_judge_sees_shared_memory() -> None:
    a = np.ones((3, 2))
    assert "two arrays" in check_memory((a[0], {"b": a}), None)
    assert "was given" in check_memory([a[0]], (a,))
    assert check_memory((a[0], a[1]), (a.copy(),)) == ""


def test_the_judge_asks_for_errors_of_the_house() -> None:
    entry = Entry("LSTM", "xrnn.LSTM", arguments={"input_size": Argument(SIZE, "3")})
    calls: tuple[tuple[str, str], ...] = (
        ("xrnn.LSTM(0, 5)", ""),
        ("xrnn.Embedding(3, 5).weights['F']", "wrong type"),
        ("{}['x']", "raised in"),
        ("np.zeros(3).reshape(2)", "raised in"),
        ("cells.LSTM.step(1, 2, 3, xp=np)", "not raised by a check"),
    )
    for call, word in calls:
        with pytest.raises(Exception) as caught:
            eval(call, fuzz.WORDS)
        found = check_error(caught.value, entry, {})
        assert word in found
        assert bool(word) == bool(found)
