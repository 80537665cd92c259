#!/bin/sh
# Runs `python ARGUMENTS` with a Python that trunkline can run on: $PYTHON if set, else the environment that `make` has
# made, else the newest suitable one on PATH. Says what was found and what to install when there is none.
# POSIX sh, because it is what runs before any Python is known to be there.
set -u

usable() {
    "$1" -I -S -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

# -E -s -S: neither the user's PYTHON* variables nor any site-packages take part in setting up.
if [ -n "${PYTHON:-}" ]; then
    if ! command -v "$PYTHON" >/dev/null 2>&1; then
        echo "error: PYTHON=$PYTHON is not a program; set it to a Python 3.11 or newer, or leave it unset" >&2
        exit 1
    fi
    if ! usable "$PYTHON"; then
        echo "error: PYTHON=$PYTHON is '$("$PYTHON" --version 2>&1 | head -n 1)'; trunkline needs Python 3.11 or newer" >&2
        exit 1
    fi
    exec "$PYTHON" -E -s -S "$@"
fi

# Not asked for its version here: the set-up compares it with the one it recorded.
if [ -d .venv/.trunkline ] && [ -x .venv/bin/python ]; then
    exec .venv/bin/python -E -s -S "$@"
fi

found=""
for name in python3 python3.14 python3.13 python3.12 python3.11 python; do
    command -v "$name" >/dev/null 2>&1 || continue
    if usable "$name"; then
        exec "$name" -E -s -S "$@"
    fi
    found="$found
  $(command -v "$name"): $("$name" --version 2>&1 | head -n 1)"
done

if [ -n "$found" ]; then
    echo "error: trunkline needs Python 3.11 or newer; found only:$found" >&2
else
    echo "error: trunkline needs Python 3.11 or newer; no python3 was found on PATH" >&2
fi
echo "Install one (Debian 12, Ubuntu 24.04 or newer: apt install python3 python3-venv; macOS: brew install python)," >&2
echo "or name one: make PYTHON=/path/to/python3.11 ..." >&2
exit 1
