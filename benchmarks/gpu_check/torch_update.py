"""The update of HuggingFace transformers on a GPU, timed in its turn like those of update.py.

    python -m benchmarks.gpu_check.torch_update ROWS SECONDS FOLDER

Wav2Vec2ForPreTraining of the size of BASE as a user of that library would train it: bfloat16
autocast, attention by SDPA, fused AdamW, LayerDrop 0 (with it, a skipped layer leaves parameters
without a gradient), the dropout of BASE. Masks and negatives are drawn by its own functions on the
CPU, as its example script does in the collator; `drawing` is how much of an update that is. The
weights are random and the audio is noise, which cost what others do. Imports neither JAX nor the
package.
"""

import argparse
import statistics
import time
from importlib.util import find_spec

from benchmarks.gpu_check.turns import Turn, timed

WARM, MOST, SECONDS = 3, 12, 8.0


def main(rows: int, seconds: float, turn: Turn, device: str) -> None:
    missing = [name for name in ("torch", "transformers") if find_spec(name) is None]
    if missing:
        turn.say("left_out", {"reason": f"{' and '.join(missing)} not installed"})
        return
    import torch

    gpu = device == "cuda"
    if gpu and not torch.cuda.is_available():
        turn.say("left_out", {"reason": f"torch {torch.__version__} sees no GPU"})
        return
    import transformers
    from transformers.models.wav2vec2.modeling_wav2vec2 import (
        _compute_mask_indices,
        _sample_negative_indices,
    )

    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(layerdrop=0.0)  # otherwise BASE by default
    config._attn_implementation = "sdpa"
    model = transformers.Wav2Vec2ForPreTraining(config).to(device).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-5, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01, fused=True
    )
    audio = torch.randn(rows, round(seconds * 16_000), device=device)
    frames = int(model._get_feat_extract_output_lengths(audio.shape[1]))
    drawing, losses = [], []

    def update() -> None:
        begin = time.perf_counter()
        mask = _compute_mask_indices((rows, frames), 0.65, 10, min_masks=2)
        negatives = _sample_negative_indices((rows, frames), config.num_negatives, mask)
        drawing.append(time.perf_counter() - begin)
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = model(
                audio, mask_time_indices=torch.from_numpy(mask).to(device),
                sampled_negative_indices=torch.from_numpy(negatives).to(device),
            ).loss / int(mask.sum())  # fmt: skip
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())  # waits for all of it
        if gpu:
            torch.cuda.synchronize()

    turn.say("ready", {})
    turn.wait()
    times = timed(update, warm=WARM, most=MOST, seconds=SECONDS)
    median = statistics.median(times)
    turn.say("done", {
        "title": "transformers, BASE", "batch": rows, "audio_seconds": seconds, "dtype": "bfloat16",
        "parameters": sum(x.numel() for x in model.parameters()),
        "step_median_s": median, "step_min_s": min(times), "steps": len(times),
        "drawing_s": statistics.median(drawing[WARM:]),
        "audio_seconds_per_second": rows * seconds / median, "loss": losses[-1],
        "peak_memory_bytes": torch.cuda.max_memory_allocated() if gpu else 0,
        "attention": model.config._attn_implementation,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    })  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", type=int)
    parser.add_argument("seconds", type=float)
    parser.add_argument("folder")
    parser.add_argument("--device", default="cuda", help="cpu: to try this script")
    given = parser.parse_args()
    main(given.rows, given.seconds, Turn(given.folder), given.device)
