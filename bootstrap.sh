#!/bin/sh
# Sets the project up in .venv: Python 3.11, the packages of requirements.lock, and the project itself, editable.
# A second call finds the stamp of the first and does nothing; a folder without its stamp was left by a set-up that
# broke off, and is made anew. PYTHON=/path/to/python3.11 chooses the interpreter.
set -eu
cd "$(dirname "$0")"

VENV=.venv
STAMP=$VENV/.bootstrap-stamp
PYTHON=${PYTHON:-}

fail() {
    echo "bootstrap: $*" >&2
    exit 1
}

# Everything that the installation depends on; editable installs and scripts hold the folder's path.
fingerprint() {
    {
        pwd
        "$VENV/bin/python" --version
        cat requirements.lock setup.py serving/client/setup.py bootstrap.sh
    } 2>&1 | sha256sum
}

is_up_to_date() {
    [ -f "$STAMP" ] && [ "$(cat "$STAMP")" = "$(fingerprint)" ]
}

check_machine() {
    machine="$(uname -s) $(uname -m)"
    [ "$machine" = "Linux x86_64" ] || fail "found $machine, expected Linux x86_64, the one that ScaNN and TFX have wheels for"
}

# Sets PYTHON to the first Python 3.11 among the candidates.
find_python() {
    seen=
    for candidate in ${PYTHON:-python3.11 python3 python}; do
        command -v "$candidate" >/dev/null || continue
        version=$("$candidate" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null) || continue
        case $version in
            3.11.*) PYTHON=$(command -v "$candidate"); return ;;
        esac
        seen="${seen:+$seen, }Python $version ($(command -v "$candidate"))"
    done
    fail "found ${seen:-no Python${PYTHON:+ at $PYTHON}}, expected Python 3.11 (Debian 12: apt-get install python3 python3-venv python3-dev; or PYTHON=/path/to/python3.11)"
}

check_python() {
    "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "found $PYTHON without its venv and ensurepip modules, expected both (Debian and Ubuntu: apt-get install python3.11-venv)"
    "$PYTHON" -c 'import sysconfig; open(sysconfig.get_path("include") + "/Python.h").close()' 2>/dev/null ||
        fail "found $PYTHON without its C headers, expected Python.h, which packages without wheels need (Debian and Ubuntu: apt-get install python3.11-dev)"
}

check_compiler() {
    missing=
    command -v gcc >/dev/null || command -v "${CC:-cc}" >/dev/null || missing="no C"
    command -v g++ >/dev/null || command -v "${CXX:-c++}" >/dev/null || missing="${missing:-no C++}"
    [ -z "$missing" ] ||
        fail "found $missing compiler, expected g++, which packages without wheels need (Debian and Ubuntu: apt-get install g++ python3-dev)"
}

install() {
    if [ -f "$STAMP" ] && "$VENV/bin/python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
        rm "$STAMP"
    else
        "$PYTHON" -m venv --clear "$VENV"
    fi
    # uv does the rest: TFX 1.16 declares Python < 3.11, though it runs on 3.11, and pip refuses it for that.
    awk '/^[a-z0-9]/ { wanted = /^uv==/ } wanted' requirements.lock >"$VENV/uv-requirements.txt"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$VENV/uv-requirements.txt"
    # The lock constrains what packages without wheels are built with, too.
    VIRTUAL_ENV=$VENV "$VENV/bin/uv" pip sync --require-hashes --build-constraints requirements.lock requirements.lock
    VIRTUAL_ENV=$VENV "$VENV/bin/uv" pip install --offline --no-deps --no-build-isolation -e serving/client -e .
    fingerprint >"$STAMP.new"
    mv "$STAMP.new" "$STAMP"
}

if ! is_up_to_date; then
    check_machine
    find_python
    check_python
    check_compiler
    exec 9<requirements.lock
    flock 9 # one set-up at a time
    is_up_to_date || install
fi
