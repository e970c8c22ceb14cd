"""Measures the parts of a training run.

    python -m w2v_jax.benchmark data --config=configs/wav2vec2.py:base --seconds=20

prints how many seconds of audio the input pipeline delivers per second, in all and per core: with
0, 1 and 2 worker processes, and what decoding, cropping, augmentation and the transfer to the
devices cost. It reads the manifests or shards in config.data.train. Without any it makes a corpus
of the speech in the package, as flac, wav and opus files and as shards, and measures them all.

    python -m w2v_jax.benchmark decode --checkpoint=runs/base-10h/export --data=test.tsv \
        --lm=lm.arpa --transformer_lm=runs/lm/export --beams=50,500 --minutes=5

prints what recognition costs, one recording at a time: the acoustic model, the greedy path, the
search with the n-gram model at every beam, and the Transformer on the texts of the widest one.
--config=configs/finetune.py:split=10h,size=base measures the acoustic model of that config with
random weights; the searches then read the letter probabilities of --checkpoint all the same, since
random ones, which rule nothing out, would be the worst case of a search.

    python -m w2v_jax.benchmark step --config=configs/wav2vec2.py:base --batch=8 --seconds=15 \
        --steps=10 --breakdown --profile=runs/trace

measures the update that a training would run, on full rows of the package's speech (--tokens: of
a language model), and prints a line of JSON: compilation, time per update, audio per second,
arithmetic per second and its share of what the devices can do in bfloat16 (mfu; null where that is
not known), memory, loss.
--batch rows are cut into --config.run.accumulation micro-batches; a fine-tuning is measured with
the encoder no longer frozen. --inference measures the forward pass of all rows at once instead.
--breakdown times the parts of an update, each alone, and --profile traces 3 further updates. The
arithmetic is that of measuring/flops.py: what remat computes again and blocks that LayerDrop skips
do not count. On CPUs the memory is that of the whole process.
"""

import dataclasses
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags

from w2v_jax import command_line, config_flag
from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.data import augmentation
from w2v_jax.data.batches import check_rows
from w2v_jax.data.corpus import Corpus
from w2v_jax.data.loader import Loader
from w2v_jax.data.plan import BatchPlan, crop_buckets
from w2v_jax.data.sources import open_sources
from w2v_jax.decoding.flashlight import FlashlightSearch
from w2v_jax.decoding.recognition import Recognizer
from w2v_jax.decoding.rescoring import LanguageScorer
from w2v_jax.decoding.search import Search, SearchOptions, open_search
from w2v_jax.errors import UserError
from w2v_jax.interop import checkpoints
from w2v_jax.measuring import part_timing, speech, step_timing
from w2v_jax.measuring.recognition import (
    Timing,
    acoustic_timing,
    machine,
    search_timings,
    seconds_of,
)
from w2v_jax.measuring.recognition import table as timing_table
from w2v_jax.measuring.throughput import rates, stages
from w2v_jax.models.heads.ctc import CTCModel
from w2v_jax.recognizers import HELP, open_recognizer
from w2v_jax.tasks import TASKS, kind_of, make_task
from w2v_jax.training.metrics import TOKENS
from w2v_jax.training.sharding import batch_sharding, make_mesh, shards_of_batch

WORKERS = (0, 1, 2)
SECONDS = {"data": 20.0, "step": 8.0}  # the default of --seconds
REPEATS = 5  # of every part of an update
BEAMS = (50, 500)
CROP_SECONDS = (2.0, 4.0, 8.0, 12.0, 15.6)  # where a config does not crop


def benchmark_data(config: ConfigDict, seconds: float) -> list[dict[str, Any]]:
    """Measures and prints every source for about `seconds`; returns the numbers printed."""
    if not config.data.train:
        with tempfile.TemporaryDirectory() as folder:
            print(f"no --config.data.train: {speech.MINUTES} minutes of the package's speech, in "
                  f"utterances of {speech.TYPICAL_SECONDS:g} s")  # fmt: skip
            return _benchmark(config, speech.make_corpora(Path(folder)), seconds)
    return _benchmark(config, {config.data.train: config.data.train}, seconds)


def _benchmark(config: ConfigDict, sources: dict[str, str], seconds: float) -> list[dict]:
    data = config.data
    crops = [round(length * SAMPLE_RATE) for length in data.get("crop_seconds", CROP_SECONDS)]
    changes = augmentation.open_augmentation(data.augment, config.seed)
    mesh = make_mesh(config.run.mesh)
    sharding = batch_sharding(mesh)
    device = jax.devices()[0]
    print(f"{os.cpu_count()} cores, {jax.device_count()} x {device.device_kind}; batches of "
          f"{data.batch_seconds:g} s, {config.run.threads} threads per process")  # fmt: skip
    print(f"{'':>12}  CPU ms per second of audio            seconds of audio per second: "
          "per core (in all)")  # fmt: skip
    print(f"{'':>12}  decode    crop augment transfer  "
          + "".join(f"{w:>10} workers  " for w in WORKERS))  # fmt: skip
    table = []
    for name, source in sources.items():
        corpus = Corpus(open_sources(source))
        batch = round(data.batch_seconds * SAMPLE_RATE)
        buckets = crop_buckets(corpus.lengths, crops, batch, data.row_multiple)
        check_rows([b.rows for b in buckets], shards_of_batch(mesh), config.run.accumulation)
        plan = BatchPlan(buckets, seed=config.seed, num_steps=10**9)
        loader = Loader(corpus, config.seed, config.run.accumulation, views={"audio": changes})
        loader(plan[0])  # the first touch of files and libraries is not measured
        share = seconds / (1 + len(WORKERS))
        row: dict[str, Any] = {"source": name} | stages(plan, loader, sharding, share)
        text = (f"{name[-12:]:>12}  {row['decode']:6.3f}  {row['crop']:6.3f}  "
                f"{row['augment']:6.3f}   {row['transfer']:6.3f}  ")  # fmt: skip
        for workers in WORKERS:
            wall, core = rates(
                plan, loader, sharding, share, threads=config.run.threads, workers=workers
            )
            row[f"{workers} workers"] = core
            text += f"{core:8,.0f} ({wall:7,.0f})  "
        print(text, flush=True)
        table.append(row)
    return table


def _random(config: ConfigDict) -> tuple[Recognizer, Any]:
    task = make_task(config)
    encoder, alphabet = task.encoder, task.alphabet
    audio = np.zeros((1, 2 * encoder.frontend.receptive_field), np.int16)
    model = CTCModel(encoder, len(alphabet))
    variables = jax.jit(lambda: nn.meta.unbox(model.init(jax.random.key(0), audio)))()
    return Recognizer(encoder, alphabet), variables


def benchmark_decode(
    data: str,
    checkpoint: str = "",
    config: ConfigDict | None = None,
    *,
    lm: str = "",
    transformer_lm: str = "",
    beams: Sequence[int] = BEAMS,
    minutes: float = 5.0,
) -> list[Timing]:
    """Measures and prints every part, and a line of JSON with the same numbers."""
    if not checkpoint and (config is None or lm):
        raise UserError(
            "set --checkpoint to an exported CTC model; --config alone gives a model with random "
            "weights, on whose letters no search is measured"
        )
    if transformer_lm and not lm:
        raise UserError("--transformer_lm scores what a search finds; set --lm too")
    recordings = speech.read_minutes(data, minutes)
    seconds = seconds_of(recordings)
    trained = open_recognizer(checkpoint) if checkpoint else None
    recognizer, variables = trained if config is None else _random(config)
    name = checkpoint if config is None else "random weights of --config"
    sizes = [x.size for x in jax.tree.leaves(variables["params"])]
    cfg = recognizer.config
    print(f"{machine()}; {len(recordings)} recordings of {data}, {seconds / 60:.1f} min, one at a "
          "time")  # fmt: skip
    print(f"acoustic model: {name}, {sum(sizes) / 1e6:.1f} M parameters, {cfg.compute_dtype}",
          flush=True)  # fmt: skip
    timing, emissions = acoustic_timing(recognizer, variables, recordings)
    if config is not None and trained is not None:
        print(f"letter probabilities for what follows: {checkpoint}", flush=True)
        recognizer, variables = trained
        emissions = [recognizer.log_probs(variables, audio) for audio in recordings]

    def searches() -> Iterator[tuple[str, Search]]:
        for beam in sorted(beams) if lm else ():
            search = open_search(recognizer.alphabet, SearchOptions(lm=lm, beam=beam))
            library = "flashlight" if isinstance(search, FlashlightSearch) else "python"
            yield f"n-gram search, beam {beam} ({library})", search

    scorer = None
    if transformer_lm:
        scorer = LanguageScorer(*checkpoints.load(transformer_lm, "language"), recognizer.alphabet)
    timings = [timing, *search_timings(recognizer, emissions, seconds, searches(), scorer)]
    print(timing_table(timings))
    numbers = {
        "machine": machine(), "data": data, "seconds": seconds, "model": name, "lm": lm,
        "transformer_lm": transformer_lm, "parts": [dataclasses.asdict(x) for x in timings],
    }  # fmt: skip
    print(json.dumps(numbers), flush=True)
    return timings


def benchmark_step(
    config: ConfigDict,
    name: str,
    *,
    batch: int,
    amount: float,
    steps: int,
    inference: bool = False,
    breakdown: bool = False,
    profile: str = "",
) -> dict[str, Any]:
    """Measures `steps` updates of `batch` rows; prints the numbers returned as JSON.

    amount: of a row, seconds or tokens; name: what is said of the model; profile: a folder for a
    trace. Raises UserError.
    """
    if inference and breakdown:
        raise UserError("--breakdown measures the parts of an update; leave out --inference")
    task, mesh = make_task(config), make_mesh(config.run.mesh)
    length = round(amount * task.measure.per_row)
    accumulation = 1 if inference else config.run.accumulation
    parts = accumulation * shards_of_batch(mesh)
    if batch < 1 or batch % parts:
        raise UserError(
            f"--batch={batch} rows cannot be cut into accumulation * data * fsdp = {accumulation} "
            f"* {shards_of_batch(mesh)} equal parts; take a multiple of {parts}"
        )
    arrays = task.example((accumulation, batch // accumulation), length)
    options = dict(steps=steps, profile=profile)
    if inference:
        flops = batch * task.inference_flops(length)
        timing = step_timing.inference_timing(task, mesh, arrays, **options)
    else:
        flops = batch * task.training_flops(length, layerdrop=True)
        timing, state = step_timing.training_timing(task, mesh, arrays, **options)
    numbers: dict[str, Any] = {"model": name, "work": "inference" if inference else config.kind}
    numbers |= step_timing.figures(timing, task, mesh, batch, length, flops)
    if breakdown:
        found = list(part_timing.part_timings(task, mesh, state, arrays, repeats=REPEATS))
        print(part_timing.table(found, timing.median))
        numbers["breakdown"] = [dataclasses.asdict(x) for x in found]
    print(json.dumps(numbers), flush=True)
    return numbers


SUBCOMMANDS = ("data", "decode", "step")


def main(argv: list[str]) -> None:
    values = flags.FLAGS
    command_line.chosen(argv, "benchmark", dict.fromkeys(SUBCOMMANDS, ()), "is measured")
    config = None if values.config is None else config_flag.given_config()
    if argv[1] in ("data", "step") and config is None:
        raise UserError(f"benchmark {argv[1]} needs --config, a file of configs/")
    kind = None if config is None else kind_of(config)
    if config is not None:
        make_task(config)  # all of its values make sense
    if argv[1] == "data" and TASKS[kind].reads != "manifest":
        raise UserError(f"benchmark data reads audio, but --config is of the kind {kind}")
    if argv[1] == "decode" and kind not in (None, "ctc"):
        raise UserError(f"benchmark decode needs a CTC model, but --config is of the kind {kind}")
    seconds = SECONDS.get(argv[1]) if values.seconds is None else values.seconds
    if argv[1] == "data":
        benchmark_data(config, seconds)
        return
    if argv[1] == "step":
        command_line.enable_compilation_cache()
        text = TASKS[kind].measure is TOKENS
        benchmark_step(
            config, config_flags.get_config_filename(values["config"]), batch=values.batch,
            amount=values.tokens if text else seconds, steps=values.steps,
            inference=values.inference, breakdown=values.breakdown, profile=values.profile,
        )  # fmt: skip
        return
    if not values.data:
        raise UserError("benchmark decode needs --data, a manifest")
    try:
        beams = [int(beam) for beam in values.beams]
    except ValueError:
        raise UserError(f"--beams={','.join(values.beams)}: write numbers, as 50,500") from None
    benchmark_decode(
        values.data, values.checkpoint, config, lm=values.lm, beams=beams,
        transformer_lm=values.transformer_lm, minutes=values.minutes,
    )  # fmt: skip


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", None, "a file of configs/")
    command_line.define_number(
        "seconds", None, "data: time per source, default 20; step: audio per row, default 8",
        0, 1e6, above=True,
    )  # fmt: skip
    flags.DEFINE_integer("tokens", 64, "step, of a language model: tokens per row", 2)
    flags.DEFINE_integer("batch", 8, "step: rows per update, all micro-batches together", 1)
    flags.DEFINE_integer("steps", 10, "step: updates that are measured", 1)
    flags.DEFINE_boolean("inference", False, "step: the forward pass instead of an update")
    flags.DEFINE_boolean("breakdown", False, "step: the parts of an update too")
    flags.DEFINE_string("profile", "", "step: folder for a trace of 3 further updates")
    flags.DEFINE_string("data", "", "decode: manifest of the recordings")
    flags.DEFINE_string("checkpoint", "", f"decode: {HELP}")
    flags.DEFINE_string("lm", "", "decode: n-gram model, an ARPA file or a binary of KenLM")
    flags.DEFINE_string("transformer_lm", "", "decode: language model, an export or a run")
    flags.DEFINE_list("beams", [str(beam) for beam in BEAMS], "decode: widths of the search")
    command_line.define_number(
        "minutes", 5.0, "decode: audio, drawn from the manifest", 0.01, 1e6
    )
    command_line.run(main)
