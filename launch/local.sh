#!/usr/bin/env bash
# Runs an entry point of w2v_jax on this machine, again after every preemption (status 75):
#   launch/local.sh pretrain --config=configs/wav2vec2.py:base --workdir=runs/base ...
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
[ $# -gt 0 ] || { sed -n '2,3s/^# //p' "${BASH_SOURCE[0]}"; exit 2; }
entry="$1"; shift
while :; do
  status=0
  python -m "w2v_jax.$entry" "$@" || status=$?
  [ "$status" -eq 75 ] || exit "$status"
  echo "preempted; continues in 5 s (Ctrl-C ends it)"
  sleep 5
done
