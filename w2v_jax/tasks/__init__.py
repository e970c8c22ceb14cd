"""Kinds of training. ONE FILE = ONE KIND, told from top to bottom: its data, model, loss,
evaluation, alarms and arithmetic. `TASKS` is the only place that lists them."""

from w2v_jax.errors import UserError
from w2v_jax.tasks.ctc import CTC
from w2v_jax.tasks.language import Language
from w2v_jax.tasks.task import Task
from w2v_jax.tasks.wav2vec2 import Wav2Vec2

TASKS: dict[str, type[Task]] = {"wav2vec2": Wav2Vec2, "ctc": CTC, "language": Language}


def kind_of(config) -> str:
    """The kind of training of a config (configs/). Raises UserError for one that is not here."""
    kind = config.get("kind", "")
    if kind not in TASKS:
        raise UserError(
            f"this config has the kind {kind!r}; a training needs one of {', '.join(TASKS)}, as "
            "the files configs/wav2vec2.py, finetune.py and lm.py make them"
        )
    return kind


def make_task(config) -> Task:
    """The task of a config. Raises UserError for a kind or values that make no sense."""
    return TASKS[kind_of(config)](config)
