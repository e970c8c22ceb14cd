#!/usr/bin/env bash
# HuBERT from audio to letters: units of MFCC, a first training on them, units of one of its layers,
# a second training, fine-tuning and a score where there are transcripts. Without arguments: of the
# speech in the repository, for two CPU cores. Ctrl-C ends it, the same command goes on.
#   launch/hubert.sh [FOLDER]           results go to FOLDER (default: runs/hubert)
#   DRY=1 launch/hubert.sh [FOLDER]     prints the commands
#   SIZE=base TRAIN=train-960.tsv VALID=dev-other.tsv LABELLED=train-10h.tsv TEST=test-other.tsv \
#     launch/hubert.sh runs/hubert      the published one
#   TEACHER=runs/hubert/iteration-2/export LAYER=9 UNITS=it2-layer9-500 SIZE=large TRAIN=... \
#     launch/hubert.sh runs/hubert-large   one training, on units of a model that is there
# SIZE      of configs/hubert.py (default: quickstart, for two CPU cores)
# TRAIN     manifest, or several with commas, of unlabelled speech; VALID: of held-out speech
# LABELLED  manifest with transcripts to fine-tune on (default: none; with SIZE=quickstart five
#           minutes of the repository's), by the config FINETUNE; TEST: manifest to score on
# LAYER     whose features become the units of the second training (default: 6; quickstart, tiny: 2)
# CLUSTERS  of them (default: 500; quickstart, tiny: 100); UNITS: their name beside the manifests
# SHARE     of TRAIN that centroids are learnt from (default: 0.1; quickstart, tiny: 1)
# FLAGS     more flags of both trainings; FINETUNE_FLAGS: of fine-tuning
# What is done is not done again; what changes it (another CLUSTERS) wants another FOLDER and UNITS.
source "$(dirname "${BASH_SOURCE[0]}")/dry.sh"
[ $# -le 1 ] || usage
size="${SIZE:-quickstart}"
case "$size" in
quickstart | tiny) layer=2 clusters=100 share=1 finetune=configs/finetune.py:split=10m,size=tiny ;;
base | large | xlarge)
  layer=6 clusters=500 share=0.1 finetune="configs/finetune.py:split=10h,size=hubert_$size"
  need TRAIN data/train-960.tsv
  need VALID data/dev-other.tsv
  ;;
*) fail "SIZE=$size is unknown; write quickstart, tiny, base, large or xlarge" ;;
esac
case "$size" in
quickstart) finetune=configs/quickstart.py:finetune,form=wav2vec2 ;;
large | xlarge) need TEACHER runs/hubert/iteration-2/export ;;
esac
source launch/steps.sh
runs="${1:-runs/hubert}"
layer="${LAYER:-$layer}" clusters="${CLUSTERS:-$clusters}" share="${SHARE:-$share}"
second="${UNITS:-it1-layer$layer-$clusters}"
train="${TRAIN:-$runs/data/train.tsv}" valid="${VALID:-$runs/data/dev.tsv}"
labelled="${LABELLED:-}" test="${TEST:-}"
read -ra flags <<<"${FLAGS:-}"
read -ra finetune_flags <<<"${FINETUNE_FLAGS:-}"

if [ -z "${TRAIN:-}" ]; then
  say "prepare: manifests of w2v_jax/samples"
  sample "$runs/data" train train
  sample "$runs/data" dev dev
  if [ "$size" = quickstart ] && [ -z "${LABELLED+set}" ]; then
    sample "$runs/data" labelled train --minutes=5
    sample "$runs/data" test test
    labelled="$runs/data/labelled.tsv" test="$runs/data/test.tsv"
  fi
fi

units() {  # units NAME CLUSTERS FLAGS: centroids of features, and the units that they make
  [ -e "$runs/$1.npz" ] ||
    run units learn --data="$train" --share="$share" --clusters="$2" --output="$runs/$1.npz" "${@:3}"
  run units apply --centroids="$runs/$1.npz" --data="$train,$valid" --name="$1"
}
pretrain() {  # pretrain ITERATION UNITS CLUSTERS FLAGS
  run pretrain --config="configs/hubert.py:$size,iteration=$1" --workdir="$runs/iteration-$1" \
    --config.data.train="$train" --config.data.valid="$valid" \
    --config.data.units="('$2',)" --config.prediction.classes="($3,)" ${flags[@]+"${flags[@]}"}
  run export --workdir="$runs/iteration-$1" --output="$runs/iteration-$1/export"
}
teacher="${TEACHER:-$runs/iteration-1/export}"
if [ -z "${TEACHER:-}" ]; then
  say "units of MFCC: 100 clusters"
  units mfcc100 100 --features=mfcc
  say "pretrain, iteration 1: on these"
  pretrain 1 mfcc100 100
fi
say "units of layer $layer of $teacher: $clusters clusters"
units "$second" "$clusters" --features="$teacher" --layer="$layer"
say "pretrain, iteration 2: on these"
pretrain 2 "$second" "$clusters"

if [ -n "$labelled" ]; then
  say "finetune: CTC on $labelled"
  run finetune --config="${FINETUNE:-$finetune}" --workdir="$runs/finetuned" \
    --config.run.init_from="$runs/iteration-2/export" --config.data.train="$labelled" \
    --config.data.valid="$valid" ${finetune_flags[@]+"${finetune_flags[@]}"}
  run export --workdir="$runs/finetuned" --output="$runs/finetuned/export"
  [ -z "$test" ] ||
    run evaluate --checkpoint="$runs/finetuned/export" --data="$test" \
      --output="$runs/finetuned/test.decoded.tsv"
fi
