"""Make the links of the README absolute, for a page outside of the repository.

``python .ci/absolute_links.py https://HOST/OWNER/xrnn/blob/v1.0.0`` rewrites README.md in place,
before the distributions of a release are built: a package index shows the README alone, where a
link to a file of the repository leads nowhere.
"""

import re
import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def absolute(text: str, base: str) -> str:
    """The text with `base` before the target of each link to a file: ``[name]: target``."""
    return re.sub(r"^(\[[^\]]+\]: )(?!\w+:)", rf"\1{base.rstrip('/')}/", text, flags=re.MULTILINE)


if __name__ == "__main__":
    (base,) = sys.argv[1:]
    README.write_text(absolute(README.read_text("utf-8"), base), "utf-8")
