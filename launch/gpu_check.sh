#!/usr/bin/env bash
# Does it work on this NVIDIA GPU, and how fast? Golden models, updates timed (BASE, LARGE, conformer,
# CTC) and beside transformers where it is installed, the longest kernels, a training that is killed
# and goes on, memory. At most 6 minutes; prints tables and a line of JSON.
#   launch/gpu_check.sh [FOLDER]           results go to FOLDER (default: gpu_check)
#   launch/gpu_check.sh --small [FOLDER]   tiny models on whatever there is, in under 2 minutes
#   DRY=1 launch/gpu_check.sh [FOLDER]     prints the command
# GPU_CHECK_SECONDS  what it may take (default: 340); what does not fit is said
# PYTHON      used as it is where it can import the packages; else it makes .venv
# NO_INSTALL=1  no .venv in any case
# W2V_EXTRAS  of .venv (default: gpu, with --small none)
# JAX_COMPILATION_CACHE_DIR  of compiled programs (default: an empty one, thrown away)
# Status: 1 where a part failed, 2 where there is no GPU, else 0.
source "$(dirname "${BASH_SOURCE[0]}")/dry.sh"
small="" usual=gpu
if [ "${1:-}" = --small ]; then small=--small usual=dev; shift; fi
[ $# -le 1 ] && [[ "${1:-}" != -* ]] || usage
cache="${JAX_COMPILATION_CACHE_DIR:-}"
export W2V_EXTRAS="${W2V_EXTRAS:-$usual}"
if [ -z "${NO_INSTALL:-}${DRY:-}" ] && [ -n "${PYTHON:-}" ] &&
  "$PYTHON" -c 'import w2v_jax.pretrain' >/dev/null 2>&1; then
  NO_INSTALL=1
fi
source launch/env.sh
python=python
[ -z "${NO_INSTALL:-}" ] || python="${PYTHON:-python3}"
export JAX_COMPILATION_CACHE_DIR="$cache"  # not that of all trainings: it compiles anew
[ -n "${DRY:-}" ] || exec "$python" -m benchmarks.gpu_check $small "${1:-gpu_check}"
show "$python" -m benchmarks.gpu_check $small "${1:-gpu_check}"
