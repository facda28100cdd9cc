"""Layers in other processes: what is sent, weights on mapped files, joblib, Dask, a fork."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xrnn
from xrnn import cells
from xrnn.backends.cpu.threads import threads


def noise(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


class Mapping(pickle.Pickler):
    """A pickler that writes every array to a file, which is mapped read-only when it is read.

    joblib does so with arrays of more than a megabyte.
    """

    def __init__(self, file: Any, folder: Path) -> None:
        super().__init__(file)
        self.folder = folder

    def reducer_override(self, value: Any) -> Any:
        if type(value) is not np.ndarray or not value.size:
            return NotImplemented
        file = self.folder / f"{len(list(self.folder.iterdir()))}"
        value.tofile(file)
        return np.memmap, (file, value.dtype, "r", 0, value.shape)


def mapped(value: Any, folder: Path) -> Any:
    """The value, its arrays on mapped files."""
    file = io.BytesIO()
    Mapping(file, folder).dump(value)
    return pickle.loads(file.getvalue())


def results(layer: Any, xs: Any) -> list[Any]:
    """Outputs, last states and all gradients; and one step."""
    ys, state, tape = layer.forward(xs)
    dxs, dstate, dweights = layer.backward(tape, ys)
    return [ys, *state, dxs, *dstate, *dweights.values(), layer(xs)[0], layer.step(xs[0])[0]]


def same(found: Any, expected: Any) -> None:
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("cell", cells.BY_NAME.values(), ids=lambda cell: cell.name)
@pytest.mark.parametrize("frozen", [False, True])
def test_layers_run_on_mapped_weights(cell: Any, frozen: bool, tmp_path: Path) -> None:
    layer, xs = xrnn.Layer(cell, 3, 5, 2, rng=0), noise(6, 2, 3)
    if frozen:
        layer.freeze()
    other, mapped_xs = mapped((layer, xs), tmp_path)
    assert type(mapped_xs) is np.memmap
    assert not any(w.flags.writeable for w in other.weights.values())
    same(results(other, mapped_xs), results(layer, xs))


@pytest.mark.parametrize("form", ["int8", "bfloat16"])
def test_layers_of_fewer_bits_run_on_mapped_weights(form: Any, tmp_path: Path) -> None:
    if form == "bfloat16":
        pytest.importorskip("ml_dtypes")
    layer, xs = xrnn.LSTM(3, 5, 2, rng=0).freeze(weights=form), noise(6, 2, 3)
    other = mapped(layer, tmp_path)
    same([other(xs)[0], other.step(xs[0])[0]], [layer(xs)[0], layer.step(xs[0])[0]])


@pytest.mark.parametrize("cell", cells.BY_NAME.values(), ids=lambda cell: cell.name)
def test_unroll_runs_on_mapped_weights(cell: Any, tmp_path: Path) -> None:
    weights = {name: noise(*shape) for name, shape in cell.shapes(3, 5).items()}
    found = []
    for w, xs in ((weights, noise(6, 2, 3)), mapped((weights, noise(6, 2, 3)), tmp_path)):
        ys, state, tape = xrnn.unroll(cell, w, xs)
        dxs, dstate, dweights = xrnn.unroll_backward(tape, ys)
        found.append([ys, *state, dxs, *dstate, *dweights.values()])
    same(*found)


def test_mapped_weights_are_changed_after_a_copy_of_them(tmp_path: Path) -> None:
    layer = xrnn.GRU(3, 5, rng=0)
    other = mapped(layer, tmp_path)
    gradients = {name: np.ones_like(w) for name, w in layer.weights.items()}
    with pytest.raises(ValueError, match=r"W_l0 is read-only; give a copy of it"):
        xrnn.optim.SGD(0.1).update(other.weights, gradients)
    same(other.weights.values(), layer.weights.values())
    other.weights = {name: w.copy() for name, w in other.weights.items()}
    for one in (layer, other):
        xrnn.optim.SGD(0.1).update(one.weights, gradients)
    same(other.weights.values(), layer.weights.values())


#: a script with a cell of its own, which a worker has to be told
SCRIPT = """
import os, pickle, sys
import numpy as np
import xrnn

def step(ax, state, weights, *, xp):
    h = xp.tanh(ax + state[0] @ weights["U"].T)
    return (h,), (h, state[0])

def step_backward(dstate, saved, weights, *, xp):
    h, h_prev = saved
    da = dstate[0] * (1 - h * h)
    return da, (da @ weights["U"],), {"U": ((da, h_prev),)}

MINE = xrnn.cells.Cell("mine", ("h",), step, step_backward)
assert pickle.loads(pickle.dumps(MINE)) is MINE

def run(layer, xs):
    ys, _, tape = layer.forward(xs)
    return ys, *layer.backward(tape, ys)[2].values()

layer = xrnn.Layer(MINE, 3, 5, rng=0)
xs = np.random.default_rng(0).normal(size=(6, 2, 3)).astype("float32")
expected = run(layer, xs)
"""

#: how it is sent
SENT = {
    "joblib": """
import joblib
found = joblib.Parallel(n_jobs=2)(joblib.delayed(run)(layer, xs) for _ in range(2))
""",
    "cloudpickle": """
import cloudpickle, subprocess
program = "import pickle, sys; run, *given = pickle.load(sys.stdin.buffer); "
program += "sys.stdout.buffer.write(pickle.dumps(run(*given)))"
sent = cloudpickle.dumps((run, layer, xs))
done = subprocess.run([sys.executable, "-c", program], input=sent, capture_output=True, check=True)
found = [pickle.loads(done.stdout)]
""",
}
COMPARED = """
for one in found:
    for a, b in zip(one, expected, strict=True):
        np.testing.assert_array_equal(a, b)
"""


@pytest.mark.parametrize("library", SENT)
def test_a_cell_of_a_script_goes_along(library: str, tmp_path: Path) -> None:
    pytest.importorskip(library)
    (tmp_path / "script.py").write_text(SCRIPT + SENT[library] + COMPARED, "utf-8")
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")
def test_a_pool_of_forked_processes_trains_as_its_parent() -> None:
    code = (
        "import multiprocessing, numpy as np, xrnn\n"
        "layer, xs = xrnn.LSTM(64, 128, num_layers=2, rng=0), np.ones((40, 32, 64), 'float32')\n"
        "def run(k):\n"
        "    ys, _, tape = layer.forward(xs[k:])\n"
        "    return ys, *layer.backward(tape, ys)[2].values()\n"
        "expected = [run(k) for k in range(4)]\n"
        "with multiprocessing.get_context('fork').Pool(2) as pool:\n"
        "    for one, two in zip(pool.map(run, range(4)), expected):\n"
        "        for a, b in zip(one, two): np.testing.assert_array_equal(a, b)\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], timeout=120)
    assert done.returncode == 0


# On workers -----------------------------------------------------------------------------------

#: whether a variable says how many threads each process has
CHOSEN = any(os.environ.get(name) for name in ("XRNN_NUM_THREADS", "OMP_NUM_THREADS"))


def trained(layer: Any, xs: Any) -> tuple[list[Any], dict[str, str], int]:
    """All results of a layer, what ran, and the threads of this process."""
    return results(layer, xs), layer.path(xs.shape), threads()


LAYERS = {
    "LSTM": lambda: xrnn.LSTM(64, 128, rng=0),
    "frozen": lambda: xrnn.LSTM(64, 128, rng=0).freeze(),
    "float16": lambda: xrnn.GRU(64, 128, dtype="float16", rng=0),
    "options": lambda: xrnn.LSTM(64, 128, 2, peephole=True, layer_norm="gates", rng=0),
    "as written": lambda: xrnn.Layer(cells.leaky_with(0.3, potential=True), 64, 128, rng=0),
}
every_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=list(LAYERS))


def sent(make: Any) -> tuple[Any, Any]:
    layer = make()
    return layer, noise(7, 3, 64).astype(layer.weights["W_l0"].dtype)


@every_layer
@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_joblib(make: Any, backend: str) -> None:
    joblib = pytest.importorskip("joblib")
    layer, xs = sent(make)
    expected, path, _ = trained(layer, xs)
    # Everything beyond a thousand bytes is on mapped files.
    parallel = joblib.Parallel(n_jobs=2, backend=backend, max_nbytes=1000)
    for found, there, number in parallel(joblib.delayed(trained)(layer, xs) for _ in range(2)):
        same(found, expected)
        assert there == path
        assert CHOSEN or backend == "threading" or number == max(1, joblib.cpu_count() // 2)


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed")
    local = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(**local) as cluster, distributed.Client(cluster) as client:
        yield client


@every_layer
def test_dask(client: Any, make: Any) -> None:
    layer, xs = sent(make)
    expected, path, _ = trained(layer, xs)
    there = client.scatter(layer, broadcast=True)
    futures = [client.submit(trained, there, xs, workers=[w]) for w in client.nthreads()]
    for found, ran, number in client.gather(futures):
        same(found, expected)
        assert ran == path
        assert CHOSEN or number == 1


def test_online_learners_and_models_go_to_workers(client: Any) -> None:
    weights = {name: noise(*shape) for name, shape in cells.MinGRU.shapes(3, 5).items()}
    learner = xrnn.online.Online(cells.MinGRU, weights, batch=2)
    model = xrnn.Sequential(xrnn.GRU(3, 4, rng=0), xrnn.Last(), xrnn.Linear(4, 2, rng=1))
    learner.step(noise(2, 3))
    x = [noise(n, 3) for n in (4, 7, 2)]
    stepped = client.submit(lambda learner, x: learner.step(x), learner, noise(2, 3, seed=1))
    predicted = client.submit(xrnn.predict, model, x)
    same([stepped.result()], [learner.step(noise(2, 3, seed=1))])
    same([predicted.result()], [xrnn.predict(model, x)])
