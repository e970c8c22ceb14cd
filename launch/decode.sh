#!/usr/bin/env bash
# Decodes the held-out speech of the quickstart with its best model, alone, with a 4-gram and
# with a Transformer language model, and prints a table. Both are trained here: on the transcripts of
# the training speech and, as these are few, on the manual of Python, which every Python carries.
# Two to six minutes on two CPU cores, after launch/quickstart.sh.
#   launch/decode.sh [FOLDER]            FOLDER: of launch/quickstart.sh (default: runs)
#   MODEL=EXPORT launch/decode.sh        decodes with another fine-tuned model
#   DRY=1 launch/decode.sh [FOLDER]      prints the commands
source "$(dirname "${BASH_SOURCE[0]}")/steps.sh"
runs="${1:-runs}"
# the best that launch/quickstart.sh made
best="$runs/all-0/export"
[ -e "$best" ] || best="$runs/finetuned-0/export"
model="${MODEL:-$best}"
[ -n "${DRY:-}" ] || [ -e "$model" ] || fail "$model is missing; run launch/quickstart.sh $runs"

say "1/3 build_ngram: a 4-gram of words"
act python launch/python_manual.py "$runs/lm/manual.txt"
run build_ngram --transcripts="$runs/data/train.tsv" --text="$runs/lm/manual.txt" \
  --exclude="$runs/data/dev.tsv,$runs/data/test.tsv" --checkpoint="$model" \
  --output="$runs/lm/4-gram.arpa.gz" --kept="$runs/lm/text.txt" --overwrite

say "2/3 train_lm: a Transformer of words on the same text"
run train_lm --config=configs/lm.py:words_tiny --workdir="$runs/lm/transformer" \
  --config.data.train="$runs/lm/text.txt"
run export --workdir="$runs/lm/transformer" --output="$runs/lm/transformer/export"

say "3/3 evaluate: weights tuned on dev, all systems scored on test"
run evaluate --checkpoint="$model" --data="$runs/data/test.tsv" --tune="$runs/data/dev.tsv" \
  --config.lm="$runs/lm/4-gram.arpa.gz" --config.transformer_lm="$runs/lm/transformer/export" \
  --output="$runs/lm/test.decoded.tsv"
