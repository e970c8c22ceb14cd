#!/usr/bin/env bash
# Runs an entry point of w2v_jax on this machine, again after every preemption (status 75):
#   launch/local.sh pretrain --config=configs/wav2vec2.py:base --workdir=runs/base ...
#   PROCESSES=2 launch/local.sh pretrain ...   as two processes that talk over 127.0.0.1
# PORT   where they meet (default: another one at each start)
# DRY=1  prints the commands
source "$(dirname "${BASH_SOURCE[0]}")/dry.sh"
[ $# -gt 0 ] || usage
[ -e "w2v_jax/$1.py" ] || fail "there is no tool w2v_jax.$1; write pretrain, finetune, train_lm, ..."
source launch/env.sh
entry="$1"; shift
processes="${PROCESSES:-1}"
[[ "$processes" =~ ^[1-9][0-9]*$ ]] || fail "PROCESSES=$processes is no number"
children=() stopping=""

start() {  # starts all processes
  # a new port each time: a process that is dying may still hold the old one
  local port="${PORT:-$((20000 + RANDOM % 12000))}" i command
  children=()
  for ((i = 0; i < processes; i++)); do
    command=(python -m "w2v_jax.$entry" "$@")
    if [ "$processes" -gt 1 ]; then
      command+=(--coordinator_address="127.0.0.1:$port" --num_processes="$processes")
      command+=(--process_id="$i")
      # one GPU each: left alone, every process would take all of them
      [[ ",$extras," != *,gpu,* ]] || command=(env JAX_LOCAL_DEVICE_IDS="$i" "${command[@]}")
    fi
    if [ -n "${DRY:-}" ]; then show "${command[@]}"; else "${command[@]}" & children+=($!); fi
  done
}

finish() {  # waits for all; the first that ends otherwise than with 0 decides the `status`
  local child code left pending=(${children[@]+"${children[@]}"})
  status=0
  while [ ${#pending[@]} -gt 0 ]; do
    left=("${pending[@]}") pending=()
    for child in "${left[@]}"; do
      # asked one by one: bash 3, which macOS has, cannot wait for any of several
      if kill -0 "$child" 2>/dev/null; then pending+=("$child"); continue; fi
      code=0
      wait "$child" || code=$?
      [ "$status" -eq 0 ] || continue
      status=$code
      # the others now wait in a collective for ever; saving needs all, so nothing is lost
      [ "$status" -eq 0 ] || [ "$status" -eq 75 ] || kill -KILL "${children[@]}" 2>/dev/null || true
    done
    [ ${#pending[@]} -eq 0 ] || sleep 0.2 || true  # a Ctrl-C ends the sleep as well
  done
}

# a signal to this script reaches the training, which saves and ends; it is not started again
trap 'stopping=yes; kill -TERM ${children[@]+"${children[@]}"} 2>/dev/null || true' TERM INT
while :; do
  start "$@"
  finish
  [ "$status" -eq 75 ] && [ -z "$stopping" ] || exit "$status"
  echo "preempted; continues in ${PAUSE:=5} s (Ctrl-C ends it)"
  sleep "$PAUSE" || true
  [ -z "$stopping" ] || exit 75
done
