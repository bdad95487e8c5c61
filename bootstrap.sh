#!/bin/sh
# Sets the project up, itself editable, in an environment for one of the two version sets, which may stand side by side:
#   PY=3.11 (default)  .venv       requirements.lock        every glibc since 2.17
#   PY=3.12            .venv-3.12  requirements-py312.lock  glibc 2.39 and later
# A second call finds the stamp of the first and does nothing; a folder without its stamp was left by a set-up that
# broke off, and is made anew. PYTHON=/path/to/python chooses the interpreter.
set -eu
cd "$(dirname "$0")"

PY=${PY:-3.11}
case $PY in
    3.12) VENV=.venv-3.12 LOCK=requirements-py312.lock GLIBC=2.39 ;;
    *) VENV=.venv LOCK=requirements.lock GLIBC=2.17 ;;
esac
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
        cat "$LOCK" setup.py serving/client/setup.py bootstrap.sh
    } 2>&1 | sha256sum
}

is_up_to_date() {
    [ -f "$STAMP" ] && [ "$(cat "$STAMP")" = "$(fingerprint)" ]
}

check_set() {
    case $PY in
        3.11 | 3.12) ;;
        *) fail "found PY=$PY, expected 3.11 or 3.12, the Pythons that there is a lock file for" ;;
    esac
}

check_machine() {
    machine="$(uname -s) $(uname -m)"
    [ "$machine" = "Linux x86_64" ] || fail "found $machine, expected Linux x86_64, the one that ScaNN and TFX have wheels for"
    glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null) || glibc="another C library than glibc"
    case $glibc in
        "glibc "*) newest=$(printf '%s\n' "$GLIBC" "${glibc#glibc }" | sort -V | tail -n 1) ;;
        *) newest= ;;
    esac
    [ "$newest" = "${glibc#glibc }" ] ||
        fail "found $glibc, expected glibc $GLIBC or later, which the wheels for Python $PY need$([ "$PY" = 3.11 ] || echo " (without PY=$PY: the set for Python 3.11, which older systems run, too)")"
}

# Sets PYTHON to the first Python of that version among the candidates.
find_python() {
    seen=
    for candidate in ${PYTHON:-python$PY python3 python}; do
        command -v "$candidate" >/dev/null || continue
        version=$("$candidate" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null) || continue
        case $version in
            "$PY".*) PYTHON=$(command -v "$candidate"); return ;;
        esac
        seen="${seen:+$seen, }Python $version ($(command -v "$candidate"))"
    done
    fail "found ${seen:-no Python${PYTHON:+ at $PYTHON}}, expected Python $PY ($([ "$PY" = 3.11 ] && echo Debian 12 || echo Ubuntu 24.04): apt-get install python3 python3-venv python3-dev; or PYTHON=/path/to/python$PY)"
}

check_python() {
    "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "found $PYTHON without its venv and ensurepip modules, expected both (Debian and Ubuntu: apt-get install python$PY-venv)"
    "$PYTHON" -c 'import sysconfig; open(sysconfig.get_path("include") + "/Python.h").close()' 2>/dev/null ||
        fail "found $PYTHON without its C headers, expected Python.h, which packages without wheels need (Debian and Ubuntu: apt-get install python$PY-dev)"
}

check_compiler() {
    missing=
    command -v gcc >/dev/null || command -v "${CC:-cc}" >/dev/null || missing="no C"
    command -v g++ >/dev/null || command -v "${CXX:-c++}" >/dev/null || missing="${missing:-no C++}"
    [ -z "$missing" ] ||
        fail "found $missing compiler, expected g++, which packages without wheels need (Debian and Ubuntu: apt-get install g++ python3-dev)"
}

install() {
    if [ -f "$STAMP" ] && "$VENV/bin/python" -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] != sys.argv[1])' "$PY" 2>/dev/null; then
        rm "$STAMP"
    else
        "$PYTHON" -m venv --clear "$VENV"
    fi
    # uv does the rest: TFX 1.16 declares Python < 3.11, though it runs on 3.11, and TFX 1.21 another TensorFlow than
    # overrides-py312.txt gives it; pip refuses both, and uv installs what the lock says.
    awk '/^[a-z0-9]/ { wanted = /^uv==/ } wanted' "$LOCK" >"$VENV/uv-requirements.txt"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$VENV/uv-requirements.txt"
    # The lock constrains what packages without wheels are built with, too.
    VIRTUAL_ENV=$VENV "$VENV/bin/uv" pip sync --require-hashes --build-constraints "$LOCK" "$LOCK"
    VIRTUAL_ENV=$VENV "$VENV/bin/uv" pip install --offline --no-deps --no-build-isolation -e serving/client -e .
    fingerprint >"$STAMP.new"
    mv "$STAMP.new" "$STAMP"
}

check_set
if ! is_up_to_date; then
    check_machine
    find_python
    check_python
    check_compiler
    exec 9<"$LOCK"
    flock 9 # one set-up at a time
    is_up_to_date || install
fi
