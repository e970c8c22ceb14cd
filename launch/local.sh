#!/usr/bin/env bash
# Runs an entry point of w2v_jax on this machine, again after every preemption (status 75):
#   launch/local.sh pretrain --config=configs/wav2vec2.py:base --workdir=runs/base ...
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
[ $# -gt 0 ] || { sed -n '2,3s/^# //p' launch/local.sh; exit 2; }
entry="$1"; shift
# a signal to this script reaches the training, which saves and ends
trap 'kill -TERM "$child"; wait "$child"; exit $?' TERM INT
while :; do
  status=0
  python -m "w2v_jax.$entry" "$@" &
  child=$!
  wait "$child" || status=$?
  [ "$status" -eq 75 ] || exit "$status"
  echo "preempted; continues in 5 s (Ctrl-C ends it)"
  sleep 5
done
