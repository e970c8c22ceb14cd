#!/usr/bin/env bash
# The whole job on the speech in the repository: prepare, pre-train, fine-tune from the pre-trained
# and from random weights, score on held-out speech. Run it again and it goes on where it stopped.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
runs="${1:-runs}"
run() { python -m "w2v_jax.$@"; }

echo "1/5 prepare: manifests of w2v_jax/samples"
for split in train dev test; do
  [ -e "$runs/data/$split.tsv" ] ||
    run prepare --input="w2v_jax/samples/$split-clean" --output="$runs/data/$split.tsv" --language=en
done
data=(--config.data.train="$runs/data/train.tsv" --config.data.valid="$runs/data/dev.tsv")

echo "2/5 pretrain: wav2vec 2.0 on unlabelled speech"
run pretrain --config=configs/quickstart.py:pretrain --workdir="$runs/pretrain" "${data[@]}"
run export --workdir="$runs/pretrain" --output="$runs/pretrain/export"

echo "3/5 finetune: CTC from the pre-trained weights"
run finetune --config=configs/quickstart.py:finetune --workdir="$runs/finetuned" "${data[@]}" \
  --config.init_from="$runs/pretrain/export"

echo "4/5 finetune: the same from random weights"
run finetune --config=configs/quickstart.py:finetune --workdir="$runs/scratch" "${data[@]}"

echo "5/5 evaluate on held-out speech"
for name in finetuned scratch; do
  run export --workdir="$runs/$name" --output="$runs/$name/export"
  run evaluate --checkpoint="$runs/$name/export" --data="$runs/data/test.tsv" \
    --output="$runs/$name/test.decoded.tsv"
done
run report --runs="$runs"
