"""The kernel is chosen before the import, visibly; and none gives other ids than another."""

import json
import os
import subprocess
import sys
from functools import cache

import pytest

from fast_tokenizer import build_info

KERNELS = build_info()["kernels"]

REPORT_KERNEL = """
import json
from fast_tokenizer import build_info
print(json.dumps(build_info()))
"""

# Random chunks, and the two kinds of data whose coefficients are exact ties: values on a grid, binary grippers.
# Widths lie below, at and above every kernel's number of lanes; horizons use the matrix, the FFT and Bluestein.
DIGESTS = """
import hashlib, json
import numpy as np
from fast_tokenizer import FastTokenizer

def digest(*arrays):
    return hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest()[:16]

found = {}
for horizon in (1, 16, 25, 50, 64, 257, 600):
    for dims in (1, 3, 7, 8, 9, 14, 17):
        rng = np.random.default_rng([horizon, dims])
        shape = (6, horizon, dims)
        grippers = np.repeat(rng.integers(0, 2, (6, -(-horizon // 4), dims)), 4, axis=1)[:, :horizon]
        data = {
            "random": np.cumsum(rng.normal(0, 0.05, shape), axis=1),
            "grid": rng.integers(-4, 5, shape) / 4,
            "grippers": grippers.astype(np.float32),
        }
        for name, chunks in data.items():
            for normalize in (None, "quantile"):
                tok = FastTokenizer.fit(chunks, 1024, normalize=normalize, clip=0.9 if normalize else None)
                batch = tok.encode(chunks)
                found[f"{name} T={horizon} D={dims} {normalize}"] = [
                    tok.fingerprint()[:16],
                    digest(batch.ids, batch.offsets, batch.saturated, batch.clipped),
                    digest(tok.decode(batch)),
                ]
print(json.dumps(found))
"""


def run(code, kernel):
    """A fresh interpreter with the variable set to `kernel`, or unset for None."""
    environment = {k: v for k, v in os.environ.items() if k != "FAST_TOKENIZER_KERNEL"}
    if kernel is not None:
        environment["FAST_TOKENIZER_KERNEL"] = kernel
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)


@cache
def result(code, kernel):
    done = run(code, kernel)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_machine_has_the_baseline_first():
    assert KERNELS[0] == "baseline"
    assert len(set(KERNELS)) == len(KERNELS)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_variable_names_the_kernel_in_use(kernel):
    info = result(REPORT_KERNEL, kernel)
    assert info["kernel"] == kernel
    assert info["kernels"] == KERNELS


@pytest.mark.parametrize("kernel", [None, ""], ids=["unset", "empty"])
def test_the_widest_kernel_is_used_when_none_is_named(kernel):
    assert result(REPORT_KERNEL, kernel)["kernel"] == KERNELS[-1]


@pytest.mark.parametrize("kernel", ["sse9", "AVX2", "baseline ", "avx2,avx512"])
def test_an_unknown_kernel_fails_the_import_and_says_which_there_are(kernel):
    done = run("import fast_tokenizer", kernel)
    assert done.returncode == 1
    error = done.stderr.splitlines()[-1]
    assert error.startswith("ImportError: ")
    assert f"kernel '{kernel}' cannot run here" in error
    assert ", ".join(KERNELS) in error
    assert "FAST_TOKENIZER_KERNEL" in error, "the message must say where the name came from"


@pytest.mark.parametrize("kernel", KERNELS[1:])
def test_every_kernel_gives_the_same_artefacts_ids_and_actions(kernel):
    baseline, other = result(DIGESTS, KERNELS[0]), result(DIGESTS, kernel)
    assert len(baseline) == 7 * 7 * 3 * 2
    assert {k for k in baseline if baseline[k] != other[k]} == set()
