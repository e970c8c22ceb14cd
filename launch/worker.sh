#!/usr/bin/env bash
# What tpu_vm.sh calls on each worker of a slice; the run lives in runs/worker (log, pid, status):
#   launch/worker.sh setup                   Python and .venv, once per machine
#   launch/worker.sh start ENTRY FLAGS ...   starts launch/local.sh in a session of its own
#   launch/worker.sh status                  none, running, lost, or the exit status of the last run
#   launch/worker.sh log                     the end of its log
#   launch/worker.sh stop                    SIGTERM: the training saves, then ends
# DRY=1  prints the commands
source "$(dirname "${BASH_SOURCE[0]}")/dry.sh"
[ $# -gt 0 ] || usage
export W2V_EXTRAS="${W2V_EXTRAS:-tpu,gcs}"
home=runs/worker
action="$1"; shift
[ -n "${DRY:-}" ] || mkdir -p "$home"

# the session holds a lock: it is free again after a crash or a reboot, unlike a pid file
running() { ! flock --nonblock "$home/lock" true; }

case "$action" in
setup)
  # JAX on TPU v5e and later asks for it: it shortens the start and the end of the runtime
  act sudo sh -c 'echo always > /sys/kernel/mm/transparent_hugepage/enabled' ||
    echo "no transparent huge pages; goes on without"
  # images of TPU VMs have Python 3.10; uv brings a newer one without touching theirs
  if ! "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11, 4))'; then
    act python3 -m pip install --quiet --user uv
    act python3 -m uv python install --quiet 3.12
    PYTHON="${DRY:+python3.12}"
    [ -n "$PYTHON" ] || PYTHON="$(python3 -m uv python find 3.12)"
  fi
  act env PYTHON="${PYTHON:-python3}" bash launch/env.sh
  ;;
start)
  [ $# -gt 0 ] || usage
  # shellcheck disable=SC2016  # expanded by the bash in the session
  session='launch/local.sh "$@" & echo $! >runs/worker/pid
    status=0; wait $! || status=$?; echo $status >runs/worker/status'
  session="${session//$'\n'   /;}"
  if [ -n "${DRY:-}" ]; then show setsid --fork bash -c "$session" session "$@"; exit; fi
  exec 9>"$home/lock"  # inherited by all that the session starts
  flock --nonblock 9 || fail "a run is under way; end it with: launch/worker.sh stop"
  rm -f "$home/status"
  # a session of its own, which holds on to nothing of the ssh connection, outlives it
  setsid --fork bash -c "$session" session "$@" >>"$home/log" 2>&1 </dev/null
  ;;
status)
  if [ -n "${DRY:-}" ]; then show cat "$home/status"
  elif running; then echo "worker: running"
  elif [ -e "$home/status" ]; then echo "worker: $(cat "$home/status")"
  elif [ -e "$home/pid" ]; then echo "worker: lost"
  else echo "worker: none"
  fi
  ;;
log) act tail -n 30 "$home/log" ;;
stop)
  if [ -n "${DRY:-}" ] || running; then
    pid="${DRY:+PID}"
    act kill -TERM "${pid:-$(cat "$home/pid")}"
    act flock "$home/lock" true  # until the session has ended
  fi
  ;;
*) usage ;;
esac
