"""The source keeps to the layers: imports point one way, heavy libraries stay in their room, files stay short."""

from __future__ import annotations

import ast
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent

# Package -> what it may import of ours. Examples, benchmarks and tests may import everything.
LAYERS: dict[str, set[str]] = {
    "trunkline": set(),
    "encoder": {"trunkline"},
    "ssl": {"trunkline", "encoder"},
    "heads": {"trunkline", "encoder"},
    "embstore": {"trunkline", "encoder", "heads"},
    "rescoring": {"trunkline"},
}
UPPER = {"examples", "benchmarks", "tests"}

# Heavy or delicate library -> the modules that may import it.
ROOMS = {
    "faiss": ("embstore.index", "rescoring.phrases", "ssl.targets"),
    "gensim": ("rescoring.semantic",),
    "jiwer": ("trunkline.metrics",),
    "pyarrow": ("trunkline.manifest", "trunkline.manifest_table", "embstore"),
    "sentencepiece": ("trunkline.tokenizer.subwords",),
    "torchaudio": ("trunkline._torchaudio",),
}

# Private to the project, not to its package: the one door to a library that cannot be imported as it is.
SHARED_DOORS = ("trunkline._torchaudio",)

# Where the name to import is not the name to install.
IMPORT_NAMES = {
    "faiss-cpu": "faiss", "pillow": "PIL", "pyyaml": "yaml", "scikit-learn": "sklearn", "umap-learn": "umap",
}  # fmt: skip


class Import(NamedTuple):
    place: str  # file and line
    module: str  # the importing module, dotted
    name: str  # what is imported, `from a import b` as a.b

    @property
    def importer(self) -> str:
        return self.module.split(".")[0]

    @property
    def imported(self) -> str:
        return self.name.split(".")[0]


def read_imports(path: Path) -> list[Import]:
    relative = path.relative_to(ROOT)
    module = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, (
                f"{relative}:{node.lineno}: write the import from the package's name on"
            )
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found += [Import(f"{relative}:{node.lineno}", module, name) for name in names]
    return found


@pytest.fixture(scope="module")
def imports() -> list[Import]:
    """Every import of the library's packages, wherever in the code it stands."""
    return [
        x
        for package in LAYERS
        for path in sorted((ROOT / package).rglob("*.py"))
        for x in read_imports(path)
    ]


def test_imports_point_one_way(imports):
    ours = set(LAYERS) | UPPER
    wrong = [x for x in imports if x.imported in ours - LAYERS[x.importer] - {x.importer}]
    assert not wrong


def test_no_package_reaches_into_the_private_parts_of_another(imports):
    private = [
        x
        for x in imports
        if any(p.startswith("_") and not p.startswith("__") for p in x.name.split("."))
    ]
    others = [x for x in private if x.imported in set(LAYERS) - {x.importer}]
    assert not [x for x in others if x.name not in SHARED_DOORS]


def test_heavy_libraries_are_imported_only_in_their_room(imports):
    heavy = [x for x in imports if x.imported in ROOMS]
    assert heavy, "nothing heavy is imported at all: this test looks in the wrong place"
    assert not [
        x for x in heavy if not any(f"{x.module}.".startswith(f"{y}.") for y in ROOMS[x.imported])
    ]


def test_every_library_that_is_imported_is_declared(imports):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]
    names = {name.partition("[")[0] for name in wanted}
    declared = {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in names}
    assert not [
        x for x in imports if x.imported not in declared | set(LAYERS) | sys.stdlib_module_names
    ]


def test_no_file_is_longer_than_400_lines():
    files = [path for folder in [*LAYERS, *UPPER] for path in (ROOT / folder).rglob("*.py")]
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_bytes().splitlines()) for path in files
    }
    assert {name: length for name, length in lengths.items() if length > 400} == {}
