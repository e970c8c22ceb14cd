"""The rules of the house: imports point one way, and libraries have one door each."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "w2v_jax"
ENTRY_POINTS = {
    "prepare", "pretrain", "finetune", "evaluate", "transcribe", "export", "report", "benchmark",
    "compile_check", "align", "train_lm", "build_ngram", "mel_statistics",
    "features", "units", "analyze", "pseudo_labels",
}  # fmt: skip
EVERYWHERE = {"errors", "places", "samples", "stopping", "keys"}  # what every room may import
# room -> the rooms it may import from, besides itself
ROOMS = {
    "keys": set(),
    "audio": set(),
    "text": set(),
    "data": {"audio", "text"},
    "corpora": {"audio", "text", "data"},
    "models": {"audio"},
    "objectives": {"models"},  # kernels
    "training": set(),
    "decoding": {"audio", "text", "models", "objectives"},
    "evaluation": {"audio", "text", "decoding"},
    "labelling": {"audio", "text", "data", "training", "decoding", "evaluation", "interop"},
    "interop": {"audio", "text", "models", "training"},
    "analysis": {
        "audio", "text", "data", "models", "objectives", "training", "interop", "evaluation",
    },
    "measuring": {"audio", "text", "data", "models", "objectives", "decoding", "training"},
    "tasks": {
        "audio", "text", "data", "models", "objectives", "training", "decoding", "evaluation",
        "interop", "analysis", "measuring",
    },
    "samples": set(),
}  # fmt: skip
# room -> modules of rooms it may import from that it may not
EXCEPT = {room: {"w2v_jax.training.loop"} for room in ("interop", "analysis", "measuring", "tasks")}
# modules beside the rooms that are no entry points -> what they may import; these may import
# anything but each other
SHARED = {
    "__init__": {"stopping"},
    "errors": set(),
    "stopping": set(),
    "places": {"errors"},
    "__main__": set(),  # ends as the tool that it names
    "config_files": set(),
    "config_flag": {"config_files", "errors", "keys"},
    "usage": {"config_files", "config_flag", "keys"},
    "command_line": {
        "config_files",
        "config_flag",
        "errors",
        "places",
        "stopping",
        "training",
        "usage",
    },
    "recognizers": {"text", "decoding", "interop"},
    "run": {
        "command_line",
        "errors",
        "places",
        "stopping",
        "data",
        "measuring",
        "tasks",
        "training",
    },
}
# folders beside the package -> what they may import of it
FOLDERS = {
    "configs": {"configs", "errors", "data", "models", "decoding"},
    "benchmarks": {"configs", "errors", "command_line", "report", *ROOMS},
}
# library -> the files of the package that import it, at the top or where it is needed
DOORS = {
    "grain": {"data/batches.py"},
    "array_record": {"data/shards.py"},
    "orbax": {"training/checkpoint.py", "training/retention.py"},
    "soundfile": {"audio/links.py", "audio/sound.py", "audio/waveform.py"},
    "av": {"audio/containers.py"},
    "soxr": {"audio/waveform.py", "audio/augment.py", "audio/containers.py"},
    "etils": {"audio/files.py", "places.py"},
    "pyarrow": {"data/columns.py", "data/manifest.py", "data/manifest_files.py"},
    "torch": {"interop/torch_file.py", "interop/safetensors.py"},
    "safetensors": {"interop/safetensors.py"},
    "jiwer": {"evaluation/scoring.py"},
    "flashlight": {"decoding/flashlight.py"},
    "matplotlib": {"evaluation/figures.py"},
    "tensorboardX": {"training/writer.py"},
    "ml_collections": {
        "command_line.py",
        "config_flag.py",
        "run.py",
        *(f"{name}.py" for name in ENTRY_POINTS),
    },
    # grain's worker processes want absl's flags parsed
    "absl": {
        "command_line.py",
        "config_flag.py",
        "data/batches.py",
        "usage.py",
        *(f"{name}.py" for name in ENTRY_POINTS),
    },
    "transformers": set(),
    "tensorflow": set(),
}
# rooms of NumPy alone, which worker processes import
WITHOUT_JAX = {"keys", "audio", "text", "data", "corpora", "evaluation"}
JAX = {"jax", "flax", "optax", "orbax"}
WITH_JAX = {
    "data/batches.py",  # puts batches on devices
}
FILES = sorted(PACKAGE.rglob("*.py"))
OUTSIDE = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Full names of all that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def libraries(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


def ours(path: Path) -> set[str]:
    """Rooms and modules of the package that a file imports from."""
    found = {name.split(".")[1] for name in imports(path) if name.startswith("w2v_jax.")}
    return found - {"__version__"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    here = path.relative_to(PACKAGE).with_suffix("")
    outside = libraries(path) & {"configs", "benchmarks", "tests"}
    assert not outside, f"{here} imports {outside}"
    top = here.parts[0]
    if top in ENTRY_POINTS:
        assert not ours(path) & (ENTRY_POINTS - {top}), "an entry point imports another"
        return
    allowed = SHARED[top] if len(here.parts) == 1 else ROOMS[top] | EVERYWHERE | {top}
    assert ours(path) <= allowed, f"{top} imports {ours(path) - allowed}"
    for module in EXCEPT.get(top, ()):
        assert not any(f"{name}.".startswith(f"{module}.") for name in imports(path)), module


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda p: str(p.relative_to(ROOT)))
def test_folders_beside_the_package(path):
    folder = path.relative_to(ROOT).parts[0]
    assert ours(path) <= FOLDERS[folder], f"{folder} imports {ours(path) - FOLDERS[folder]}"
    assert not libraries(path) & ({"tests", *FOLDERS} - {folder, "configs"})


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_libraries_have_one_door(path):
    here = path.relative_to(PACKAGE).as_posix()
    for library in libraries(path):
        assert here in DOORS.get(library, {here}), f"{here} imports {library}"
    if here.split("/")[0] in WITHOUT_JAX and here not in WITH_JAX:
        assert not libraries(path) & JAX, f"{here} imports {libraries(path) & JAX}"


def test_doors_are_used():
    """A library or a file that has gone must go from the list."""
    used = {
        (name, path.relative_to(PACKAGE).as_posix()) for path in FILES for name in libraries(path)
    }
    listed = {(name, file) for name, files in DOORS.items() for file in files}
    flags = {"absl", "ml_collections"}  # entry points may do without
    assert {(name, file) for name, file in listed - used if name not in flags} == set()


def test_no_drawer():
    assert not list(PACKAGE.rglob("utils*.py"))


def test_every_room_is_listed():
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    rooms -= {"configs"}  # a link to the folder beside the package
    modules = {path.stem for path in PACKAGE.glob("*.py")}
    assert rooms == set(ROOMS)
    assert modules == set(SHARED) | ENTRY_POINTS
