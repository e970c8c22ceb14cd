"""The page of all keys, docs/keys.md."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from w2v_jax.keys.check import flat
from w2v_jax.keys.table import KEYS, SEARCH, Key

Configs = Mapping[str, Sequence[Any]]  # of every kind of training; the first that has a key counts

BEGINNING = """# All keys of a config

Made from `w2v_jax/keys/table.py` and the files of `configs/` by `python -m w2v_jax.keys >
docs/keys.md`. Every key can be set from the command line, `--config.optim.peak_lr=3e-4`; tuples in
quotes, `--config.data.crop_seconds='(2.0,5.0)'`. A value outside its range, a key that is none, and
values that do not go together (`w2v_jax/tasks/rules.py`) are refused before work begins.

Defaults are those of `configs/wav2vec2.py:base` (pre), `configs/best_rq.py:base` (brq),
`configs/hubert.py:base` (hub), `configs/discrete_bert.py:base` (bert), `configs/c_siam.py:base`
(siam), `configs/data2vec.py:base` (d2v), `configs/finetune.py:split=10h,size=base` (ctc),
`configs/slim_ipl.py:split=10h,size=base` (slim) and `configs/lm.py:letters_base` (lm); without a
name: of all that have the key. Keys of a kind of a part (`block.kind`, say) exist where the
config's argument chooses it, `configs/wav2vec2.py:base,block=conformer`.
"""
TITLES = {
    "": "The training", "model": "The model", "model.frontend": "Its front end",
    "model.block": "Its blocks", "model.positions": "Its positions", "model.output": "Its output",
    "execution": "How it is computed", "quantizer": "The quantizer",
    "random_quantizer": "The labels of BEST-RQ",
    "prediction": "The head of HuBERT", "predictor": "The predictor of c-siam",
    "warp": "Its warp of time", "teacher": "The teacher of data2vec",
    "masking": "The mask of pre-training", "mel_masking": "The mask of BEST-RQ",
    "time_masking": "The mask over time of fine-tuning",
    "channel_masking": "Its mask over channels",
    "spec_augment": "SpecAugment of its log-mel spectrum",
    "loss": "The loss of wav2vec 2.0, HuBERT and c-siam", "gumbel": "The choice of codes",
    "data": "Data", "data.augment": "Augmentation", "pseudo": "Labels that a model makes itself",
    "labelled": "The labelled batches of c-siam",
    "optim": "The optimizer",
    "run": "The run: where from, how often, how long", "run.mesh": "Devices",
}  # fmt: skip
COLUMNS = ("key", "default", "may be", "unit", "meaning")


def page(configs: Configs, search: Any) -> str:
    """Markdown. configs: those that the defaults are taken from; search: that of decoding."""
    values = {kind: [dict(flat(config)) for config in several] for kind, several in configs.items()}
    parts = [BEGINNING]
    for group, keys in itertools.groupby(KEYS, lambda key: key.rpartition(".")[0]):
        name = f" (`{group}`)" if group else ""
        parts.append(f"## {TITLES.get(group, group)}{name}\n")
        parts.append(_table({key: (KEYS[key], _defaults(key, values)) for key in keys}))
    parts.append("## Decoding (`configs/evaluate.py`, and the flags of `transcribe`)\n")
    given = dict(flat(search))
    parts.append(_table({key: (row, _code(given[key])) for key, row in SEARCH.items()}))
    return "\n".join(parts)


def _defaults(key: str, values: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The default, or that of every kind where they differ."""
    found = {}
    for kind, several in values.items():
        for config in several:
            if key in config:
                found.setdefault(kind, config[key])
    texts = {kind: _code(value) for kind, value in found.items()}
    if len(set(texts.values())) <= 1:
        return next(iter(texts.values()), "")
    return ", ".join(f"{kind} {text}" for kind, text in texts.items())


def _code(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value).replace(", ", ",")
    return f"`{text}`" if text else "empty"


def _table(rows: Mapping[str, tuple[Key, str]]) -> str:
    lines = [COLUMNS, ("---",) * len(COLUMNS)]
    for key, (row, default) in rows.items():
        of = f"; with `{row.only.replace('|', '` or `')}`" if row.only else ""
        lines.append((f"`{key}`", default, str(row.range), row.unit, f"{row.meaning}{of}"))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"
