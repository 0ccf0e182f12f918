"""`fast-tokenizer report`, run as users run it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fast_tokenizer import EmbodimentData, FastTokenizer, windows
from fast_tokenizer.cli.app import app
from fast_tokenizer.cli.workflow import split_holdout
from fast_tokenizer.io import read
from fast_tokenizer.report.numbers import LEFT_OUT
from fast_tokenizer.synthetic import ROBOTS, generate_trajectories
from tests.test_cli import fails, ok, save_episodes


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten episodes, one of them shorter than a chunk."""
    trajectories = generate_trajectories(ROBOTS["libero"], 10, seed=3, seconds=(4.0, 6.0))
    trajectories[4] = trajectories[4][:7]
    names = np.array(ROBOTS["libero"].dimension_names)
    return save_episodes(tmp_path_factory.mktemp("data") / "libero.npz", trajectories, hz=20.0, action_names=names)


@pytest.fixture(scope="module")
def model(episodes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    ok("fit", episodes, "-o", folder, "--vocab-size", 512)
    return folder


def test_the_page_the_figures_and_the_numbers_agree(episodes: Path, model: Path, tmp_path: Path) -> None:
    out, figures = tmp_path / "report.html", tmp_path / "figures"
    text = ok("report", model, episodes, "-o", out, "--figures", figures, "--json", "--max-chunks", 50)
    found = json.loads(text)
    page = out.read_text()
    assert found["chunks"] == 50
    assert found["about"]["measured_on"] == LEFT_OUT
    assert "whether the tokenizer saw them is not known" in page
    assert "held-out" not in page
    assert "Entropy estimates" in page
    assert found["about"]["dimension_names"] == list(ROBOTS["libero"].dimension_names)
    assert found["episodes_left_out"] == {"shorter than 20 steps": 1}
    assert "left out: 1 shorter than 20 steps" in page
    assert f"<dd>{found['mean_token_length']:.1f}<small>" in page
    assert found["worst_chunk"]["place"] in page
    assert found["figures"] == [str(f) for f in sorted(figures.iterdir(), key=lambda f: found["figures"].index(str(f)))]
    assert len(found["figures"]) >= 11
    assert (found["output"], out.exists()) == (str(out), True)

    # The worst chunk is where the report says, and of an episode that fit held out.
    _, held = split_holdout(read(episodes).trajectories, 0.2)
    name, step = found["worst_chunk"]["place"].rsplit(", step ", 1)
    (trajectory,) = (t for t in held if t.name == name)
    chunk = trajectory.actions[int(step) : int(step) + 20]
    np.testing.assert_allclose(chunk, found["worst_chunk"]["recorded"])
    tok = FastTokenizer.load(model)
    np.testing.assert_allclose(tok.decode(tok.encode(chunk[None]))[0], found["worst_chunk"]["decoded"], atol=1e-12)


def here(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    """The command in this process, which has all imported."""
    app([str(a) for a in args], standalone_mode=False)
    return capsys.readouterr().out


def test_a_published_tokenizer_takes_normalised_actions(
    shared_data: Path, episodes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fast_plus = shared_data / "fast_artifacts" / "fast_plus"
    text = here(
        capsys,
        *("report", fast_plus, episodes, "-o", tmp_path / "r.html", "--normalize", "quantile", "--max-chunks", 60),
        *("--holdout", 0, "--dims", "0:3", "--horizon", 10, "--episodes", "0:3", "--max-rmse", 0.05),
    )
    assert "Measured on 60 chunks of given episodes" in text
    assert "with RMSE 0.05" in text
    assert "3 of 10 used; left out: 7 not chosen" in text
    page = (tmp_path / "r.html").read_text()
    assert "60 chunks of 10 steps x 3 dimensions at 20 Hz" in page
    assert "normaliser quantile, before it" in page
    assert "measured on the chunks they were fitted on" in page


def test_chunks_are_data_too(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "chunks.npz", chunks=np.cumsum(rng.normal(0, 0.01, (30, 20, 7)), axis=1), hz=20.0)
    found = json.loads(here(capsys, "report", model, tmp_path / "chunks.npz", "-o", tmp_path / "r.html", "--json"))
    assert (found["chunks"], found["about"]["episodes"]) == (6, 6)
    assert " chunk " in found["worst_chunk"]["place"]


def test_relative_actions_of_one_embodiment_of_several(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    states = np.cumsum(rng.normal(0, 0.3, (200, 3)), axis=0)
    actions = states[:, :2] + np.cumsum(rng.normal(0, 0.02, (200, 2)), axis=0)
    data = save_episodes(tmp_path / "data.npz", list(actions.reshape(4, 50, 2)), hz=10.0, state=states)
    chunks, starts = windows(actions, 10, 10), states[::10]
    arm = EmbodimentData(chunks, normalize="quantile", relative=[0], state=starts, hz=10.0)
    other = EmbodimentData(rng.normal(size=(20, 8, 5)), normalize="quantile")
    tok = FastTokenizer.fit_mixture({"arm": arm, "other": other}, 256)
    tok.save(tmp_path / "model")
    found = json.loads(
        here(
            capsys,
            *("report", tmp_path / "model", data, "-o", tmp_path / "r.html", "--embodiment", "arm", "--stride", 10),
            *("--holdout", 0, "--json"),
        )
    )
    decoded = tok.decode(tok.encode(chunks, state=starts, embodiment="arm"), state=starts, embodiment="arm")
    error = (decoded - chunks) / tok.embodiment("arm").spec.normalizer.half_range
    assert found["reconstruction_rmse"] == pytest.approx(np.sqrt(np.square(error).mean()))
    assert found["about"]["fingerprint"] == tok.fingerprint()
    page = (tmp_path / "r.html").read_text()
    assert "Dimensions 0 are relative to the state" in page
    assert "model (arm) on" in page
    with pytest.raises(ValueError, match="say which with --embodiment, one of arm, other"):
        here(capsys, "report", tmp_path / "model", data, "-o", tmp_path / "r.html")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--normalize", "min-max"), "--normalize min-max: the tokenizer normalises by itself (quantile)"),
        (("--max-chunks", 0), "--max-chunks must be positive, got 0"),
        (("--max-rmse", 0), "--max-rmse must be positive, got 0"),
        (("--holdout", 1), "--holdout must lie in [0, 1), got 1"),
        (("--stride", 0), "--stride must be positive, got 0"),
        (("--figures", __file__), f"--figures {__file__}: is a file; name a folder"),
        (("--dims", "0:3"), "the data's dimensions are"),
        (("--horizon", 30), "has 30 time steps, expected 20"),
        (("--horizon", 5000), "none of the 10 episodes has 5000 steps"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_cannot_be_reported_on_is_one_clear_error(
    episodes: Path, model: Path, tmp_path: Path, arguments: tuple[object, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        app([str(a) for a in ("report", model, episodes, "-o", tmp_path / "r.html", *arguments)], standalone_mode=False)
    assert not (tmp_path / "r.html").exists()


def test_a_place_that_cannot_be_written_is_refused_first(tmp_path: Path) -> None:
    line = fails("report", "no model", "no data", "-o", tmp_path / "nowhere" / "r.html")
    assert "cannot write in" in line


def test_figures_where_the_page_goes_and_a_missing_tokenizer_are_refused_first(tmp_path: Path) -> None:
    page = tmp_path / "r.html"
    for folder in (page, page / "figures"):
        with pytest.raises(ValueError, match="-o writes a file there; name a folder"):
            app(["report", "nope", "no data", "-o", str(page), "--figures", str(folder)], standalone_mode=False)
    with pytest.raises(ValueError, match="no tokenizer there: nope"):
        app(["report", "nope", "no data", "-o", str(page)], standalone_mode=False)


def test_a_missing_matplotlib_is_named_before_any_work(tmp_path: Path) -> None:
    code = "import sys; sys.modules['matplotlib'] = None; from fast_tokenizer.cli import main; main()"
    command = [sys.executable, "-c", code, "report", "nowhere", "nothing", "-o", str(tmp_path / "r.html")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, "COLUMNS": "100"})
    assert done.returncode == 1
    assert done.stderr.strip() == (
        "fast-tokenizer: the report needs the package matplotlib: pip install 'fast-tokenizer[report]'"
    )


def test_numbers_need_no_matplotlib() -> None:
    code = "import fast_tokenizer.report, sys; print('matplotlib' in sys.modules, 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False False\n"
