"""A trace of some updates, to see where their time goes."""

import contextlib
import logging
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import jax

from w2v_jax.errors import UserError
from w2v_jax.places import is_remote, place

log = logging.getLogger(__name__)


class Profile:
    """Traces the updates FIRST to LAST, both included, into FOLDER/profile.

        with Profile("100:105", workdir) as profile:
            for step in range(start + 1, num_steps + 1):
                profile.before(step)
                state, metrics = train_step(state, batch)
                profile.after(step, metrics)

    An empty value switches it off. The trace begins when all earlier updates have left the device
    and ends when update LAST has, or with the loop, however that ends. A run that continues inside
    the window traces the rest of it. Raises UserError for a value that is no window.
    """

    def __init__(self, value: str, folder: str):
        self._first, self._last = _window(value)
        self._value = value
        self._folder = place(folder or os.curdir) / "profile"  # "": nothing is traced
        self._local = None  # where the profiler writes, which knows no buckets
        self._running = False
        self._over = not value
        self._result = None  # of the last update, which may still be on the device
        self._annotation = contextlib.ExitStack()

    def __enter__(self) -> "Profile":
        return self

    def before(self, step: int) -> None:
        """To be called before update `step`, and before its batch if that shall be in the trace."""
        if self._over or step < self._first:
            return
        if step > self._last:
            self._over = True
            log.warning(
                "--config.run.profile_steps=%s: nothing is traced, the run is at update %d already",
                self._value, step,
            )  # fmt: skip
            return
        if not self._running:
            jax.block_until_ready(self._result)
            remote = is_remote(self._folder)
            self._local = Path(tempfile.mkdtemp()) if remote else self._folder
            jax.profiler.start_trace(self._local)
            self._running = True
        # what the viewers call a step
        self._annotation.enter_context(jax.profiler.StepTraceAnnotation("train", step_num=step))

    def after(self, step: int, result: Any) -> None:
        """To be called after update `step` with an array (or tree of arrays) it computes."""
        if self._over:
            return
        self._annotation.close()
        self._result = result
        if self._running and step >= self._last:
            self._stop()

    def __exit__(self, kind: type | None, *_) -> None:
        self._annotation.close()
        if self._running:
            self._stop()
        elif not self._over and kind is None:
            log.warning(
                "--config.run.profile_steps=%s: nothing was traced, the run ended before",
                self._value,
            )  # fmt: skip

    def _stop(self) -> None:
        self._running, self._over = False, True
        try:
            jax.block_until_ready(self._result)
        finally:
            self._result = None
            jax.profiler.stop_trace()
            if self._local is not self._folder:
                self._upload()
        log.info(
            "a trace of the updates %s is in %s: pip install xprof, xprof --logdir=%s (or "
            "TensorBoard with the plugin of xprof), or open its *.trace.json.gz in "
            "https://ui.perfetto.dev", self._value, self._folder, self._folder,
        )  # fmt: skip

    def _upload(self) -> None:
        for path in self._local.rglob("*"):
            if path.is_file():
                target = self._folder / path.relative_to(self._local)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
        shutil.rmtree(self._local)


def _window(value: str) -> tuple[int, int]:
    if not value:
        return 0, 0
    match = re.fullmatch(r"([0-9]+):([0-9]+)", value)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(
            f"--config.run.profile_steps={value} is no window of updates; write FIRST:LAST, both "
            "included and counted from 1, e.g. 100:105, or nothing to trace nothing"
        )
    return int(match[1]), int(match[2])
