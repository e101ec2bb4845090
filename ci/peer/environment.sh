#!/usr/bin/env bash
# Make an environment of jwst and of programs that read spectra (specutils, jdaviz), once, and print the path of its
# Python. nsxr is not in it.
#
#   ci/peer/environment.sh [FOLDER]
#
# FOLDER, else $NSXR_PEER_ENV, else .ci/build/peer. A folder that already holds the pinned versions
# is left as it is. $PYTHON names the interpreter to build it with (default python3, 3.11 or later).
# Everything but the path goes to stderr, so that PEER="$(ci/peer/environment.sh)" works.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
folder="${1:-${NSXR_PEER_ENV:-$here/../../.ci/build/peer}}"
constraints="$here/constraints.txt"

is_complete() {
  [ -x "$folder/bin/python" ] && "$folder/bin/python" - "$constraints" <<'PYTHON'
import sys
from importlib.metadata import PackageNotFoundError, version

wrong = []
for line in open(sys.argv[1], encoding="utf-8").read().split():
    name, expected = line.split("==")
    try:
        found = version(name)
    except PackageNotFoundError:
        found = "nothing"
    if found != expected:
        wrong.append(f"{name}: {found} installed, {expected} expected")
if wrong:
    sys.exit("\n".join(wrong))
PYTHON
}

if ! is_complete >&2; then
  echo "making the environment of jwst in $folder" >&2
  "${PYTHON:-python3}" -m venv "$folder" >&2
  # most modules are never imported: to compile all of them takes a minute
  "$folder/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check --constraint "$constraints" \
    jwst specutils jdaviz >&2
  is_complete >&2
fi
echo "$(cd "$folder" && pwd)/bin/python"
