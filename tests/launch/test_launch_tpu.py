"""tpu_vm.sh and worker.sh; `gcloud` is a stand-in whose machines are folders, all else is real."""

import json
import os
import shlex
import shutil
import subprocess

import pytest

from tests.launch.launch_sandbox import TPU, Sandbox

# a slice of two workers, which are folders; with PREEMPT it is taken away once both are training
GCLOUD = """#!/bin/bash
cd "$CLOUD"
echo "$*" >>calls
case "$*" in
*"queued-resources create"*) mkdir w0 w1 && echo ACTIVE >state ;;
*"queued-resources describe"*)
  [ -e state ] || { echo "ERROR: NOT_FOUND: not there" >&2; exit 1; }
  if [ -n "$PREEMPT" ] && [ ! -e preempted ] && [ -e "$CALLS/w0-0.ready" ] &&
    [ -e "$CALLS/w1-0.ready" ]; then
    touch preempted
    for pid in $(sed 's/.*"pid": //; s/}//' "$CALLS"/w?-0); do kill -KILL "$pid"; done
    for worker in w0 w1; do flock "$worker/w2v_jax/runs/worker/lock" true; done
    rm -r w0 w1 && echo SUSPENDED >state
  fi
  cat state ;;
*"queued-resources delete"*) rm -rf w0 w1 state ;;
*"tpu-vm describe"*) echo READY ;;
*"tpu-vm scp"*) for worker in w0 w1; do cp "$5" "$worker/${6#*:}"; done ;;
*"tpu-vm ssh"*)
  for word in "$@"; do case "$word" in --command=*) command="${word#*=}" ;; esac; done
  for worker in w0 w1; do (cd "$worker" && bash -c "$command") || exit; done ;;
esac
"""


@pytest.fixture
def sandbox(tmp_path):
    return Sandbox(tmp_path)


@pytest.fixture
def cloud(sandbox, tmp_path):
    (tmp_path / "cloud").mkdir()
    sandbox.program("gcloud", GCLOUD)
    sandbox.program("sudo", "#!/bin/bash\nexit 1\n")
    sandbox.environment |= TPU | {"CLOUD": str(tmp_path / "cloud"), "POLL": "0.2"}
    for words in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", *words], cwd=sandbox.root, check=True)
    yield tmp_path / "cloud"
    for path in sandbox.calls_to.glob("w?-0"):
        for line in path.read_text().splitlines():
            subprocess.run(["kill", "-KILL", str(json.loads(line)["pid"])], stderr=-3, check=False)


def verbs(cloud):
    """What gcloud was asked for, without the looks."""
    lines = (cloud / "calls").read_text().splitlines()
    names = {
        "-resources create": "create", "-resources delete": "delete", "tpu-vm scp": "copy",
        "worker.sh setup": "setup",
        "worker.sh start": "start", "worker.sh log": "log",
    }  # fmt: skip
    return [name for line in lines for word, name in names.items() if word in line]


def test_babysit_survives_a_preemption_and_a_crash(sandbox, cloud):
    """Waits on the first slice, which is taken away; then 75, a crash, and the end."""
    output = sandbox.run(
        "tpu_vm.sh", "babysit", "fake", "--workdir=gs://b/it's", PLAN="wait 75 1 0",
        PREEMPT="1", SPOT="1",
    )  # fmt: skip
    once = ["create", "copy", "setup", "start"]
    assert verbs(cloud) == [*once, "delete", *once, "start", "log"], output
    for worker in ("w0", "w1"):
        # a 75 is started again by the worker itself
        assert sandbox.calls_of(worker) == [["--distributed=on", "--workdir=gs://b/it's"]] * 4
    assert "it costs until" in output
    assert "0 0" in output


def test_babysit_does_not_repeat_an_error_of_the_user(sandbox, cloud):
    sandbox.run("tpu_vm.sh", "babysit", "fake", PLAN="2", DELETE="1", status=2)
    assert verbs(cloud) == ["create", "copy", "setup", "start", "log", "delete"]


def test_a_2_of_one_worker_is_no_error_of_the_user(sandbox, cloud):
    """It did not find the others, say: they see an error of the user, too."""
    sandbox.run("tpu_vm.sh", "babysit", "fake", PLAN="1,2 0")
    assert verbs(cloud).count("start") == 2


def test_babysit_takes_no_earlier_run_for_its_own(sandbox, cloud):
    for words in (["create"], ["setup"], ["run", "fake", "--old"]):
        sandbox.run("tpu_vm.sh", *words, PLAN="0 0")
    for _ in range(50):
        if sandbox.run("tpu_vm.sh", "status").split() == ["READY", "0", "0"]:
            break
    sandbox.run("tpu_vm.sh", "babysit", "fake", "--new", PLAN="0 0")
    assert sandbox.calls_of("w1") == [["--distributed=on", "--old"], ["--distributed=on", "--new"]]


def test_babysit_gives_up_on_crashes(sandbox, cloud):
    sandbox.run("tpu_vm.sh", "babysit", "fake", PLAN="1 1 1 1 1", MAX_FAILURES="2", status=1)
    assert verbs(cloud).count("start") == 3


def test_a_run_on_a_slice_is_detached_and_can_be_stopped(sandbox, cloud):
    """The commands one by one; `run` comes back although the training holds on."""
    plan = {"PLAN": "wait"}
    for words in (["create"], ["setup"], ["run", "fake"]):
        sandbox.run("tpu_vm.sh", *words, **plan)
    sandbox.ready(2)
    assert sandbox.run("tpu_vm.sh", "status").split() == ["READY", "running", "running"]
    assert "a run is under way" in sandbox.run("tpu_vm.sh", "run", "fake", status=2, **plan)
    sandbox.run("tpu_vm.sh", "stop")
    assert sandbox.run("tpu_vm.sh", "status").split() == ["READY", "75", "75"]
    (cloud / "w1/w2v_jax/runs/worker/status").unlink()  # as after a reboot
    assert sandbox.run("tpu_vm.sh", "status").split() == ["READY", "75", "lost"]
    sandbox.run("tpu_vm.sh", "delete")
    assert sandbox.run("tpu_vm.sh", "status").strip() == "NONE"


def test_a_network_that_is_down_creates_no_slice(sandbox, cloud):
    program = '#!/bin/bash\necho "$*" >>"$CLOUD/calls"\necho "no route" >&2\nexit 1\n'
    sandbox.program("gcloud", program)
    process = sandbox.begin("tpu_vm.sh", "babysit", "fake")
    lines = [process.stdout.readline().split()[-1] for _ in range(4)]
    process.kill()
    process.communicate()
    assert lines == ["route", "UNREACHABLE"] * 2
    assert verbs(cloud) == []


def test_babysit_asks_again_for_a_slice_but_not_for_ever(sandbox, cloud):
    sandbox.program("gcloud", GCLOUD.replace("mkdir w0 w1", "false"))
    sandbox.run("tpu_vm.sh", "babysit", "fake", MAX_FAILURES="2", status=1)
    assert verbs(cloud)[:3] == ["create"] * 3


def test_commands_for_a_slice(sandbox):
    (create, *_) = sandbox.dry("tpu_vm.sh", "create", SPOT="1", PROJECT="p", **TPU)
    assert "--spot" in create
    assert {"--zone=us-west4-a", "--project=p"} <= set(create)
    assert "--runtime-version=v2-alpha-tpuv5-lite" in create
    cache = {"JAX_COMPILATION_CACHE_DIR": "gs://c"}
    babysit = sandbox.dry("tpu_vm.sh", "babysit", "fake", **cache, **TPU)
    (start,) = [words for words in babysit if "start" in words[-2]]
    assert "--worker=all" in start
    assert start[-2].endswith(
        "JAX_COMPILATION_CACHE_DIR=gs://c launch/worker.sh start fake --distributed=on"
    )


@pytest.mark.skipif(
    not shutil.which("gcloud"),
    reason="gcloud, which knows its flags without a network, is not installed",
)
def test_gcloud_knows_every_flag(sandbox, tmp_path):
    commands = [shlex.split("gcloud compute tpus tpu-vm describe slice --zone=z")]
    commands[0].append("--format=value(state)")
    for action, *rest in (
        ("create",), ("babysit", "fake"), ("status",), ("log",), ("stop",), ("delete",)
    ):  # fmt: skip
        commands += sandbox.dry("tpu_vm.sh", action, *rest, SPOT="1", PROJECT="p", **TPU)
    lines = {shlex.join(words) for words in commands if words[0] == "gcloud"}
    asked = [{"command_string": line} for line in sorted(lines)]
    (tmp_path / "commands.json").write_text(json.dumps(asked))
    lint = ["gcloud", "meta", "lint-gcloud-commands", f"--commands-file={tmp_path}/commands.json"]
    answers = json.loads(
        subprocess.run(
            lint, check=True, capture_output=True,
            env=os.environ | {"CLOUDSDK_CONFIG": str(tmp_path)},
        ).stdout
    )  # fmt: skip
    assert len(answers) == len(asked) >= 6
    assert [answer.get("error_message") for answer in answers if not answer["success"]] == []
