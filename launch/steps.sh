# shellcheck shell=bash
# Sourced by the scripts that run tools of the package one after another.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
say() { echo "${DRY:+# }$1"; }
run() { act python -m "w2v_jax.$1" "${@:2}"; }

sample() {  # sample FOLDER NAME SPLIT FLAGS: a manifest of the speech in the repository
  [ -e "$1/$2.tsv" ] ||
    run prepare --input="w2v_jax/samples/$3-clean" --output="$1/$2.tsv" --language=en "${@:4}"
}
