"""Checkpoints: Orbax behind two small doors, one for training and one for exported models."""

import json
import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from w2v_jax.errors import UserError

log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one run, in WORKDIR/checkpoints. Saving is asynchronous and atomic."""

    def __init__(self, workdir: str | Path, *, keep: int = 2):
        self._folder = _folder(workdir)
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                cleanup_tmp_directories=True,
            ),
        )

    def save(self, step: int, state: Any, meta: dict) -> None:
        """Saves state (a tree of arrays) and meta (JSON); the data position is the step."""
        if step in self._manager.all_steps():
            return
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
        self._manager.save(step, args=items, force=True)

    def restore(self, abstract_state: Any) -> tuple[Any, dict] | None:
        """The newest checkpoint that can be read, on the shardings of `abstract_state`.

        A damaged one is passed over with a warning. Returns (state, meta), or None where there is
        no checkpoint. Raises UserError where there are some and none can be read.
        """
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract_state), meta=ocp.args.JsonRestore()
        )
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            try:
                restored = self._manager.restore(step, args=items)
            except Exception as error:  # Orbax raises many kinds
                log.warning("checkpoint of step %d cannot be read (%s)", step, _first_line(error))
                continue
            for damaged in (s for s in steps if s > step):
                # kept for a look, out of the way of the steps to come
                (self._folder / str(damaged)).rename(self._folder / f"damaged-{damaged}")
            self._manager.reload()
            return restored.state, restored.meta
        if steps:
            raise UserError(
                f"none of the checkpoints {steps} in {self._folder} can be read with this config; "
                "restore its model and optim settings, or use another --workdir"
            )
        return None

    def close(self) -> None:
        self._manager.wait_until_finished()
        self._manager.close()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _folder(workdir: str | Path) -> Path:
    return Path(workdir).absolute() / "checkpoints"


def has_checkpoint(workdir: str | Path) -> bool:
    """Whether a run has a finished checkpoint."""
    return bool(_steps(_folder(workdir)))


def _steps(folder: Path) -> list[int]:
    return sorted(ocp.utils.checkpoint_steps(folder)) if folder.is_dir() else []


def latest_variables(workdir: str | Path) -> tuple[Any, int]:
    """({"params", "stats"} as numpy arrays, step) of the newest checkpoint of a run.

    The optimizer is not read. Raises UserError where there is no finished checkpoint.
    """
    folder = _folder(workdir)
    steps = _steps(folder)
    if not steps:
        raise UserError(f"{workdir} has no checkpoint; is it the --workdir of a training run?")
    try:
        return _read_arrays(folder / str(steps[-1]) / "state", ("params", "stats")), steps[-1]
    except Exception as error:  # Orbax raises many kinds
        raise UserError(
            f"the checkpoint {folder}/{steps[-1]} cannot be read: {_first_line(error)}; "
            "remove it to take the one before"
        ) from None


def _read_arrays(folder: Path, keys: tuple[str, ...]) -> Any:
    """The sub-trees `keys` of a saved tree as numpy arrays, whatever mesh they were saved on."""
    with ocp.PyTreeCheckpointer() as checkpointer:
        tree = checkpointer.metadata(folder).item_metadata.tree
        one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        target = jax.tree.map(
            lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=one),
            {key: tree[key] for key in keys},
        )
        arrays = checkpointer.restore(
            folder,
            args=ocp.args.PyTreeRestore(
                item=target,
                restore_args=ocp.checkpoint_utils.construct_restore_args(target),
                partial_restore=True,
            ),
        )
    return jax.tree.map(np.asarray, arrays)


def export_model(folder: str | Path, variables: Any, config: dict) -> None:
    """Writes FOLDER/params (Orbax: params and stats) and FOLDER/config.json."""
    folder = Path(folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    # removed first and written last: a folder with a config is a complete one
    (folder / "config.json").unlink(missing_ok=True)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "params", variables, force=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def load_exported(folder: str | Path, kind: str | None = None) -> tuple[Any, dict]:
    """(variables as numpy arrays, config) of `export_model`.

    kind: "pretrained" or "ctc" where only one of them will do. Raises UserError for a folder that
    is no exported model, or one of another kind.
    """
    folder = Path(folder).absolute()
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(
            f"{folder} is not an exported model ({_first_line(error)}); write one with "
            "python -m w2v_jax.export --workdir=RUN --output=FOLDER"
        ) from None
    if kind is not None and config.get("kind") != kind:
        raise UserError(
            f"{folder} holds a {config.get('kind')} model; a {kind} model is needed here"
        )
    try:
        variables = _read_arrays(folder / "params", ("params", "stats"))
    except Exception as error:  # Orbax raises many kinds
        raise UserError(f"{folder}/params cannot be read: {_first_line(error)}") from None
    return variables, config
