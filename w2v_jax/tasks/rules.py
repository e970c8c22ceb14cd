"""What the values of a config must be to each other; each value alone: keys/table.py."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.errors import UserError, some
from w2v_jax.keys.check import MOST, flag

Values = Mapping[str, Any]  # the leaves of a config


def check_rules(values: Values, frames: Callable[[int], int] | None = None) -> None:
    """Raises UserError for values that do not go together, naming keys, values and remedy.

    values: the leaves of a config, each in its range. frames: of so many samples, where the model
    hears audio.
    """
    parts = (_schedule, _data, _loss, _targets, _tokens, _pseudo, _labelled, _run)
    found = [wrong for part in parts for wrong in part(values)]
    if frames is not None:
        found += _frames(values, frames)
    if found:
        raise UserError(some(found, MOST, "\n"))


def _schedule(c: Values) -> Iterator[str]:
    steps = c["num_steps"]
    for key in ("optim.warmup_steps", "freeze_steps"):
        if c.get(key, 0) > steps:
            yield (
                f"{flag(key, c[key])} is more than --config.num_steps={steps}; train for longer or "
                f"set --config.{key}={steps // 10}"
            )
    phases = c.get("optim.phases")
    if phases is not None and not _whole(*phases):
        yield (
            f"{flag('optim.phases', phases)} add up to {sum(phases):g}, not to 1; set "
            "--config.optim.phases='(0.1,0.4,0.5)' say. (A fall that the end of the training cuts "
            "off is above 1 alone)"
        )
    layers = c.get("model.num_layers", math.inf)
    if c.get("reinit_layers", 0) > layers:
        yield (
            f"{flag('reinit_layers', c['reinit_layers'])} is more than the model's "
            f"--config.model.num_layers={layers}; set --config.reinit_layers={layers} or less"
        )


def _whole(rise: float, stay: float, fall: float) -> bool:
    """Whether they are shares of all updates, or the fall is longer than these."""
    return math.isclose(rise + stay + fall, 1, abs_tol=1e-3) or (fall > 1 >= rise + stay)


def _data(c: Values) -> Iterator[str]:
    if "data.min_seconds" in c and c["data.min_seconds"] >= c["data.max_seconds"]:
        yield (
            f"{flag('data.min_seconds', c['data.min_seconds'])} is not below "
            f"{flag('data.max_seconds', c['data.max_seconds'])}; no utterance would be left: lower "
            "the one or raise the other"
        )
    joined, crops = c.get("data.concatenate_seconds"), c.get("data.crop_seconds")
    if joined and crops and joined < crops[0]:
        yield (
            f"{flag('data.concatenate_seconds', joined)} is below the shortest of "
            f"{flag('data.crop_seconds', crops)}, so that no joined utterance would fill it; set "
            f"--config.data.concatenate_seconds={crops[0]:g} or more, or 0"
        )
    if c.get("data.mix") == "weights" and not sum(c["data.mix_weights"]) > 0:
        yield (
            f"--config.data.mix=weights needs a number above 0 in "
            f"{flag('data.mix_weights', c['data.mix_weights'])}; set "
            "--config.data.mix_weights='(3.0,1.0)' say, a number per source"
        )
    for kind in ("noise", "reverb"):
        key = f"data.augment.{kind}"
        if c.get(f"{key}_prob", 0) > 0 and not c[f"{key}_manifest"]:
            yield (
                f"{flag(f'{key}_prob', c[f'{key}_prob'])} needs recordings; set "
                f"--config.{key}_manifest to a manifest of them"
            )


def _loss(c: Values) -> Iterator[str]:
    if not c.get("loss.negatives", 1) + c.get("loss.cross_negatives", 0):
        cross = " and --config.loss.cross_negatives=0" * ("loss.cross_negatives" in c)
        yield (
            f"--config.loss.negatives=0{cross} leave nothing to tell a frame from; set "
            "--config.loss.negatives=100 say"
        )
    if c.get("masking.prob") == 0 and not c["masking.minimum"]:
        yield (
            "--config.masking.prob=0 and --config.masking.minimum=0 mask no frame, so that "
            "nothing is learnt; set --config.masking.prob=0.65 say"
        )
    if "gumbel.start" in c and c["gumbel.end"] > c["gumbel.start"]:
        yield (
            f"{flag('gumbel.end', c['gumbel.end'])} is above "
            f"{flag('gumbel.start', c['gumbel.start'])}; the temperature falls: lower the one or "
            "raise the other"
        )


def _targets(c: Values) -> Iterator[str]:
    prob = c.get("data.augment.speed_prob", 0)
    if c.get("loss.targets") == "clean" and prob:
        yield (
            f"{flag('data.augment.speed_prob', prob)} moves what is said to other frames than in "
            "the clean wave, of which --config.loss.targets=clean takes the targets; set "
            "speed_prob=0, or targets=augmented"
        )
    probs = [value for key, value in c.items() if re.fullmatch(r"data\.augment\.\w+_prob", key)]
    if c.get("loss.targets") == "clean" and not any(probs):
        yield (
            "--config.loss.targets=clean takes the targets from what is not augmented, and nothing "
            "is: every --config.data.augment.*_prob is 0; set one, or targets=augmented"
        )


def _tokens(c: Values) -> Iterator[str]:
    tokenizer, path = c.get("model.frontend.tokenizer"), c.get("model.frontend.centroids", "")
    if tokenizer == "random" and path:
        yield f"{flag('model.frontend.centroids', path)} is of tokenizer=kmeans; leave it empty"
    if tokenizer == "kmeans" and c["data.train"] and not path and not c["run.init_from"]:
        yield (
            "--config.model.frontend.tokenizer=kmeans needs centroids: set --config.model.frontend."
            "centroids to a file that python -m w2v_jax.units learn --features=mfcc wrote, start "
            "from a model that has them with --config.run.init_from, or set "
            "--config.model.frontend.tokenizer=random, which needs none"
        )


def _pseudo(c: Values) -> Iterator[str]:
    if "pseudo.start" not in c:
        return
    start, cache, steps = c["pseudo.start"], c["pseudo.cache"], c["num_steps"]
    if start + cache > steps:
        yield (
            f"{flag('pseudo.start', start)} and {flag('pseudo.cache', cache)} updates fill the "
            f"cache after the end of the training, --config.num_steps={steps}; raise that, or "
            "lower the others"
        )
    if c["data.train"] and not c["data.unlabelled"]:
        yield "set --config.data.unlabelled to a manifest of speech that the model is to label"


def _labelled(c: Values) -> Iterator[str]:
    weight, path = c.get("loss.ctc_weight", 0), c.get("data.labelled", "")
    if weight and not path and c["data.train"]:
        yield (
            f"{flag('loss.ctc_weight', weight)} weighs the loss of transcripts; set --config.data."
            "labelled to a manifest that has some, or --config.loss.ctc_weight=0"
        )
    if path and not weight:
        yield (
            f"{flag('data.labelled', path)} is not used with --config.loss.ctc_weight=0; set "
            "ctc_weight=1.0 say, or leave it empty"
        )


def _run(c: Values) -> Iterator[str]:
    if c["run.keep_best"] and not c["data.valid"]:
        yield (
            f"--config.run.keep_best={c['run.keep_best']} keeps what scores best on "
            "--config.data.valid, which is empty; set it, or keep_best=0"
        )
    if c.get("run.init_head"):
        if not c["run.init_from"]:
            yield "--config.run.init_head=True needs a model: set --config.run.init_from"
        if c["reinit_layers"]:
            yield (
                f"{flag('reinit_layers', c['reinit_layers'])} and --config.run.init_head=True: a "
                "layer of letters is of use above the blocks that it was trained on; set one of "
                "them"
            )


def _frames(c: Values, frames: Callable[[int], int]) -> Iterator[str]:
    crops = c.get("data.crop_seconds")
    if crops:
        shortest = frames(round(crops[0] * SAMPLE_RATE))
        span = c.get("masking.span", 1)
        if shortest < 2:
            yield (
                f"crops of {crops[0]:g} s have {shortest} frames, of which none can be masked; "
                f"raise the shortest of {flag('data.crop_seconds', crops)}"
            )
        elif span >= shortest:
            yield (
                f"{flag('masking.span', span)} is as long as the shortest crop, {shortest} frames "
                f"of {crops[0]:g} s; set --config.masking.span={max(shortest // 2, 1)} or less, or "
                f"raise the shortest of {flag('data.crop_seconds', crops)}"
            )
    longest = c.get("data.max_seconds")
    if longest is not None and frames(round(longest * SAMPLE_RATE)) < 1:
        yield (f"utterances of {flag('data.max_seconds', longest)} have no frame; raise it")
