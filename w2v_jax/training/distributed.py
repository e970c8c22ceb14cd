"""Several processes that train together, through `jax.distributed`."""

import os
import re
import sys

import jax
import numpy as np
from jax.experimental import multihost_utils

from w2v_jax.errors import UserError

# where launchers tell the number of processes of a job
_COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")


def initialize(mode: str = "auto", address: str = "", count: int = 0, index: int = -1) -> None:
    """Joins the other processes; must be called before JAX is used.

    mode: "on": join as JAX's cluster detection says (Cloud TPU, SLURM, Open MPI, Kubernetes);
    "auto": the same where SLURM or Open MPI started several processes, otherwise alone; "off":
    alone. address (HOST:PORT of process 0), count and index: join as said here; all three or none.
    The output of all processes but the first is dropped, their log is not. Raises UserError where
    it is not said how to join, and RuntimeError where the others do not come.
    """
    explicit = (bool(address), count > 0, index >= 0)
    if any(explicit) and not all(explicit):
        raise UserError(
            "--coordinator_address=HOST:PORT, --num_processes=N and --process_id=I belong together"
        )
    if address and not re.fullmatch(r".+:[0-9]+", address):
        raise UserError(f"--coordinator_address={address} must be HOST:PORT")
    found = max(int(os.environ.get(name, 1)) for name in _COUNTS)
    if mode == "off" or (mode == "auto" and found < 2 and not address):
        return
    try:
        if address:
            jax.distributed.initialize(address, count, index)
        else:
            jax.distributed.initialize()
    except ValueError as error:
        raise UserError(
            f"no other processes are known ({str(error).splitlines()[0]}); set "
            "--coordinator_address=HOST:PORT --num_processes=N --process_id=I, or --distributed=off"
        ) from None
    if jax.process_index():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the end


def is_first() -> bool:
    """Whether this process is the one that prints and writes what is written once."""
    return jax.process_index() == 0


def from_first(value: int) -> int:
    """What the first process passed, on all of them."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))
