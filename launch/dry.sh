# shellcheck shell=bash
# Sourced by every script here: goes to the root of the repository, where relative paths begin; with
# --help a script prints the comment at its head, with DRY=1 its commands, one a line and quoted so
# that they can be pasted, and runs nothing.
set -euo pipefail
# once: this is sourced by a script and by env.sh, and $0 is seen from where the script was called
[ -n "${launched:-}" ] || launched="$(cd "$(dirname "$0")" && pwd)/$(basename "$0")"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# in ${text//from/to} an & stays an &, as before bash 5.2; macOS has bash 3.2
shopt -u patsub_replacement 2>/dev/null || true

show() {  # prints a command in one line, quoted where it must be
  local word line="" quote="'" escaped="'\\''"
  for word in "$@"; do
    case "$word" in
    *$'\n'*) printf -v word %q "$word" ;;
    '' | *[!A-Za-z0-9_./:=,@%+-]*) word="'${word//$quote/$escaped}'" ;;
    esac
    line+=" $word"
  done
  printf '%s\n' "${line:1}"
}
act() { if [ -n "${DRY:-}" ]; then show "$@"; else "$@"; fi; }  # runs a command, or prints it

fail() { echo "error: $1" >&2; exit 2; }
need() {  # need NAME EXAMPLE: the environment variable must be set
  [ -n "${!1:-}" ] || fail "$1 is not set; for example: export $1=$2"
}
tool() {  # tool NAME REMEDY: a program that must be on the PATH
  [ -n "${DRY:-}" ] || command -v "$1" >/dev/null || fail "$1 is not on the PATH; $2"
}
describe() { awk 'NR > 1 { if (!sub(/^# /, "")) exit; print }' "$launched"; }
usage() { describe >&2; exit 2; }
case "${1:-}" in -h | --help) describe; exit 0 ;; esac
