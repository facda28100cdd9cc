"""The fuzzer: calls of every public function with up to two things wrong, and a judge of each.

A call is right, is refused by a clear error, or is a fault.  Call number n of a seed is always the
same.  By hand, where PYTHONPATH names the checkout: ``python tests/fuzz.py --count 20000``.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import inspect
import random
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fuzzing import (
    conversions,
    functions,
    layers,
    losses,
    parts,
    second_order,
    training,
    words,
)
from fuzzing.judge import check_error, check_memory, check_result, check_warnings, is_alike, picture
from fuzzing.kinds import FIXED, ODDITIES
from fuzzing.table import ENTRIES, Entry

#: these modules fill the table
FILLED_BY = (layers, functions, losses, conversions, parts, training, second_order)

WORDS = vars(words)

SHARES = [entry.share for entry in ENTRIES]


@dataclass(frozen=True)
class Call:
    """One call: its text in parts, and what must come of it.

    `odd` are the names of arguments that were replaced by an object of any kind; whether they must
    be refused depends on the object.
    """

    entry: Entry
    subject: str
    arguments: dict[str, str]
    expected: str = "same"
    odd: tuple[str, ...] = ()

    def __str__(self) -> str:
        given = [text if _by_place(n) else f"{n}={text}" for n, text in self.arguments.items()]
        return f"it = {self.subject}\n{self.entry.call}({', '.join(given)})"


@dataclass
class Report:
    """The counts of a run, and its faults."""

    calls: int = 0
    right: int = 0
    clear: int = 0
    faults: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        return (
            f"{self.calls} calls: {self.right} right values, {self.clear} clear errors, "
            f"{len(self.faults)} faults"
        )


def _by_place(name: str) -> bool:
    return name.startswith("_")


def make(seed: int, number: int) -> Call:
    """Call number `number` of a seed."""
    rng = random.Random(f"{seed}/{number}")
    (entry,) = rng.choices(ENTRIES, SHARES)
    subject = rng.choice(entry.subjects)
    texts = {name: argument.right for name, argument in entry.arguments.items()}
    for name in _optional(entry, subject):
        if rng.random() < 0.3:
            del texts[name]
    call = Call(entry, subject, texts)
    if rng.random() < 0.06:
        return _other_arguments(call, rng)
    names = [name for name in texts if entry.arguments[name].kind is not FIXED]
    chosen = rng.sample(names, min(len(names), rng.choice((0, 1, 1, 1, 1, 1, 2, 2, 2))))
    for name in chosen:
        call = _damaged(call, name, rng)
    # What is wrong in one argument alone may be right in two: both in another library, or a
    # gradient for another tape.
    changes = {call.arguments[name].replace(texts[name], "{}") for name in chosen}
    together = len(changes) < len(chosen) or (len(chosen) > 1 and "tape" in chosen)
    return replace(call, expected="any") if together else call


def _command(entry: Entry) -> bool:
    return entry.call == "command"


def _damaged(call: Call, name: str, rng: random.Random) -> Call:
    """The call with one argument changed."""
    kind, right = call.entry.arguments[name].kind, call.arguments[name]
    if kind.damages and (_command(call.entry) or rng.random() < 0.6):
        damage = rng.choice(kind.damages)
        texts = call.arguments | {name: damage.template.replace("{}", right)}
        order = ("error", "any", "same")
        expected = min(call.expected, damage.expected, key=order.index)
        return Call(call.entry, call.subject, texts, expected, call.odd)
    texts = call.arguments | {name: rng.choice(ODDITIES)}
    expected = "error" if call.expected == "error" else "any"
    return Call(call.entry, call.subject, texts, expected, (*call.odd, name))


def _other_arguments(call: Call, rng: random.Random) -> Call:
    """The call with an argument more or less, two exchanged, or all given by position."""
    texts, kinds = dict(call.arguments), call.entry.arguments
    names = [name for name in texts if kinds[name].kind is not FIXED]
    way = rng.choice(("more", "less", "exchanged", "by place"))
    if way == "more" or len(names) < 2 or _command(call.entry):
        return Call(call.entry, call.subject, texts | {"nonsense": "1"}, "any")
    if way == "less":
        del texts[rng.choice(names)]
    elif way == "exchanged":
        a, b = rng.sample(names, 2)
        texts[a], texts[b] = texts[b], texts[a]
    else:
        texts = {f"_{name.lstrip('_')}": text for name, text in texts.items()}
    return Call(call.entry, call.subject, texts, "any")


@functools.cache
def _optional_of(call: str, subject: str) -> tuple[str, ...]:
    target = eval(call, {**WORDS, "it": eval(subject, dict(WORDS))})
    try:
        parameters = inspect.signature(target).parameters.values()
    except ValueError:
        return ()
    return tuple(p.name for p in parameters if p.default is not p.empty and p.name != "rng")


def _optional(entry: Entry, subject: str) -> Iterator[str]:
    """The arguments that may be left out."""
    known = _optional_of(entry.call, subject)
    yield from (name for name in entry.arguments if name in known)


# Running and judging ------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What came of a call: pictures of its result and of the objects after it, or an error."""

    result: Any = None
    after: Any = None
    shared: str = ""
    error: BaseException | None = None


def perform(entry: Entry, it: Any, texts: dict[str, str]) -> tuple[Outcome, Any, dict[str, Any]]:
    """Make the call with right arguments; its outcome, and the values of the arguments."""
    words = {**WORDS, "it": it}
    values = {name: eval(text, dict(words)) for name, text in texts.items()}
    return _called(entry, it, values), it, values


def _called(entry: Entry, it: Any, values: dict[str, Any]) -> Outcome:
    target = eval(entry.call, {**WORDS, "it": it})
    places = [value for name, value in values.items() if _by_place(name)]
    named = {name: value for name, value in values.items() if not _by_place(name)}
    try:
        result = target(*places, **named)
    except Exception as error:
        return Outcome(error=error)
    finally:
        eval(entry.undo, dict(WORDS))
    changed = [value for value in values.values() if isinstance(value, Mapping)]
    after = picture((it, changed)) if entry.changes else None
    shared = "" if entry.shares else check_memory(result, (it, values))
    return Outcome(picture(result), after, shared)


@functools.cache
def _usual(number: int, subject: str, names: tuple[str, ...]) -> Outcome:
    """What comes of the call with nothing wrong."""
    entry = ENTRIES[number]
    texts = {name: entry.arguments[name].right for name in names}
    return perform(entry, eval(subject, dict(WORDS)), texts)[0]


def usual(call: Call) -> Outcome | None:
    """The outcome of the call with right arguments; None if its arguments are not those."""
    entry = call.entry
    if any(name not in entry.arguments for name in call.arguments):
        return None
    return _usual(ENTRIES.index(entry), call.subject, tuple(call.arguments))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Odd arguments may warn while they are made; the call itself is watched by the judge."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@quiet()
def judge(call: Call) -> tuple[str, str]:
    """("right" or "clear", "") or ("fault", what is wrong)."""
    entry = call.entry
    it = eval(call.subject, dict(WORDS))
    words = {**WORDS, "it": it}
    try:
        values = {name: eval(text, dict(words)) for name, text in call.arguments.items()}
    except Exception as error:
        return "void", f"void: {type(error).__name__}: {error}"
    expected = call.expected
    if any(not entry.arguments[name].kind.takes(values[name]) for name in call.odd):
        expected = "error"
    before = picture((it, list(values.values())))
    with check_warnings() as seen:
        outcome = _called(entry, it, values)
    if wrong := seen.problem(before):
        return "fault", wrong
    if outcome.error is not None:
        return _judge_error(call, outcome, it, values, before)
    if expected == "error":
        return "fault", f"accepted: {', '.join(sorted(_wrong(call)))}"
    if not entry.changes and not is_alike(before, picture((it, list(values.values())))):
        return "fault", "an argument or the subject was changed"
    has_dtype = entry.own_dtype or "dtype" in entry.arguments
    if wrong := outcome.shared or check_result(outcome.result, before, has_dtype=has_dtype):
        return "fault", wrong
    known = usual(call) if expected == "same" else None
    if known is not None and known.error is None:
        same = is_alike(known.result, outcome.result, tolerance=True)
        if not same or not is_alike(known.after, outcome.after, tolerance=True):
            return "fault", f"other numbers than usual: {', '.join(sorted(_wrong(call)))}"
    return "right", ""


def _judge_error(
    call: Call, outcome: Outcome, it: Any, values: dict[str, Any], before: Any
) -> tuple[str, str]:
    assert outcome.error is not None
    if wrong := check_error(outcome.error, call.entry, values):
        return "fault", wrong
    if not _wrong(call) and set(call.arguments) == set(call.entry.arguments):
        known = usual(call)
        if known is not None and known.error is None:
            return "fault", f"a right call is refused: {outcome.error}"
    if not is_alike(before, picture((it, list(values.values())))):
        return "fault", "something was changed before the error"
    known = usual(call)
    if known is not None and call.subject != "None":
        texts = {name: call.entry.arguments[name].right for name in call.arguments}
        again = perform(call.entry, it, texts)[0]
        if not is_alike(known.result, again.result, tolerance=True):
            return "fault", "after the error a right call gives other numbers"
    return "clear", ""


def _wrong(call: Call) -> set[str]:
    """The arguments that are not as in the table."""
    rights = {name: argument.right for name, argument in call.entry.arguments.items()}
    return {name for name, text in call.arguments.items() if rights.get(name) != text}


def run(seed: int, count: int, start: int = 0, only: str = "") -> Report:
    """Make calls and judge them; those alone of entries whose name begins with `only`."""
    report = Report()
    for number in range(start, start + count):
        call = make(seed, number)
        if not call.entry.name.startswith(only):
            continue
        # For files whose names are odd words.
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            verdict, wrong = judge(call)
        report.calls += 1
        if verdict == "right":
            report.right += 1
        elif verdict == "clear":
            report.clear += 1
        elif verdict == "void":
            report.kinds[wrong[:80]] += 1
        else:
            report.kinds[f"{call.entry.name}: {wrong}"[:110]] += 1
            report.faults.append(f"seed {seed}, call {number}: {wrong}\n{call}")
    return report


def main() -> int:
    """Run the fuzzer by hand; print the counts and the faults."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--only", default="", metavar="NAME", help="entries that begin so")
    given = parser.parse_args()
    report = run(given.seed, given.count, given.start, given.only)
    print("\n\n".join(report.faults))
    print("\n".join(f"{n:6} {kind}" for kind, n in report.kinds.most_common()))
    print(report)
    return bool(report.faults)


if __name__ == "__main__":
    sys.exit(main())
