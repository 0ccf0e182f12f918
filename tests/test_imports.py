"""What the package is made of: what it imports, exports, ships; and examples that run."""

import ast
import doctest
import importlib
import importlib.metadata
import importlib.resources
import inspect
import json
import pkgutil
import subprocess
import sys

import numpy as np
import pytest
import torch

import fast_tokenizer
from fast_tokenizer import _core

HEAVY = (
    *("torch", "transformers", "pyarrow", "h5py", "matplotlib", "scipy", "tokenizers", "rich", "typer", "zarr"),
    *("datasketches", "google_crc32c", "sentencepiece"),
)


def run_fresh(code, *flags):
    """Standard output of a fresh interpreter."""
    result = subprocess.run([sys.executable, *flags, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout


# ---- Imports -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    [
        "import fast_tokenizer",
        "from fast_tokenizer import *",
        "import fast_tokenizer; fast_tokenizer.FastTokenizer.default().encode(__import__('numpy').zeros((1, 5, 2)))",
    ],
    ids=["import", "star", "use"],
)
def test_a_fresh_import_loads_nothing_heavy(code):
    loaded = json.loads(run_fresh(f"{code}\nimport json, sys; print(json.dumps(sorted(sys.modules)))"))
    assert "fast_tokenizer._core" in loaded
    assert not [m for m in loaded if m.split(".")[0] in HEAVY]


def test_importing_prints_and_warns_of_nothing():
    assert run_fresh("import fast_tokenizer", "-W", "error") == ""


# ---- Exports -----------------------------------------------------------------------------------------


def test_all_names_resolve_once_and_in_order():
    names = fast_tokenizer.__all__
    assert names == sorted(set(names))
    assert all(getattr(fast_tokenizer, n) is not None for n in names)


def test_all_exports_have_docstrings():
    for name in fast_tokenizer.__all__:
        exported = getattr(fast_tokenizer, name)
        assert inspect.getdoc(exported), name
        for method, value in vars(exported).items() if inspect.isclass(exported) else ():
            if not method.startswith("_") and (inspect.isroutine(value) or isinstance(value, property)):
                assert inspect.getdoc(value), f"{name}.{method}"


def test_everything_public_that_the_package_defines_is_exported():
    own = {
        name
        for name, value in vars(fast_tokenizer).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__.startswith("fast_tokenizer")
    }
    assert own == set(fast_tokenizer.__all__)


def test_version_is_that_of_the_distribution():
    assert fast_tokenizer.__version__ == importlib.metadata.version("fast-tokenizer")
    assert fast_tokenizer.build_info()["version"] == fast_tokenizer.__version__


@pytest.mark.parametrize(
    "name",
    [
        *("py.typed", "_core.pyi", "report/page.css", "data/character_classes.json"),
        *("data/default_frequency_first.json", "data/default_dimension_first.json"),
    ],
)
def test_data_files_ship(name):
    assert importlib.resources.files("fast_tokenizer").joinpath(name).is_file()


# ---- The stub ----------------------------------------------------------------------------------------


def stub():
    return ast.parse(importlib.resources.files("fast_tokenizer").joinpath("_core.pyi").read_text())


def public(names):
    return {n for n in names if not n.startswith("_") or n == "__init__"}


def stub_names(body):
    """Public names that statements of a stub define."""
    names = []
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.append(node.name)
        elif isinstance(node, ast.AnnAssign):
            names.append(node.target.id)
    return public(names)


def parameters(function):
    """(names by position, keyword-only names, how many have defaults) of a parsed function, without self."""
    a = function.args
    names = [p.arg for p in a.args if p.arg != "self"]
    defaults = len(a.defaults) + sum(d is not None for d in a.kw_defaults)
    return names, [p.arg for p in a.kwonlyargs], defaults


def native_parameters(function):
    """The same of a native function, whose docstring opens with its signature."""
    signature = function.__doc__.splitlines()[0]
    return parameters(ast.parse(f"def {signature}: ...").body[0])


def test_the_stub_names_what_the_module_has_and_no_more():
    assert stub_names(stub().body) == public(vars(_core))


@pytest.mark.parametrize("name", ["Codec", "Corpus", "CorpusShards", "MergeDriver"])
def test_the_stub_s_classes_have_the_module_s_members(name):
    (declared,) = (n for n in stub().body if isinstance(n, ast.ClassDef) and n.name == name)
    native = getattr(_core, name)
    members = [m for m in declared.body if isinstance(m, ast.FunctionDef)]
    # A class that Python cannot make has a constructor that says so.
    assert stub_names(members) | {"__init__"} == public(vars(native))
    for member in members:
        value = getattr(native, member.name)
        is_property = any(isinstance(d, ast.Name) and d.id == "property" for d in member.decorator_list)
        assert is_property == isinstance(value, property), member.name
        if not is_property:
            assert parameters(member) == native_parameters(value), f"{name}.{member.name}"


def test_the_stub_s_functions_have_the_module_s_parameters():
    functions = [n for n in stub().body if isinstance(n, ast.FunctionDef)]
    assert {f.name for f in functions} == {"build_info", "dct2", "dct3", "fitted_range", "train_bpe"}
    for function in functions:
        assert parameters(function) == native_parameters(getattr(_core, function.name)), function.name


# ---- Examples ----------------------------------------------------------------------------------------


def modules():
    found = pkgutil.walk_packages(fast_tokenizer.__path__, "fast_tokenizer.")
    return ["fast_tokenizer", *(m.name for m in found if not m.name.endswith("_core"))]


def examples(name):
    module = importlib.import_module(name)
    package = importlib.import_module("fast_tokenizer.ki_model") if ".ki_model" in name else fast_tokenizer
    namespace = vars(package) | vars(module) | {"np": np, "torch": torch}
    return [t for t in doctest.DocTestFinder().find(module, name, globs=namespace) if t.examples]


@pytest.mark.parametrize("name", modules())
def test_the_examples_in_docstrings_run(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    runner = doctest.DocTestRunner(optionflags=doctest.FAIL_FAST)
    report = []
    for test in examples(name):
        runner.run(test, out=report.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(report)


def test_the_main_classes_have_examples():
    tested = {t.name for name in modules() for t in examples(name)}
    assert {
        "fast_tokenizer",
        "fast_tokenizer.build_info",
        "fast_tokenizer.chunk.windows",
        "fast_tokenizer.io.dataset.Trajectories",
        "fast_tokenizer.io.read",
        "fast_tokenizer.constrained.ActionGrammar",
        "fast_tokenizer.generation.ActionLogitsProcessor",
        "fast_tokenizer.max_len.recommend_max_len",
        "fast_tokenizer.normalize.Normalizer",
        "fast_tokenizer.prefix.decode_prefix",
        "fast_tokenizer.prefix.prefix_errors",
        "fast_tokenizer.prompt.PromptBuilder",
        "fast_tokenizer.sidecar",
        "fast_tokenizer.statistics.NormalizerStatistics",
        "fast_tokenizer.tokenizer.FastTokenizer",
        "fast_tokenizer.tokens.TokenBatch",
        "fast_tokenizer.training.NumpyCollate",
        "fast_tokenizer.training.StaticBatches",
        "fast_tokenizer.training.TorchCollate",
        "fast_tokenizer.vlm.VlmVocab",
        "fast_tokenizer.vlm.VlmVocab.add_to_tokenizer",
    } <= tested
