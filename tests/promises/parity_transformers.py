"""Cases of transformers: what ours compute for them, and how the two are compared."""

import functools
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tests.reference import (
    FORWARD,
    LOSS,
    SEEN,
    case_arrays,
    check_gradients,
    close,
    collect,
    hidden_states,
    load,
    ours_at,
    waveforms,
)
from w2v_jax.interop import huggingface, huggingface_tensors
from w2v_jax.models.config import EncoderConfig
from w2v_jax.models.encoder import Encoder
from w2v_jax.models.heads.ctc import CTCModel
from w2v_jax.models.heads.wav2vec2 import Wav2Vec2Model
from w2v_jax.objectives import contrastive
from w2v_jax.objectives.ctc import ctc_loss
from w2v_jax.objectives.masking import masked_frames


def batch(path: Path) -> dict:
    """Inputs of a case as our functions take them: all frames, the masked ones first."""
    config = load(path.parent)[0]
    quantizer = huggingface.quantizer_config(config)
    arrays = case_arrays(path)
    audio, length = waveforms(path)
    mask = arrays["in/mask_time_indices"]
    rows, frames = mask.shape
    index, valid = (np.asarray(x) for x in masked_frames(jnp.asarray(mask), frames))
    slot = np.argsort(index, axis=1)  # slot of every frame
    # theirs index the flattened [B * T] frames, ours the masked frames of a row
    negatives = arrays["in/sampled_negative_indices"] - frames * np.arange(rows)[:, None, None]
    negatives = np.where(mask[:, :, None], negatives, 0)
    negatives = np.take_along_axis(slot, negatives.reshape(rows, -1), 1).reshape(negatives.shape)
    negatives = np.take_along_axis(negatives, index[:, :, None], 1)
    noise = arrays.get("in/gumbel")
    if noise is not None:
        noise = noise.reshape(rows, frames, quantizer.groups, quantizer.codes)
        noise = np.take_along_axis(noise, index[:, :, None, None], 1)
    return {
        "audio": audio,
        "length": length,
        # without SpecAugment, transformers scores the frames but does not mask them
        "time_mask": mask & config["apply_spec_augment"],
        "masked_frames": index,
        "slot": slot,
        "valid": valid,
        "negatives": negatives.astype(np.int32),
        "noise": noise,
        "temperature": float(arrays.get("in/gumbel_temperature", 1.0)),
    }


@functools.cache
def compute(path: Path, encoder: EncoderConfig) -> dict:
    """Everything a case holds, in its names; gradients as our tree under `grads`."""
    config, _, _, variables = load(path.parent)
    quantizer = huggingface.quantizer_config(config)
    train = "in/gumbel" in case_arrays(path)
    inputs = batch(path)
    slot = inputs.pop("slot")
    stats = variables["stats"]
    model = Wav2Vec2Model(encoder, quantizer, train)

    def loss(params, x):
        keep = ("audio", "length", "time_mask", "masked_frames", "noise", "temperature")
        with nn.intercept_methods(collect):
            out, changed = model.apply(
                {"params": params, "stats": stats},
                **{key: x[key] for key in keep},
                capture_intermediates=lambda module, _: isinstance(module, SEEN),
                mutable=["stats", "intermediates"],
            )
        seen = changed["intermediates"]
        encoded = seen["encoder"]["__call__"][0]
        codes, valid = out.codes, x["valid"]
        contrast, _, count = contrastive.contrastive_loss(
            out.context, out.targets, codes, x["negatives"], valid,
            config["contrastive_logits_temperature"],
        )  # fmt: skip
        if train:
            diversity, perplexity = contrastive.diversity_loss(out.code_logits, valid)
        else:  # transformers takes the chosen codes then, which have no gradient
            size = quantizer.groups * quantizer.codes
            perplexity = contrastive.code_perplexity(codes, valid, quantizer.codes)
            diversity = (size - perplexity) / size
        total = contrast + config["diversity_loss_weight"] * diversity * count
        quantized = seen["quantizer"]["__call__"][0]
        unsort = lambda y: jnp.take_along_axis(y, slot[:, :, None], 1)  # noqa: E731
        unit = contrastive.unit
        cosine = jnp.einsum("bmq,bkq->bmk", unit(out.context), unit(out.targets))
        positive = jnp.diagonal(cosine, axis1=1, axis2=2)[:, :, None]
        chosen = jnp.take_along_axis(cosine, x["negatives"], 2)
        logits = jnp.concatenate([positive, chosen], 2) / config["contrastive_logits_temperature"]
        return total, {
            "loss": total,
            "contrastive_loss": contrast,
            "diversity_loss": diversity * count,
            "codevector_perplexity": perplexity,
            "projected_states": unsort(out.context),
            "projected_quantized_states": unsort(out.targets),
            "code_indices": unsort(codes),
            "quantizer_logits": unsort(quantized.logits.reshape(*valid.shape, -1)),
            "quantized": unsort(quantized.vectors),
            "contrastive_logits": unsort(logits).transpose(2, 0, 1),
            "conv_features": seen["encoder"]["feature_encoder"]["__call__"][0],
            "hidden_states": [encoded.taps[name] for name in hidden_states(encoder)],
            "last_hidden_state": encoded.context,
            "stats": changed.get("stats", {}),
        }

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (_, out), grads = step(variables["params"], inputs)
    return out | {"grads": grads}


@functools.cache
def compute_headless(path: Path) -> dict:
    """Everything a case without pre-training head holds: a base model, whose loss is the product
    of its output with in/probe, or one with CTC head."""
    config, encoder, kind, variables = load(path.parent)
    arrays = case_arrays(path)
    audio, length = waveforms(path)
    inputs = {"audio": audio, "length": length, "time_mask": arrays.get("in/mask_time_indices")}
    if kind == "ctc":
        model = CTCModel(encoder, config["vocab_size"])
    else:
        model = Encoder(encoder)
        variables = {name: tree["encoder"] for name, tree in variables.items() if tree}

    def loss(params, x):
        with nn.intercept_methods(collect):
            out, changed = model.apply(
                {**variables, "params": params},
                **x,
                capture_intermediates=lambda module, _: isinstance(module, SEEN),
                mutable=["intermediates"],
            )
        seen = changed["intermediates"]
        encoded = out
        result = {}
        if kind == "ctc":
            seen = seen["encoder"]
            encoded = seen["__call__"][0]
            logits, frames = out
            if frames is None:
                frames = jnp.full(len(logits), logits.shape[1])
            labels = jnp.maximum(arrays["in/labels"], 0)
            weight = jnp.ones(1)
            each = jnp.stack([
                ctc_loss(*(y[i : i + 1] for y in (logits, frames, labels, label_length)), weight)[0]
                for i in range(len(logits))
            ])  # fmt: skip
            mean = config["ctc_loss_reduction"] == "mean"  # torch's: per letter, then per utterance
            total = (each / label_length).mean() if mean else each.sum()
            result = {"logits": logits, "ctc_per_example": each}
        else:
            total = (encoded.context * arrays["in/probe"]).sum()
        return total, result | {
            "loss": total,
            "conv_features": seen["feature_encoder"]["__call__"][0],
            "hidden_states": [encoded.taps[name] for name in hidden_states(encoder)],
            "last_hidden_state": encoded.context,
        }

    label_length = arrays.get("in/label_lengths")
    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (_, out), grads = step(variables["params"], inputs)
    return out | {"grads": grads if kind == "ctc" else {"encoder": grads}}


def check(path: Path) -> None:
    _, encoder, kind, _ = load(path.parent)
    if kind == "wav2vec2":
        check_pretraining(path, encoder)
    else:
        check_headless(path)


def check_headless(path: Path) -> None:
    theirs, ours = case_arrays(path), compute_headless(path)
    _, encoder, kind, _ = load(path.parent)
    for name in ("conv_features", "last_hidden_state", *(("logits",) if kind == "ctc" else ())):
        close(name, ours[name], theirs[f"out/{name}"], FORWARD)
    check_hidden_states(ours, theirs, encoder)
    if kind == "ctc":
        close("ctc_per_example", ours["ctc_per_example"], theirs["out/ctc_per_example"], LOSS)
    close("loss", ours["loss"], theirs["out/loss"], LOSS)
    check_gradients(path, ours["grads"], huggingface_tensors.slots(encoder, kind))


def check_hidden_states(ours: dict, theirs: dict, encoder: EncoderConfig) -> None:
    assert f"out/hidden_states.{encoder.num_layers}" in theirs
    for i, x in enumerate(ours["hidden_states"]):
        close(f"hidden_states.{i}", x, theirs[f"out/hidden_states.{i}"], FORWARD)


def check_pretraining(path: Path, encoder: EncoderConfig) -> None:
    theirs, ours = case_arrays(path), compute(path, encoder)
    np.testing.assert_array_equal(ours["code_indices"], theirs["out/code_indices"])
    for name in (
        "conv_features", "last_hidden_state", "quantizer_logits", "quantized", "projected_states",
        "projected_quantized_states",
    ):  # fmt: skip
        close(name, ours[name], theirs[f"out/{name}"], FORWARD)
    check_hidden_states(ours, theirs, encoder)
    # frames that are not masked have no negatives of their own
    masked = theirs["in/mask_time_indices"]
    logits = "contrastive_logits"
    close(logits, ours[logits][:, masked], theirs[f"out/{logits}"][:, masked], FORWARD)
    for name in ("contrastive_loss", "diversity_loss", "loss", "codevector_perplexity"):
        close(name, ours[name], theirs[f"out/{name}"], LOSS)

    table = huggingface_tensors.slots(encoder, "wav2vec2")
    for key, value in theirs.items():
        if key.startswith("out/buffer/"):
            name = huggingface_tensors.bare_name(key.rsplit("/", 1)[-1])
            close(key, ours_at(ours["stats"], table[name]), value, FORWARD)
    check_gradients(path, ours["grads"], table)
