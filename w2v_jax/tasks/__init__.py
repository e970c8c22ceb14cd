"""Kinds of training. ONE FILE = ONE KIND, told from top to bottom: its data, model, loss,
evaluation, alarms and arithmetic. `TASKS` is the only place that lists them."""

from w2v_jax.errors import UserError
from w2v_jax.keys.check import check_values, shown
from w2v_jax.tasks.best_rq import BestRQ
from w2v_jax.tasks.c_siam import CSiam
from w2v_jax.tasks.ctc import CTC
from w2v_jax.tasks.data2vec import Data2Vec
from w2v_jax.tasks.discrete_bert import DiscreteBert
from w2v_jax.tasks.hubert import Hubert
from w2v_jax.tasks.language import Language
from w2v_jax.tasks.slim_ipl import SlimIPL
from w2v_jax.tasks.task import Task
from w2v_jax.tasks.wav2vec2 import Wav2Vec2

TASKS: dict[str, type[Task]] = {
    "wav2vec2": Wav2Vec2,
    "best_rq": BestRQ,
    "hubert": Hubert,
    "discrete_bert": DiscreteBert,
    "c_siam": CSiam,
    "data2vec": Data2Vec,
    "ctc": CTC,
    "slim_ipl": SlimIPL,
    "language": Language,
}


def kind_of(config) -> str:
    """The kind of training of a config (configs/). Raises UserError for one that is not here."""
    kind = config.get("kind", "")
    if not isinstance(kind, str) or kind not in TASKS:
        what = f"has the kind {shown(kind)}" if kind else "is of no training"
        raise UserError(
            f"this config {what}; one of the kinds {', '.join(TASKS)} is needed, as the files "
            "configs/wav2vec2.py, finetune.py and lm.py make them"
        )
    return kind


def make_task(config) -> Task:
    """The task of a config, all of whose values make sense. Raises UserError naming key, value and
    remedy of what does not."""
    kind = TASKS[kind_of(config)]
    values = check_values(config, kind.keys)
    task = kind(config)
    task.check(values)
    return task
