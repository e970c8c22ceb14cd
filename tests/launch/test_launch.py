"""The launchers, run by bash in a copy of the repository in which training is a tiny program.

`srun`, `scontrol` and `kubectl` are stand-ins on the PATH: no cluster is at hand. The loops,
signals and statuses are those of the real scripts.
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

import pytest
import yaml

from tests.launch.launch_sandbox import PYTHON, ROOT, TPU, Sandbox

SCRIPTS = sorted(path.name for path in (ROOT / "launch").glob("*.s*"))
SOURCED = {"dry.sh", "env.sh", "steps.sh"}  # by the others


@pytest.fixture
def sandbox(tmp_path):
    return Sandbox(tmp_path)


GKE = {"IMAGE": "registry/w2v:1", "ACCELERATOR": "tpu-v5-lite-podslice", "TOPOLOGY": "4x4"}


@pytest.mark.parametrize("name", SCRIPTS)
def test_syntax(name):
    script = ROOT / "launch" / name
    subprocess.run(["bash", "-n", script], check=True)
    if name not in SOURCED:
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
        "decode.sh": [[]],
        "hubert.sh": [[]],
        "noisy_student.sh": [[]],
        "gpu_check.sh": [[], ["--small"]],
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
        ("local.sh", ["pretrian"], {}, "there is no tool w2v_jax.pretrian; write pretrain, fine"),
        ("quickstart.sh", ["a", "b"], {}, "launch/quickstart.sh [FOLDER]"),
        ("quickstart.sh", [], {"FORM": "hubert"}, "FORM=hubert is unknown; write conformer"),
        ("hubert.sh", ["a", "b"], {}, "launch/hubert.sh [FOLDER]"),
        ("hubert.sh", [], {"SIZE": "huge"}, "SIZE=huge is unknown; write quickstart, tiny, base"),
        ("hubert.sh", [], {"SIZE": "base"}, "TRAIN is not set; for example: export TRAIN=data/tr"),
        ("hubert.sh", [], {"SIZE": "large", "TRAIN": "a", "VALID": "b"}, "TEACHER is not set; for"),
        ("noisy_student.sh", ["a", "b"], {}, "launch/noisy_student.sh [FOLDER]"),
        ("noisy_student.sh", [], {"TEST": "t.tsv"}, "LABELLED is not set; for example: export LAB"),
        ("noisy_student.sh", [], {"RATIO": "0:9"}, "RATIO=0:9 must be two numbers above 0"),
        ("noisy_student.sh", [], {"RATIO": "1:0.0"}, "labelled:pseudo-labelled, such as 1:9"),
        ("noisy_student.sh", [], {"RATIO": "1"}, "RATIO=1 must be two numbers above 0"),
        ("noisy_student.sh", [], {"SUBSET": "0"}, "SUBSET=0 must be a share above 0"),
        ("noisy_student.sh", [], {"GENERATIONS": "x"}, "GENERATIONS=x must be 1 or more"),
        ("noisy_student.sh", [], {"CUTOFFS": "1 no"}, "CUTOFFS: no is no number, nor none"),
        ("noisy_student.sh", [], {"FROM": "me"}, "FROM=me is unknown; write scratch or teacher"),
        ("noisy_student.sh", [], {"LM": "a", "TEXT": "b"}, "LM=a and TEXT=b: set one of them"),
        ("gpu_check.sh", ["--smal"], {}, "launch/gpu_check.sh --small [FOLDER]"),
        ("tpu_vm.sh", ["babysit"], TPU, "launch/tpu_vm.sh babysit ENTRY FLAGS"),
        ("worker.sh", ["nonsense"], {}, "launch/worker.sh start ENTRY FLAGS"),
    ],
)
def test_what_is_missing_is_named(sandbox, script, arguments, variables, message):
    for name in ("gcloud", "kubectl"):
        sandbox.program(name, "#!/bin/bash\n")
    output = sandbox.run(script, *arguments, status=2, **variables)
    assert message in output
    assert not (sandbox.root / ".venv").exists(), "nothing is installed for a mistake"


def test_both_forms_of_the_quickstart(sandbox):
    said = {
        form: sandbox.run("quickstart.sh", DRY="1", SEEDS="0 1", FORM=form)
        for form in ("conformer", "wav2vec2")
    }
    for form, commands in said.items():
        for name in ("pretrain,form=", "finetune,form="):
            assert f"--config=configs/quickstart.py:{name}{form} " in commands
        assert commands.count("w2v_jax.finetune ") == {"conformer": 6, "wav2vec2": 4}[form]
        assert ("build_ngram" in commands) == (form == "conformer")
    assert said["conformer"] == sandbox.run("quickstart.sh", DRY="1", SEEDS="0 1")


def test_hubert_goes_from_mfcc_to_letters(sandbox):
    """Each step takes what the one before it writes."""
    commands = [" ".join(words[2:]) for words in sandbox.dry("hubert.sh", "runs/h")]
    steps = [command.split()[0].removeprefix("w2v_jax.") for command in commands]
    assert steps == [
        *["prepare"] * 4, "units", "units", "pretrain", "export", "units", "units", "pretrain",
        "export", "finetune", "export", "evaluate",
    ]  # fmt: skip
    of = dict(enumerate(commands))
    assert "learn " in of[4]
    assert "--output=runs/h/mfcc100.npz --features=mfcc" in of[4]
    assert "apply --centroids=runs/h/mfcc100.npz" in of[5]
    assert "--data=runs/h/data/train.tsv,runs/h/data/dev.tsv --name=mfcc100" in of[5]
    assert "quickstart,iteration=1 --workdir=runs/h/iteration-1 " in of[6]
    assert "--config.data.units=('mfcc100',) --config.prediction.classes=(100,)" in of[6]
    assert "--features=runs/h/iteration-1/export --layer=2" in of[8]
    assert "--config.data.units=('it1-layer2-100',)" in of[10]
    assert "--config.run.init_from=runs/h/iteration-2/export" in of[12]
    (sandbox.root / "runs/h").mkdir(parents=True)
    (sandbox.root / "runs/h/mfcc100.npz").touch()
    again = [" ".join(words[2:]) for words in sandbox.dry("hubert.sh", "runs/h")]
    assert [c for c in commands if c not in again] == [of[4]], "centroids are learnt once"


def test_hubert_at_published_sizes(sandbox):
    data = {"TRAIN": "t.tsv,u.tsv", "VALID": "v.tsv"}
    base = sandbox.run(
        "hubert.sh", DRY="1", SIZE="base", LABELLED="l.tsv", FLAGS="--a=1 --b", **data
    )
    assert "--share=0.1 --clusters=500 --output=runs/hubert/it1-layer6-500.npz" in base
    assert "--config.prediction.classes=(500,)' --a=1 --b\n" in base
    assert "finetune.py:split=10h,size=hubert_base --workdir=runs/hubert/finetuned" in base
    assert "samples" not in base
    assert "evaluate" not in base
    large = sandbox.dry("hubert.sh", SIZE="large", TEACHER="h/export", LAYER="9", UNITS="x", **data)
    assert [words[2].removeprefix("w2v_jax.") for words in large] == [
        "units", "units", "pretrain", "export",
    ]  # fmt: skip
    assert {"--features=h/export", "--layer=9", "--output=runs/hubert/x.npz"} <= set(large[0])
    assert "--config=configs/hubert.py:large,iteration=2" in large[2]


def test_each_student_is_the_next_teacher(sandbox):
    """Each step takes what the one before it writes; filters and masks change with generations."""
    commands = [" ".join(words[2:]) for words in sandbox.dry("noisy_student.sh", "runs/n")]
    steps = [" ".join(command.split()[:2]) for command in commands if "w2v_jax." in command]
    steps = [x.removeprefix("w2v_jax.").split(" --")[0] for x in steps]
    student = ["finetune", "export", "evaluate", "evaluate"]
    labels = ["pseudo_labels decode", "pseudo_labels decode", "pseudo_labels select"]
    assert steps == [
        *["prepare"] * 4, "build_ngram", *student, *(labels + student) * 2, "pseudo_labels report"
    ]  # fmt: skip
    decoded = [x for x in commands if "pseudo_labels decode" in x]
    for number, (dev, unlabelled) in enumerate(zip(decoded[::2], decoded[1::2], strict=True)):
        before = f"runs/n/generation-{number}"
        for command in (dev, unlabelled):
            assert f"--checkpoint={before}/export " in command
            assert f"--tuned={before}/test.lm.decoded.tuned.json" in command
            assert "--config.lm=runs/n/lm/4-gram.arpa.gz" in command
        assert "--exclude=runs/n/data/labelled.tsv" in unlabelled
    (build,) = (x for x in commands if "build_ngram" in x)
    assert "train.tsv" not in build, "the hidden transcripts stay hidden"
    one, two = (x for x in commands if "pseudo_labels select" in x)
    assert "--cutoff=0" in one
    assert "--cutoff" not in two
    teacher, *students = (x for x in commands if x.startswith("w2v_jax.finetune"))
    assert "labels" not in teacher.replace("labelled", "")
    assert "mix" not in teacher
    for number, command in enumerate(students, 1):
        pseudo = f"runs/n/labels-{number}/selected/pseudo.tsv"
        assert f"--config.data.train=runs/n/data/labelled.tsv,{pseudo} " in command
        assert "--config.data.mix=weights --config.data.mix_weights=(1,1)" in command
        assert f"--config.spec_augment.time_masks={5 + 3 * number}" in command
        assert "init_from" not in command


def test_noisy_student_of_other_data(sandbox):
    given = {
        "LABELLED": "l.tsv", "UNLABELLED": "u.arrow", "DEV": "d.tsv", "TEST": "t.tsv",
        "CONFIG": "configs/finetune.py:split=100h,size=large", "TEACHER": "their/export",
        "FLAGS": "--a", "STUDENT_FLAGS": "--b", "AUGMENT_2": "--more=1", "BALANCE": "0.5",
    }  # fmt: skip
    commands = [" ".join(x[2:]) for x in sandbox.dry(
        "noisy_student.sh", **given, GENERATIONS="3", CUTOFFS="1 -0.5", SUBSET="0.4", INIT="p"
    )]  # fmt: skip
    students = [x for x in commands if "finetune" in x and "--workdir" in x]
    assert [x.split("--workdir=")[1].split()[0][-1] for x in students] == ["1", "2", "3"]
    assert all("mix_weights=(1,9) " in x and "init_from=p" in x and " --a " in x for x in students)
    assert ["--more=1" in x for x in students] == [False, True, False]
    assert "spec_augment" not in "".join(commands)
    assert "tune" not in "".join(commands).replace("finetune", ""), "there is nothing to tune"
    selected = [x for x in commands if "select" in x.split()[1]]
    assert [x.split("--cutoff=")[1] for x in selected] == ["1", "-0.5", "-0.5"]
    assert all("--balance=0.5" in x for x in selected)
    drawn = [x.split("--seed=")[1].split()[0] for x in commands if "--share=0.4" in x]
    assert drawn == ["1", "2", "3"]
    assert "--checkpoint=their/export --data=u.arrow --exclude=l.tsv" in "\n".join(commands)
    further = [" ".join(x) for x in sandbox.dry("noisy_student.sh", **given, FROM="teacher")]
    start = "--config.run.init_from={} --config.run.init_head=True"
    students = [x for x in further if "finetune --config" in x]
    assert [start.format(x) in y for x, y in zip(
        ("their/export", "runs/noisy/generation-1/export"), students, strict=True
    )] == [True, True]  # fmt: skip


def test_useless_labels_end_it_and_what_is_done_stays(sandbox):
    """With the status of the selection and the table so far; what was done is not done again."""
    sandbox.program("python3", """#!/bin/bash
case "$*" in
"-m venv .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python; exit ;;
*"-m pip "* | "-c "*) exit ;;
esac
[ "$1" = -m ] || exit 0
echo "$2 $3" >>"$CALLS/all"
for word; do case "$word" in
--output=*/export) mkdir -p "${word#*=}" && touch "${word#*=}/config.json" ;;
--output=*.tsv | --output=*.gz)
  word="${word#*=}"; mkdir -p "${word%/*}" && touch "$word" ;;
esac; done
case "$3" in
select) exit 3 ;;
report) echo "the table" ;;
esac
""")
    for _ in range(2):
        output = sandbox.run("noisy_student.sh", "runs", status=3, PYTHON="")
        assert output.splitlines()[-1] == "the table"
    calls = (sandbox.calls_to / "all").read_text().splitlines()
    tools = [x.split()[0].removeprefix("w2v_jax.") for x in calls]
    assert tools.count("finetune") == tools.count("export") == tools.count("build_ngram") == 1
    assert tools.count("evaluate") == 2
    assert [x.split()[1] for x in calls if "pseudo_labels" in x] == [
        "decode", "decode", "select", "report",
    ] * 2  # fmt: skip


@pytest.mark.parametrize("name", sorted(set(SCRIPTS) - SOURCED))
def test_help_is_the_head_of_the_script(sandbox, name):
    for word in ("--help", "-h"):
        output = sandbox.run(name, word)
        lines = (sandbox.root / "launch" / name).read_text().splitlines()
        assert output.splitlines()[:3] == [line.removeprefix("# ") for line in lines[1:4]]
        assert "\nset -" not in output
    if name not in ("local.sh", "tpu_vm.sh", "slurm.sbatch", "gke.sh", "worker.sh"):
        assert "minute" in output
    assert not (sandbox.root / ".venv").exists()


def test_programs_that_are_missing_are_named(sandbox):
    found = subprocess.run(
        ["bash", "-c", "source launch/dry.sh; tool bash x; tool no-such-program 'get it there'"],
        cwd=sandbox.root, env=sandbox.environment, text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert found.returncode == 2
    assert found.stderr == "error: no-such-program is not on the PATH; get it there\n"


# env.sh


def stand_in(version="3, 11, 4", *, broken="nothing"):
    """A Python of a version; where an argument has the word `broken`, it fails."""
    return f"""#!/bin/bash
case "$*" in
*"{broken}"*) echo "its own words" >&2; exit 1 ;;
--version) echo "Python {version.replace(", ", ".")}" ;;
"-m venv .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
*version_info*) exec {sys.executable} -c "import sys; sys.exit(({version}) < (3, 11, 4))" ;;
esac
"""


@pytest.mark.parametrize(
    ("python", "message"),
    [
        (stand_in("3, 9, 18"), "or later is needed, python3 is Python 3.9.18; install it"),
        (stand_in(broken="ensurepip"), "install its venv module (Debian, Ubuntu: sudo apt install"),
        (stand_in(broken="-m venv"), "could not make {root}/.venv"),
        (stand_in(broken="-m pip"), "It needs a network once"),
    ],
)  # fmt: skip
def test_what_installing_lacks_is_named(sandbox, python, message):
    for name in ("python3", "python3.11", "python3.12", "python3.13"):
        sandbox.program(name, python)
    output = sandbox.run("local.sh", "fake", status=2, PYTHON="", PLAN="0")
    assert message.format(root=sandbox.root) in output.splitlines()[-1]
    absent = sandbox.run("local.sh", "fake", status=2, PYTHON="/no/python", PLAN="0")
    assert "/no/python is not there" in absent
    assert list(sandbox.calls_to.iterdir()) == []
    assert not list(sandbox.root.glob(".venv/installed*")), "it tries again"


def test_a_newer_python_is_found_and_a_broken_environment_is_made_again(sandbox):
    sandbox.program("python3", stand_in("3, 9, 18"))
    (sandbox.root / ".venv/bin").mkdir(parents=True)
    (sandbox.root / ".venv/bin/python").symlink_to("/gone/python3.11")
    (sandbox.root / ".venv/left").touch()
    sandbox.program("python3.12", PYTHON)
    assert "installing" in sandbox.run("local.sh", "fake", PYTHON="", PLAN="0 0")
    assert not (sandbox.root / ".venv/left").exists()
    assert "installing" not in sandbox.run("local.sh", "fake", PYTHON="", PLAN="0 0")


def variables_of_env(sandbox, **variables):
    names = (
        "XLA_FLAGS", "XLA_CLIENT_MEM_FRACTION", "JAX_COMPILATION_CACHE_DIR", "GLIBC_TUNABLES"
    )  # fmt: skip
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
        assert values["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"
    assert variables_of_env(sandbox, GLIBC_TUNABLES="mine=2")["GLIBC_TUNABLES"] == "mine=2"
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


def test_a_script_may_be_called_from_elsewhere(sandbox):
    (sandbox.root / "deep").mkdir()
    for words, status in ((["../launch/local.sh", "fake"], 0), (["../launch/local.sh"], 2)):
        found = subprocess.run(
            words, cwd=sandbox.root / "deep", env=sandbox.environment | {"PLAN": "0"}, text=True,
            capture_output=True, check=False,
        )  # fmt: skip
        assert found.returncode == status, found.stderr
        assert "No such file" not in found.stderr
    assert "Runs an entry point" in found.stderr


@pytest.mark.parametrize("status", [2, 1, 134])
def test_local_ends_with_the_status_of_a_failure(sandbox, status):
    sandbox.run("local.sh", "fake", PLAN=f"75 {status}", status=status)
    assert len(sandbox.calls()) == 2


@pytest.mark.parametrize("processes", ["1", "2"])
@pytest.mark.parametrize("which", ["TERM", "INT", "Ctrl-C"])
def test_local_hands_a_signal_on_and_stops(sandbox, processes, which):
    process = sandbox.begin("local.sh", "fake", PLAN="wait 0", PROCESSES=processes)
    sandbox.ready(int(processes))
    if which == "Ctrl-C":  # a terminal sends it to all, the sleep of the script as well
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(signal.Signals[f"SIG{which}"])
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 75, output
    assert "continues" not in output
    assert [len(sandbox.calls(str(i))) for i in range(int(processes))] == [1] * int(processes)


def test_local_stops_between_two_runs(sandbox):
    process = sandbox.begin("local.sh", "fake", PLAN="75 0", PAUSE="1")
    while "continues" not in process.stdout.readline():
        pass
    process.terminate()
    assert process.wait(timeout=20) == 75
    process.stdout.close()
    assert len(sandbox.calls()) == 1


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
    for _ in range(400):
        if (sandbox.calls_to / "srun").exists():
            break
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
