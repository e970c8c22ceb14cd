"""Cases of fairseq: wav2vec 2.0 with its negatives given, HuBERT with its labels given."""

import functools
import json
import re
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

from tests.reference import (
    FORWARD,
    GRADIENT,
    LOSS,
    SEEN,
    ZERO,
    case_arrays,
    close,
    collect,
    hidden_states,
    ours_at,
    waveforms,
)
from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.interop import fairseq, huggingface_tensors
from w2v_jax.models.heads.hubert import Hubert
from w2v_jax.models.heads.wav2vec2 import Wav2Vec2Model
from w2v_jax.models.layers import frame_mask
from w2v_jax.objectives import contrastive
from w2v_jax.objectives.masked_prediction import (
    class_logits,
    label_index,
    masked_prediction_loss,
)

DIVERSITY_WEIGHT, PENALTY_WEIGHT = 0.1, 10.0  # of out/loss_total


@functools.cache
def load(directory: Path):
    config = json.loads((directory / "config.json").read_text())
    encoder = fairseq.encoder_config(config)
    kind = "hubert" if config["cls"] == "HubertModel" else "wav2vec2"
    tensors = fairseq.rename(load_file(directory / "model.safetensors"), encoder, kind)
    return config, encoder, kind, huggingface_tensors.parameters(tensors, encoder, kind)


def check(path: Path) -> None:
    *_, kind, variables = load(path.parent)
    theirs = case_arrays(path)
    forward = hubert(path) if kind == "hubert" else wav2vec2(path)

    def loss(params):  # their gradients are those of the loss per masked frame
        with nn.intercept_methods(collect):
            total, found = forward({**variables, "params": params})
        return total / theirs["out/n"], found

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (_, ours), grads = step(variables["params"])

    outputs = {key.removeprefix("out/") for key in theirs if key.startswith("out/")}
    assert outputs == ours.keys()
    for name in outputs:
        mine, expected = np.asarray(ours[name]), theirs[f"out/{name}"]
        if name == "conv_features":  # before labels that end early cut them
            mine = mine[:, : expected.shape[1]]
        if name.startswith("layer."):  # fairseq pads to an even number of frames
            expected = expected[:, : mine.shape[1]]
        if "logits" in name:  # what equals the positive is left out: -inf in theirs
            kept = np.isfinite(expected)
            mine, expected = mine[kept], expected[kept]
        if expected.dtype == bool or "int" in str(expected.dtype):
            np.testing.assert_array_equal(mine, expected)
        else:
            close(name, mine, expected, LOSS if expected.ndim == 0 else FORWARD)
    check_gradients(path, grads)


def check_gradients(path: Path, grads: dict) -> None:
    _, encoder, kind, _ = load(path.parent)
    table = huggingface_tensors.slots(encoder, kind)
    arrays = {key.removeprefix("grad/"): x for key, x in case_arrays(path).items()
              if key.startswith("grad/")}  # fmt: skip
    renamed = fairseq.rename(arrays, encoder, kind)
    # those of the first block stand for all
    first = {name for name in table if not re.search(r"\.layers\.[1-9]", name)}
    checked = set()
    for name, x in renamed.items():
        name = huggingface_tensors.bare_name(name)
        assert name in first, name
        checked.add(name)
        if name.endswith(ZERO):
            continue
        expected = huggingface_tensors.rearrange(x, table[name].axes)
        close(name, np.asarray(ours_at(grads, table[name])).reshape(expected.shape), expected,
              GRADIENT)  # fmt: skip
    assert checked == {name for name in first if table[name].path[0] == "params"}


def captured(changed: dict, encoder, encoded) -> dict:
    seen = changed["intermediates"]["encoder"]
    layers = [encoded.taps[name] for name in hidden_states(encoder)[1:]]
    return {
        "conv_features": seen["feature_encoder"]["__call__"][0],
        "encoder_out": encoded.context,
        **{f"layer.{i}": layers[i] for i in range(encoder.num_layers)},
    }


def wav2vec2(path: Path):
    """variables -> (total loss, outputs) of a contrastive case."""
    config, encoder, _, _ = load(path.parent)
    arrays = case_arrays(path)
    audio, length = waveforms(path)
    mask = arrays["in/mask_indices"]
    rows, frames = mask.shape
    index = np.stack([np.flatnonzero(row) for row in mask])  # as many in every row
    size = index.shape[1]
    everywhere = config["negatives_from_everywhere"]
    candidates = frames if everywhere else size
    own = index if everywhere else np.broadcast_to(np.arange(size), index.shape)
    negatives = arrays["in/neg_idxs"].reshape(rows, size, -1)  # into the rows * candidates
    model = Wav2Vec2Model(encoder, fairseq.quantizer_config(config), False, everywhere)
    usable = np.ones((rows, candidates), bool)

    def forward(variables):
        out, changed = model.apply(
            variables, audio, length, mask, index,
            capture_intermediates=lambda module, _: isinstance(module, SEEN),
            mutable=["intermediates"],
        )  # fmt: skip
        task = contrastive.across_batch(
            out.context, out.targets, out.codes, negatives, np.ones_like(index, bool), own, usable
        )
        loss, _, count = contrastive.contrastive_loss(**task, temperature=config["logit_temp"])
        diversity, soft = contrastive.diversity_loss(out.code_logits, usable)
        groups, codes = out.code_logits.shape[-2:]
        total = loss + (DIVERSITY_WEIGHT * diversity + PENALTY_WEIGHT * out.penalty) * count
        chosen = jnp.concatenate([task["own"][:, :, None], task["negatives"]], -1)
        unit = contrastive.unit
        cosine = jnp.einsum("bmq,bkq->bmk", unit(task["context"]), unit(task["targets"]))
        logits = jnp.take_along_axis(cosine, chosen, 2)[0] / config["logit_temp"]
        encoded = changed["intermediates"]["encoder"]["__call__"][0]
        return total, captured(changed, encoder, encoded) | {
            # theirs: frame by frame, the rows of the batch within
            "logits": logits.reshape(rows, size, -1).swapaxes(0, 1).reshape(rows * size, -1),
            "loss": loss, "loss_total": total, "n": count, "num_vars": np.int64(groups * codes),
            "diversity": diversity, "features_pen": out.penalty, "prob_perplexity": soft,
            "code_perplexity": contrastive.code_perplexity(out.codes, usable, codes),
        }  # fmt: skip

    return forward


def hubert(path: Path):
    """variables -> (total loss, outputs) of a masked-prediction case."""
    config, encoder, *_ = load(path.parent)
    arrays = case_arrays(path)
    audio, _ = waveforms(path)
    length = (~arrays["in/padding_mask"]).sum(1).astype(np.int32)
    mask = arrays["in/mask_indices"]
    sets = sorted(key for key in arrays if key.startswith("in/target."))
    # theirs: the positive, then every class
    classes = tuple(arrays[f"out/logits_masked.{i}"].shape[1] - 1 for i in range(len(sets)))
    at = label_index(mask.shape[1], config["label_rate"], SAMPLE_RATE / encoder.frontend.stride)
    labels = [arrays[key][:, at] for key in sets]
    model = Hubert(encoder, fairseq.prediction_config(config, classes))

    def forward(variables):
        out, changed = model.apply(
            variables, audio, length, mask, mask.shape[1],
            capture_intermediates=lambda module, _: isinstance(module, SEEN),
            mutable=["intermediates"],
        )  # fmt: skip
        heard = frame_mask(out.length, mask.shape[1])
        encoded = changed["intermediates"]["encoder"]["__call__"][0]
        found = captured(changed, encoder, encoded)
        total = 0.0
        for i, target in enumerate(labels):
            logits = class_logits(out.context[i], out.embeddings[i], config["logit_temp"])
            positive = jnp.take_along_axis(logits, target[:, :, None], 2)
            logits = jnp.concatenate([positive, logits], -1)
            for name, part in (("masked", mask), ("unmasked", ~mask)):
                loss, _, count = masked_prediction_loss(
                    out.context[i], out.embeddings[i], target, part & heard, config["logit_temp"]
                )
                kept = np.flatnonzero(part & ~arrays["out/frame_padding_mask"])
                found[f"logits_{name}.{i}"] = logits.reshape(-1, logits.shape[-1])[kept]
                found[f"loss_{name}.{i}"] = loss
                if name == "masked":
                    total, scored = total + loss, count
        penalised = total + PENALTY_WEIGHT * out.penalty * scored
        return penalised, found | {
            "loss": total, "loss_total": penalised, "n": scored, "features_pen": out.penalty,
            "frame_padding_mask": ~heard,
        }  # fmt: skip

    return forward
