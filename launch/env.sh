# shellcheck shell=bash
# Sourced by the scripts beside it: makes .venv in the repository once, puts it on the PATH and
# sets the variables that JAX and XLA read. What you set yourself stays.
# W2V_EXTRAS  extras of setup.cfg to install besides dev, e.g. gpu or tpu,gcs
# PYTHON      the interpreter to use (default: python3)
source "$(dirname "${BASH_SOURCE[0]}")/dry.sh"
python="${PYTHON:-python3}"
extras="${W2V_EXTRAS:-dev}"
stamp=".venv/installed-$(cat setup.cfg pyproject.toml | cksum | cut -d' ' -f1)-$extras"
if [ ! -e "$stamp" ] && [ -z "${DRY:-}" ]; then
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
