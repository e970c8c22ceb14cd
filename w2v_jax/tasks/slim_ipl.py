"""CTC on transcribed speech and on the model's own labels of unlabelled speech, made while it
trains and kept in a cache: slimIPL (arXiv 2010.11524; the order of updates is that of wav2letter's
recipes/slimIPL).

Configs of the kind "slim_ipl": configs/slim_ipl.py. The model is a CTC model, and exported as one.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.data.label_cache import (
    FRESH,
    PSEUDO,
    CacheLoader,
    CachePlan,
    row_width,
    slot_width,
)
from w2v_jax.data.streams import StreamLoader
from w2v_jax.decoding.recognition import alone
from w2v_jax.errors import UserError
from w2v_jax.interop import checkpoints
from w2v_jax.interop.exported import encoder_of
from w2v_jax.models.heads.ctc import CTCModel
from w2v_jax.objectives.pseudo_labels import NOTHING, best_paths, read, written
from w2v_jax.tasks.ctc import CTC
from w2v_jax.tasks.task import Data
from w2v_jax.text.alphabet import BOUNDARY
from w2v_jax.training.health import Alarm
from w2v_jax.training.initial import take_over
from w2v_jax.training.state import CARRIED, TrainState
from w2v_jax.training.task import Context, LossOutput, Metrics, Variables

STOP = (
    "such labels teach the model to go on like this: stop the run, and begin another, in another "
    "--workdir, from a model that recognises more (--config.run.init_from), or with more updates "
    "on transcripts before (--config.pseudo.start)"
)


class SlimIPL(CTC):
    """Updates on whole utterances with their letters, and on others with the model's own.

    Timed and measured is an update on transcripts, which one on labels of the cache resembles; a
    batch that is labelled costs a forward pass more.
    """

    recipe = "slim_ipl.py:tiny"
    instead = ", or begin with another model"
    keys = (*CTC.keys, "data.unlabelled", "pseudo")

    def __init__(self, config):
        super().__init__(config)
        data, seconds = config.data, lambda x: round(x * SAMPLE_RATE)
        self.slot = slot_width(
            seconds(data.batch_seconds), data.row_multiple, seconds(data.min_seconds),
            seconds(data.max_seconds),
        )  # fmt: skip
        if self.slot * config.pseudo.cache >= 2**31:
            raise UserError(
                f"--config.pseudo.cache={config.pseudo.cache} batches of "
                f"{data.batch_seconds:g} s are too many to be indexed; lower --config.pseudo.cache"
            )
        self.alarms = (*self.alarms, *ALARMS)

    # data: that of CTC, and batches of the cache

    def open(self, path: str, mesh: Mesh, *, held_out: bool = False) -> Data:
        data, pseudo = super().open(path, mesh, held_out=held_out), self.config.pseudo
        if held_out:
            return data
        path = self.config.data.unlabelled
        corpus, buckets = self.open_unlabelled(path, mesh, pseudo.num_buckets)
        options = dict(held_out=False, crop=False, kind=CacheLoader)
        heard = self.loader(corpus, mesh, **options)
        # labels are of the speech as it is
        plain = self.loader(corpus, mesh, views={"audio": None}, **options)
        plain = heard if heard.views == plain.views else plain
        plan = partial(
            CachePlan, data.buckets, buckets, slot=self.slot,
            **{key: pseudo[key] for key in ("start", "cache", "ratio", "replace")},
        )  # fmt: skip
        loader = StreamLoader({"": data.loader, PSEUDO: heard, FRESH: plain})
        return Data(data.buckets + buckets, loader, plan)

    # model and loss

    def init(self) -> Variables:
        variables = super().init()
        cache = jnp.full(self.config.pseudo.cache * self.slot, NOTHING, jnp.int32)
        return variables | {"stats": variables.get("stats", {}) | {CARRIED: {"labels": cache}}}

    def check_initial(self) -> None:
        if not self.config.run.init_from and not self.config.pseudo.start:
            raise UserError(
                "--config.pseudo.start=0 asks a random model for labels; set "
                "--config.run.init_from to a CTC model, or --config.pseudo.start=20000 to train it "
                "on transcripts before"
            )
        super().check_initial()

    def begin(self, state: TrainState) -> TrainState:
        """With the whole of a trained CTC model; of another model with its encoder. Raises
        UserError for one of other letters, and for one without letters whose labels are asked for
        at once."""
        path, partial_init = self.config.run.init_from, self.config.run.partial_init
        if not path:
            return super().begin(state)
        variables, exported = checkpoints.load(path)
        if exported["kind"] != "ctc":
            if not self.config.pseudo.start:
                raise UserError(
                    f"--config.run.init_from={path} holds a model of the kind "
                    f"{exported['kind']}, which writes no letters: fine-tune it first (python -m "
                    "w2v_jax.finetune), or set --config.pseudo.start to the updates that it shall "
                    "have on transcripts alone"
                )
            return super().begin(state)
        self.check_head(exported, path)
        if not partial_init:
            self.encoder.check_same(encoder_of(exported, path), path)
        stats, carried = split(state.stats)
        current = {"params": state.params, "stats": stats}
        given = {"params": variables["params"], "stats": variables.get("stats", {})}
        taken = take_over(current, given, path, partial=partial_init)
        return state.starting_from(taken["params"], taken["stats"] | carried)

    def loss(
        self, variables: Variables, batch: dict[str, jax.Array], context: Context
    ) -> tuple[jax.Array, LossOutput]:
        """That of CTC of the streams that the update has. What is fresh is labelled by the model as
        it was before the update, or by the average of its weights where there is one."""
        stats, carried = split(variables["stats"])
        cache = carried[CARRIED]["labels"]
        total, weight, metrics = jnp.float32(0), jnp.float32(0), {}
        if "audio" in batch:
            total, out = super().loss(variables | {"stats": stats}, batch, context)
            weight, stats, metrics = out.weight, out.stats, out.metrics | _pace(batch)
        if f"{PSEUDO}audio" in batch:
            rows, unlabelled = self.labelled(cache, stream(batch, PSEUDO))
            part, out = super().loss(variables | {"stats": stats}, rows, context)
            total, weight, stats = total + part, weight + out.weight, out.stats
            metrics |= {f"train/{PSEUDO}{key[6:]}": x for key, x in out.metrics.items()}
            metrics["train/pseudo_unlabelled"] = unlabelled
        if f"{FRESH}audio" in batch:
            teacher = variables if context.teacher is None else context.teacher
            teacher = teacher | {"stats": split(teacher["stats"])[0]}
            cache, found = self.label(jax.lax.stop_gradient(teacher), cache, stream(batch, FRESH))
            metrics |= found
        return total, LossOutput(weight, metrics, stats | {CARRIED: {"labels": cache}})

    def labelled(self, cache: jax.Array, rows: dict[str, jax.Array]) -> tuple[dict, tuple]:
        """(rows with the labels of the cache, the share that has none as (sum, weight)). Rows
        without labels, or with an empty one, count as if they filled up."""
        items, counts, labels = read(cache, rows["at"], row_width(rows["audio"].shape[1]))
        present = rows["id"] >= 0
        known = present & (items == rows["id"]) & (counts > 0)
        rows = rows | {
            "labels": labels, "labels_length": jnp.where(known, counts, 0),
            "id": jnp.where(known, rows["id"], NOTHING),
        }  # fmt: skip
        count = present.sum().astype(jnp.float32)
        return rows, (count - known.sum(), count)

    def label(
        self, variables: Variables, cache: jax.Array, rows: dict[str, jax.Array]
    ) -> tuple[jax.Array, Metrics]:
        """(the cache with greedy labels of these rows, metrics of them)."""
        model = CTCModel(alone(self.encoder), len(self.alphabet))
        logits, frames = model.apply(variables, rows["audio"], rows["length"])
        letters = np.isin(np.arange(len(self.alphabet)), [*self.alphabet.ids.values()])
        size = row_width(rows["audio"].shape[1]) - 2
        labels, counts, blanks = best_paths(
            logits, frames, jnp.asarray(letters), self.alphabet.ids[BOUNDARY], size
        )
        present = rows["id"] >= 0
        items = jnp.where(present & (counts <= size), rows["id"], NOTHING)
        total = lambda x: jnp.where(present, x, 0).sum().astype(jnp.float32)  # noqa: E731
        metrics = {
            "train/pseudo_blank_share": (total(blanks), total(frames)),
            "train/pseudo_empty": (total(counts == 0), total(present)),
        }
        metrics |= _pace(rows | {"labels_length": counts}, PSEUDO)
        return written(cache, rows["at"], items, counts, labels), metrics

    def described(self) -> dict[str, Any]:
        """That of a CTC model."""
        return super().described() | {"kind": "ctc"}


def stream(batch: Mapping[str, jax.Array], prefix: str) -> dict[str, jax.Array]:
    """The arrays of a stream, without its prefix."""
    return {k.removeprefix(prefix): x for k, x in batch.items() if k.startswith(prefix)}


def split(stats: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(running statistics of the model, what else the training carries)."""
    carried = {key: x for key, x in stats.items() if key == CARRIED}
    return {key: x for key, x in stats.items() if key != CARRIED}, carried


def _pace(rows: Mapping[str, jax.Array], prefix: str = "") -> Metrics:
    """How many letters a second of the rows has."""
    present = rows["id"] >= 0
    letters, samples = (
        jnp.where(present, rows[key], 0).sum() for key in ("labels_length", "length")
    )
    pair = letters.astype(jnp.float32), samples.astype(jnp.float32) / SAMPLE_RATE
    return {f"train/{prefix}letters_per_second": pair}


PACES = ("train/pseudo_letters_per_second", "train/letters_per_second")
ALARMS = (
    Alarm(
        "pseudo_empty",
        ("train/pseudo_empty",),
        lambda step, s: s["train/pseudo_empty"] > 0.5,
        "{train/pseudo_empty:.0%} of the pseudo-labels are empty; " + STOP,
    ),
    Alarm(
        "pseudo_length",
        PACES,
        lambda step, s: not 0.5 <= s[PACES[0]] / max(s[PACES[1]], 1e-6) <= 2,
        "the pseudo-labels have {train/pseudo_letters_per_second:.1f} letters per second, the "
        "transcripts {train/letters_per_second:.1f}; " + STOP,
    ),
)
