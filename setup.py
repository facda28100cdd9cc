"""What pyproject.toml cannot say, because it depends on the interpreter that builds.

One wheel serves every Python from 3.11 on, by the limited API.  A free-threaded Python has no
limited API, so its wheel is for that version alone.
"""

import sysconfig

from setuptools import setup
from setuptools.command.build_ext import build_ext

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


class BuildExt(build_ext):
    """Names the extension after the interpreter where there is no limited API."""

    def finalize_options(self) -> None:
        """As in setuptools, which chooses the name here."""
        for extension in self.distribution.ext_modules or []:
            extension.py_limited_api = extension.py_limited_api and not FREE_THREADED
        super().finalize_options()


setup(
    cmdclass={"build_ext": BuildExt},
    options={} if FREE_THREADED else {"bdist_wheel": {"py_limited_api": "cp311"}},
)
