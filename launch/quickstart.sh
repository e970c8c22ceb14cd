#!/usr/bin/env bash
# The whole job on the speech in the repository: prepare, pre-train, fine-tune from the pre-trained
# and from random weights, score on held-out speech. 8 to 22 minutes on two CPU cores; Ctrl-C ends
# it, the same command goes on where it stopped.
#   launch/quickstart.sh [FOLDER]                 results go to FOLDER (default: runs)
#   SEEDS="0 1 2" launch/quickstart.sh [FOLDER]   fine-tunes both models once per seed
#   DRY=1 launch/quickstart.sh [FOLDER]           prints the commands
# PYTHON       the interpreter that makes .venv (default: python3)
# W2V_EXTRAS   gpu where there is one of NVIDIA: other packages of JAX
# JAX_COMPILATION_CACHE_DIR  where compiled programs are kept (default: .cache/jax)
source "$(dirname "${BASH_SOURCE[0]}")/dry.sh"
[ $# -le 1 ] || usage
source launch/env.sh
runs="${1:-runs}"
seeds="${SEEDS:-0}"
say() { echo "${DRY:+# }$1"; }
run() { act python -m "w2v_jax.$1" "${@:2}"; }

say "1/5 prepare: manifests of w2v_jax/samples"
for split in train dev test; do
  [ -e "$runs/data/$split.tsv" ] ||
    run prepare --input="w2v_jax/samples/$split-clean" --output="$runs/data/$split.tsv" --language=en
done
[ -e "$runs/data/labelled.tsv" ] ||  # a third of the transcripts: labels are what is scarce
  run prepare --input=w2v_jax/samples/train-clean --output="$runs/data/labelled.tsv" \
    --language=en --minutes=5

say "2/5 pretrain: wav2vec 2.0 on 16 minutes of unlabelled speech, 600 updates"
run pretrain --config=configs/quickstart.py:pretrain --workdir="$runs/pretrain" \
  --config.data.train="$runs/data/train.tsv" --config.data.valid="$runs/data/dev.tsv"
run export --workdir="$runs/pretrain" --output="$runs/pretrain/export"

labelled=(--config.data.train="$runs/data/labelled.tsv" --config.data.valid="$runs/data/dev.tsv")
for seed in $seeds; do
  say "3/5 finetune: CTC on 5 minutes with transcripts, from the pre-trained weights (seed $seed)"
  run finetune --config=configs/quickstart.py:finetune --workdir="$runs/finetuned-$seed" \
    "${labelled[@]}" --config.seed="$seed" --config.run.init_from="$runs/pretrain/export"

  say "4/5 finetune: the same from random weights (seed $seed)"
  run finetune --config=configs/quickstart.py:finetune --workdir="$runs/scratch-$seed" \
    "${labelled[@]}" --config.seed="$seed"
done

say "5/5 evaluate on held-out speech"
for name in finetuned scratch; do
  for seed in $seeds; do
    run export --workdir="$runs/$name-$seed" --output="$runs/$name-$seed/export"
    run evaluate --checkpoint="$runs/$name-$seed/export" --data="$runs/data/test.tsv" \
      --output="$runs/$name-$seed/test.decoded.tsv"
  done
done
run report --runs="$runs"
say "for these commands in this terminal: source .venv/bin/activate"
