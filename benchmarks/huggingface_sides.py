"""The two sides of huggingface.py, each a process of its own: the model to write, or the update.

The process writes lines of JSON: first what is said of the side, and then, for every line that
comes in, what is said of an update. The one of transformers imports nothing of this repository.
"""

import argparse
import ctypes
import gc
import json
import os
import resource
import runpy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent


def our_setup(options: argparse.Namespace):
    """(config, task) of --config: float32, one micro-batch."""
    from w2v_jax.tasks import make_task

    file, _, argument = options.config.partition(":")
    make = runpy.run_path(str(ROOT / file))["get_config"]
    config = make(argument) if argument else make()
    if config.kind not in ("wav2vec2", "ctc"):
        sys.exit(f"error: --config={options.config} trains a {config.kind} model; transformers is "
                 "compared in pre-training and fine-tuning")  # fmt: skip
    for change in filter(None, options.model.split(",")):
        key, _, value = change.partition("=")
        *groups, name = key.split(".")
        node = config.model
        for group in groups:
            node = node[group]
        node[name] = type(node[name])(value)
    config.execution.update(dtype="float32", remat=options.remat)
    config.run.accumulation = 1
    config.optim.clip_norm = 0.0
    return config, make_task(config)


def export(options: argparse.Namespace) -> None:
    """Writes the model, batch.npz and work.json, what transformers is to do, into the folder."""
    import flax.linen as nn
    import jax

    from w2v_jax.audio.waveform import SAMPLE_RATE
    from w2v_jax.interop import huggingface

    config, task = our_setup(options)
    samples = round(options.seconds * SAMPLE_RATE)
    folder = Path(options.folder)
    np.savez(folder / "batch.npz", **task.example((1, options.batch), samples))
    if config.kind == "wav2vec2":
        masks = {"time": config.masking.to_dict()}
    else:
        masks = {"time": config.time_masking.to_dict(), "feature": config.channel_masking.to_dict()}
    variables = jax.device_get(jax.jit(lambda: nn.meta.unbox(task.init()))())
    huggingface.write(folder, {"stats": {}} | variables, task.described())
    work = {
        "kind": config.kind, "masks": masks, "optim": config.optim.to_dict(),
        "normalize": config.model.frontend.normalize,
        "frozen": config.model.frontend.grad_mult == 0,
    }  # fmt: skip
    if config.kind == "wav2vec2":
        work |= {"loss": config.loss.to_dict(), "temperature": config.gumbel.start}
    (folder / "work.json").write_text(json.dumps(work))


Update = Callable[[], dict[str, Any]]  # makes an update; what is said of it besides its time


def ours(options: argparse.Namespace) -> tuple[Update, dict[str, Any]]:
    """The update of `python -m w2v_jax.pretrain` or finetune, and what is said of the side."""
    import jax

    from w2v_jax.command_line import enable_compilation_cache
    from w2v_jax.measuring.compiled import LoweredStep
    from w2v_jax.measuring.step_timing import at_step
    from w2v_jax.training.sharding import batch_sharding, make_mesh
    from w2v_jax.training.state import first_state

    enable_compilation_cache()
    config, task = our_setup(options)
    mesh = make_mesh(config.run.mesh)
    arrays = dict(np.load(Path(options.folder) / "batch.npz"))
    program, _ = LoweredStep(
        task, mesh, {name: (x.shape, x.dtype) for name, x in arrays.items()}
    ).compile()
    batch = jax.device_put(arrays, batch_sharding(mesh))
    state = at_step(first_state(task, mesh), task.freeze_steps)
    parameters = sum(x.size for x in jax.tree.leaves(state.params))

    def update() -> dict[str, Any]:
        nonlocal state
        state, metrics = jax.block_until_ready(program(state, batch))
        total, count = (float(x) for x in metrics[task.loss_scalar])
        pretrains = config.kind == "wav2vec2"
        return {"loss": total / count, "masked_frames": int(count) if pretrains else None}

    return update, {"parameters": parameters, "versions": {"jax": jax.__version__}}


def extra(name: str, model: Any) -> bool:
    """Whether a parameter of transformers has no counterpart in our model.

    Its conformer has a positional convolution that it never calls; and it projects features that
    are as wide as the model already, which as exported is the identity.
    """
    if "pos_conv_embed" in name:
        return "conformer" in model.config.model_type
    same = model.config.conv_dim[-1] == model.config.hidden_size
    return same and "feature_projection.projection" in name


def theirs(options: argparse.Namespace) -> tuple[Update, dict[str, Any]]:
    """The update of transformers on the exported model."""
    import torch
    import transformers
    from transformers.models.wav2vec2.modeling_wav2vec2 import (
        _compute_mask_indices,
        _sample_negative_indices,
    )

    torch.set_num_threads(os.cpu_count())
    folder = Path(options.folder)
    work = json.loads((folder / "work.json").read_text())
    if work["kind"] == "wav2vec2":
        changes = {
            "num_negatives": work["loss"]["negatives"],
            "contrastive_logits_temperature": work["loss"]["temperature"],
            "diversity_loss_weight": work["loss"]["diversity_weight"],
        }
    else:
        changes = {"ctc_loss_reduction": "sum"}
        for axis, mask in work["masks"].items():
            changes |= {
                f"mask_{axis}_prob": mask["prob"], f"mask_{axis}_length": mask["span"],
                f"mask_{axis}_min_masks": mask["minimum"],
            }  # fmt: skip
    name = json.loads((folder / "config.json").read_text())["architectures"][0]
    model = getattr(transformers, name).from_pretrained(folder, dtype=torch.float32, **changes)
    model.train()
    parameters = sum(x.numel() for key, x in model.named_parameters() if not extra(key, model))
    if work["frozen"]:
        model.freeze_feature_encoder()
    optim = work["optim"]
    optimizer = torch.optim.AdamW(
        [x for x in model.parameters() if x.requires_grad], lr=optim["peak_lr"] / 100,
        betas=(optim["b1"], optim["b2"]), eps=optim["eps"], weight_decay=optim["weight_decay"],
    )  # fmt: skip
    batch = np.load(folder / "batch.npz")
    audio = torch.from_numpy(batch["audio"][0])
    frames = int(model._get_feat_extract_output_lengths(audio.shape[1]))
    if work["kind"] == "wav2vec2":
        model.set_gumbel_temperature(work["temperature"])
    else:
        inside = np.arange(batch["labels"].shape[2]) < batch["labels_length"][0][:, None]
        labels = torch.from_numpy(np.where(inside, batch["labels"][0], -100)).long()

    def waveform() -> torch.Tensor:
        x = audio.float() / 32768
        if not work["normalize"]:
            return x
        variance, mean = torch.var_mean(x, 1, correction=0, keepdim=True)
        return (x - mean) / torch.sqrt(variance + 1e-7)

    def update() -> dict[str, Any]:
        if work["kind"] == "wav2vec2":
            time_mask, shape = work["masks"]["time"], (len(audio), frames)
            mask = _compute_mask_indices(
                shape, time_mask["prob"], time_mask["span"], min_masks=time_mask["minimum"]
            )
            negatives = _sample_negative_indices(shape, model.config.num_negatives, mask)
            count = masked = int(mask.sum())
            loss = model(
                waveform(), mask_time_indices=torch.from_numpy(mask),
                sampled_negative_indices=torch.from_numpy(negatives),
            ).loss  # fmt: skip
        else:
            count, masked = len(audio), None
            loss = model(waveform(), labels=labels).loss
        loss = loss / count
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        bits = np.log(2) if masked else 1.0
        return {"loss": loss.item() / bits, "masked_frames": masked}

    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return update, {"parameters": parameters, "versions": versions, "class": name}


def peak_bytes() -> int:
    """The most that this process has had in memory since `forget_peak`."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def forget_peak() -> None:
    """The peak starts anew from what is in use now (man proc_pid_clear_refs): what the start, such
    as the compiler, has freed goes back to the system first."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def work_on_demand(side: Callable, options: argparse.Namespace) -> None:
    """Says that it is ready; then times an update for every line that comes in, after one more
    that is not timed unless options.cold."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer

    def answer(values: dict[str, Any]) -> None:
        print(json.dumps(values), file=answers, flush=True)

    begin = time.perf_counter()
    update, about = side(options)
    update()
    answer(about | {"start_s": time.perf_counter() - begin, "start_peak_bytes": peak_bytes()})
    forget_peak()
    for _ in sys.stdin:
        if not options.cold:
            update()  # the system took back what this side had freed while the other worked
        begin = time.perf_counter()
        said = update()
        answer(said | {"seconds": time.perf_counter() - begin, "peak_bytes": peak_bytes()})


WORKERS = {"ours": ours, "theirs": theirs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("worker", choices=("export", *WORKERS))
    parser.add_argument("--config", required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--model", default="")
    parser.add_argument("--remat", default="none")
    parser.add_argument("--folder", required=True)
    parser.add_argument("--cold", action="store_true")
    options = parser.parse_args()
    if options.worker == "export":
        export(options)
    else:
        work_on_demand(WORKERS[options.worker], options)


if __name__ == "__main__":
    main()
