"""The processes that train together: how they are found, and the sums of NCCL."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from xrnn.learn import parallel
from xrnn.learn.parallel import ALONE, SIZES, STARTED, World


@pytest.fixture
def unlaunched(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*SIZES, STARTED):
        monkeypatch.delenv(name, raising=False)


def found(monkeypatch: pytest.MonkeyPatch, mpi: Any) -> World:
    """What `world` finds where mpi4py is this module; None stands for one that is missing."""
    module: Any = None
    if mpi is not None:
        module = ModuleType("mpi4py")
        module.MPI = mpi
    monkeypatch.setitem(sys.modules, "mpi4py", module)
    return parallel.world.__wrapped__()


def mpi(size: int) -> Any:
    """The module of an MPI with so many processes."""
    comm: Any = SimpleNamespace(
        rank=size - 1, size=size, Get_size=lambda: size, Dup=lambda: comm, Split_type=lambda _: comm
    )
    return SimpleNamespace(
        COMM_WORLD=comm,
        COMM_TYPE_SHARED=0,
        Get_library_version=lambda: "Open MPI v5.0.11, package …",
    )


@pytest.mark.usefixtures("unlaunched")
class TestWorld:
    def test_without_mpi4py_and_launcher_there_is_one(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert found(monkeypatch, None) is ALONE
        assert not parallel.launched()

    @pytest.mark.parametrize("name", SIZES)
    def test_a_launcher_of_one_process(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(name, "1")
        monkeypatch.setenv(STARTED, "0")
        assert not parallel.launched()
        assert found(monkeypatch, None) is ALONE
        assert found(monkeypatch, mpi(1)) is ALONE

    def test_a_launcher_within_a_step_of_another(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """``srun -n 1`` of a script that starts mpiexec."""
        monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
        monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
        assert parallel.launched()
        assert found(monkeypatch, mpi(4)).size == 4

    @pytest.mark.parametrize("name", [*SIZES, STARTED])
    def test_a_launcher_needs_mpi4py(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(name, "2")
        assert parallel.launched()
        with pytest.raises(ImportError, match=r'pip install "xrnn-array\[mpi\]"'):
            found(monkeypatch, None)

    def test_one_of_several(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
        world = found(monkeypatch, mpi(4))
        assert (world.rank, world.size, world.local_rank) == (3, 4, 3)
        assert repr(world) == "<rank 3 of 4>"

    def test_a_launcher_that_is_not_known(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert found(monkeypatch, mpi(2)).size == 2
        assert found(monkeypatch, mpi(1)) is ALONE

    def test_another_mpi_than_that_of_the_launcher(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PMI_SIZE", "4")
        words = r"started 4 processes \(PMI_SIZE\) and mpi4py finds 1; use .* Open MPI v5\.0\.11"
        with pytest.raises(RuntimeError, match=words):
            found(monkeypatch, mpi(1))

    def test_no_mpi(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Broken(ModuleType):
            def __getattr__(self, name: str) -> Any:
                raise RuntimeError("cannot load MPI library")

        monkeypatch.setitem(sys.modules, "mpi4py", Broken("mpi4py"))
        assert parallel.world.__wrapped__() is ALONE
        monkeypatch.setenv("PMIX_RANK", "0")
        with pytest.raises(RuntimeError, match=r"mpi4py finds no MPI; .*cannot load"):
            parallel.world.__wrapped__()


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("n", [0, 1, 5, 7, 64])
def test_shares_are_all_sequences_once_and_as_equal_as_can_be(n: int, size: int) -> None:
    shares = []
    for rank in range(size):
        world = World()
        world.rank, world.size = rank, size
        shares.append(range(*world.share(n)))
    assert [place for share in shares for place in share] == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


class Stream:
    """A stream of CUDA that notes what it is given."""

    ptr = 17

    def __init__(self, events: list[str], name: str) -> None:
        self.events, self.name = events, name

    def record(self) -> str:
        self.events.append(f"{self.name} records")
        return f"what {self.name} had"

    def wait_event(self, event: str) -> None:
        self.events.append(f"{self.name} waits for {event}")


class TestNccl:
    """The calls alone: no test here runs NCCL, which needs a GPU for each rank."""

    @pytest.fixture
    def events(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """CuPy with an NCCL that notes its calls."""
        events: list[str] = []

        class Communicator:
            def __init__(self, size: int, name: tuple[int, ...], rank: int) -> None:
                events.append(f"rank {rank} of {size} by {name}")

            def allReduce(self, *given: Any) -> None:
                events.append(f"allReduce{given}")

        nccl = SimpleNamespace(
            available=True,
            NCCL_FLOAT32=7, NCCL_FLOAT64=8, NCCL_SUM=0, NcclCommunicator=Communicator,
            get_unique_id=lambda: (1, 2, 3),
        )  # fmt: skip
        present = Stream(events, "present")
        cupy, cuda = ModuleType("cupy"), ModuleType("cupy.cuda")
        monkeypatch.setattr(cupy, "cuda", cuda, raising=False)
        for name, value in {
            "nccl": nccl,
            "Stream": lambda non_blocking: Stream(events, "own"),
            "get_current_stream": lambda: present,
        }.items():
            setattr(cuda, name, value)
        for module in (cupy, cuda):
            monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.delitem(sys.modules, "xrnn.backends.cuda.nccl", raising=False)
        return events

    def test_sums_run_beside_the_backward_pass(self, events: list[str]) -> None:
        nccl = importlib.import_module("xrnn.backends.cuda.nccl")

        class Second(World):
            rank, size = 1, 2

            def gather(self, value: Any) -> list[Any]:
                return [value] * 2

            def from_root(self, make: Any) -> Any:
                return (9, 9)  # the name that rank 0 has made

        add = nccl.adder(Second())
        for dtype in ("float32", "float64"):
            array = SimpleNamespace(
                data=SimpleNamespace(ptr=100), size=12, dtype=np.dtype(dtype)
            )  # fmt: skip
            wait = add(array)
            events.append("more of the backward pass")
            wait()
        each = "present records", "own waits for what present had"
        after = "own records", "more of the backward pass", "present waits for what own had"
        assert events == [
            "rank 1 of 2 by (9, 9)",
            *each, "allReduce(100, 100, 12, 7, 0, 17)", *after,
            *each, "allReduce(100, 100, 12, 8, 0, 17)", *after,
        ]  # fmt: skip

    def test_without_nccl_on_one_rank_all_add_up_on_the_host(self, events: list[str]) -> None:
        nccl = importlib.import_module("xrnn.backends.cuda.nccl")

        class Two(World):
            size = 2

            def gather(self, value: Any) -> list[Any]:
                return [value, False]

        assert nccl.adder(Two()) is None
        assert events == []
