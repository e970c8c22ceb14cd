"""Checkpoints: Orbax behind two small doors, one for training and one for exported models.

Orbax notices files that are missing or cut short, but not every flipped bit. So digests of all
arrays are saved with them, and arrays that were read count only where they have the same.
"""

import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from w2v_jax.errors import UserError, brief
from w2v_jax.places import Place, is_full, place, unwritable, write_whole, writing
from w2v_jax.training.digest import differing, digests, seal, unseal
from w2v_jax.training.retention import retention
from w2v_jax.training.state import CARRIED, FOLLOWED, grafted

log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one run, in WORKDIR/checkpoints. Saving is asynchronous and atomic.

    Kept are the `keep_last` newest, the steps that `keep_every` divides (0: none), and the
    `keep_best` of the lowest scores. A step is saved before it is evaluated: its score comes later,
    by `scored`; `scores` are those from before a restart. Of several processes all make the same
    calls, and see the same folder.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        *,
        keep_last: int = 2,
        keep_every: int = 0,
        keep_best: int = 0,
        scores: Mapping[int, float] | None = None,
    ):
        self._folder = _folder(workdir)
        self._scores = dict(scores or {})
        _silence_other_arrays()
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=retention(keep_last, keep_every, keep_best, self._scores),
                cleanup_tmp_directories=True,
            ),
        )

    def save(self, step: int, state: Any, meta: dict) -> None:
        """Saves state (a tree of arrays) and meta (JSON); the data position is the step."""
        if step in self._manager.all_steps():
            return
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(seal(meta, state))
        )
        with self._writing():
            self._manager.save(step, args=items, force=True)

    def check(self) -> None:
        """Raises UserError where a save that was going on has failed."""
        with self._writing():
            self._manager.check_for_errors()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """What Orbax raises, for this save or the one before, becomes a UserError. Its half of a
        checkpoint is removed: where the disk is full its room is needed."""
        try:
            yield
        except Exception as error:  # Orbax raises many kinds
            # of several writes that fail it may raise one that missed what another has removed
            if not is_full(error):
                probed = _probed(self._folder)
                if probed is None and not isinstance(error, OSError):
                    raise  # no fault of the disk
                error = probed or error
            if jax.process_count() == 1:
                _remove_halves(self._folder)
            steps = checkpoint_steps(self._folder.parent)
            kept = f"the checkpoint of step {steps[-1]} is whole" if steps else "there is none yet"
            raise UserError(f"{unwritable(self._folder, error)}; {kept}") from None

    def scored(self, step: int, value: float) -> None:
        """Remembers the score of a step (lower is better) for the choice at the next save."""
        self._scores[step] = value

    def restore(self, abstract_state: Any) -> tuple[Any, dict] | None:
        """The newest checkpoint that is whole, on the shardings of `abstract_state`.

        A damaged one is passed over with a warning, and renamed. Returns (state, meta), or None
        where there is no checkpoint. Raises UserError where there are some and none can be read.
        """
        steps = self._agreed_steps()
        for passed_over, step in enumerate(steps):
            restored = self._attempt(step, abstract_state)
            if restored is not None:
                if passed_over:
                    self._set_aside(steps[:passed_over])
                return restored
        if steps:
            raise UserError(
                f"none of the checkpoints {steps} in {self._folder} can be read with this config; "
                "restore its model and optim settings, or use another --workdir"
            )
        return None

    def _agreed_steps(self) -> list[int]:
        """The steps there are, newest first, as process 0 sees them."""
        steps = sorted(self._manager.all_steps(), reverse=True)
        count = int(multihost_utils.broadcast_one_to_all(np.int32(len(steps))))
        mine = np.array([*steps, *[0] * count][:count], np.int32)
        return multihost_utils.broadcast_one_to_all(mine).tolist()

    def _attempt(self, step: int, abstract_state: Any) -> tuple[Any, dict] | None:
        """(state, meta) of a step; None where some process cannot read it or its bits differ."""
        problem = ""
        try:
            meta, known = unseal(_read_meta(self._folder / str(step)))
            state = _read_state(self._folder / str(step), abstract_state)
        except Exception as error:  # Orbax raises many kinds
            _raise_interrupt(error)
            _silence_other_arrays()
            problem = f"cannot be read ({brief(error)})"
        if not multihost_utils.process_allgather(np.array(not problem)).all():
            problem = problem or "cannot be read by another process"
        else:
            problem = _damage(state, known)
        if problem:
            log.warning("checkpoint of step %d %s", step, problem)
            return None
        return state, meta

    def _set_aside(self, steps: Sequence[int]) -> None:
        """Renames damaged checkpoints: kept for a look, out of the way of the steps to come."""
        if jax.process_index() == 0:
            for step in steps:
                aside = self._folder / f"damaged-{step}"
                aside.rmtree(missing_ok=True)  # the same step may be damaged twice
                (self._folder / str(step)).rename(aside)
        multihost_utils.sync_global_devices("damaged checkpoints are set aside")
        self._manager.reload()

    def close(self) -> None:
        """Waits for the last save. Raises UserError where it has failed."""
        with self._writing():
            self._manager.wait_until_finished()
        self._manager.close()


def _read_meta(folder: Place) -> dict:
    with contextlib.closing(ocp.JsonCheckpointHandler()) as handler:
        return handler.restore(folder / "meta", args=ocp.args.JsonRestore())


def _read_state(folder: Place, abstract_state: Any) -> Any:
    """The state of one checkpoint.

    Not by the manager, which makes the processes wait for each other after reading: one that cannot
    read its part would leave the others there.
    """
    with contextlib.closing(ocp.StandardCheckpointHandler()) as handler:
        return handler.restore(folder / "state", args=ocp.args.StandardRestore(abstract_state))


def _raise_interrupt(error: BaseException | None) -> None:
    """Raises the KeyboardInterrupt that an error wraps: it is no damage of what was read."""
    seen = set()  # errors may name each other
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, KeyboardInterrupt) or "KeyboardInterrupt" in str(error):
            raise KeyboardInterrupt from None
        error = error.__cause__ or error.__context__


class _WithoutOrbax(NamedTuple):
    """A hook for errors that nobody awaits, without those of Orbax."""

    before: Callable[[Any], object]

    def __call__(self, unraisable: Any) -> None:
        code = getattr(unraisable.object, "cr_code", None)  # of a coroutine
        orbax = code is not None and "orbax" in code.co_filename
        if not orbax and "Event loop is closed" not in str(unraisable.exc_value):
            self.before(unraisable)


def _silence_other_arrays() -> None:
    """When one array cannot be read or written, Orbax ends its event loop while others still are:
    each would print a trace. The first failure itself is raised."""
    if not isinstance(sys.unraisablehook, _WithoutOrbax):
        sys.unraisablehook = _WithoutOrbax(sys.unraisablehook)


def _damage(tree: Any, known: Mapping[str, int] | None) -> str:
    """What is wrong with a tree of arrays, "" if nothing or not known."""
    names = differing(tree, known) if known is not None else []
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"is damaged (other bits than were saved in {', '.join(names[:3])}{more})" * bool(names)


def _remove_halves(folder: Place) -> None:
    """Removes what a save that failed has left. Other writes of it may still go on, and make some
    of it anew: what is left then goes at the next start."""
    for _ in range(5):
        halves = list(folder.glob("*orbax-checkpoint-tmp*"))
        for half in halves:
            with contextlib.suppress(OSError):
                half.rmtree(missing_ok=True)
        if not halves:
            return
        time.sleep(0.05)


def _probed(folder: Place) -> OSError | None:
    """What keeps a small file from being written to a folder, None if nothing does."""
    probe = folder / f"probe-{os.getpid()}"
    try:
        probe.write_bytes(bytes(1 << 16))
    except OSError as error:
        return error
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
    return None


def _folder(workdir: str | os.PathLike) -> Place:
    return place(workdir) / "checkpoints"


def has_checkpoint(workdir: str | os.PathLike) -> bool:
    """Whether a run has a finished checkpoint."""
    return bool(checkpoint_steps(workdir))


def checkpoint_steps(workdir: str | os.PathLike) -> list[int]:
    """The steps of the finished checkpoints of a run, oldest first."""
    folder = _folder(workdir)
    return sorted(ocp.utils.checkpoint_steps(folder)) if folder.is_dir() else []


def latest_variables(workdir: str | os.PathLike) -> tuple[Any, int]:
    """(`variables_of_step`, step) of the newest checkpoint of a run that is whole.

    A damaged one is passed over with a warning. Raises UserError where there is no finished
    checkpoint, or none can be read.
    """
    steps = checkpoint_steps(workdir)
    if not steps:
        raise UserError(f"{workdir} has no checkpoint; is it the --workdir of a training run?")
    for step in reversed(steps):
        try:
            return variables_of_step(workdir, step), step
        except UserError as error:
            log.warning("%s", error)
    raise UserError(f"none of the checkpoints {steps} in {_folder(workdir)} can be read")


def variables_of_step(workdir: str | os.PathLike, step: int) -> Any:
    """{"params", "stats"} as numpy arrays of one checkpoint of a run; the optimizer is not read.

    The parameters are the averaged ones where an average was kept. Raises UserError where there is
    none of this step, or it is damaged.
    """
    steps = checkpoint_steps(workdir)
    if step not in steps:
        raise UserError(f"{workdir} has no checkpoint of step {step}; there are {steps}")
    folder = _folder(workdir) / str(step)
    try:
        _, known = unseal(_read_meta(folder))
        variables = _read_arrays(folder / "state", ("params", "stats", FOLLOWED[True]))
    except Exception as error:  # Orbax raises many kinds
        _raise_interrupt(error)
        _silence_other_arrays()
        raise UserError(f"the checkpoint of step {step} cannot be read ({brief(error)})") from None
    if damage := _damage(variables, known):
        raise UserError(f"the checkpoint of step {step} {damage}")
    average = variables.pop(FOLLOWED[True], {})
    variables.get("stats", {}).pop(CARRIED, None)
    return variables | {"params": grafted(variables["params"], average)}


def _read_arrays(folder: Place, keys: tuple[str, ...]) -> Any:
    """Those of the sub-trees `keys` that a saved tree has, as numpy arrays, whatever mesh they were
    saved on."""
    with ocp.PyTreeCheckpointer() as checkpointer:
        found = checkpointer.metadata(folder).item_metadata
        if found is None:
            raise FileNotFoundError(f"a part of {folder} is missing")
        tree = found.tree
        one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        target = jax.tree.map(
            lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=one),
            {key: tree[key] for key in keys if key in tree},
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


def export_model(folder: str | os.PathLike, variables: Any, config: dict) -> None:
    """Writes FOLDER/params (Orbax: params and stats) and FOLDER/config.json."""
    folder = place(folder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        # removed first and written last: a folder with a config is a complete one
        (folder / "config.json").unlink(missing_ok=True)
    _silence_other_arrays()
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(folder / "params", variables, force=True)
    except Exception as error:  # Orbax raises many kinds
        _remove_halves(folder)
        if not (is_full(error) or isinstance(error, OSError)):
            raise
        raise unwritable(folder / "params", error) from None
    config = config | {"digests": digests(variables)}
    write_whole(folder / "config.json", json.dumps(config, indent=2) + "\n")


def load_exported(folder: str | os.PathLike) -> tuple[Any, dict]:
    """(variables as numpy arrays, config) of `export_model`. Raises UserError for a folder that is
    no exported model, or a damaged one."""
    folder = place(folder)
    remedy = "write one with python -m w2v_jax.export --workdir=RUN --output=FOLDER"
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{folder} is not an exported model ({brief(error)}); {remedy}") from None
    if not isinstance(config, dict) or "kind" not in config:
        raise UserError(f"{folder} is not an exported model: its config.json has no kind; {remedy}")
    try:
        variables = _read_arrays(folder / "params", ("params", "stats"))
    except Exception as error:  # Orbax raises many kinds
        _raise_interrupt(error)
        _silence_other_arrays()
        raise UserError(f"{folder}/params cannot be read: {brief(error)}") from None
    known = config.pop("digests", None)
    if known is not None and not isinstance(known, dict):
        raise UserError(f"{folder}/config.json: digests is no JSON object; export the model again")
    if damage := _damage(variables, known):
        raise UserError(f"{folder}/params {damage}; export or convert the model again")
    return variables, config
