"""The fuzz targets of the Python readers over their corpus, without a fuzzer."""

import sys
import warnings
from pathlib import Path

import pytest

from scripts import fuzz
from tests.fuzz import readers, targets

CORPUS = Path(__file__).parent / "fuzz" / "corpus"


@pytest.mark.parametrize("target", targets.TARGETS)
def test_every_input_of_the_corpus_is_read_or_refused_by_the_librarys_own_errors(target, tmp_path):
    inputs = sorted((CORPUS / target).iterdir())
    assert len(inputs) >= 10
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of h5py and zarr, about what is wrong with a file
        for file in inputs:
            try:
                targets.run(target, file.read_bytes(), tmp_path)
            except BaseException as error:
                error.add_note(f"input: {file}")
                raise


@pytest.mark.parametrize("target", targets.TARGETS)
def test_what_no_choice_spoils_is_read(target, tmp_path, monkeypatch):
    """Else a target would only test how the first check fails. Input that is used up reads as zeros."""
    refused = []
    monkeypatch.setattr(readers, "expect_own", lambda error, where: refused.append(error))
    targets.run(target, b"", tmp_path)
    assert not refused


def test_an_error_that_is_not_the_librarys_fails():
    with pytest.raises(AssertionError, match="not one of the library's errors: KeyError"):
        readers.expect_own(KeyError("x"), Path("/folder"))
    with pytest.raises(AssertionError, match="does not say where"):
        readers.expect_own(ValueError("bad"), Path("/folder"))
    readers.expect_own(ValueError("/folder/a.npz: bad"), Path("/folder"))


def test_a_run_counts_what_its_own_target_found(tmp_path, monkeypatch):
    """Others run at the same time, and to be slow is no finding."""
    script = """
import sys
folder = sys.argv[-1].partition("=")[2].removesuffix("csv-")
for name in ("csv-crash-1", "csv-slow-unit-1", "csv-timeout-1", "csv_x-crash-1", "npz-crash-2"):
    open(folder + name, "w").close()
print("stat::number_of_executed_units: 12")
"""
    monkeypatch.setattr(fuzz, "BUILD", tmp_path)
    monkeypatch.setattr(fuzz, "CORPUS", tmp_path)
    monkeypatch.setattr(fuzz, "command", lambda target: [sys.executable, "-c", script])
    (tmp_path / "findings").mkdir()
    (tmp_path / "findings" / "csv-crash-0").touch()
    outcome = fuzz.run("csv", 1)
    assert [f.name for f in outcome.findings] == ["csv-crash-1", "csv-timeout-1"]
    assert outcome.executions == 12
