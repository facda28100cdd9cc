"""What the scripts of this folder share: the sequences, the seed, and a folder for files.

The argument of a script is its seed: ``python benchmarks/side_by_side/with_xrnn.py 0``.
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import vowels

seed = int(sys.argv[1]) if len(sys.argv) > 1 else 0
(x, y), (x_test, y_test) = vowels.load(seed)
folder = Path(tempfile.mkdtemp())
