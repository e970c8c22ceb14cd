"""The one door to trained models: our exports, runs, directories of transformers, files of fairseq.

Whatever a path holds, (variables, config) come out as `training.checkpoint.export_model` takes
them, and are known to fit each other.
"""

import json
import logging
import os
from typing import Any

from w2v_jax.errors import UserError, brief, some
from w2v_jax.interop import fairseq, huggingface
from w2v_jax.interop.exported import check_model
from w2v_jax.places import Place, is_remote, place
from w2v_jax.training.checkpoint import (
    checkpoint_steps,
    latest_variables,
    load_exported,
    variables_of_step,
)
from w2v_jax.training.settings import read_settings

log = logging.getLogger(__name__)
FORMS = ("run", "orbax", "huggingface", "fairseq")
TAKEN = "an export, the --workdir of a run, a directory of transformers or a .pt file of fairseq"
# what to do where a model of this kind is needed and there is another
REMEDIES = {
    "ctc": "fine-tune it first (python -m w2v_jax.finetune, with --config.run.init_from={path})",
    "language": "train one with python -m w2v_jax.train_lm",
}


def load(
    path: str | os.PathLike,
    kind: str | None = None,
    *,
    form: str = "",
    language: str = "",
    ignore_unknown: bool = False,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(variables as numpy arrays, config) of the model in `path`.

    kind: of the model, "ctc" say, where only one will do. form: of FORMS what `path` is, seen from
    what it holds if ''. Of a run the newest checkpoint is read, or one by its own path,
    RUN/checkpoints/STEP; where it has none, the export in it. language: of an MMS model of
    transformers. ignore_unknown: accepts tensors of others that have no place.

    Raises UserError where there is no model, one of another kind, a damaged one, or one whose
    arrays are not those that its config describes.
    """
    path = os.fspath(path)
    path = path.rstrip("/") or path
    form = form or form_of(path)
    if form == "run":
        return of_run(path, kind=kind)
    if form == "orbax":
        _check_kind(path, _config(place(path)).get("kind", kind), kind)
        variables, config = load_exported(path)
        check_model(variables, config, path)
        return variables, config
    if is_remote(path):
        raise UserError(f"{path}: models of others are read from local disks; copy it here first")
    try:
        if form == "huggingface":
            _check_kind(path, huggingface.model_kind(_config(place(path))), kind)
            variables, config = huggingface.read(path, language, ignore_unknown=ignore_unknown)
        else:
            variables, config = fairseq.read(path, ignore_unknown=ignore_unknown)
            _check_kind(path, config["kind"], kind)
    except UserError as error:
        raise UserError(str(error) if path in str(error) else f"{path}: {error}") from None
    log.info("%s: a %s model of %s, converted while it is read", path, config["kind"], form)
    return variables, config


def of_run(
    workdir: str, step: int | None = None, *, kind: str | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The newest whole checkpoint of a run, or that of a step, with the step in the config."""
    folder, name = os.path.split(workdir)
    if os.path.basename(folder) == "checkpoints" and name.isdecimal():
        workdir, step = os.path.dirname(folder), int(name)
    elif name == "checkpoints":
        workdir = folder
    described = read_settings(workdir)["described"]
    _check_kind(workdir, described.get("kind"), kind)
    if step is None and not checkpoint_steps(workdir):
        export = f"{workdir}/export"
        if not (place(export) / "config.json").exists():
            raise UserError(
                f"{workdir} is a run without a checkpoint; it saves one every "
                "--config.run.save_steps and at its end: run the same command again"
            )
        log.info("%s has no checkpoint: its export is read, %s", workdir, export)
        return load(export, kind)
    if step is None:
        variables, step = latest_variables(workdir)
    else:
        variables = variables_of_step(workdir, step)
    log.info("%s: the model of the run's checkpoint of step %d", workdir, step)
    check_model(variables, described, workdir)
    return variables, described | {"step": step}


def form_of(path: str) -> str:
    """Which of FORMS a path is. Raises UserError for none of them."""
    try:
        return _form_of(path, place(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {brief(error)}") from None


def _form_of(path: str, where: Place) -> str:
    if where.is_file():
        _check_file(path)
        return "fairseq"
    if _within_run(where):
        return "run"
    if not where.is_dir():
        raise UserError(f"{path} does not exist; a checkpoint is {TAKEN}")
    if not (where / "config.json").exists():
        raise UserError(f"{path} is no checkpoint: {_why_not(where)}")
    keys = set(_config(where))
    for form, marks in (
        ("run", {"settings", "described"}), ("orbax", {"kind"}), ("orbax", {"w2v_jax"}),
        ("huggingface", {"model_type"}),
    ):  # fmt: skip
        if marks <= keys:
            return form
    raise UserError(
        f"{path} is no checkpoint: its config.json is of something else, with the keys "
        f"{some(sorted(keys)) or 'none'}; a checkpoint is {TAKEN}"
    )


def _within_run(where: Place) -> bool:
    """Whether a path is RUN/checkpoints or RUN/checkpoints/STEP."""
    if where.name.isdecimal():
        where = where.parent
    run = where.name == "checkpoints" and not (where / "config.json").exists()
    return run and (where.parent / "config.json").exists()


def _check_kind(path: str, found: Any, wanted: str | None) -> None:
    if wanted is None or found == wanted:
        return
    remedy = REMEDIES.get(wanted, "use another")
    if wanted == "ctc" and found == "language":
        remedy = "use another"
    raise UserError(
        f"{path} holds a model of the kind {found}; one of the kind {wanted} is needed here: "
        + remedy.format(path=path)
    )


def _check_file(path: str) -> None:
    """Raises UserError for a file that cannot be one of torch: a zip archive or a pickle."""
    folder, name = os.path.split(path)
    if name.endswith((".safetensors", ".json", "pytorch_model.bin")):
        raise UserError(f"{path} is a part of a model; name its folder, {folder or os.curdir}")
    with place(path).open("rb") as file:
        head = file.read(2)
    if head not in (b"PK",) and head[:1] != b"\x80":
        raise UserError(f"{path} is no checkpoint; a checkpoint is {TAKEN}")


def _config(where: Place) -> dict[str, Any]:
    """The object in a folder's config.json, {} for other JSON."""
    try:
        content = json.loads((where / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{where}/config.json cannot be read ({brief(error)}); export or download the model "
            "again"
        ) from None
    return content if isinstance(content, dict) else {}


def _why_not(where: Place) -> str:
    """What a folder without a config.json lacks."""
    names = sorted(child.name for child in where.iterdir())
    if not names:
        return f"the folder is empty; a checkpoint is {TAKEN}"
    if "params" in names:
        return (
            "its config.json is gone, or was never written: an export writes it last; export again"
        )
    if "checkpoints" in names:
        return (
            "the config.json beside its checkpoints is gone, which says how the model is built; "
            "put it back, or that of another run of the same config"
        )
    if "snapshots" in names:
        revisions = sorted(str(child) for child in (where / "snapshots").iterdir())
        return f"it is a cache of the hub; name the revision in it, {some(revisions, 2)}"
    inside = [name for name in names if name.endswith(".pt")]
    inside += [name for name in names if (where / name / "config.json").exists()]
    if inside:
        return f"it holds {some(inside, 3)}; name one of these, as {where / inside[0]}"
    return f"it holds no config.json but {some(names, 3)}; a checkpoint is {TAKEN}"
