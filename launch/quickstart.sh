#!/usr/bin/env bash
# The whole job on the speech in the repository: prepare, pre-train, fine-tune from the pre-trained
# and from random weights, build a language model, score on held-out speech. About 20 minutes on two
# CPU cores; Ctrl-C ends it, the same command goes on where it stopped.
#   launch/quickstart.sh [FOLDER]                 results go to FOLDER (default: runs)
#   FORM=wav2vec2 launch/quickstart.sh [FOLDER]   wav2vec 2.0 on the waveform, without a language
#                                                 model: 8 minutes, which end in letters
#   SEEDS="0 1 2" launch/quickstart.sh [FOLDER]   fine-tunes all models once per seed
#   DRY=1 launch/quickstart.sh [FOLDER]           prints the commands
# PYTHON       the interpreter that makes .venv (default: python3)
# W2V_EXTRAS   gpu where there is one of NVIDIA: other packages of JAX
# JAX_COMPILATION_CACHE_DIR  where compiled programs are kept (default: .cache/jax)
source "$(dirname "${BASH_SOURCE[0]}")/dry.sh"
[ $# -le 1 ] || usage
form="${FORM:-conformer}"
case "$form" in
conformer) objective=wav2vec-Conformer updates=1,500 models="finetuned scratch all" ;;
wav2vec2) objective="wav2vec 2.0" updates=600 models="finetuned scratch" ;;
*) fail "FORM=$form is unknown; write conformer or wav2vec2" ;;
esac
source launch/steps.sh
runs="${1:-runs}"
seeds="${SEEDS:-0}"

say "1/5 prepare: manifests of w2v_jax/samples"
for split in train dev test; do sample "$runs/data" "$split" "$split"; done
# a third of the transcripts: labels are what is scarce
sample "$runs/data" labelled train --minutes=5

say "2/5 pretrain: $objective on 16 minutes of unlabelled speech, $updates updates"
run pretrain --config="configs/quickstart.py:pretrain,form=$form" --workdir="$runs/pretrain" \
  --config.data.train="$runs/data/train.tsv" --config.data.valid="$runs/data/dev.tsv"
run export --workdir="$runs/pretrain" --output="$runs/pretrain/export"

finetune() {
  run finetune --config="configs/quickstart.py:finetune,form=$form" --workdir="$runs/$1-$seed" \
    --config.data.valid="$runs/data/dev.tsv" --config.seed="$seed" "${@:2}"
}
for seed in $seeds; do
  say "3/5 finetune: CTC on 5 minutes with transcripts, from the pre-trained weights (seed $seed)"
  finetune finetuned --config.data.train="$runs/data/labelled.tsv" \
    --config.run.init_from="$runs/pretrain/export"

  say "3/5 finetune: the same from random weights (seed $seed)"
  finetune scratch --config.data.train="$runs/data/labelled.tsv"

  if [ "$form" = conformer ]; then
    say "3/5 finetune: from random weights with all transcripts, 16 minutes (seed $seed)"
    finetune all --config.data.train="$runs/data/train.tsv" --config.num_steps=1500
  fi
done

if [ "$form" = conformer ]; then
  say "4/5 build_ngram: a 4-gram of the transcripts and of the manual of Python"
  act python launch/python_manual.py "$runs/lm/manual.txt"
  run build_ngram --transcripts="$runs/data/train.tsv" --text="$runs/lm/manual.txt" \
    --exclude="$runs/data/dev.tsv,$runs/data/test.tsv" --output="$runs/lm/4-gram.arpa.gz" --overwrite
fi

say "5/5 evaluate on held-out speech"
for name in $models; do
  for seed in $seeds; do
    folder="$runs/$name-$seed"
    run export --workdir="$folder" --output="$folder/export"
    run evaluate --checkpoint="$folder/export" --data="$runs/data/test.tsv" \
      --output="$folder/test.decoded.tsv"
    [ "$form" = wav2vec2 ] ||
      run evaluate --checkpoint="$folder/export" --data="$runs/data/test.tsv" \
        --tune="$runs/data/dev.tsv" --config.lm="$runs/lm/4-gram.arpa.gz" \
        --output="$folder/test.lm.decoded.tsv"
  done
done
run report --runs="$runs"
say "for these commands in this terminal: source .venv/bin/activate"
