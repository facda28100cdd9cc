"""``python -m xrnn`` is ``xrnn``."""

import sys

from xrnn._cli import main

if __name__ == "__main__":
    sys.exit(main())
