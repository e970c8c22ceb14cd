"""The launchers, run by bash in a copy of the repository in which training is a tiny program.

`gcloud`, `srun`, `scontrol` and `kubectl` are stand-ins on the PATH: no cloud and no cluster is at
hand. The loops, signals and statuses are those of the real scripts.
"""

import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted(path.name for path in (ROOT / "launch").glob("*.s*"))

# does what the word of PLAN for this start says: ends with a status ("75,1": one per process),
# waits for SIGTERM and ends with 75 as the training does, or does not end at all
TRAINING = """
import json, os, pathlib, signal, sys, time

flags = dict(flag[2:].split("=", 1) for flag in sys.argv[1:] if "=" in flag)
process = flags.get("process_id", "0")
worker = pathlib.Path.cwd().parent.name
calls = pathlib.Path(os.environ["CALLS"]) / f"{worker}-{process}"
with calls.open("a") as file:
    file.write(json.dumps({"flags": sys.argv[1:], "pid": os.getpid()}) + "\\n")
plan = os.environ["PLAN"].split()[len(calls.read_text().splitlines()) - 1].split(",")
what = plan[int(process) % len(plan)]
if what.isdigit():
    sys.exit(int(what))
signal.signal(signal.SIGTERM, (lambda *_: sys.exit(75)) if what == "wait" else signal.SIG_IGN)
calls.with_suffix(".ready").touch()
time.sleep(60)
"""

# what `python -m venv` would make, without pip
PYTHON = f"""#!/bin/bash
case "$*" in
"-m venv .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
*"-m pip "*) ;;
*) exec {sys.executable} "$@" ;;
esac
"""

# a slice of two workers, which are folders; it is taken away at the look number $PREEMPT_AT
GCLOUD = """#!/bin/bash
cd "$CLOUD"
echo "$*" >>calls
case "$*" in
*"queued-resources create"*) mkdir w0 w1 && echo ACTIVE >state ;;
*"queued-resources describe"*)
  [ -e state ] || { echo "ERROR: NOT_FOUND: not there" >&2; exit 1; }
  echo look >>looks
  if [ "$(wc -l <looks)" = "$PREEMPT_AT" ]; then
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


class Sandbox:
    """A copy of what the launchers touch, in which `w2v_jax.fake` is the training."""

    def __init__(self, folder: Path):
        self.root, self.bin, self.calls_to = folder / "repo", folder / "bin", folder / "calls"
        for path in (self.root / "w2v_jax", self.bin, self.calls_to):
            path.mkdir(parents=True)
        shutil.copytree(ROOT / "launch", self.root / "launch")
        for name in ("setup.cfg", "pyproject.toml", ".gitignore"):
            shutil.copy(ROOT / name, self.root / name)
        (self.root / "w2v_jax/__init__.py").touch()
        (self.root / "w2v_jax/fake.py").write_text(TRAINING)
        self.program("python3", PYTHON)
        self.environment = {
            "PATH": f"{self.bin}:/usr/bin:/bin", "HOME": str(folder), "TMPDIR": str(folder),
            "PYTHON": str(self.bin / "python3"), "CALLS": str(self.calls_to), "PAUSE": "0",
        }  # fmt: skip

    def program(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def begin(self, script: str, *arguments: str, **variables: str) -> subprocess.Popen:
        return subprocess.Popen(
            [f"launch/{script}", *arguments], cwd=self.root, text=True, process_group=0,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=self.environment | variables,
        )  # fmt: skip

    def run(self, script: str, *arguments: str, status: int = 0, **variables: str) -> str:
        process = self.begin(script, *arguments, **variables)
        output, _ = process.communicate(timeout=30)
        assert process.returncode == status, output
        return output

    def dry(self, script: str, *arguments: str, **variables: str) -> list[list[str]]:
        """The commands that the dry mode prints, split into words."""
        output = self.run(script, *arguments, DRY="1", **variables)
        return [shlex.split(line) for line in output.splitlines() if not line.startswith("# ")]

    def calls(self, name: str = "0") -> list[list[str]]:
        """The flags of each start of one process of the training."""
        (path,) = self.calls_to.glob(f"*-{name}")
        return [json.loads(line)["flags"] for line in path.read_text().splitlines()]

    def calls_of(self, worker: str) -> list[list[str]]:
        lines = (self.calls_to / f"{worker}-0").read_text().splitlines()
        return [json.loads(line)["flags"] for line in lines]

    def ready(self, count: int) -> None:
        """Waits until so many processes wait for their signal."""
        for _ in range(400):
            if len(list(self.calls_to.glob("*.ready"))) == count:
                return
            time.sleep(0.05)
        raise AssertionError("the training did not start")


@pytest.fixture
def sandbox(tmp_path):
    return Sandbox(tmp_path)


TPU = {"TPU_NAME": "slice", "ZONE": "us-west4-a", "ACCELERATOR": "v5litepod-16"}
GKE = {"IMAGE": "registry/w2v:1", "ACCELERATOR": "tpu-v5-lite-podslice", "TOPOLOGY": "4x4"}


@pytest.mark.parametrize("name", SCRIPTS)
def test_syntax(name):
    script = ROOT / "launch" / name
    subprocess.run(["bash", "-n", script], check=True)
    if name not in ("dry.sh", "env.sh"):  # these are sourced
        assert os.access(script, os.X_OK)
        assert script.read_text().startswith("#!/usr/bin/env bash\n#")
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", script], cwd=ROOT, check=True)


def test_dry_modes_run_nothing(sandbox):
    """Every script, with stand-ins that leave a trace for all that it could run."""
    for name in ("gcloud", "kubectl", "srun", "scontrol", "sudo", "setsid", "python", "python3"):
        sandbox.program(name, '#!/bin/bash\n[ "$1" = -c ] || touch "$CALLS/ran-$(basename "$0")"\n')
    before = sorted(sandbox.root.rglob("*"))
    for script, arguments in {
        "local.sh": [["fake"]],
        "quickstart.sh": [[]],
        "test.sh": [[]],
        "slurm.sbatch": [["fake"]],
        "gke.sh": [["fake"]],
        "worker.sh": [["setup"], ["start", "fake"], ["status"], ["log"], ["stop"]],
        "tpu_vm.sh": [
            ["create"], ["setup"], ["run", "fake"], ["babysit", "fake"], ["status"], ["log"],
            ["stop"], ["ssh"], ["ssh", "ls"], ["delete"],
        ],
    }.items():  # fmt: skip
        for words in arguments:
            variables = GKE if script == "gke.sh" else TPU
            assert sandbox.run(script, *words, DRY="1", **variables), (script, words)
    assert sorted(sandbox.root.rglob("*")) == before
    assert list(sandbox.calls_to.iterdir()) == []


@pytest.mark.parametrize(
    ("script", "arguments", "variables", "message"),
    [
        ("tpu_vm.sh", ["setup"], {"ZONE": "z"}, "TPU_NAME is not set; for example: export TPU_"),
        ("tpu_vm.sh", ["run", "fake"], {"TPU_NAME": "t"}, "ZONE is not set; for example"),
        ("tpu_vm.sh", ["create"], {"TPU_NAME": "t", "ZONE": "z"}, "export ACCELERATOR=v5lite"),
        ("gke.sh", ["fake"], {}, "IMAGE is not set; for example: export IMAGE=us-docker"),
        ("gke.sh", ["fake"], GKE | {"TOPOLOGY": "44"}, "TOPOLOGY 44 is not like 4x4"),
        ("gke.sh", ["fake"], GKE | {"TOPOLOGY": "3x3"}, "9 chips: no multiple of CHIPS_PER_HOST=4"),
        ("slurm.sbatch", ["fake"], {}, "sbatch launch/slurm.sbatch fake"),
        ("slurm.sbatch", [], {}, "launch/slurm.sbatch pretrain --config="),
        ("local.sh", [], {}, "launch/local.sh pretrain --config="),
        ("tpu_vm.sh", ["babysit"], TPU, "launch/tpu_vm.sh babysit ENTRY FLAGS"),
        ("worker.sh", ["nonsense"], {}, "launch/worker.sh start ENTRY FLAGS"),
    ],
)
def test_what_is_missing_is_named(sandbox, script, arguments, variables, message):
    output = sandbox.run(script, *arguments, status=2, **variables)
    assert message in output
    assert not (sandbox.root / ".venv").exists(), "nothing is installed for a mistake"


# env.sh


def variables_of_env(sandbox, **variables):
    names = ("XLA_FLAGS", "XLA_CLIENT_MEM_FRACTION", "JAX_COMPILATION_CACHE_DIR")
    script = f'source launch/env.sh; for n in {" ".join(names)}; do echo "${{!n:-}}"; done'
    output = subprocess.run(
        ["bash", "-c", script], cwd=sandbox.root, check=True, text=True, capture_output=True,
        env=sandbox.environment | {"DRY": "1"} | variables,
    ).stdout  # fmt: skip
    return dict(zip(names, output.split("\n"), strict=False))


def test_flags_are_for_gpus_only_and_give_way_to_the_users(sandbox):
    for extras in ("dev", "tpu,gcs"):
        values = variables_of_env(sandbox, W2V_EXTRAS=extras)
        assert values["XLA_FLAGS"] == values["XLA_CLIENT_MEM_FRACTION"] == ""
        assert values["JAX_COMPILATION_CACHE_DIR"] == f"{sandbox.root}/.cache/jax"
    assert variables_of_env(sandbox, XLA_FLAGS="--mine")["XLA_FLAGS"] == "--mine"
    values = variables_of_env(sandbox, W2V_EXTRAS="gpu,gcs", XLA_FLAGS="--mine=1 --two")
    first, rest = values["XLA_FLAGS"].split(" ", 1)
    assert first == "--xla_gpu_enable_latency_hiding_scheduler=true"
    assert rest == "--mine=1 --two", "the last flag counts"
    assert values["XLA_CLIENT_MEM_FRACTION"] == "0.9"
    own = variables_of_env(sandbox, W2V_EXTRAS="gpu", XLA_PYTHON_CLIENT_MEM_FRACTION="0.5")
    assert own["XLA_CLIENT_MEM_FRACTION"] == "", "JAX refuses both names at once"


# local.sh


def test_local_runs_again_as_long_as_the_status_is_75(sandbox):
    output = sandbox.run("local.sh", "fake", "--a=b c", PLAN="75 75 0")
    assert output.count("preempted") == 2
    assert sandbox.calls() == [["--a=b c"]] * 3


@pytest.mark.parametrize("status", [2, 1, 134])
def test_local_ends_with_the_status_of_a_failure(sandbox, status):
    sandbox.run("local.sh", "fake", PLAN=f"75 {status}", status=status)
    assert len(sandbox.calls()) == 2


@pytest.mark.parametrize("processes", ["1", "2"])
@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT])
def test_local_hands_a_signal_on_and_stops(sandbox, processes, which):
    process = sandbox.begin("local.sh", "fake", PLAN="wait 0", PROCESSES=processes)
    sandbox.ready(int(processes))
    process.send_signal(which)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 75, output
    assert [len(sandbox.calls(str(i))) for i in range(int(processes))] == [1] * int(processes)


def test_local_starts_all_processes_again(sandbox):
    sandbox.run("local.sh", "fake", "--x=1", PLAN="75,0 0", PROCESSES="2")
    for i in range(2):
        first, second = sandbox.calls(str(i))
        assert first[:1] + first[2:] == ["--x=1", "--num_processes=2", f"--process_id={i}"]
        address, again = first[1], second[1]
        assert address.startswith("--coordinator_address=127.0.0.1:")
        assert address != again
    assert sandbox.calls("0") == [[*flags[:3], "--process_id=0"] for flags in sandbox.calls("1")]


def test_local_ends_the_rest_when_one_fails(sandbox):
    begin = time.monotonic()
    sandbox.run("local.sh", "fake", PLAN="hang,3,hang", PROCESSES="3", status=3)
    assert time.monotonic() - begin < 20, "a process that ignores SIGTERM is ended, too"
    for path in sandbox.calls_to.glob("*-?"):
        with pytest.raises(ProcessLookupError):
            os.kill(json.loads(path.read_text())["pid"], 0)


def test_local_gives_each_process_a_gpu(sandbox):
    commands = sandbox.dry("local.sh", "fake", PROCESSES="2", PORT="9000", W2V_EXTRAS="gpu")
    assert [words[:2] for words in commands] == [
        ["env", "JAX_LOCAL_DEVICE_IDS=0"], ["env", "JAX_LOCAL_DEVICE_IDS=1"],
    ]  # fmt: skip
    assert commands[1][-3:] == [
        "--coordinator_address=127.0.0.1:9000", "--num_processes=2", "--process_id=1",
    ]  # fmt: skip


# slurm.sbatch


@pytest.fixture
def slurm(sandbox, tmp_path):
    """The script where SLURM puts it, away from the repository; srun ends as $SRUN says."""
    record = '#!/bin/bash\nprintf "%s\\n" "$0" "$@" >>"$CALLS/$(basename "$0")"\n'
    sandbox.program("srun", record + '[[ "$SRUN" =~ ^[0-9]+$ ]] && exit "$SRUN"; $SRUN\n')
    sandbox.program("scontrol", record)
    spool = tmp_path / "spool"
    spool.mkdir()
    shutil.copy(ROOT / "launch/slurm.sbatch", spool / "slurm_script")

    def begin(srun, **variables):
        return subprocess.Popen(
            ["bash", spool / "slurm_script", "fake", "--workdir=a b"], cwd=spool, process_group=0,
            env=sandbox.environment | variables | {
                "SRUN": srun, "SLURM_JOB_ID": "77", "SLURM_SUBMIT_DIR": str(sandbox.root),
                "SLURM_GPUS_ON_NODE": "4", "SLURM_CPUS_PER_TASK": "64",
            },
        )  # fmt: skip

    return begin


def words_of(sandbox, name):
    path = sandbox.calls_to / name
    return path.read_text().splitlines()[1:] if path.exists() else None


@pytest.mark.parametrize("status", [0, 1, 2, 75, 137])
def test_slurm_queues_again_after_75_alone(sandbox, slurm, status):
    assert slurm(str(status)).wait(timeout=20) == status
    assert words_of(sandbox, "srun") == [
        "--kill-on-bad-exit=0", "--cpus-per-task=64", "env", "JAX_LOCAL_DEVICE_IDS=0,1,2,3",
        "python", "-m", "w2v_jax.fake", "--distributed=on", "--workdir=a b",
    ]  # fmt: skip
    assert words_of(sandbox, "scontrol") == (["requeue", "77"] if status == 75 else None)


def test_slurm_scancel_is_for_good(sandbox, slurm):
    """It signals the script, too; the steps may still end with 75."""
    process = slurm("sleep 30")
    while not (sandbox.calls_to / "srun").exists():
        time.sleep(0.05)
    process.terminate()
    assert process.wait(timeout=5) == -signal.SIGTERM
    os.killpg(process.pid, signal.SIGKILL)  # the sleep
    assert words_of(sandbox, "scontrol") is None


def test_slurm_signals_the_steps_and_requeues(sandbox):
    lines = (ROOT / "launch/slurm.sbatch").read_text().splitlines()
    options = [line.split()[1] for line in lines if line.startswith("#SBATCH ")]
    # without "B:", which would be the script alone
    assert {"--requeue", "--signal=TERM@120", "--ntasks-per-node=1"} <= set(options)
    commands = sandbox.dry("slurm.sbatch", "fake")
    assert [words[0] for words in commands] == ["srun", "scontrol"]


def test_jax_under_slurm_takes_all_gpus_and_the_flags(sandbox):
    """The variables of one task of one node, read by JAX itself; XLA knows the flags of env.sh."""
    (srun, _) = sandbox.dry("slurm.sbatch", "fake", SLURM_GPUS_ON_NODE="4")
    (gpus,) = [word for word in srun if word.startswith("JAX_LOCAL_DEVICE_IDS=")]
    code = (
        "import jax; jax.distributed.initialize(); jax.devices();"
        "from jax._src.xla_bridge import CUDA_VISIBLE_DEVICES;"
        "print(CUDA_VISIBLE_DEVICES.value, jax.process_count())"
    )
    job = {
        "SLURM_JOB_ID": str(random.randrange(10**6)), "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0",
    }  # fmt: skip
    flags = variables_of_env(sandbox, W2V_EXTRAS="gpu")["XLA_FLAGS"]
    output = subprocess.run(
        [sys.executable, "-c", code], check=True, text=True, capture_output=True, timeout=120,
        env=os.environ | job | dict([gpus.split("=")]) | {"XLA_FLAGS": flags},
    ).stdout  # fmt: skip
    assert output.split() == ["0,1,2,3", "1"]


# tpu_vm.sh and worker.sh


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
        PREEMPT_AT="3", SPOT="1",
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
    process = sandbox.begin("tpu_vm.sh", "babysit", "fake", POLL="0.05")
    time.sleep(0.7)
    process.kill()
    output, _ = process.communicate()
    assert "no route" in output
    assert "UNREACHABLE" in output
    assert verbs(cloud) == []


def test_commands_for_a_slice(sandbox, tmp_path):
    commands = sandbox.dry("tpu_vm.sh", "create", SPOT="1", PROJECT="p", **TPU)
    assert "--spot" in commands[0]
    assert {"--zone=us-west4-a", "--project=p"} <= set(commands[0])
    assert "--runtime-version=v2-alpha-tpuv5-lite" in commands[0]
    cache = {"JAX_COMPILATION_CACHE_DIR": "gs://c"}
    commands += sandbox.dry("tpu_vm.sh", "babysit", "fake", **cache, **TPU)
    (start,) = [words for words in commands if "start" in words[-2]]
    assert "--worker=all" in start
    assert start[-2].endswith(
        "JAX_COMPILATION_CACHE_DIR=gs://c launch/worker.sh start fake --distributed=on"
    )
    for action in ("status", "log", "stop", "delete"):
        commands += sandbox.dry("tpu_vm.sh", action, **TPU)
    commands.append(shlex.split("gcloud compute tpus tpu-vm describe slice --zone=z"))
    commands[-1].append("--format=value(state)")
    gcloud = shutil.which("gcloud")
    if not gcloud:
        pytest.skip("gcloud, which knows its flags without a network, is not installed")
    lines = {shlex.join(words) for words in commands if words[0] == "gcloud"}
    asked = [{"command_string": line} for line in sorted(lines)]
    (tmp_path / "commands.json").write_text(json.dumps(asked))
    answers = json.loads(
        subprocess.run(
            [gcloud, "meta", "lint-gcloud-commands", f"--commands-file={tmp_path}/commands.json"],
            check=True, capture_output=True, env=os.environ | {"CLOUDSDK_CONFIG": str(tmp_path)},
        ).stdout
    )  # fmt: skip
    assert len(answers) == len(asked)
    assert [answer.get("error_message") for answer in answers if not answer["success"]] == []


# gke.yaml, Dockerfile


def test_gke_fills_the_template(sandbox):
    sandbox.program("kubectl", '#!/bin/bash\necho "$*" >"$CALLS/kubectl"; cat\n')
    flag = '--config.note=it\'s & "${NAME}": $HOME'
    variables = GKE | {"JAX_COMPILATION_CACHE_DIR": "gs://b/jax"}
    job = yaml.safe_load(sandbox.run("gke.sh", "fake", flag, **variables))
    assert (sandbox.calls_to / "kubectl").read_text() == "apply -f -\n"
    dry = sandbox.run("gke.sh", "fake", flag, DRY="1", **variables).splitlines()
    assert (dry[0], dry[-1]) == ("kubectl apply -f - <<'EOF'", "EOF")
    assert yaml.safe_load("\n".join(dry[1:-1])) == job
    (slice_job,) = job["spec"]["replicatedJobs"]
    spec = slice_job["template"]["spec"]
    assert (spec["parallelism"], spec["completions"], spec["backoffLimit"]) == (4, 4, 0)
    pods = spec["template"]["spec"]
    assert pods["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "4x4"
    (container,) = pods["containers"]
    assert container["command"] == ["python", "-m", "w2v_jax.fake"]
    assert container["args"] == ["--distributed=on", flag]
    assert container["env"][0]["value"] == "gs://b/jax"
    assert container["resources"]["limits"] == {"google.com/tpu": 4}


def test_gke_restarts_on_75_and_not_on_2(sandbox):
    job = yaml.safe_load(sandbox.run("gke.sh", "fake", DRY="1", **GKE).split("\n", 1)[1][:-4])
    (slice_job,) = job["spec"]["replicatedJobs"]
    codes = slice_job["template"]["spec"]["podFailurePolicy"]["rules"][0]["onExitCodes"]
    assert (codes["operator"], codes["values"]) == ("In", [2, 75])
    no, yes = job["spec"]["failurePolicy"]["rules"]
    # the first rule that matches counts; this is how Kubernetes words it
    message = "Container train for pod default/x failed with exit code {} matching FailJob rule"
    (pattern,) = no["onJobFailureMessagePatterns"]
    assert no["action"] == "FailJobSet"
    assert pattern in message.format(2)
    assert pattern not in message.format(75)
    assert yes["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert no["onJobFailureReasons"] == yes["onJobFailureReasons"] == ["PodFailurePolicy"]


def test_dockerfile_copies_what_is_there():
    text = (ROOT / "launch/Dockerfile").read_text()
    steps = [shlex.split(line) for line in text.splitlines() if line.startswith("COPY ")]
    sources = [word for step in steps for word in step[1:-1] if not word.startswith("--")]
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in allowed
    for source in sources:
        assert (ROOT / source).exists(), source
        assert f"!{source.split('/')[0]}" in allowed, source
    # what is installed from and what is run must be among them
    assert {"setup.cfg", "launch/env.sh", "launch", "configs", "w2v_jax"} <= set(sources)
    assert 'ENTRYPOINT ["launch/local.sh"]' in text
    assert "USER w2v" in text
