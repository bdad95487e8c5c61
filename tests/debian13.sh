#!/bin/sh
# `make test PY=3.12` in a Debian 13 of its own: what a system with a glibc of 2.39 or later makes of the current version
# set, tried from an older one.
#
#     tests/debian13.sh FOLDER                          all tests, of what is committed
#     tests/debian13.sh FOLDER demo DEMO_PORT=18500     or whatever else make shall do there, with PY=3.12
#
# FOLDER is made by debootstrap (a minute, 1 GB; 9 GB with the packages), or used again. It takes root, since it is a
# chroot. Debian 13 has Python 3.13 alone, so that python3.12's whole prefix is copied in, to the same path;
# PYTHON=/path/to/python3.12 chooses another. The variables, the network, the certificates and the settings of pip and uv
# are this system's; uv's cache is not. MIRROR has Debian's packages.
set -eu
cd "$(dirname "$0")/.."

MIRROR=${MIRROR:-http://deb.debian.org/debian}
PACKAGES=ca-certificates,g++,git,make,procps
CERTIFICATES=/etc/ssl/certs/ca-certificates.crt
PROJECT=/root/twotower

fail() {
    echo "debian13: $*" >&2
    exit 1
}

# Puts files of this system at the same path in the folder, as far as they are there.
copy() {
    for file in "$@"; do
        [ ! -f "$file" ] || install -D -m 644 "$file" "$FOLDER$file"
    done
}

[ $# -gt 0 ] || fail "found no folder, expected tests/debian13.sh FOLDER, for the system that is made"
FOLDER=$(realpath "$1")
shift
[ $# -gt 0 ] || set -- test
[ "$(id -u)" = 0 ] || fail "found user $(id -un), expected root, who alone may call chroot"
command -v debootstrap >/dev/null || fail "found no debootstrap, expected it (Debian and Ubuntu: apt-get install debootstrap)"
PREFIX=$("${PYTHON:-python3.12}" -c 'import sys; print(sys.base_prefix if sys.version_info[:2] == (3, 12) else "")') || PREFIX=
case $PREFIX in
    "" | /usr) fail "found no Python 3.12 in a folder of its own, expected PYTHON=/path/to/python3.12, which is copied" ;;
esac

# The first stages leave a folder called debootstrap, which the last one takes away.
if [ ! -x "$FOLDER/usr/bin/make" ] || [ -d "$FOLDER/debootstrap" ]; then
    debootstrap --variant=minbase --include="$PACKAGES" trixie "$FOLDER" "$MIRROR"
fi
mkdir -p "$FOLDER$PREFIX"
cp -a "$PREFIX/." "$FOLDER$PREFIX"
copy "$CERTIFICATES" "${SSL_CERT_FILE:-}" "${REQUESTS_CA_BUNDLE:-}" /etc/hosts /etc/resolv.conf /etc/uv/uv.toml "$HOME/.config/uv/uv.toml"
# pip's own list of its settings names its files, and those that the settings name.
"$PREFIX/bin/python3.12" -m pip config debug | grep -oE "/[^ ,']+" | sort -u | while read -r file; do copy "$file"; done
rm -rf "$FOLDER$PROJECT"
git clone --quiet --no-hardlinks . "$FOLDER$PROJECT"

# The mounts and processes are in namespaces of their own, and end with them.
exec unshare --mount --pid --fork --kill-child sh -c '
    folder=$1 project=$2 python=$3
    shift 3
    mount -t proc proc "$folder/proc"
    mount --rbind /dev "$folder/dev"
    exec env -u VIRTUAL_ENV -u PYTHONPATH HOME=/root PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
        UV_CACHE_DIR=/root/.cache/uv PYTHON="$python" \
        chroot "$folder" make --directory="$project" PY=3.12 "$@"
' sh "$FOLDER" "$PROJECT" "$PREFIX/bin/python3.12" "$@"
