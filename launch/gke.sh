#!/usr/bin/env bash
# Trains on a TPU slice of a GKE cluster: fills launch/gke.yaml and gives it to kubectl.
#   launch/gke.sh pretrain --config=configs/wav2vec2.py:base --workdir=gs://... ...
#   DRY=1 launch/gke.sh pretrain ...   prints what kubectl would get
# IMAGE            launch/Dockerfile, built with --build-arg EXTRAS=tpu,gcs
# ACCELERATOR      label of the node pool, e.g. tpu-v5-lite-podslice
# TOPOLOGY         e.g. 4x4
# CHIPS_PER_HOST   default: 4;  NAME  default: w2v-jax;  SERVICE_ACCOUNT  default: default
# JAX_COMPILATION_CACHE_DIR  e.g. gs://bucket/jax (default: /workdir/jax, lost with the pod)
# Watch it with kubectl get jobset, end it with kubectl delete jobset NAME.
source "$(dirname "${BASH_SOURCE[0]}")/dry.sh"
[ $# -gt 0 ] || usage
tool kubectl 'https://kubernetes.io/docs/tasks/tools has it'
need IMAGE us-docker.pkg.dev/PROJECT/REPOSITORY/w2v_jax:1
need ACCELERATOR tpu-v5-lite-podslice
need TOPOLOGY 4x4
# shellcheck disable=SC2034  # read by name below
NAME="${NAME:-w2v-jax}" SERVICE_ACCOUNT="${SERVICE_ACCOUNT:-default}" ENTRY="$1"
CHIPS_PER_HOST="${CHIPS_PER_HOST:-4}"
JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-/workdir/jax}"

[[ "$TOPOLOGY" =~ ^[0-9]+(x[0-9]+)+$ ]] || fail "TOPOLOGY $TOPOLOGY is not like 4x4 or 2x2x4"
chips=$((${TOPOLOGY//x/ * }))
((chips % CHIPS_PER_HOST == 0)) ||
  fail "TOPOLOGY $TOPOLOGY has $chips chips: no multiple of CHIPS_PER_HOST=$CHIPS_PER_HOST"
# shellcheck disable=SC2034
HOSTS=$((chips / CHIPS_PER_HOST))
ARGS="'--distributed=on'"
quote="'" two="''"  # how YAML writes a quote
for argument in "${@:2}"; do ARGS+=", '${argument//$quote/$two}'"; done

filled="$(<launch/gke.yaml)"
for name in NAME HOSTS SERVICE_ACCOUNT ACCELERATOR TOPOLOGY IMAGE ENTRY ARGS CHIPS_PER_HOST \
  JAX_COMPILATION_CACHE_DIR; do
  filled="${filled//\$\{$name\}/${!name}}"
done
if [ -n "${DRY:-}" ]; then
  printf '%s\n' "kubectl apply -f - <<'EOF'" "$filled" EOF
else
  kubectl apply -f - <<<"$filled"
fi
