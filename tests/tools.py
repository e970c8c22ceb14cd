"""`python -m w2v_jax.TOOL` in a process of its own which need not import JAX first: it is forked
from one that has. Two seconds less for each, of which there are hundreds; how a tool starts by
itself is what tests/commands/test_interrupt.py and others see."""

import atexit
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from subprocess import CompletedProcess

ROOT = Path(__file__).parents[1]
SERVER = '''
import json, os, runpy, signal, sys, traceback

import grain, jax, optax, orbax.checkpoint
import w2v_jax.decoding.recognition, w2v_jax.interop.checkpoints, w2v_jax.tasks
import w2v_jax.training.loop


def serve(order):
    """As a process that is started anew: streams, environment, arguments, status."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.dup2(os.open(order[name], os.O_RDONLY if not number else os.O_WRONLY), number)
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["folder"])
    sys.argv = [order["module"], *order["arguments"]]
    sys.path[0] = order["folder"]
    status = 0
    signal.alarm(280)
    try:
        runpy.run_module(order["module"], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = end.code
        if status is None or isinstance(status, str):
            print(status, file=sys.stderr) if status else None
            status = int(bool(status))
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


for line in sys.stdin:
    if not (child := os.fork()):
        serve(json.loads(line))
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
'''
_servers: dict[int, subprocess.Popen] = {}  # by process: a fork of this one has none


def _server() -> subprocess.Popen:
    here = os.getpid()
    if here not in _servers:
        _servers[here] = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", SERVER], cwd=ROOT, text=True,
            env=os.environ | {"XLA_FLAGS": one_device()}, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )  # fmt: skip
        atexit.register(_servers[here].kill)
    return _servers[here]


def one_device() -> str:
    """The XLA flags of the tests, for one device instead of eight."""
    return os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")


def tool(
    name: str, *arguments: object, status: int = 0, folder: str | os.PathLike = ROOT,
    given: bytes = b"", environment: Mapping[str, str] | None = None,
) -> CompletedProcess:  # fmt: skip
    """`python -m w2v_jax.NAME ARGUMENTS` on one device, with `given` as standard input: it must end
    with `status`, and in no traceback. What it printed is text."""
    server = _server()
    with tempfile.TemporaryDirectory() as streams:
        paths = {kind: f"{streams}/{kind}" for kind in ("stdin", "stdout", "stderr")}
        for kind, path in paths.items():
            Path(path).write_bytes(given if kind == "stdin" else b"")
        order = paths | {
            "module": f"w2v_jax.{name}", "arguments": [str(x) for x in arguments],
            "folder": os.fspath(folder),
            "environment": os.environ | {"XLA_FLAGS": one_device()} | dict(environment or {}),
        }  # fmt: skip
        server.stdin.write(json.dumps(order) + "\n")
        server.stdin.flush()
        ended = server.stdout.readline()
        assert ended, "the process that tools are forked from has ended"
        printed = [Path(paths[kind]).read_text() for kind in ("stdout", "stderr")]
    assert int(ended) == status, "".join(printed)
    assert "Traceback" not in printed[1], printed[1]
    return CompletedProcess([name, *order["arguments"]], status, *printed)


def said(name: str, *arguments: object, **options) -> str:
    """All that a tool printed; see `tool`."""
    found = tool(name, *arguments, **options)
    return found.stdout + found.stderr
