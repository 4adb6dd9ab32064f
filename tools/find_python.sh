#!/bin/sh
# Prints a Python that the environment can be made with: $PYTHON if it is set, else that of .venv,
# else the first on PATH that suits. Where there is none, one line says what to do.
case "$(uname -s)" in
Linux | Darwin) ;;
*)
    echo 'make: d2s runs on Linux, and on macOS without vLLM. On Windows use WSL 2: "wsl --install",' \
        'then clone and call make in there' >&2
    exit 1
    ;;
esac

LOOK='
import sys
version = "%d.%d" % sys.version_info[:2]
if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    sys.exit("it is Python " + version)
try:
    import ensurepip, venv
except ImportError:
    sys.exit("it has no ensurepip; on Debian or Ubuntu: apt install python%s-venv" % version)
'
why=
for python in ${PYTHON:+"$PYTHON"} ${PYTHON:-.venv/bin/python python3.11 python3.12 python3.13 python3 python}; do
    if said=$("$python" -c "$LOOK" 2>&1); then
        echo "$python"
        exit 0
    fi
    # A name that is not there, or a version manager's shim without a version, is no news.
    case "$said" in "it "*) why="$why; $python: $said" ;; esac
done
echo "make: Python 3.11, 3.12 or 3.13 was not found${why}. Install one of them, or name it:" \
    'make setup PYTHON=/path/to/python3.12' >&2
exit 1
