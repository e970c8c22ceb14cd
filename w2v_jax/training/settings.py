"""The settings that decide the numbers of a run, kept in WORKDIR/config.json."""

import json
from collections.abc import Mapping
from typing import Any

from w2v_jax.errors import UserError
from w2v_jax.places import place, write_whole
from w2v_jax.training.checkpoint import has_checkpoint

LONGEST = 200  # letters of a value that are shown: a vocabulary has more


def check_unchanged(workdir: str, settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Refuses to continue a run under other settings (those that decide its numbers).

    defaults: values of keys that a run of an earlier version may lack. Raises UserError naming the
    changed keys.
    """
    path = place(workdir) / "config.json"
    if path.exists() and has_checkpoint(workdir):
        old, new, usual = (
            _flatten(json.loads(text))
            for text in (path.read_text(), json.dumps(settings), json.dumps(defaults))
        )
        old = {key: usual[key] for key in usual if key in new} | old
        changed = [key for key in sorted(old | new) if old.get(key) != new.get(key)]
        if changed:
            lines = [
                f"  {key}: {_shown(old.get(key))} -> {_shown(new.get(key))}" for key in changed[:10]
            ]
            raise UserError(
                f"{workdir} was started with another config:\n" + "\n".join(lines)
                + "\nuse another --workdir, or the old values"
            )  # fmt: skip


def write_settings(workdir: str, settings: Mapping[str, Any]) -> None:
    """Writes them, over others as long as nothing was trained with those.

    Raises UserError for a folder that cannot be written.
    """
    path = place(workdir) / "config.json"
    if path.exists() and has_checkpoint(workdir):
        return
    try:
        write_whole(path, json.dumps(settings, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"--workdir={workdir} cannot be written: {error.strerror}") from None


def _flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(tree, dict):
        return {k: v for key, x in tree.items() for k, v in _flatten(x, f"{prefix}.{key}").items()}
    return {prefix.lstrip("."): tree}


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
