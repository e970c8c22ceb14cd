#!/usr/bin/env bash
# Noisy student training: a teacher writes down unlabelled speech with a language model, a student
# learns from these texts and the transcripts, and is the next teacher. Without arguments: of the
# speech in the repository, 5 minutes of it with transcripts, for two CPU cores. Ctrl-C ends it, the
# same command goes on.
#   launch/noisy_student.sh [FOLDER]    results go to FOLDER (default: runs/noisy)
#   DRY=1 launch/noisy_student.sh [FOLDER]    prints the commands
#   CONFIG=configs/finetune.py:split=100h,size=large INIT=runs/large/export LM=4-gram.arpa.gz \
#     LABELLED=train-100h.tsv UNLABELLED=train-860.tsv DEV=dev-other.tsv TEST=test-other.tsv \
#     GENERATIONS=4 CUTOFFS="1 0.5 0 none" launch/noisy_student.sh runs/large-100h
# CONFIG    of the CTC trainings (default: configs/quickstart.py:finetune,form=conformer)
# LABELLED, UNLABELLED, DEV, TEST    manifests, all or none; transcripts of UNLABELLED are not
#           looked at, audio of LABELLED is left out of it
# TEACHER   a CTC checkpoint to begin with (default: CONFIG is trained on LABELLED)
# INIT      pre-trained weights that each training starts from (default: random ones)
# FROM      teacher: a student goes on from its teacher's weights (iterative pseudo-labelling, with
#           SUBSET=0.4 say); scratch: as the first teacher began (default)
# LM        n-gram model that decodes (default: none); TRANSFORMER_LM: an export that scores again
# TEXT      instead of LM: lines for a 4-gram, beside the transcripts of LABELLED; python: the
#           manual of Python, the default with the speech of the repository
# GENERATIONS  of students (default: 2)
# CUTOFFS   of the filter, per generation; none: no filter. The last holds for all that follow
#           (default: 0 none)
# BALANCE   of the letters, 0 to 1 (default: 0)
# SUBSET    share of UNLABELLED that each generation draws anew (default: 1)
# RATIO     of the audio heard, labelled:pseudo-labelled (default: 1:9; of the repository's 1:1)
# AUGMENT_1, AUGMENT_2 ...   flags of the training of a generation, stronger augmentation (default
#           with the quickstart's CONFIG: more masks of SpecAugment each time)
# FLAGS     of every training; STUDENT_FLAGS: of students; SEARCH: of decoding; SELECT: of selection
# SEED      (default: 0); PROCESSES: that search (default: 1)
# What is done is not done again; what changes it wants another FOLDER.
source "$(dirname "${BASH_SOURCE[0]}")/dry.sh"
[ $# -le 1 ] || usage
runs="${1:-runs/noisy}"
quickstart=configs/quickstart.py:finetune,form=conformer
config="${CONFIG:-$quickstart}"
generations="${GENERATIONS:-2}" seed="${SEED:-0}" lm="${LM:-}" text="${TEXT:-}"
if [ -n "${LABELLED:-}${UNLABELLED:-}${DEV:-}${TEST:-}" ]; then
  need LABELLED data/train-100h.tsv
  need UNLABELLED data/train-860.tsv
  need DEV data/dev-other.tsv
  need TEST data/test-other.tsv
  labelled="$LABELLED" unlabelled="$UNLABELLED" dev="$DEV" test="$TEST"
  ratio="${RATIO:-1:9}"
else
  labelled="$runs/data/labelled.tsv" unlabelled="$runs/data/train.tsv"
  dev="$runs/data/dev.tsv" test="$runs/data/test.tsv"
  ratio="${RATIO:-1:1}"
  [ -n "$lm" ] || text="${text:-python}"
fi
number='^([0-9]+[.]?[0-9]*|[.][0-9]+)$' zero='^[0.]*$'
case "$labelled" in *,*) fail "LABELLED=$labelled: name one manifest, RATIO weighs it" ;; esac
for part in "${ratio%%:*}" "${ratio#*:}"; do
  [[ $ratio == *:* && $part =~ $number && ! $part =~ $zero ]] ||
    fail "RATIO=$ratio must be two numbers above 0, labelled:pseudo-labelled, such as 1:9"
done
[[ $generations =~ ^[1-9][0-9]*$ ]] || fail "GENERATIONS=$generations must be 1 or more"
[[ ${SUBSET:-1} =~ $number && ! ${SUBSET:-1} =~ $zero ]] ||
  fail "SUBSET=$SUBSET must be a share above 0, at most 1"
read -ra cutoffs <<<"${CUTOFFS:-0 none}"
for cutoff in ${cutoffs[@]+"${cutoffs[@]}"}; do
  [[ $cutoff == none || ${cutoff#-} =~ $number ]] || fail "CUTOFFS: $cutoff is no number, nor none"
done
case "${FROM:-scratch}" in
scratch | teacher) ;;
*) fail "FROM=$FROM is unknown; write scratch or teacher" ;;
esac
[ -z "$lm" ] || [ -z "$text" ] || fail "LM=$lm and TEXT=$text: set one of them"
source launch/steps.sh
read -ra flags <<<"${FLAGS:-}"
read -ra student_flags <<<"${STUDENT_FLAGS:-}"
read -ra select_flags <<<"${SELECT:-}"
read -ra search <<<"${SEARCH:-}"
init=()
[ -z "${INIT:-}" ] || init=(--config.run.init_from="$INIT")

if [ -z "${LABELLED:-}" ]; then
  say "prepare: manifests of w2v_jax/samples"
  sample "$runs/data" train train
  sample "$runs/data" dev dev
  sample "$runs/data" test test
  sample "$runs/data" labelled train --minutes=5
fi
if [ -n "$text" ]; then
  say "build_ngram: a 4-gram of the transcripts of $labelled and of $text"
  lm="$runs/lm/4-gram.arpa.gz"
  if [ ! -e "$lm" ]; then
    if [ "$text" = python ]; then
      text="$runs/lm/manual.txt"
      act python launch/python_manual.py "$text"
    fi
    run build_ngram --transcripts="$labelled" --text="$text" --exclude="$dev,$test" --output="$lm"
  fi
fi
[ -z "$lm" ] || search+=(--config.lm="$lm")
[ -z "${TRANSFORMER_LM:-}" ] || search+=(--config.transformer_lm="$TRANSFORMER_LM")
tuned=false
[ -z "$lm${TRANSFORMER_LM:-}" ] || tuned=true
search+=(--processes="${PROCESSES:-1}")

train() {  # train GENERATION FLAGS
  local to="$runs/generation-$1"
  [ -e "$to/export/config.json" ] || {
    run finetune --config="$config" --workdir="$to" --config.data.valid="$dev" \
      --config.seed="$seed" ${flags[@]+"${flags[@]}"} "${@:2}"
    run export --workdir="$to" --output="$to/export"
  }
}
evaluate() {  # evaluate GENERATION MODEL: its error rates, and the weights of the language model
  local to="$runs/generation-$1"
  [ -e "$to/test.decoded.tsv" ] ||
    run evaluate --checkpoint="$2" --data="$test" --output="$to/test.decoded.tsv"
  ! $tuned || [ -e "$to/test.lm.decoded.tsv" ] ||
    run evaluate --checkpoint="$2" --data="$test" --tune="$dev" "${search[@]}" \
      --output="$to/test.lm.decoded.tsv"
}
label() {  # label GENERATION TEACHER CUTOFF: what it is taught, by the one before it
  local to="$runs/labels-$1" before="$runs/generation-$(($1 - 1))" with=("${search[@]}") status=0
  [ -e "$to/selected/pseudo.tsv" ] && return
  ! $tuned || with+=(--tuned="$before/test.lm.decoded.tuned.json")
  run pseudo_labels decode --checkpoint="$2" --data="$dev" --output="$to/dev" "${with[@]}"
  run pseudo_labels decode --checkpoint="$2" --data="$unlabelled" --exclude="$labelled" \
    --share="${SUBSET:-1}" --seed="$((seed + $1))" --output="$to/unlabelled" "${with[@]}"
  with=(--balance="${BALANCE:-0}" ${select_flags[@]+"${select_flags[@]}"})
  [ "$3" = none ] || with+=(--cutoff="$3")
  run pseudo_labels select --config="$config" --decoded="$to/unlabelled" --reference="$to/dev" \
    --labelled="$labelled" --output="$to/selected" "${with[@]}" || status=$?
  [ "$status" = 0 ] || {
    run pseudo_labels report --runs="$runs"
    exit "$status"
  }
}

teacher="${TEACHER:-$runs/generation-0/export}"
if [ -z "${TEACHER:-}" ]; then
  say "generation 0: the teacher learns from $labelled"
  train 0 --config.data.train="$labelled" ${init[@]+"${init[@]}"}
fi
evaluate 0 "$teacher"
for ((n = 1; n <= generations; n++)); do
  last=$((n <= ${#cutoffs[@]} ? n - 1 : ${#cutoffs[@]} - 1))
  say "generation $n: $teacher writes down $unlabelled, cutoff ${cutoffs[$last]}"
  label "$n" "$teacher" "${cutoffs[$last]}"
  start=(${init[@]+"${init[@]}"})
  [ "${FROM:-scratch}" = scratch ] ||
    start=(--config.run.init_from="$teacher" --config.run.init_head=True)
  augment="AUGMENT_$n"
  usual=""
  [ "$config" != "$quickstart" ] || usual="--config.spec_augment.time_masks=$((5 + 3 * n))"
  read -ra augment <<<"${!augment-$usual}"
  say "generation $n: a student learns from both, $ratio"
  train "$n" --config.data.train="$labelled,$runs/labels-$n/selected/pseudo.tsv" \
    --config.data.mix=weights --config.data.mix_weights="(${ratio/:/,})" \
    ${augment[@]+"${augment[@]}"} ${student_flags[@]+"${student_flags[@]}"} \
    ${start[@]+"${start[@]}"}
  teacher="$runs/generation-$n/export"
  evaluate "$n" "$teacher"
done
run pseudo_labels report --runs="$runs"
