"""``python -m xrnn`` is ``xrnn``."""

import sys

from xrnn.cli import main

if __name__ == "__main__":
    sys.exit(main())
