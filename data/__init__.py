"""Records: what one is, where it comes from, how it is stored. Imports nothing of ours."""

import sys

# Locks, signals and atomic files are those of POSIX. Everything of ours imports this package.
if sys.platform == "win32":
    raise ImportError("d2s runs on Linux and macOS; on Windows use it in WSL 2 (wsl --install)")
