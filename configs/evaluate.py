"""Decoding with the weights of the published tables (wav2vec 2.0, arXiv 2006.11477, 7 and 8).

    python -m w2v_jax.evaluate --config=configs/evaluate.py:split=10h,size=base \
        --checkpoint=runs/base-10h/export --data=test-other.tsv \
        --config.lm=4-gram.arpa.gz --config.transformer_lm=runs/lm/export

split: what the model was fine-tuned on: 10m, 1h, 10h, 100h, 960h
size:  base and large (pre-trained on LibriSpeech: one column of the tables), large_lv60k
beam:  search, for the 4-gram's last decoding (beam 1500 in the paper), or tune (500)
Without an argument: the weights of fairseq's decoder, 2 and -1, and its beam of 50.

The paper's weights of the 4-gram count base-10 logarithms, as KenLM does. Here all weights are
those of natural logarithms: 2.46 of the paper is 1.068 here. The Transformer's are natural in the
paper. There it decodes inside the beam; here it scores the best 500 texts of the 4-gram's beam
again. No published model has been scored with this code.
"""

import dataclasses

from ml_collections import ConfigDict

from w2v_jax.decoding.beam import natural_weight
from w2v_jax.decoding.search import SearchOptions
from w2v_jax.errors import UserError

# (4-gram: weight in base 10, word score), (Transformer: weight, word score)
LIBRISPEECH = {
    "10m": ((3.23, -0.26), (1.20, -1.39)),
    "1h": ((2.90, -1.62), (1.15, -2.08)),
    "10h": ((2.46, -0.59), (1.06, -2.32)),
    "100h": ((2.15, -0.52), (0.87, -1.00)),
    "960h": ((1.74, 0.52), (0.92, -0.86)),
}
LIBRI_LIGHT = {
    "10m": ((3.86, -1.18), (1.47, -2.82)),
    "1h": ((3.09, -2.33), (1.33, -0.69)),
    "10h": ((2.12, -0.90), (0.94, -1.05)),
    "100h": ((2.15, -0.52), (0.87, -1.00)),
    "960h": ((1.57, -0.64), (0.90, -0.31)),
}
WEIGHTS = {"base": LIBRISPEECH, "large": LIBRISPEECH, "large_lv60k": LIBRI_LIGHT}
BEAMS = {"search": 1500, "tune": 500}
BEST = 500  # texts that the Transformer scores: its beam in the paper


def get_config(argument: str = ""):
    config = ConfigDict(dataclasses.asdict(SearchOptions()))
    if not argument:
        return config
    choice = {"size": "base", "beam": "search"}
    choice |= dict(part.partition("=")[::2] for part in argument.split(","))
    size, split, beam = choice.get("size"), choice.get("split"), choice.get("beam")
    if size not in WEIGHTS or split not in LIBRISPEECH or beam not in BEAMS or len(choice) > 3:
        raise UserError(
            f"configs/evaluate.py:{argument} is unknown; write split=S,size=Z,beam=B with S one of "
            f"{', '.join(LIBRISPEECH)}, Z one of {', '.join(WEIGHTS)}, B search or tune"
        )
    ngram, transformer = WEIGHTS[size][split]
    config.beam, config.best = BEAMS[beam], BEST
    config.lm_weight, config.word_score = natural_weight(ngram[0]), ngram[1]
    config.transformer_weight, config.transformer_word_score = transformer
    return config
