"""What all entry points share: flags, logging, errors without stack traces."""

import logging
import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence

import jax
from absl import app, flags
from ml_collections import config_flags

from w2v_jax import config_flag, usage
from w2v_jax.config_files import with_located
from w2v_jax.errors import UserError, brief
from w2v_jax.places import is_storage, unwritable
from w2v_jax.stopping import PREEMPTED, stop
from w2v_jax.training.distributed import initialize


def run(main: Callable[[list[str]], None]) -> None:
    """Parses the flags and calls main(argv). A UserError ends with `error: ...` and status 2."""

    def guarded(argv: list[str]) -> None:
        setup_logging()
        try:
            _check_named()
            main(argv)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        except BrokenPipeError:  # of `| head`: what is still printed at exit goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except OSError as error:
            if not is_storage(error):
                raise
            where = error.filename or "a file of the output"
            print(f"error: {unwritable(where, error)}", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            print("\ninterrupted", file=sys.stderr, flush=True)
            for child in multiprocessing.active_children():
                child.kill()
            # a regular end while XLA compiles is a segmentation fault
            os._exit(130)

    def parse(argv: list[str]) -> list[str]:
        argv = with_located(argv)
        try:
            if usage.asked_for(argv):
                print(usage.page(argv))
                sys.exit(0)
            return flags.FLAGS(argv)
        except Exception as error:  # a file of --config may raise whatever it likes
            message = config_flag.complaint(argv) or brief(error)
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)

    app.run(guarded, flags_parser=parse)


def _check_named() -> None:
    """Raises UserError for a required flag, or one of several values, that is empty: a variable
    that is not set, say."""
    for name in flags.FLAGS:
        flag = flags.FLAGS[name]
        required = any("other than None" in validator.message for validator in flag.validators)
        several = flag.value or () if isinstance(flag, flags.MultiFlag) else ()
        if (required and flag.value == "") or "" in several:
            raise UserError(f"--{name} is empty; name a folder or file (. is the current folder)")


def run_training(main: Callable[..., object]) -> None:
    """An entry point with --config and --workdir; calls main(config, workdir)."""
    config_flags.DEFINE_config_file(
        "config", None, "a file of configs/, with its argument after a colon"
    )
    workdir = flags.DEFINE_string("workdir", None, "folder for checkpoints, metrics and exports")
    flags.mark_flags_as_required(["config", "workdir"])
    flags.DEFINE_enum(
        "distributed", "auto", ("auto", "on", "off"),
        "train together with the other processes of the job that JAX detects (TPU slice, SLURM, "
        "...); auto: where SLURM or Open MPI started several",
    )  # fmt: skip
    flags.DEFINE_string("coordinator_address", "", "where none is detected: HOST:PORT of process 0")
    flags.DEFINE_integer("num_processes", 0, "and how many there are", 0)
    flags.DEFINE_integer("process_id", -1, "and which this is, from 0 on", -1)

    def start(argv: list[str]) -> None:
        no_arguments(argv)
        values = config_flag.given_config()
        given = flags.FLAGS
        try:
            initialize(
                given.distributed, given.coordinator_address, given.num_processes, given.process_id
            )
        except RuntimeError as error:
            # a machine that comes late is no fault of the command: the launcher tries again
            reason = str(error).splitlines()[0]
            print(f"error: the processes did not come together: {reason}", file=sys.stderr)
            sys.exit(PREEMPTED)
        setup_logging()
        alone = jax.process_count() == 1
        try:
            main(values, workdir.value)
        except SystemExit as end:
            # all is saved; a regular end would wait for the threads that still wait for a file
            if alone and end.code == PREEMPTED:
                stop.leave()
            raise
        except (Exception, KeyboardInterrupt) as error:
            if alone:
                raise
            # the others wait in a computation: a regular end of this process would wait for them
            if isinstance(error, UserError):
                print(f"error: {error}", file=sys.stderr, flush=True)
                os._exit(2)
            traceback.print_exc()
            os._exit(130 if isinstance(error, KeyboardInterrupt) else 1)
        finally:
            stop.finish()

    run(start)


def define_number(
    name: str, default: float | None, about: str, low: float, high: float, *, above: bool = False
) -> None:
    """A flag with a number from `low` (with `above`: beyond it) to `high`; nan is none."""
    flags.DEFINE_float(name, default, about)

    def takes(value: float | None) -> bool:
        return value is None or ((low < value if above else low <= value) and value <= high)

    ends = f"above {low:g}, at most {high:g}" if above else f"from {low:g} to {high:g}"
    flags.register_validator(name, takes, f"it must be a number {ends}")


def define_overwrite() -> None:
    """The leave to replace files that a command cannot know as its own."""
    flags.DEFINE_boolean("overwrite", False, "replace files that are there; audio never is")


def no_arguments(argv: list[str]) -> None:
    """Raises UserError for words that are no flags."""
    if len(argv) > 1:
        raise UserError(f"unknown arguments {argv[1:]}; flags begin with --")


def chosen(
    argv: list[str], tool: str, needs: Mapping[str, Sequence[str]], what: str = "is done"
) -> str:
    """The word after the tool's name, one of `needs`. Raises UserError for another one, for more,
    and for one of the flags that it needs, {word: names}, without a value."""
    if len(argv) != 2 or argv[1] not in needs:
        words = ", ".join(needs)
        raise UserError(f"name what {what}, one of {words}, and nothing else: {argv[1:]}")
    for name in needs[argv[1]]:
        if not flags.FLAGS[name].value:
            raise UserError(f"{tool} {argv[1]} needs --{name}, {flags.FLAGS[name].help}")
    return argv[1]


def setup_logging() -> None:
    """Our own messages from INFO on, those of the libraries from WARNING on, in plain words."""
    where = f"process {jax.process_index()}: " if jax.distributed.is_initialized() else ""
    logging.basicConfig(
        format=f"%(levelname)s: {where}%(message)s", level=logging.WARNING, force=True
    )
    logging.getLogger("w2v_jax").setLevel(logging.INFO)
    # what Orbax, and the event loop it uses, log as errors with a trace they raise as well
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)


def enable_compilation_cache(workdir: str = "") -> None:
    """Compiled programs, and what XLA found to be the fastest kernels of a GPU, are kept in
    JAX_COMPILATION_CACHE_DIR. By default that is WORKDIR/compiled for a training on accelerators,
    which may go on on another machine, and ~/.cache/w2v_jax for all else."""
    folder, platform = os.path.expanduser("~/.cache/w2v_jax"), jax.default_backend()
    # GPUs write there by XLA, which knows no buckets
    if workdir and (platform == "tpu" or (platform != "cpu" and "://" not in workdir)):
        folder = f"{workdir.rstrip('/')}/compiled"
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR", folder)
    jax.config.update("jax_compilation_cache_dir", folder)
    least = os.environ.get("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", float(least))
