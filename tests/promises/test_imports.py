"""The rules of the house: imports point one way, and libraries have one door each."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "w2v_jax"
ENTRY_POINTS = {
    "prepare", "pretrain", "finetune", "evaluate", "transcribe", "export", "report", "benchmark",
    "compile_check", "align", "train_lm", "build_ngram",
}  # fmt: skip
SHARED = {"errors", "places", "samples"}
# room -> the rooms it may import from, besides itself
ROOMS = {
    "audio": set(),
    "text": set(),
    "data": {"audio", "text"},
    "corpora": {"audio", "text", "data"},
    "models": {"audio"},
    "objectives": set(),
    "training": set(),
    "decoding": {"audio", "text", "models", "objectives"},
    "evaluation": {"audio", "text", "decoding"},
    "interop": {"audio", "text", "models"},
    "measuring": {"audio", "text", "data", "models", "objectives", "decoding", "training"},
    "tasks": {
        "audio", "text", "data", "models", "objectives", "training", "decoding", "evaluation",
        "interop", "measuring",
    },
    "samples": set(),
}
DOORS = {
    "grain": {"data/batches.py"},
    "array_record": {"data/shards.py"},
    "orbax": {"training/checkpoint.py", "training/retention.py"},
    "soundfile": {"audio/waveform.py"},
    "soxr": {"audio/waveform.py", "audio/augment.py"},
    "etils": {"audio/files.py", "places.py"},
    "pyarrow": {"data/columns.py", "data/manifest.py", "data/manifest_files.py"},
    "safetensors": {"interop/safetensors.py"},
    "jiwer": {"evaluation/scoring.py"},
    "tensorboardX": {"training/writer.py"},
    "ml_collections": {"command_line.py", "run.py", *(f"{name}.py" for name in ENTRY_POINTS)},
    # grain's worker processes want absl's flags parsed
    "absl": {"command_line.py", "data/batches.py", *(f"{name}.py" for name in ENTRY_POINTS)},
}
FILES = sorted(path for path in PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    here = path.relative_to(PACKAGE)
    ours = {name.split(".")[1] for name in imports(path) if name.startswith("w2v_jax.")}
    ours -= SHARED | {"__version__"}
    if len(here.parts) == 1:
        assert not ours & (ENTRY_POINTS - {here.stem}), "an entry point imports another"
    else:
        room = here.parts[0]
        allowed = ROOMS[room] | {room}
        assert ours <= allowed, f"{room} imports {ours - allowed}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_libraries_have_one_door(path):
    here = str(path.relative_to(PACKAGE))
    for name in imports(path):
        top = name.split(".")[0]
        assert here in DOORS.get(top, {here}), f"{here} imports {top}"


def test_no_drawer():
    assert not list(PACKAGE.rglob("utils*.py"))


def test_every_room_is_listed():
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert rooms <= set(ROOMS)
