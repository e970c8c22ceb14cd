"""Says what every layer of a model knows, as curves over the layers.

python -m w2v_jax.analyze cca --checkpoints=runs/base/export,hubert_base.pt --names=ours,HuBERT \
    --data=dev.tsv --output=layers
python -m w2v_jax.analyze cca --checkpoints=runs/base/export --data=dev.tsv --output=layers \
    --labels=aligned --views=phones,words,vectors --vectors=glove.840B.300d.txt
python -m w2v_jax.analyze probe --checkpoints=runs/base/export,mfcc --data=dev.tsv \
    --labels=aligned --targets=letters,language,speaker --output=layers
python -m w2v_jax.analyze clusters --checkpoints=hubert_base.pt --data=dev.tsv --output=layers \
    --labels=phones --targets=phones --published
python -m w2v_jax.analyze curves --output=layers
python -m w2v_jax.analyze reference --checkpoint=hubert_base_ls960.pt --folder=examples/hubert/tests

cca: projection-weighted CCA of the layers with the mel spectrum, with layer 0, and of pieces of
speech with the phone, letter or word that they are. probe: classifiers of frozen features, linear
and with a hidden layer. clusters: what k-means of every layer says of phones or letters (PNMI).
All do the same with random weights, and keep what was computed: a model that is analysed later is
drawn beside those that are there. curves draws them again; with --published beside the numbers of
HuBERT BASE that others measured, where the measure is the same.
reference: whether a published HuBERT gives the outputs of fairseq's own test.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags

from w2v_jax import command_line
from w2v_jax.analysis import labels as label_files
from w2v_jax.analysis import layer_cca, layer_clusters, layer_probes
from w2v_jax.analysis.curves import RANDOM, draw
from w2v_jax.analysis.extraction import (
    SPECTRA,
    WINDOW_SECONDS,
    Extractor,
    open_extractor,
    taps_of,
)
from w2v_jax.analysis.labels import Labels
from w2v_jax.analysis.layer_scores import LayerScores
from w2v_jax.analysis.reference import check, check_text, expected
from w2v_jax.analysis.sampling import LABELLED, StoredFeatures, Utterances
from w2v_jax.analysis.store import INDEX
from w2v_jax.analysis.vectors import read_vectors
from w2v_jax.audio.waveform import Recording
from w2v_jax.data.sources import open_sources
from w2v_jax.errors import UserError
from w2v_jax.evaluation.reports import columns
from w2v_jax.interop import checkpoints
from w2v_jax.places import short_names
from w2v_jax.recognizers import open_recognizer

# all blocks and convolutions; a front end of spectra has none of the latter
LAYERS = "[ch]*_[0-9]*"
# what each may be asked for, and by which flag
SCORED = {
    "cca": ("views", layer_cca.VIEWS),
    "probe": ("targets", layer_probes.TARGETS),
    "clusters": ("targets", layer_clusters.KINDS),
}
SUBCOMMANDS = (*SCORED, "curves", "reference")


def models(
    checkpoints: Sequence[str], names: Sequence[str], taps: Sequence[str], utterances: Utterances,
    *, floor: bool, seed: int, batch_seconds: float,
) -> Iterator[tuple[str, Extractor | StoredFeatures]]:  # fmt: skip
    """Each with its name and, as `floor` says, each with random weights. A checkpoint may be a
    folder of features."""
    for name, checkpoint in zip(names, checkpoints, strict=True):
        if os.path.exists(f"{checkpoint}/{INDEX}"):
            yield name, StoredFeatures(checkpoint, taps, utterances)
            continue
        without = checkpoint in SPECTRA  # layers and weights
        options = dict(taps=() if without else taps, batch_seconds=batch_seconds)
        yield name, open_extractor(checkpoint, **options)
        if floor and not without:
            yield name + RANDOM, open_extractor(checkpoint, random_weights=seed, **options)


def names_of(checkpoints: Sequence[str], names: Sequence[str]) -> list[str]:
    """Of every model. Raises UserError where they do not fit."""
    if not names:
        return short_names([checkpoint.rstrip("/") for checkpoint in checkpoints])
    if len(names) != len(checkpoints) or len(set(names)) != len(names) or not all(names):
        raise UserError(
            f"--names={','.join(names)}: give each of the {len(checkpoints)} checkpoints one of "
            "its own"
        )
    return list(names)


def chosen(flag: str, given: Sequence[str], there: Sequence[str]) -> list[str]:
    if unknown := [x for x in given if x not in there]:
        raise UserError(f"--{flag}={','.join(unknown)}: choose from {','.join(there)}")
    if not given:
        raise UserError(f"--{flag} is empty: choose from {','.join(there)}")
    return list(dict.fromkeys(given))


def labels_of(
    kinds: Sequence[str], path: str, tier: str, least_covered: float, utterances: Utterances
) -> dict[str, Labels]:
    """Labels of every kind. Raises UserError where there are none."""
    kinds = list(dict.fromkeys("words" if kind == "vectors" else kind for kind in kinds))
    kinds = [kind for kind in kinds if kind in LABELLED]
    if kinds and not path:
        raise UserError(
            f"{', '.join(kinds)}: set --labels to alignments, a folder or file of TextGrids, CTM "
            "or JSON; python -m w2v_jax.align writes letters and words"
        )
    if tier and len(kinds) != 1:
        raise UserError(f"--tier={tier} is of one kind of labels; analyse one kind at a time")
    found = {}
    for kind in kinds:
        found[kind] = label_files.read(
            path, *utterances.manifests, tier=tier or kind, least_covered=least_covered
        )
        print(f"{path}: {found[kind]}")
    return found


def scored(command: str, values: Any) -> None:
    """cca, probe and clusters."""
    for flag in ("data", "output", "checkpoints"):
        if not getattr(values, flag):
            raise UserError(f"analyze {command} needs --{flag}")
    flag, there = SCORED[command]
    kinds = chosen(flag, getattr(values, flag), there)
    checkpoints = list(dict.fromkeys(values.checkpoints))
    names = names_of(checkpoints, values.names)
    given = taps_of("" if values.layers == "all" else values.layers)
    taps = [*given, *values.taps] or [LAYERS]
    if "intra" in kinds and LAYERS not in taps:
        taps.append(layer_cca.BASE)
    utterances = Utterances(open_sources(values.data))
    labels = labels_of(kinds, values.labels, values.tier, values.least_covered, utterances)
    vectors = {}
    if "vectors" in kinds:
        if not values.vectors:
            raise UserError("--views=vectors needs --vectors, a text file of vectors of words")
        vectors = read_vectors(values.vectors, labels["words"].names)
        print(f"{values.vectors}: of {len(vectors):,} of {len(labels['words'].names):,} words")
    analysis = LayerScores(utterances, labels, values.output, values.overwrite)
    opened = models(
        checkpoints, names, taps, utterances, floor=values.floor, seed=values.seed,
        batch_seconds=values.batch_seconds,
    )  # fmt: skip
    drawn = values.samples, values.seed, values.utterances
    for name, extractor in opened:
        if command == "cca":
            sampling = layer_cca.Sampling(
                *drawn, values.instances, values.words, values.word_instances
            )
            analysis.cca(name, extractor, kinds, vectors, sampling)
        elif command == "probe":
            analysis.probe(name, extractor, kinds, layer_probes.Probing(*drawn, values.frames))
        else:
            for kind in kinds:
                clustering = layer_clusters.Clustering(*drawn, values.clusters)
                analysis.cluster(name, extractor, kind, clustering)
    draw(values.output, values.overwrite, values.published)


def compare(checkpoint: str, folder: str) -> bool:
    """Prints how the outputs of fairseq's test are met, of a model that is fine-tuned its text;
    whether they are."""
    _, config = checkpoints.load(checkpoint)
    if config["kind"] == "ctc":
        recognizer, variables = open_recognizer(checkpoint)
        of = expected(folder, recognizer.config.width, recognizer.config.num_layers)
        found = check_text(recognizer.text(variables, Recording(of.recording)), of)
    else:
        found = check(checkpoint, folder)
    rows = [("", "here", "fairseq", "")]
    rows += [(x.what, x.found, x.expected, "ok" if x.passed else "DIFFERS") for x in found]
    print("\n".join(columns(rows)))
    return all(x.passed for x in found)


def main(argv: list[str]) -> None:
    values = flags.FLAGS
    command_line.chosen(argv, "analyze", dict.fromkeys(SUBCOMMANDS, ()))
    command_line.enable_compilation_cache()
    if argv[1] in SCORED:
        scored(argv[1], values)
    elif argv[1] == "curves":
        if not values.output:
            raise UserError("analyze curves needs --output, the folder of scores")
        draw(values.output, values.overwrite, values.published)
    else:
        if not (values.checkpoint and values.folder):
            raise UserError("analyze reference needs --checkpoint and --folder")
        if not compare(values.checkpoint, values.folder):
            sys.exit(1)


if __name__ == "__main__":
    flags.DEFINE_list("checkpoints", [], "models or folders of features, with commas; mfcc; mel")
    flags.DEFINE_list("names", [], "what they are called, with commas (default: of their paths)")
    flags.DEFINE_string("data", "", "manifests of speech")
    flags.DEFINE_string("output", "", "folder of scores, tables and pictures")
    flags.DEFINE_string("labels", "", "alignments: a folder or file of TextGrids, CTM or JSON")
    flags.DEFINE_string("tier", "", "the tier of them, where its name is another")
    command_line.define_number(
        "least_covered", label_files.LEAST_COVERED, "share of the audio that labels must reach",
        0, 1,
    )  # fmt: skip
    flags.DEFINE_list(
        "views", list(layer_cca.FRAME_VIEWS), f"cca: any of {','.join(layer_cca.VIEWS)}"
    )
    flags.DEFINE_list(
        "targets", ["letters"], f"probe, clusters: any of {','.join(layer_probes.TARGETS)}"
    )  # fmt: skip
    flags.DEFINE_string("vectors", "", "cca: vectors of words, a text file as GloVe's")
    flags.DEFINE_string("layers", "all", "numbers of blocks, as 6,9; all: convolutions too")
    flags.DEFINE_list("taps", [], "other tensors of the model, by name")
    flags.DEFINE_boolean("floor", True, "the same models with random weights too")
    flags.DEFINE_integer("samples", 3, "of speech, and seeds of probes", 1)
    flags.DEFINE_integer("seed", 0, "of the first", 0)
    flags.DEFINE_integer("utterances", 500, "of a sample, for frames; 0: all", 0)
    flags.DEFINE_integer("instances", 200, "cca: of each phone or letter", 1)
    flags.DEFINE_integer("words", 500, "cca: the most frequent", 2)
    flags.DEFINE_integer("word_instances", 15, "cca: of each word", 1)
    flags.DEFINE_integer("clusters", 256, "clusters: of every layer", 2)
    flags.DEFINE_integer("frames", 100_000, "probe: of all utterances", 100)
    command_line.define_number(
        "batch_seconds", WINDOW_SECONDS, "audio that a model hears at once", WINDOW_SECONDS, 1e6
    )
    flags.DEFINE_boolean("published", False, "draw HuBERT BASE as measured by others")
    flags.DEFINE_string("checkpoint", "", "reference: the model")
    flags.DEFINE_string("folder", "", "reference: examples/hubert/tests of fairseq")
    command_line.define_overwrite()
    command_line.run(main)
