"""Discrete units of speech: k-means of the features of frames, and how good they are.

    python -m w2v_jax.units learn --features=mfcc --data=train.tsv --clusters=100 --share=0.1 \
        --output=mfcc100.npz
    python -m w2v_jax.units learn --features=runs/hubert1/export --layer=6 --data=train.tsv \
        --clusters=500 --share=0.1 --output=layer6.npz

finds centroids of MFCC, or of a layer of any model that is read here, of a random share of the
recordings. They are in memory, 4 bytes a number: 0.06 GB an hour of MFCC, 0.55 GB an hour of a
layer of 768. --features may also be a folder that python -m w2v_jax.features wrote, which is read
from disk.

    python -m w2v_jax.units apply --centroids=mfcc100.npz --data=train.tsv,dev.tsv

writes the number of the nearest centroid of every frame beside every manifest, in the folder
train.mfcc100.units, for --config.data.units=mfcc100. Another model than the one that the centroids
are of is refused. Killed, the same command goes on where it was.

    python -m w2v_jax.units quality --data=dev.tsv --name=mfcc100 --labels=dev_phones

prints how units are used and, with labels (TextGrid, CTM, or what python -m w2v_jax.align wrote),
what they say of them: PNMI, phone purity, cluster purity; a table, and a line of JSON.

    python -m w2v_jax.units import --labels=train.km --data=train.tsv --rate=50 --name=km500

takes over labels that fairseq wrote: a line of integers for every row of the manifest.
"""

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

from absl import flags

from w2v_jax import command_line
from w2v_jax.analysis import agreement, km_files, kmeans, labels, quantization, training_frames
from w2v_jax.analysis.centroids import FORMAT, Centroids, described
from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.data import units
from w2v_jax.data.sources import open_sources
from w2v_jax.errors import UserError
from w2v_jax.places import check_no_input, check_replaceable, check_writable, several

SECONDS = 5.0  # between two lines of what k-means says
CLUSTERS = 100  # without --clusters


def learn(
    features: str,
    data: str,
    output: str,
    *,
    tap: str = "",
    clusters: int = CLUSTERS,
    share: float = 1.0,
    seed: int = 0,
    method: str = "",
    restarts: int = 1,
    iterations: int = 0,
    name: str = "",
    overwrite: bool = False,
) -> Centroids:
    """Writes the centroids of a share of the recordings of manifests to the file `output`.

    See `training_frames.read` and `kmeans.learn`; name: what units of them are called, as the file
    if "". Raises UserError.
    """
    check_replaceable(output, "--output", overwrite=overwrite, ours=FORMAT.encode())
    check_no_input(output, "--output", several(data))
    check_writable(output, "--output")
    try:
        units.folder(output, name or Path(output).stem)  # the name can be one
    except UserError as error:
        raise UserError(f"{error}. They are called as --output, or by --name") from None
    name = name or Path(output).stem
    found = training_frames.read(features, tap, data, share, seed, clusters)
    try:
        learnt = kmeans.learn(
            found.frames, clusters, seed=seed, method=method, restarts=restarts,
            iterations=iterations, say=_now_and_then(),
        )  # fmt: skip
    except kmeans.NotFinite as error:
        what = f"{found.tap} of {described(found.extractor)}"
        raise quantization.not_finite(found.name_of(error.frame), what) from None
    settings = {
        "method": learnt.method, "iterations": learnt.iterations, "restarts": restarts,
        "share": share, "recordings": found.recordings,
    }  # fmt: skip
    centroids = Centroids(
        learnt.centroids, name, found.tap, found.rate, found.middle, found.extractor,
        learnt.inertia, len(found.frames), seed, settings,
    )  # fmt: skip
    centroids.write(output)
    kind = "iterations" if learnt.method == "lloyd" else "mini-batches"
    again = f", {learnt.reseeded} of them begun anew" if learnt.reseeded else ""
    print(
        f"{clusters:,} clusters{again}, {learnt.iterations} {kind}: inertia {learnt.inertia:.6g} "
        f"per frame, perplexity {agreement.perplexity(learnt.counts):.1f}: {output}"
    )
    return centroids


def _now_and_then() -> Callable[[str], None]:
    """Prints the first of what is said, and then a line every few seconds."""
    last = -math.inf

    def say(text: str) -> None:
        nonlocal last
        if time.monotonic() - last >= SECONDS:
            last = time.monotonic()
            print(text, flush=True)

    return say


def apply(
    file: str,
    data: str,
    *,
    features: str = "",
    name: str = "",
    max_bad_share: float = 0.1,
    overwrite: bool = False,
) -> None:
    """Writes the units of the centroids in `file` beside every manifest of `data`.

    features: where the model that they are of is now; name: of the units, that of the centroids if
    "". Raises UserError, before anything is written where another model or other units are there.
    """
    centroids = Centroids.read(file)
    name = name or centroids.name
    todo = []
    for source in open_sources(data):
        if quantization.check_free(source, name, centroids, overwrite=overwrite):
            todo.append(source)
        else:
            print(f"{units.folder(source.path, name)}: there already, of these centroids")
    if not todo:
        return
    extractor = centroids.open_extractor(features)
    for source in todo:
        done = quantization.apply(source, name, centroids, extractor, max_bad_share)
        kept = f", {done.kept:,} of them done before" if done.kept else ""
        print(
            f"{done.where}: {done.rows:,} recordings{kept}, {done.unreadable:,} unreadable; "
            f"{done.usage.frames:,} units, perplexity {done.usage.perplexity:.1f} of "
            f"{len(centroids.values):,}; {done.speed:,.1f} h/h",
            flush=True,
        )


def quality(
    data: str,
    name: str,
    files: str = "",
    *,
    tier: str = "",
    least_covered: float = labels.LEAST_COVERED,
) -> dict:
    """Prints how good the units `name` of manifests are; returns the numbers of its line of JSON.

    files, tier, least_covered: of labels, see `labels.read`; "" for none. Raises UserError.
    """
    sources = open_sources(data)
    found = units.joined(sources, name)
    used = agreement.usage(found.values, found.classes)
    numbers = {"data": data, "name": name, "classes": found.classes} | used._asdict()
    print(agreement.usage_table(used, found.classes))
    if files:
        manifests = [source.manifest for source in sources]
        said = labels.read(files, *manifests, tier=tier, least_covered=least_covered)
        print(f"{files}: {said}")
        counts = agreement.counts_of(found, said)
        if not counts.any():
            raise UserError(f"--labels={files}: nothing is said in any frame that has a unit")
        of = agreement.agreement(counts)
        print(agreement.table(of, said.kind))
        numbers |= {"labels": files, "kind": said.kind, "covered": said.covered}
        numbers["agreement"] = of._asdict()
    print(json.dumps(numbers), flush=True)
    return numbers


def import_labels(
    file: str, data: str, name: str, rate: int, *, clusters: int = 0, overwrite: bool = False
) -> None:
    """Writes the units of a text file with a line for every row of a manifest.

    rate: of them, per second; clusters: how many classes there are, 0 for one more than the highest
    label. Raises UserError.
    """
    (source, *more) = open_sources(data)
    if more:
        raise UserError(f"--data={data}: labels in text are of one manifest; name one")
    if SAMPLE_RATE % rate:
        raise UserError(
            f"--rate={rate}: labels per second must divide {SAMPLE_RATE:,}; 100 of MFCC, 50 of the "
            "layers of HuBERT"
        )
    where, manifest = units.folder(source.path, name), source.manifest
    if where.exists() and not overwrite:
        raise UserError(
            f"{where} is there already; write another --name, or replace it with --overwrite"
        )
    found = km_files.read(file, source.path, manifest, rate)
    classes = clusters or int(found.values.max(initial=0)) + 1
    units.write(
        source.path, name, manifest, found, rate=float(rate), classes=classes,
        source={"labels": os.path.basename(file), "middle": agreement.MIDDLE},
    )  # fmt: skip
    used = agreement.usage(found, classes)
    print(f"{where}: {len(found):,} recordings, {used.frames:,} units of {classes:,} classes, "
          f"perplexity {used.perplexity:.1f}")  # fmt: skip


# subcommand -> flags that it needs
NEEDS = {
    "learn": ("features", "data", "output"),
    "apply": ("centroids", "data"),
    "quality": ("data", "name"),
    "import": ("labels", "data", "rate", "name"),
}


def main(argv: list[str]) -> None:
    values = flags.FLAGS
    command = command_line.chosen(argv, "units", NEEDS)
    if values.layer is not None and values.tap:
        raise UserError(f"--layer={values.layer} and --tap={values.tap}: set one of them")
    command_line.enable_compilation_cache()
    if command == "learn":
        tap = values.tap if values.layer is None else f"hidden_{values.layer}"
        learn(
            values.features, values.data, values.output, tap=tap,
            clusters=values.clusters or CLUSTERS, share=values.share, seed=values.seed,
            method=values.method, restarts=values.restarts, iterations=values.iterations,
            name=values.name, overwrite=values.overwrite,
        )  # fmt: skip
    elif command == "apply":
        apply(
            values.centroids, values.data, features=values.features, name=values.name,
            max_bad_share=values.max_bad_share, overwrite=values.overwrite,
        )  # fmt: skip
    elif command == "quality":
        quality(
            values.data, values.name, values.labels, tier=values.tier,
            least_covered=values.least_covered,
        )  # fmt: skip
    else:
        import_labels(
            values.labels, values.data, values.name, values.rate, clusters=values.clusters,
            overwrite=values.overwrite,
        )  # fmt: skip


if __name__ == "__main__":
    flags.DEFINE_string("data", "", "manifests or shards, with commas")
    flags.DEFINE_string(
        "features", "",
        "learn: mfcc, mel, a model, or a folder of features; apply: the model, if it has moved",
    )  # fmt: skip
    flags.DEFINE_integer("layer", None, "learn: of a model, 0 the input of the first block", 0)
    flags.DEFINE_string("tap", "", "learn: another output of it, by its name (docs/features.md)")
    flags.DEFINE_integer(
        "clusters", 0, f"how many; 0: {CLUSTERS} of learn, one more than the highest of import", 0
    )  # fmt: skip
    command_line.define_number(
        "share", 1.0, "learn: of the recordings, drawn at random", 0, 1, above=True
    )
    flags.DEFINE_integer("seed", 0, "learn: of what is random", 0)
    flags.DEFINE_string("output", "", "learn: the file of centroids to write, .npz")
    flags.DEFINE_enum(
        "method", "", ("", *kmeans.METHODS),
        f"learn: all frames in each iteration, or mini-batches; empty: the first up to "
        f"{kmeans.LLOYD_FRAMES:,} frames",
    )  # fmt: skip
    flags.DEFINE_integer("restarts", 1, "learn: starts, of which the best is kept", 1)
    flags.DEFINE_integer("iterations", 0, "learn: at most; 0: 100, or 1000 mini-batches", 0)
    flags.DEFINE_string("centroids", "", "apply: what learn wrote")
    flags.DEFINE_string("name", "", "of the units; learn, apply: by default that of the file")
    command_line.define_number(
        "max_bad_share", 0.1, "apply: share of unreadable recordings tolerated", 0, 1
    )
    flags.DEFINE_string("labels", "", "quality: a file or folder of labels; import: the text file")
    flags.DEFINE_string("tier", "", "quality: of the labels; empty: phones, or else letters")
    command_line.define_number(
        "least_covered", labels.LEAST_COVERED, "quality: of the audio, by labels", 0, 1
    )
    flags.DEFINE_integer("rate", 0, "import: labels per second", 0)
    command_line.define_overwrite()
    command_line.run(main)
