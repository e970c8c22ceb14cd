# shellcheck shell=bash
# Sourced by the scripts beside it: makes .venv in the repository once, puts it on the PATH and
# sets the variables that JAX and XLA read. What you set yourself stays.
# W2V_EXTRAS  extras of setup.cfg to install besides dev, e.g. gpu or tpu,gcs
# PYTHON      the interpreter to use (default: python3)
# NO_INSTALL=1  no .venv: the packages are there
source "$(dirname "${BASH_SOURCE[0]}")/dry.sh"
extras="${W2V_EXTRAS:-dev}"
stamp=".venv/installed-$(cat setup.cfg pyproject.toml | cksum | cut -d' ' -f1)-$extras"

choose_python() {  # sets `python`
  local said
  local candidates=(python3 python3.13 python3.12 python3.11)
  [ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
  for python in "${candidates[@]}"; do
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11, 4))' >/dev/null 2>&1 && return
  done
  said="$("${candidates[0]}" --version 2>/dev/null)" || said="not there"
  fail "Python 3.11.4 or later is needed, ${candidates[0]} is $said; install it (apt install \
python3.12 python3.12-venv, brew install python, uv python install 3.12) and set PYTHON=/path/to/it"
}
make_venv() {
  local python
  choose_python
  "$python" -c 'import venv, ensurepip' 2>/dev/null || fail "$python makes no virtual environments; \
install its venv module (Debian, Ubuntu: sudo apt install python3-venv) or set PYTHON to another"
  echo "installing into $PWD/.venv with $("$python" --version): once, a minute or two ..."
  # the old one is of no use when its interpreter is gone
  .venv/bin/python -c '' 2>/dev/null || rm -rf .venv
  "$python" -m venv .venv || fail "$python could not make $PWD/.venv, its message is above"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".[dev,$extras]" ||
    fail "pip could not install the packages, its message is above. It needs a network once (or \
PIP_NO_INDEX=1 PIP_FIND_LINKS=/folder/of/wheels) and 2 GB of disk; the same command goes on"
  touch "$stamp"
}
if [ -z "${DRY:-}${NO_INSTALL:-}" ]; then
  { [ -e "$stamp" ] && .venv/bin/python -c '' 2>/dev/null; } || make_venv
fi
[ -n "${NO_INSTALL:-}" ] || export PATH="$PWD/.venv/bin:$PATH"
# compiled programs survive restarts
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$PWD/.cache/jax}"
# an update on a CPU takes its memory anew from the system; in pages of 2 MiB (glibc 2.35) that is
# a sixth of the time less, see PERFORMANCE.md. Other C libraries ignore it.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"

case ",$extras," in *,gpu,*)
  # lets gradient all-reduces and parameter all-gathers run beside the arithmetic; XLA has it off
  # on GPUs. An unknown flag ends a process, so this is the only one: jax 0.10.2, 0.11.2 and 0.12.0
  # know it. It stands before your own XLA_FLAGS because the last one of a kind counts.
  export XLA_FLAGS="--xla_gpu_enable_latency_hiding_scheduler=true${XLA_FLAGS:+ $XLA_FLAGS}"
  # a training process has its GPU alone: 90 % instead of JAX's 75; NCCL and cuDNN need the rest.
  # JAX refuses the older name beside this one
  [ -n "${XLA_PYTHON_CLIENT_MEM_FRACTION:-}" ] ||
    export XLA_CLIENT_MEM_FRACTION="${XLA_CLIENT_MEM_FRACTION:-0.9}"
esac
# TPUs need nothing here: JAX sets the LIBTPU_INIT_ARGS that it wants, and XLA overlaps collectives
# there by default. TF_CPP_MIN_LOG_LEVEL is set by JAX, too.
