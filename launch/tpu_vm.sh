#!/usr/bin/env bash
# Trains on a Cloud TPU VM or a whole pod slice:
#   launch/tpu_vm.sh create                   asks for the slice and waits until it is there
#   launch/tpu_vm.sh setup                    copies this working tree to all workers, installs
#   launch/tpu_vm.sh run ENTRY FLAGS ...      starts the same command on all workers, detached
#   launch/tpu_vm.sh babysit ENTRY FLAGS ...  all of this, again after each preemption, until the
#                                             training has finished; Ctrl-C ends only the babysitter
#   launch/tpu_vm.sh status | log | stop | ssh [COMMAND] | delete
# Once before: ssh-add ~/.ssh/google_compute_engine, which gcloud wants for --worker=all. End the
# babysitter before stop: it takes the 75 of a stopped training for a preemption.
# TPU_NAME, ZONE, ACCELERATOR  e.g. w2v, us-west4-a, v5litepod-16
# RUNTIME        the image (default: the one for the kind of ACCELERATOR)
# SPOT=1         cheap, and taken away at any time; PROJECT: default of gcloud
# DELETE=1       babysit deletes the slice when the training has ended, well or not
# MAX_FAILURES   babysit ends after more failures than this without a preemption or an hour of
#                training between them (default: 3)
# JAX_COMPILATION_CACHE_DIR  e.g. gs://bucket/jax: compiled programs outlive the slice
# DRY=1          prints the commands
# Workers share no disk: --workdir, and manifests unless setup copies them, must be gs:// paths.
source "$(dirname "${BASH_SOURCE[0]}")/dry.sh"
[ $# -gt 0 ] || usage
action="$1"; shift
case "$action" in
run | babysit) [ $# -gt 0 ] || usage ;;
create | setup | status | log | stop | ssh | delete) ;;
*) usage ;;
esac
need TPU_NAME w2v
need ZONE us-west4-a
tool gcloud 'https://cloud.google.com/sdk/docs/install has it'
poll="${POLL:-60}"  # seconds between two looks
gone="^(SUSPENDED|FAILED|PREEMPTED|TERMINATED|STOPPED|HIDDEN|UNKNOWN)$"  # and does not come back

where=(--zone="$ZONE" ${PROJECT:+--project="$PROJECT"})
qr() { act gcloud compute tpus queued-resources "$1" "$TPU_NAME" "${@:2}" "${where[@]}"; }
vm() { act gcloud compute tpus tpu-vm "$@" "${where[@]}"; }
on_all() {  # runs one command on every worker
  vm ssh "$TPU_NAME" --worker=all --command="$1"
}
worker() {  # worker ACTION ARGUMENTS: launch/worker.sh on every worker
  local line
  printf -v line ' %q' "$@"
  on_all "cd w2v_jax && ${JAX_COMPILATION_CACHE_DIR:+JAX_COMPILATION_CACHE_DIR=$(
    printf %q "$JAX_COMPILATION_CACHE_DIR") }launch/worker.sh$line"
}

create() {
  need ACCELERATOR v5litepod-16
  local runtime
  case "$ACCELERATOR" in
  v5lite*) runtime=v2-alpha-tpuv5-lite ;;
  v5p*) runtime=v2-alpha-tpuv5 ;;
  v6e*) runtime=v2-alpha-tpuv6e ;;
  *) runtime=tpu-ubuntu2204-base ;;
  esac
  # a queued resource, not `tpu-vm create`: it waits for capacity instead of failing
  qr create --node-id="$TPU_NAME" --accelerator-type="$ACCELERATOR" \
    --runtime-version="${RUNTIME:-$runtime}" ${SPOT:+--spot}
}
delete() { qr delete --force --quiet; }
setup() {
  # what git tracks, changes included: no data, no runs, no .venv
  local archive="${TMPDIR:-/tmp}/w2v_jax-$TPU_NAME.tar.gz"
  # shellcheck disable=SC2016  # expanded by that bash
  tool git 'setup copies what git tracks'
  [ -n "${DRY:-}" ] || git rev-parse --git-dir >/dev/null 2>&1 ||
    fail "$PWD is no git repository; setup copies what git tracks: git init && git add ."
  act bash -c 'git ls-files -z | tar --null -T - -czf "$0"' "$archive" &&
    vm scp "$archive" "$TPU_NAME:w2v_jax.tar.gz" --worker=all &&
    on_all "mkdir -p w2v_jax && tar -xzf w2v_jax.tar.gz -C w2v_jax" &&
    worker setup
}
run() { worker start "$1" --distributed=on "${@:2}"; }
state() {  # of the queued resource, and once it is active of its machines; NONE without one
  local answer
  if ! answer="$(qr describe --format='value(state.state)' 2>"$errors")"; then
    # a bad network is no reason to create a slice
    if grep -q NOT_FOUND "$errors"; then echo NONE; else cat "$errors" >&2; echo UNREACHABLE; fi
  elif [ "$answer" = ACTIVE ]; then
    vm describe "$TPU_NAME" --format='value(state)' 2>"$errors" || echo UNREACHABLE
  else
    echo "${answer:-UNREACHABLE}"
  fi
}
wait_until_ready() {
  local now
  while now="$(state)"; [ "$now" != READY ]; do
    [[ ! "$now" =~ $gone ]] || fail "the slice is $now; first: launch/tpu_vm.sh delete"
    echo "$(date +%T) $now"
    sleep "$poll"
  done
}

ask() {  # every worker for its status; a fresh machine has no code that could answer
  on_all "cd w2v_jax 2>/dev/null || { echo worker: none; exit; }; launch/worker.sh status"
}
statuses() {  # of all workers in one line, e.g. "running running"; fails if one cannot be reached
  local answer
  answer="$(ask 2>"$errors")" && sed -n 's/^worker: //p' <<<"$answer" | xargs
}
end() {  # end STATUS
  worker log || true
  if [ -n "${DELETE:-}" ]; then delete || true; else echo "it costs until: launch/tpu_vm.sh delete"; fi
  exit "$1"
}
failures=0
failed() { ((++failures <= ${MAX_FAILURES:-3})) || end 1; }
babysit() {
  local now all started="" begun=0
  while :; do
    now="$(state)" all=""
    if [ "$now" = READY ]; then all="$(statuses)" || now="READY, but not every worker answers"; fi
    echo "$(date +%T) $now${all:+: $all}"
    if [ "$now" = NONE ]; then
      if create; then started=""; else failed; fi
    elif [[ "$now" =~ $gone ]]; then
      delete || true  # if not this time, then the next
      failures=0
    elif [[ "$all" =~ running ]]; then
      # taken for the same training; when one has ended, JAX ends the others within minutes
      started=yes
    elif [ -n "$all" ] && { [ -z "$started" ] || [[ "$all" =~ none ]]; }; then
      # what a worker says before the first start here is of another run
      if setup && run "$@"; then started=yes begun=$SECONDS; else failed; fi
    elif [[ "$all" =~ ^0( 0)*$ ]]; then
      end 0
    elif [[ "$all" =~ ^2( 2)*$ ]]; then
      end 2  # an error of the user, which all workers see: the same command would fail again
    elif [ -n "$all" ]; then
      # what ran for an hour has got on; with a 75 among them the rest are its consequences
      ((SECONDS - begun < 3600)) || failures=0
      [[ " $all " = *" 75 "* ]] || failed
      if run "$@"; then begun=$SECONDS; fi
    fi
    sleep "$poll"
  done
}

errors="$(mktemp)"
trap 'rm -f "$errors"' EXIT
case "$action" in
create)
  create
  if [ -n "${DRY:-}" ]; then state; else wait_until_ready; fi
  ;;
babysit)
  need ACCELERATOR v5litepod-16
  if [ -n "${DRY:-}" ]; then create; setup; run "$@"; state; ask; delete; exit; fi
  babysit "$@"
  ;;
status) if [ -n "${DRY:-}" ]; then state; ask; else echo "$(state) $(statuses)"; fi ;;
setup | delete) "$action" ;;
run) run "$@" ;;
log | stop) worker "$action" ;;
ssh) if [ $# -gt 0 ]; then on_all "$*"; else vm ssh "$TPU_NAME"; fi ;;
esac
