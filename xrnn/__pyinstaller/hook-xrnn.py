"""The modules and files of xrnn that no import names."""

from PyInstaller.utils.hooks import collect_data_files, collect_submodules

hiddenimports = collect_submodules("xrnn.backends")
datas = collect_data_files("xrnn")
