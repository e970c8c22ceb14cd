# Sourced by the scripts beside it: makes .venv in the repository once and puts it on the PATH.
# W2V_EXTRAS  extras of setup.cfg to install besides dev, e.g. gpu or tpu
# PYTHON      the interpreter to use (default: python3)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python="${PYTHON:-python3}"
extras="${W2V_EXTRAS:-dev}"
stamp=".venv/installed-$(cat setup.cfg pyproject.toml | cksum | cut -d' ' -f1)-$extras"
if [ ! -e "$stamp" ]; then
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "error: Python 3.11 or later is needed; set PYTHON=/path/to/python3.11" >&2; exit 1; }
  echo "installing into .venv (a minute or two) ..."
  "$python" -m venv .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".[dev,$extras]"
  touch "$stamp"
fi
export PATH="$PWD/.venv/bin:$PATH"
# compiled programs survive restarts
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$PWD/.cache/jax}"
