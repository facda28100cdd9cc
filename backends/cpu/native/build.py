"""What pyproject.toml cannot say of the build; setuptools finds these classes there by name.

One wheel serves every Python from 3.11 on, by the limited API.  A free-threaded Python has no
limited API, so its wheel is for that version alone.
"""

import sysconfig

from setuptools import Extension
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist
from setuptools.errors import CCompilerError

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


class BuildExt(build_ext):
    """Builds for the interpreter and the assembler that are there."""

    def finalize_options(self) -> None:
        """As in setuptools, which chooses the name here."""
        for extension in self.distribution.ext_modules or []:
            extension.py_limited_api = extension.py_limited_api and not FREE_THREADED
        super().finalize_options()

    def build_extension(self, ext: Extension) -> None:
        """As in setuptools, and once more without the newest instructions if that fails.

        A compiler may know instructions that its assembler (before binutils 2.36) does not.
        """
        try:
            super().build_extension(ext)
        except CCompilerError:
            if not ext.name.endswith("_native"):
                raise
            self.warn(f"{ext.name}: once more, without AVX512_BF16, AVX_VNNI and AMX")
            ext.define_macros.append(("OLD_ASSEMBLER", "1"))
            super().build_extension(ext)


class Wheel(bdist_wheel):
    """Names the wheel after the limited API where there is one."""

    def finalize_options(self) -> None:
        """As in setuptools, which chooses the name here."""
        if not FREE_THREADED:
            self.py_limited_api = "cp311"
        super().finalize_options()


class SourceDistribution(sdist):
    """Holds everything of the checkout that the tests read: they run without the checkout."""

    def make_distribution(self) -> None:
        """As in setuptools, with these files beside those that it has found."""
        for folder in ("tests", "benchmarks", "backends", ".ci", ".github"):
            self.filelist.graft(folder)
        self.filelist.extend([".clang-format", ".gitignore"])
        for pattern in ("*.py[cod]", "*.so", "*.pyd", ".DS_Store"):
            self.filelist.global_exclude(pattern)
        self.filelist.sort()
        self.filelist.remove_duplicates()
        super().make_distribution()
