"""Records: their types, sources and storage. Imports no other package of d2s."""

import sys

# Locks, signals and atomic files use POSIX. Every other package of d2s imports this one.
if sys.platform == "win32":
    raise ImportError("d2s runs on Linux and macOS; on Windows use it in WSL 2 (wsl --install)")
