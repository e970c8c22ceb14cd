"""Prints docs/keys.md.

python -m w2v_jax.keys > docs/keys.md
"""

import runpy
from pathlib import Path

from w2v_jax.keys.page import page

CONFIGS = Path(__file__).parents[1] / "configs"
# of every kind of training: a config, and others for the kinds of the parts that it has not
SHOWN = {
    "pre": (
        "wav2vec2:base", "wav2vec2:base,block=conformer,positions=shaw",
        "wav2vec2:base,frontend=logmel",
    ),
    "brq": ("best_rq:base",),
    "hub": ("hubert:base",),
    "bert": ("discrete_bert:base",),
    "siam": ("c_siam:base",),
    "d2v": ("data2vec:base",),
    "ctc": (
        "finetune:split=10h,size=base", "finetune:split=10h,size=base,output=strided",
        "finetune:split=10h,size=base,frontend=logmel",
    ),
    "slim": ("slim_ipl:split=10h,size=base",),
    "lm": ("lm:letters_base",),
}  # fmt: skip


def config(name: str):
    """The config of FILE:ARGUMENT."""
    file, _, argument = name.partition(":")
    make = runpy.run_path(str(CONFIGS / f"{file}.py"))["get_config"]
    return make(argument) if argument else make()


def text() -> str:
    """The page."""
    configs = {kind: [config(name) for name in names] for kind, names in SHOWN.items()}
    return page(configs, config("evaluate"))


if __name__ == "__main__":
    print(text(), end="")
