"""The native loops under a sanitizer of GCC, in a copy of the checkout.

    python tests/sanitize.py address     addresses and undefined behaviour
    python tests/sanitize.py thread      data races

The exit status is not 0 if a test fails or the sanitizer finds something.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from copies import copy_tree

#: sanitizer → the flags of the compiler, the library to load first, options, and tests
SANITIZERS = {
    "address": (
        "-fsanitize=address,undefined -fno-sanitize-recover=undefined",
        "libasan.so",
        {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"},
        [
            "tests/test_native_base.py",
            "tests/test_native_bfloat16.py",
            "tests/test_native_arguments.py",
            "tests/test_native_pairs.py",
            "tests/test_native_options.py",
            "tests/test_native_noise.py",
            "tests/test_native_norms.py",
            "tests/test_cpu_storage.py",
            "tests/test_quantised.py",
            "tests/test_cuda_loop.py",
        ],
        "not environment",
    ),
    "thread": (
        "-fsanitize=thread",
        "libtsan.so",
        {"TSAN_OPTIONS": "exitcode=66 halt_on_error=1"},
        [
            "tests/test_native_calls.py",
            "tests/test_native_pairs.py",
            "tests/test_native_base.py",
            "tests/test_native_bfloat16.py",
            "tests/test_native_loops.py",
            "tests/test_native_options.py",
            "tests/test_native_noise.py",
            "tests/test_native_norms.py",
            "tests/test_cpu_storage.py",
        ],
        "callers or two_passes or (pairs and lstm) or "
        "((lstm or peephole) and not gated and (ends or (share and not float64)))",
    ),
}

BUILD = "from setuptools import setup; setup()"


def main(name: str) -> int:
    """Build, run, and return the exit status of the tests."""
    flags, library, options, tests, chosen = SANITIZERS[name]
    with tempfile.TemporaryDirectory() as folder:
        tree = copy_tree(Path(folder) / "tree")
        for built in (tree / "backends").glob("*/*.so"):
            built.unlink()
        project = tree / "pyproject.toml"
        text = project.read_text(encoding="utf-8").replace('"-O3"', '"-O1"')
        project.write_text(text.replace('"-g0"', '"-g1", "-fno-var-tracking"'), encoding="utf-8")
        environment = os.environ | {"PYTHONPATH": f"{tree}:{tree / 'tests'}"}
        compiler = environment | {"CFLAGS": flags, "LDFLAGS": flags}
        build = [sys.executable, "-W", "ignore", "-c", BUILD, "-q", "build_ext", "--inplace"]
        subprocess.run(build, cwd=tree, env=compiler, check=True)
        first, second = sorted(built.name for built in (tree / "backends").glob("*/*.so"))
        where = subprocess.run(
            ["gcc", f"-print-file-name={library}"], capture_output=True, text=True, check=True
        )
        environment |= options | {"LD_PRELOAD": where.stdout.strip()}
        run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, "-k", chosen]
        print(f"{name}: {first}, {second}, {' '.join(tests)}", flush=True)
        return subprocess.run(run, cwd=tree, env=environment, check=False).returncode


if __name__ == "__main__":
    if sys.argv[1:] not in [[name] for name in SANITIZERS]:
        raise SystemExit(f"usage: sanitize.py {' | '.join(SANITIZERS)}")
    raise SystemExit(main(sys.argv[1]))
