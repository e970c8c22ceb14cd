"""docs/names.md: its keys exist, and its rows are those by which weights are read."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs import common, data2vec, finetune, hubert, lm, wav2vec2
from w2v_jax.interop import fairseq, huggingface, huggingface_tensors, wav2vec2_bert
from w2v_jax.models.config import BLOCKS, OUTPUTS, EncoderConfig
from w2v_jax.models.frontends import FRONTENDS
from w2v_jax.models.positions import POSITIONS

ROOT = Path(__file__).parents[2]


def tables() -> Iterator[tuple[list[str], list[list[str]]]]:
    """(headings, rows) of every table of the page; of a cell what is in backticks."""
    head = rows = None
    for line in [*(ROOT / "docs/names.md").read_text().splitlines(), ""]:
        if not line.startswith("| "):
            if rows:
                yield head, rows
            head = rows = None
            continue
        cells = re.split(r" *\| *", line)[1:-1]
        if head is None:
            head, rows = cells, []
        elif not set(line) <= set("| -"):
            rows.append([re.findall("`([^`]+)`", cell) for cell in cells])


TABLES = list(tables())
PARAMETERS = [rows for head, rows in TABLES if head[:2] == ["fairseq", "transformers"]]
MAPS = [(head[0], row) for head, rows in TABLES if len(head) == 3 and head[1] == "here"
        for row in rows]  # fmt: skip


def leaves(config, prefix: str = "") -> Iterator[str]:
    """All dotted keys."""
    for key, value in config.items():
        if hasattr(value, "items"):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def ours(kind: str, name: str) -> list[str]:
    """What the page says of a key of theirs."""
    found = [row[1] for of, row in MAPS if of == kind and name in row[0]]
    assert found, f"{kind}: {name} is not on the page"
    return [key for keys in found for key in keys]


def test_every_key_of_ours_is_in_a_config():
    configs = [wav2vec2.get_config("base"), hubert.get_config("base")]
    configs += [data2vec.get_config("base"), finetune.get_config(), lm.get_config()]
    for union, members in (
        ("frontend", FRONTENDS), ("block", BLOCKS), ("positions", POSITIONS), ("output", OUTPUTS),
    ):  # fmt: skip
        configs += [
            common.finetuning("tiny", {"block": "conformer"} | {union: kind})
            for kind in members if (union, kind) != ("block", "transformer")
        ]  # fmt: skip
    known = {key for config in configs for key in leaves(config)}
    named = {key for _, row in MAPS for key in row[1] if "/" not in key}
    assert len(named) > 60
    assert named <= known, f"no config has {sorted(named - known)}"


def test_every_metric_of_ours_is_in_the_code():
    code = "".join(path.read_text() for path in (ROOT / "w2v_jax").rglob("*.py"))
    for _, row in MAPS:
        for key in row[1]:
            if "/" in key and not key.startswith("time/"):
                assert f'"{key}"' in code, key


@pytest.mark.parametrize(
    ("kind", "same"),
    [
        ("fairseq", {key: ours for key, (ours, _) in fairseq.SAME.items()}),
        ("transformers", huggingface.SAME | huggingface.POSITIONS),
        ("transformers", wav2vec2_bert.SAME | wav2vec2_bert.DISTANCES),
    ],
)
def test_keys_with_the_same_values_are_those_of_the_readers(kind, same):
    for theirs, key in same.items():
        assert ours(kind, theirs) == [f"model.{key}"]


def test_the_quantizer_is_that_of_the_readers():
    for theirs, key in huggingface.QUANTIZER.items():
        assert ours("transformers", theirs) == [f"quantizer.{key}"]
    found = fairseq.quantizer_config(
        dict(latent_groups=3, latent_vars=5, latent_dim=6, final_dim=7, dropout_features=0.25)
    ).to_dict()
    said = {
        name: ours("fairseq", name)[0].removeprefix("quantizer.")
        for name in ("latent_groups", "latent_vars", "latent_dim", "final_dim", "dropout_features")
    }
    assert [found[key] for key in said.values()] == [3, 5, 6, 7, 0.25]


def test_keys_with_other_values_change_what_the_page_says():
    """Each switch of fairseq and transformers moves the key beside it and no other."""

    conformer = {"layer_type": "conformer", "attn_type": "espnet", "pos_enc_type": "rel_pos"}
    theirs = {"model_type": "wav2vec2-conformer"}
    bert = {"model_type": "wav2vec2-bert"}
    for kind, read, base, key, value in (
        ("fairseq", fairseq.encoder_config, {}, "extractor_mode", "layer_norm"),
        ("fairseq", fairseq.encoder_config, {}, "layer_norm_first", True),
        ("fairseq", fairseq.encoder_config, {}, "activation_fn", "gelu_fast"),
        ("fairseq", fairseq.encoder_config, {}, "conv_pos", 64),
        ("fairseq", fairseq.encoder_config, {}, "conv_pos_groups", 8),
        ("fairseq", fairseq.encoder_config, {}, "conv_pos_batch_norm", True),
        ("fairseq", fairseq.encoder_config, conformer, "depthwise_conv_kernel_size", 15),
        ("fairseq", fairseq.encoder_config, conformer, "pos_enc_type", "rope"),
        ("transformers", huggingface.encoder_config, {}, "do_stable_layer_norm", True),
        ("transformers", huggingface.encoder_config, {}, "hidden_act", "gelu_new"),
        ("transformers", huggingface.encoder_config, {}, "feat_proj_layer_norm", False),
        ("transformers", huggingface.encoder_config, {}, "conv_pos_batch_norm", True),
        ("transformers", huggingface.encoder_config, theirs, "conv_depthwise_kernel_size", 15),
        ("transformers", huggingface.encoder_config, theirs, "position_embeddings_type", "rotary"),
        ("transformers", huggingface.encoder_config, bert, "conv_depthwise_kernel_size", 15),
        ("transformers", huggingface.encoder_config, bert, "hidden_act", "relu"),
    ):
        base = base if kind == "fairseq" else {"model_type": "wav2vec2"} | base
        before, after = (read(base | more).architecture() for more in ({}, {key: value}))
        changed = {k for k in before.keys() | after.keys() if before.get(k) != after.get(k)}
        assert changed == {x.removeprefix("model.") for x in ours(kind, key)}, (kind, key)


def test_parameters_are_those_of_the_readers():
    ((*rows,),) = PARAMETERS
    assert len(rows) > 15
    encoder = EncoderConfig()
    for (theirs,), (hub,), (here,) in rows:
        kind = "ctc" if "lm_head" in hub else "wav2vec2"
        slots = huggingface_tensors.slots(encoder, kind)
        assert "/".join(slots[hub].path[1:]) == here
        (renamed,) = fairseq.rename({theirs: 0}, encoder, kind)
        assert huggingface_tensors.bare_name(renamed) == hub
