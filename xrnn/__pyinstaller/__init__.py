"""What PyInstaller must know to freeze a program that uses xrnn.

Backends are found by name, which its search for imports does not see.
"""

from pathlib import Path


def get_hook_dirs() -> list[str]:
    """The folder of the hooks."""
    return [str(Path(__file__).parent)]
