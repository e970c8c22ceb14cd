"""What decides the numbers of a run, and what its model is, in WORKDIR/config.json."""

import json
from collections.abc import Mapping
from typing import Any

from w2v_jax.errors import UserError, brief
from w2v_jax.keys.check import shown
from w2v_jax.places import place, write_whole
from w2v_jax.training.checkpoint import has_checkpoint

# parts of a config that decide no number beyond rounding: where, how fast, how often, how long
FREE = ("run", "execution")
WRITTEN = ("metrics.jsonl", "parameters.txt")  # by a run, besides
# of config.data: names; the digest of what they hold is in checkpoints
FILES = ("train", "valid", "unlabelled", "labelled")


def settings_of(config) -> dict[str, Any]:
    """The part of a config that decides the numbers of a run, as plain JSON: all but config.run,
    config.execution and the names of files."""
    settings = {k: v for k, v in json.loads(config.to_json()).items() if k not in FREE}
    settings["data"] = {k: v for k, v in settings["data"].items() if k not in FILES}
    return settings


def _flat(settings: Mapping[str, Any], described: Mapping[str, Any]) -> dict[str, Any]:
    """What must stay: the settings, and what the model is besides them (an alphabet, say)."""
    whole = {k: v for k, v in described.items() if k not in FREE} | dict(settings)
    return _flatten(json.loads(json.dumps(whole)))


def check_unchanged(
    workdir: str, settings: Mapping[str, Any], described: Mapping[str, Any]
) -> None:
    """Refuses to continue a run under other settings. Raises UserError naming the changed keys."""
    if not has_checkpoint(workdir):
        return
    if not (place(workdir) / "config.json").exists():
        raise UserError(
            f"--workdir={workdir} has checkpoints, but no config.json that says what they are of; "
            "put it back, or use another --workdir"
        )
    old, new = _flat(**read_settings(workdir)), _flat(settings, described)
    # an empty value is what a key that came later means for the runs before it
    changed = [key for key in sorted(old | new) if old.get(key, "") != new.get(key, "")]
    changed = ["kind"] if "kind" in changed else changed  # nothing else is comparable then
    if changed:
        lines = [
            f"  {key}: {shown(old.get(key))} -> {shown(new.get(key))}" for key in changed[:10]
        ] + [f"  and {len(changed) - 10} more"] * (len(changed) > 10)
        raise UserError(
            f"{workdir} was started with another config:\n" + "\n".join(lines)
            + "\nuse another --workdir, or the old values"
        )  # fmt: skip


def write_settings(
    workdir: str, settings: Mapping[str, Any], described: Mapping[str, Any]
) -> None:
    """Writes them; those of a run that goes on are the same but for its execution.

    Raises UserError for a folder that cannot be written, and for one of something else.
    """
    path = place(workdir) / "config.json"
    if path.exists():
        read_settings(workdir)
    for name in () if path.exists() else WRITTEN:
        if (path.parent / name).exists():
            raise UserError(
                f"--workdir={workdir} holds {name}, but no config.json of a run; use another "
                "--workdir"
            )
    content = {"settings": dict(settings), "described": dict(described)}
    write_whole(path, json.dumps(content, indent=2) + "\n")


def read_settings(workdir: str) -> dict[str, dict[str, Any]]:
    """{"settings", "described"} of a run. Raises UserError for a folder that is none, and where it
    cannot be read."""
    path = place(workdir) / "config.json"
    try:
        text = path.read_text()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{workdir} is not the --workdir of a training run: no {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({brief(error)}); use another --workdir") from None
    try:
        content = json.loads(text)
        found = {key: content[key] for key in ("settings", "described")}
        _flat(**found)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(
            f"{path} does not describe a training run, or is damaged; use another --workdir"
        ) from None
    return found


def _flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(tree, dict):
        return {k: v for key, x in tree.items() for k, v in _flatten(x, f"{prefix}.{key}").items()}
    return {prefix.lstrip("."): tree}
