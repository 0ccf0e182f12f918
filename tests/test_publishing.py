"""What is published with the code: version, licences, citation, and what wheel and sdist hold."""

import hashlib
import importlib.metadata
import importlib.util
import re
import subprocess
import tomllib
from email.message import Message
from pathlib import Path

import pytest
import yaml

import fast_tokenizer
from scripts import fit_default

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT, WHEELS = PYPROJECT["project"], PYPROJECT["tool"]["cibuildwheel"]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())


@pytest.fixture(scope="module")
def metadata() -> Message:
    """Of the installed distribution: what a wheel says about itself."""
    return importlib.metadata.metadata("fast-tokenizer")


def test_the_version_is_one_everywhere(metadata: Message) -> None:
    version = PROJECT["version"]
    assert metadata["Version"] == version
    assert fast_tokenizer.__version__ == version
    assert fast_tokenizer.build_info()["version"] == version
    assert CITATION["version"] == version
    released = re.findall(r"^## \[?(\d[\w.]*)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert released[0] == version


def test_nothing_else_spells_the_version_out() -> None:
    written = re.compile(rf"fast[-_]tokenizer[^\n]{{0,12}}{re.escape(PROJECT['version'])}\b")
    files = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "fast_tokenizer").rglob("*.py")]
    for file in [*files, ROOT / "CMakeLists.txt", ROOT / "mkdocs.yml"]:
        assert not written.search(file.read_text()), file


# ---- Licences ------------------------------------------------------------------------------------------------------


def test_the_licence_is_whole() -> None:
    """The text at apache.org/licenses/LICENSE-2.0.txt, by its SHA-256."""
    digest = hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest()
    assert digest == "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"


def test_a_wheel_has_the_licences_of_what_is_in_it(metadata: Message) -> None:
    shipped = metadata.get_all("License-File")
    assert shipped is not None
    assert sorted(shipped) == ["LICENSE", "NOTICE", "licenses/pybind11.txt", "licenses/unicode.txt"]
    assert "Wenzel Jakob" in (ROOT / "licenses" / "pybind11.txt").read_text()
    assert "UNICODE LICENSE V3" in (ROOT / "licenses" / "unicode.txt").read_text()
    notice = (ROOT / "NOTICE").read_text()
    for file in (ROOT / "licenses").iterdir():
        assert f"licenses/{file.name}" in notice


def test_the_notice_names_every_recording_of_the_bundled_tokenizers() -> None:
    """A set that is fitted on needs its place there, with its licence."""
    names = {
        "adroit_door_vr": "hand_dapg",
        "g1_inspire_pick": "G1-policy-train",
        "g1_moves": "G1 Moves",
        "omniglot_pen": "Omniglot",
        "robosuite_handover_bimanual": "robosuite",
        "robosuite_panda_osc": "robosuite",
        "robosuite_sawyer_spacemouse": "robosuite",
    }
    assert sorted(fit_default.RECORDED) == sorted(names)
    notice = (ROOT / "NOTICE").read_text()
    for name in names.values():
        (entry,) = (part for part in re.split(r"\n- |\n\n", notice) if name in part)
        assert re.search(r"Apache-2\.0|MIT|CC BY 4\.0", entry), entry


# ---- Citation ------------------------------------------------------------------------------------------------------


def test_the_citation_has_what_its_format_asks_for() -> None:
    """citation-file-format 1.2.0: required fields, and no others than it knows."""
    required = {"cff-version", "message", "title", "authors"}
    known = required | {"abstract", "keywords", "license", "references", "type", "version"}
    assert required <= CITATION.keys() <= known
    assert CITATION["cff-version"] == "1.2.0"
    assert CITATION["type"] == "software"
    assert CITATION["authors"] == [{"name": "The fast_tokenizer developers"}]
    assert CITATION["license"] == PROJECT["license"]
    for reference in CITATION["references"]:
        assert {"type", "title", "authors"} <= reference.keys()
        assert all(author.keys() == {"family-names", "given-names"} for author in reference["authors"])
    cited = [reference["url"].rpartition("/")[2] for reference in CITATION["references"]]
    assert cited == ["2501.09747", "2505.23705"]
    for number in cited:
        assert number in (ROOT / "README.md").read_text()


# ---- What the package index shows ----------------------------------------------------------------------------------


def test_what_the_index_shows_is_true(metadata: Message) -> None:
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Description-Content-Type"] == "text/markdown"
    classifiers = metadata.get_all("Classifier")
    assert classifiers is not None
    built = re.findall(
        r"cp(\d)(\d+)-", tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["cibuildwheel"]["build"]
    )
    assert [f"Programming Language :: Python :: {a}.{b}" for a, b in built] == [
        c for c in classifiers if re.fullmatch(r"Programming Language :: Python :: 3\.\d+", c)
    ]
    assert "Typing :: Typed" in classifiers
    assert metadata.get_all("Project-URL") is None, "none is known; pyproject.toml says why"


def test_the_package_is_typed() -> None:
    spec = importlib.util.find_spec("fast_tokenizer")
    assert spec is not None
    assert spec.origin is not None
    assert (Path(spec.origin).parent / "py.typed").is_file()


def test_nothing_large_or_built_is_in_the_repository() -> None:
    """Else it would be in the sdist, too, whose files `.ci/run` compares with git's."""
    if not (ROOT / ".git").exists():
        pytest.skip("no repository")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    large = [name for name in listed if (ROOT / name).is_file() and (ROOT / name).stat().st_size > 2**20]
    assert not large
    junk = re.compile(r"(\.(so|pyc|o|egg-info|whl|parquet|ckpt|safetensors)|~|\.orig|\.rej)$")
    assert not [name for name in listed if junk.search(name)]
