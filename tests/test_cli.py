"""The command line, run as users run it."""

import functools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fast_tokenizer import FastTokenizer
from fast_tokenizer.synthetic import ROBOTS, generate_trajectories


def run(*args: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from fast_tokenizer.cli import main; main()", *map(str, args)]
    environment = {**os.environ, "COLUMNS": "100"}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=120)


def ok(*args: object) -> str:
    done = run(*args)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def fails(*args: object) -> str:
    """One line on stderr, nothing on stdout, exit code 1."""
    done = run(*args)
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("fast-tokenizer: ")
    return lines[0]


def save_episodes(path: Path, trajectories: list[np.ndarray], **fields: object) -> Path:
    ends = np.cumsum([len(t) for t in trajectories])
    np.savez(path, actions=np.concatenate(trajectories), episode_ends=ends, **fields)
    return path


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten generated LIBERO-like episodes, one of which is too short for a chunk."""
    trajectories = generate_trajectories(ROBOTS["libero"], 10, seed=3, seconds=(4.0, 6.0))
    trajectories[4] = trajectories[4][:7]
    return save_episodes(
        tmp_path_factory.mktemp("data") / "libero.npz",
        trajectories,
        hz=20.0,
        action_names=np.array(ROBOTS["libero"].dimension_names),
    )


@pytest.fixture(scope="module")
def model(episodes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "nested" / "tok"
    ok("fit", episodes, "-o", folder, "--vocab-size", 512)
    return folder


def test_fit_saves_a_tokenizer_and_prints_what_it_is_worth(episodes: Path, tmp_path: Path) -> None:
    out = ok("fit", episodes, "-o", tmp_path / "tok", "--vocab-size", 512)
    for expected in ("20 x 7", "p50/p99/max", "naive binning", "RMSE, raw units", "saturated", "Peak memory"):
        assert expected in out
    assert "Episodes: 9 of 10 used; left out: 1 shorter than 20 steps" in out
    tokenizer = FastTokenizer.load(tmp_path / "tok")
    assert (tokenizer.spec.time_horizon, tokenizer.spec.action_dim, tokenizer.spec.hz) == (20, 7, 20.0)
    assert tokenizer.spec.dimension_names == ROBOTS["libero"].dimension_names
    assert tokenizer.spec.normalizer is not None
    assert tokenizer.spec.normalizer.kind == "quantile"
    assert tokenizer.fingerprint()[:16] in out


def test_fit_json_is_json_and_agrees_with_the_library(episodes: Path, tmp_path: Path) -> None:
    figures = json.loads(ok("fit", episodes, "-o", tmp_path / "tok", "--vocab-size", 300, "--json"))
    assert figures["vocab_size"] == 300
    assert figures["short_episodes"] == 1
    assert figures["compression_ratio"] == pytest.approx(140 / figures["mean_token_length"])
    assert figures["fingerprint"] == FastTokenizer.load(tmp_path / "tok").fingerprint()
    assert 0 < figures["reconstruction_rmse"] < 0.5 / 10
    assert len(figures["per_dimension_rmse"]) == 7


def test_fit_options_reach_the_artefact(episodes: Path, tmp_path: Path) -> None:
    ok(
        *("fit", episodes, "-o", tmp_path / "tok", "--horizon", "0.5s", "--dims", "0:3,6", "--scale", 20),
        *("--normalize", "min-max", "--clip", 0.9, "--stride", 3, "--holdout", 0, "--threads", 1),
    )
    spec = FastTokenizer.load(tmp_path / "tok").spec
    assert (spec.time_horizon, spec.action_dim, spec.scale) == (10, 4, 20.0)
    assert spec.dimension_names == ("x", "y", "z", "gripper")
    assert spec.normalizer is not None
    assert (spec.normalizer.kind, spec.normalizer.clip) == ("min-max", 0.9)


def test_encode_then_decode_gives_the_actions_back(episodes: Path, model: Path, tmp_path: Path) -> None:
    summary = json.loads(ok("encode", model, episodes, "-o", tmp_path / "tokens.npz", "--json"))
    ok("decode", model, tmp_path / "tokens.npz", "-o", tmp_path / "actions.npz")
    with np.load(episodes) as source, np.load(tmp_path / "actions.npz") as decoded:
        first = source["actions"][: source["episode_ends"][0]]
        count = len(first) // 20
        np.testing.assert_allclose(decoded["actions"][:count].reshape(-1, 7), first[: count * 20], atol=0.5)
        assert len(decoded["actions"]) == summary["chunks"]
        assert not decoded["missing"].any()
        lengths = np.diff(source["episode_ends"], prepend=0)
        assert summary["steps_left_out"] == sum(n % 20 for n in lengths)
        assert summary["short_episodes"] == 1


def test_decode_refuses_tokens_of_another_tokenizer(episodes: Path, model: Path, tmp_path: Path) -> None:
    ok("encode", model, episodes, "-o", tmp_path / "tokens.npz")
    ok("fit", episodes, "-o", tmp_path / "other", "--vocab-size", 400)
    line = fails("decode", tmp_path / "other", tmp_path / "tokens.npz", "-o", tmp_path / "x")
    assert "encoded with tokenizer" in line
    assert not (tmp_path / "x").exists()


def test_decode_repairs_only_when_told(episodes: Path, model: Path, tmp_path: Path) -> None:
    ok("encode", model, episodes, "-o", tmp_path / "tokens.npz")
    with np.load(tmp_path / "tokens.npz") as file:
        fields = dict(file)
    fields["ids"][0] = 99_999
    np.savez(tmp_path / "broken.npz", **fields)
    assert "unknown token id: got 99999" in fails("decode", model, tmp_path / "broken.npz", "-o", tmp_path / "a.npz")
    out = ok("decode", model, tmp_path / "broken.npz", "-o", tmp_path / "a.npz", "--errors", "repair")
    assert "1 repaired" in out
    with np.load(tmp_path / "a.npz") as file:
        assert file["unknown"][0] == 1
        assert file["unknown"][1:].sum() == 0


def test_inspect_shows_the_artefact(model: Path) -> None:
    assert "gripper" in ok("inspect", model)
    facts = json.loads(ok("inspect", model, "--json"))
    tokenizer = FastTokenizer.load(model)
    assert facts["fingerprint"] == tokenizer.fingerprint()
    assert facts["symbols"] + facts["merges"] == tokenizer.vocab_size == 512
    assert facts["longest_token_symbols"] == tokenizer.expansion_lengths.max()


def test_demo_needs_nothing(tmp_path: Path) -> None:
    done = run("demo", "--generated-episodes", 8, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for expected in ("aloha", "humanoid", "tokens a chunk", "recorded", "decoded", "coefficients in"):
        assert expected in done.stdout
    again = json.loads(ok("demo", "--generated-episodes", 8, "--json"))
    assert set(again) == set(ROBOTS)
    assert (
        again["aloha"]["fingerprint"]
        == json.loads(ok("demo", "--generated-episodes", 8, "--json"))["aloha"]["fingerprint"]
    )


def test_demo_takes_a_path(episodes: Path) -> None:
    assert "libero" in ok("demo", episodes)


def test_chunks_and_single_trajectories_are_read(tmp_path: Path) -> None:
    chunks = np.random.default_rng(0).normal(size=(60, 16, 3)).cumsum(axis=1).astype(np.float32)
    np.save(tmp_path / "chunks.npy", chunks)
    np.savez(tmp_path / "chunks.npz", chunks=chunks)
    np.save(tmp_path / "one.npy", chunks.reshape(-1, 3))
    for name, extra in (("chunks.npy", ()), ("chunks.npz", ()), ("one.npy", ("--horizon", 16))):
        figures = json.loads(ok("fit", tmp_path / name, "-o", tmp_path / "t", "--vocab-size", 800, "--json", *extra))
        assert figures["time_horizon"] == 16


def broken_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """Files that are not what they should be, and what the message must say."""
    rng = np.random.default_rng(0)
    actions = rng.normal(size=(100, 3))
    ends = np.array([50, 100])
    with_nan = actions.copy()
    with_nan[17, 2] = np.nan

    def npz(name: str, **fields: object) -> Path:
        np.savez(folder / f"{name}.npz", **fields)
        return folder / f"{name}.npz"

    (folder / "empty.npz").write_bytes(b"")
    (folder / "text.npz").write_text("hello")
    whole = npz("whole", actions=actions, episode_ends=ends).read_bytes()
    (folder / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (folder / "data.parquet").write_text("PAR1")
    np.save(folder / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    return {
        "missing": (folder / "nowhere.npz", "no such file"),
        "empty": (folder / "empty.npz", "not a readable npz"),
        "text": (folder / "text.npz", "not a readable npz"),
        "cut": (folder / "cut.npz", "not a readable npz"),
        "suffix": (folder / "data.parquet", "expected a folder, or a file ending in .npz, .npy"),
        "pickle": (folder / "object.npy", "not a readable npy"),
        "no actions": (npz("other", positions=actions), "expected an array 'actions' or 'chunks', got ['positions']"),
        "no ends": (npz("noends", actions=actions), "need 'episode_ends'"),
        "falling ends": (npz("falling", actions=actions, episode_ends=ends[::-1]), "episode 1 runs from row 100 to 50"),
        "short ends": (npz("shortends", actions=actions, episode_ends=ends[:1]), "the last episode ends at row 50"),
        "beyond": (npz("beyond", actions=actions, episode_ends=np.array([50, 120])), "runs from row 50 to 120"),
        "integers": (npz("ints", actions=np.ones((9, 3), int), episode_ends=np.array([9])), "got int64"),
        "nan": (npz("nan", actions=with_nan, episode_ends=ends), "actions[17, 2] is nan"),
        "rank": (npz("rank", actions=actions.ravel(), episode_ends=ends), "expected actions of shape"),
        "no rows": (npz("norows", chunks=np.ones((0, 5, 3))), "not empty"),
        "names": (
            npz("names", actions=actions, episode_ends=ends, action_names=np.array(["x"])),
            "action_names has 1 names for 3 dimensions",
        ),
        "hz": (npz("hz", actions=actions, episode_ends=ends, hz=-5.0), "hz must be one positive number"),
    }


def test_bad_data_ends_in_one_clear_line(tmp_path: Path) -> None:
    for path, message in broken_files(tmp_path).values():
        line = fails("fit", path, "-o", tmp_path / "tok", "--horizon", 10)
        assert message in line
        assert str(path) in line
    assert not (tmp_path / "tok").exists()


def test_bad_options_end_in_one_clear_line(episodes: Path, tmp_path: Path) -> None:
    for options, message in (
        (("--horizon", "5000"), "none of the 8 episodes to fit on has 5000 steps"),
        (("--horizon", "soon"), "expected steps such as 50"),
        (("--horizon", "0"), "less than one step"),
        (("--dims", "0:9"), "0:9 does not lie in the data's dimensions 0..6"),
        (("--dims", "1,1"), "names a dimension twice"),
        (("--dims", "a"), "expected indices and ranges"),
        (("--holdout", "1"), "--holdout must lie in [0, 1)"),
        (("--vocab-size", "40"), "do not fit vocab_size=40"),
        (("--scale", "-1"), "scale must be finite and positive"),
        (("--stride", "0"), "stride must be positive"),
        (("--normalize", "none", "--clip", "2"), "--clip needs --normalize"),
        (("--threads", "0"), "num_threads must be positive"),
        (("--threads", "99999999999999"), "num_threads must be at most 1024"),
        (("--hz", "inf"), "--hz must be a positive rate"),
        (("--hz", "0"), "--hz must be a positive rate"),
        (("--hz", "nan"), "--hz must be a positive rate"),
        (("--horizon", "9" * 400 + "s"), "expected steps such as 50"),
    ):
        assert message in fails("fit", episodes, "-o", tmp_path / "tok", *options)
    np.save(tmp_path / "norate.npy", np.zeros((50, 2)))
    assert "give --horizon in steps, or --hz" in fails("fit", tmp_path / "norate.npy", "-o", tmp_path / "tok")
    assert not (tmp_path / "tok").exists()


def test_bad_models_and_tokens_end_in_one_clear_line(episodes: Path, model: Path, tmp_path: Path) -> None:
    assert "No such file" in fails("inspect", tmp_path / "nowhere")
    cut = tmp_path / "cut"
    cut.mkdir()
    artefact = (model / "fast_tokenizer.json").read_bytes()
    (cut / "fast_tokenizer.json").write_bytes(artefact[: len(artefact) // 2])
    assert "not valid JSON, truncated perhaps" in fails("inspect", cut)
    assert "not valid JSON" in fails("encode", cut, episodes, "-o", tmp_path / "t.npz")
    assert "not a file of tokens" in fails("decode", model, episodes, "-o", tmp_path / "a.npz")
    np.save(tmp_path / "wide.npy", np.zeros((40, 9)))
    assert "has 9 dimensions, expected 7" in fails("encode", model, tmp_path / "wide.npy", "-o", tmp_path / "t.npz")


def test_bad_usage_ends_in_one_line_and_exits_with_2(episodes: Path) -> None:
    for arguments in (("fit",), ("nonsense",), ("fit", episodes, "-o", "x", "--normalize", "foo")):
        done = run(*arguments)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "Usage" in ok("fit", "--help")
    assert len(ok().splitlines()) > 5, "without arguments: the help"
    assert "kernel" in json.loads(ok("--version"))


def test_figures_of_fitted_episodes_are_not_called_held_out(tmp_path: Path) -> None:
    trajectories = generate_trajectories(ROBOTS["libero"], 5, seed=0, seconds=(4.0, 6.0))
    order = np.random.default_rng(0).permutation(5)
    trajectories[order[0]] = trajectories[order[0]][:5]  # the one that is held out fills no chunk
    path = save_episodes(tmp_path / "five.npz", trajectories, hz=20.0)
    assert "fitted episodes: none were held out" in ok("fit", path, "-o", tmp_path / "tok", "--vocab-size", 400)
    figures = json.loads(ok("fit", path, "-o", tmp_path / "tok", "--vocab-size", 400, "--json"))
    assert figures["measured_on"] == "fitted episodes"
    assert "none were held out" in ok("demo", path)


def test_names_are_printed_as_they_are(tmp_path: Path) -> None:
    trajectories = generate_trajectories(ROBOTS["libero"], 4, seed=0, seconds=(4.0, 6.0))
    names = np.array(["[/a]", "[red]b", "c\x1b[31m", "d", "e", "f", "g"])
    path = save_episodes(tmp_path / "odd.npz", trajectories, hz=20.0, action_names=names)
    folder = tmp_path / "run[v2] [x"
    assert f"Saved to {folder}," in ok("fit", path, "-o", folder, "--vocab-size", 400)
    shown = ok("inspect", folder)
    assert "[/a]" in shown
    assert "[red]b" in shown
    assert "\x1b[31m" not in shown


def test_names_from_data_cannot_steer_the_terminal(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    actions = [np.cumsum(rng.normal(0, 0.01, (40, 3)), 0).astype(np.float32) for _ in range(4)]
    names = np.array(["\x1b]0;pwned\x07", "\ud800", "z"])
    states = {"state": np.concatenate(actions), "state_names": names}
    path = save_episodes(tmp_path / "odd.npz", actions, hz=20.0, action_names=names, **states)
    folder, page = tmp_path / "tok", tmp_path / "page.html"
    shown = ok("fit", path, "-o", folder, "--vocab-size", 300, "--relative", "0,1")
    assert "Relative, dimension <- state column: 0 (?]0;pwned?) <- 0 (?]0;pwned?), 1 (?) <- 1 (?)" in shown
    assert FastTokenizer.load(folder).spec.dimension_names == ("?]0;pwned?", "?", "z")
    shown += ok("inspect", folder) + ok("report", folder, path, "-o", page)
    assert "\x1b" not in shown + page.read_text()
    assert "\x07" not in shown + page.read_text()


def test_errors_cannot_steer_the_terminal(tmp_path: Path) -> None:
    odd = tmp_path / "\x1b[31m.npz"
    assert fails("fit", odd, "-o", tmp_path / "tok").endswith("?[31m.npz: no such file")
    (tmp_path / "tok").mkdir()
    (tmp_path / "tok" / "fast_tokenizer.json").write_text('{"x\x9b": 1}')
    assert "\x9b" not in fails("inspect", tmp_path / "tok")


def test_data_of_another_rate_or_other_dimensions_is_refused(episodes: Path, model: Path, tmp_path: Path) -> None:
    with np.load(episodes) as file:
        fields = dict(file)
    slow = tmp_path / "slow.npz"
    np.savez(slow, **{**fields, "hz": 5.0})
    assert "the data is at 5 Hz, the tokenizer was fitted at 20 Hz" in fails(
        "encode", model, slow, "-o", tmp_path / "t"
    )
    ok("encode", model, slow, "-o", tmp_path / "t", "--hz", 20)
    line = fails("encode", model, episodes, "-o", tmp_path / "t2", "--dims", "6,5,4,3,2,1,0")
    assert "the data's dimensions are ['gripper'" in line


def test_a_terminal_without_unicode_gets_a_picture_too() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    command = [sys.executable, "-m", "fast_tokenizer", "demo", "--generated-episodes", "4"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "recorded" in done.stdout


def test_what_are_no_ids_is_refused_however_it_is_spelled(episodes: Path, model: Path, tmp_path: Path) -> None:
    ok("encode", model, episodes, "-o", tmp_path / "tokens.npz")
    with np.load(tmp_path / "tokens.npz") as file:
        fields = dict(file)
    ids, offsets = fields["ids"], fields["offsets"]
    for changes, message in (
        ({"ids": ids.astype(np.int64) + 2**32}, "unknown token id"),
        ({"ids": ids + 0.5}, "'ids' must be integers of rank 1, got float64"),
        ({"ids": ids.astype(str)}, "'ids' must be integers"),
        ({"ids": ids[:, None]}, "'ids' must be integers of rank 1"),
        ({"offsets": offsets + 0.5}, "'offsets' must be integers"),
        ({"offsets": offsets[::-1].copy()}, "offsets must rise from 0"),
        ({"offsets": np.int64(3)}, "'offsets' must be integers of rank 1"),
        ({"offsets": offsets[:0]}, "offsets must rise from 0"),
        ({"time_horizon": 20.9}, "'time_horizon' must be integers of rank 0"),
        ({"time_horizon": np.uint64(2**64 - 1)}, "chunks of 18446744073709551615 x 7 are none"),
        ({"action_dim": 2**40}, "are none"),
        ({"fingerprint": 5}, "'fingerprint' must be a string"),
    ):
        np.savez(tmp_path / "hostile.npz", **{**fields, **changes})
        errors = "strict" if message == "unknown token id" else "repair"  # these are none to repair
        line = fails("decode", model, tmp_path / "hostile.npz", "-o", tmp_path / "a.npz", "--errors", errors)
        assert message in line


def test_outputs_that_cannot_be_written_are_refused_before_any_work(
    episodes: Path, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    assert "is a file" in fails("fit", episodes, "-o", tmp_path / "file")
    assert "cannot write in" in fails("encode", model, episodes, "-o", tmp_path / "nowhere" / "t.npz")
    assert "is a folder" in fails("encode", model, episodes, "-o", tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in its file system")
def test_links_and_pipes_stay_what_they_are(episodes: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "real.npz").write_bytes(b"old")
    (tmp_path / "link.npz").symlink_to(tmp_path / "real.npz")
    ok("encode", model, episodes, "-o", tmp_path / "link.npz")
    assert (tmp_path / "link.npz").is_symlink()
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE) as reader:
        ok("encode", model, episodes, "-o", tmp_path / "pipe")
        assert reader.communicate(timeout=30)[0][:2] == b"PK"
    assert (tmp_path / "pipe").is_fifo()


def test_files_that_disagree_are_refused(episodes: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "wide.npy", np.zeros((90, 9)))
    assert "wide.npy has 9 dimensions" in fails("fit", episodes, tmp_path / "wide.npy", "-o", tmp_path / "tok")
    other = save_episodes(tmp_path / "slow.npz", [np.zeros((90, 7))], hz=5.0)
    assert "has 5.0 Hz" in fails("fit", episodes, other, "-o", tmp_path / "tok")


# ---- Large data, interruptions, full disks -----------------------------------------------------------


def test_many_files_fit_what_one_file_of_the_same_episodes_fits(episodes: Path, tmp_path: Path) -> None:
    with np.load(episodes) as file:
        parts = np.split(file["actions"], file["episode_ends"][:-1])
        fields = {name: file[name] for name in ("hz", "action_names")}
    files = [save_episodes(tmp_path / f"{i}.npz", parts[2 * i : 2 * i + 2], **fields) for i in range(5)]
    one = json.loads(ok("fit", episodes, "-o", tmp_path / "one", "--vocab-size", 512, "--json"))
    many = json.loads(ok("fit", *files, "-o", tmp_path / "many", "--vocab-size", 512, "--json"))
    varying = ("seconds", "peak", "output")
    assert {k: v for k, v in one.items() if not any(w in k for w in varying)} == {
        k: v for k, v in many.items() if not any(w in k for w in varying)
    }
    assert (tmp_path / "one" / "fast_tokenizer.json").read_bytes() == (
        tmp_path / "many" / "fast_tokenizer.json"
    ).read_bytes()


@pytest.mark.parametrize("normalize", ["quantile", "none"])
def test_max_chunks_samples_and_says_what_it_left_out(episodes: Path, tmp_path: Path, normalize: str) -> None:
    fit = ("fit", episodes, "-o", tmp_path / "tok", "--vocab-size", 600, "--normalize", normalize)
    full = json.loads(ok(*fit, "--json"))
    assert full["fit_chunks_left_out"] == 0
    seen = full["fit_chunks"]
    assert json.loads(ok(*fit, "--max-chunks", seen, "--json"))["fingerprint"] == full["fingerprint"]
    sampled = json.loads(ok(*fit, "--max-chunks", 100, "--json"))
    assert (sampled["fit_chunks"], sampled["fit_chunks_left_out"]) == (100, seen - 100)
    assert sampled["chunks"] == full["chunks"], "measured on all held-out chunks"
    normalizers = {json.loads(ok(*fit, *more, "--json"))["fingerprint"] for more in ((), ("--max-chunks", 100))}
    assert len(normalizers) == 2
    assert f"Fitted on 100 of {seen:,} chunks" in ok(*fit, "--max-chunks", 100)


def test_statistics_are_of_all_episodes_whatever_the_sample(episodes: Path, tmp_path: Path) -> None:
    for name, more in (("full", ()), ("sample", ("--max-chunks", 100))):
        ok("fit", episodes, "-o", tmp_path / name, "--vocab-size", 600, *more)
    full, sample = (FastTokenizer.load(tmp_path / name).spec.normalizer for name in ("full", "sample"))
    assert full is not None
    assert sample is not None
    assert full.center.tolist() == sample.center.tolist()
    assert full.half_range.tolist() == sample.half_range.tolist()


def test_a_memory_budget_spills_says_so_and_changes_nothing(episodes: Path, model: Path, tmp_path: Path) -> None:
    fit = ("fit", episodes, "-o", tmp_path / "tok", "--vocab-size", 512, "--memory-budget")
    figures = json.loads(ok(*fit, "1KiB", "--spill-directory", tmp_path, "--json"))
    assert figures["fingerprint"] == FastTokenizer.load(model).fingerprint()
    assert figures["fit_spilled_bytes"] > 0
    assert json.loads(ok(*fit, "1GiB", "--json"))["fit_spilled_bytes"] == 0
    assert "MiB went to temporary files" in ok(*fit, "1KiB")
    assert [p.name for p in tmp_path.iterdir()] == ["tok"]


def test_files_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    data = {"actions": np.zeros((40, 2), np.float32), "episode_ends": np.array([40]), "hz": 10}
    first, second = tmp_path / "first.npz", tmp_path / "second.npz"
    np.savez(first, action_names=["x", "y"], **data)
    np.savez(second, action_names=["y", "x"], **data)
    message = f"{second} has the dimensions ['y', 'x'], {first} has ['x', 'y']"
    assert message in fails("fit", first, second, "-o", tmp_path / "tok")
    assert "given twice" in fails("fit", first, tmp_path / "." / "first.npz", "-o", tmp_path / "tok")


def test_bad_storage_options_end_in_one_clear_line(episodes: Path, tmp_path: Path) -> None:
    fit = ("fit", episodes, "-o", tmp_path / "tok")
    for options, message in (
        (("--memory-budget", "much"), "--memory-budget: expected bytes such as 2GiB"),
        (("--memory-budget", "99999999999TiB"), "memory_budget must be at most"),
        (("--spill-directory", tmp_path), "spill_directory goes with memory_budget"),
        (("--memory-budget", "1GiB", "--spill-directory", tmp_path / "no"), "No such file or directory"),
        (("--max-chunks", "0"), "max_chunks must be at least 1"),
    ):
        assert message in fails(*fit, *options)


#: The command line, but that it says "there" and waits when a stage begins.
HALTED = """
import os, signal, sys, time
from contextlib import contextmanager
from fast_tokenizer.cli import app, main

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, where the tests run in the background

@contextmanager
def halting():
    def report(stage, done, total):
        if stage == os.environ["HALT_AT"]:
            print("there", flush=True)
            time.sleep(100)
    yield report

app.shown_progress = halting
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["SIGINT", "SIGKILL"])
@pytest.mark.parametrize("stage", ["open", "statistics", "quantize", "merge", "measure"])
def test_an_interrupted_fit_leaves_nothing_and_can_be_run_again(
    episodes: Path, model: Path, tmp_path: Path, stage: str, number: signal.Signals
) -> None:
    folder, spill = tmp_path / "tok", tmp_path / "spill"
    spill.mkdir()
    fit = ("fit", episodes, "-o", folder, "--vocab-size", "512", "--memory-budget", "1", "--spill-directory", spill)
    environment = {**os.environ, "HALT_AT": stage}
    command = [sys.executable, "-c", HALTED, *map(str, fit)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert errors.strip() == "fast-tokenizer: interrupted"
    else:
        assert process.returncode == -number
    assert not folder.exists()
    assert not list(spill.iterdir())
    again = json.loads(ok(*fit, "--json"))
    assert again["fingerprint"] == FastTokenizer.load(model).fingerprint()
    assert [p.name for p in folder.iterdir()] == ["fast_tokenizer.json"]
    assert not list(spill.iterdir())


def run_on_a_disk_of(size: int, *args: object) -> str:
    """The one line of a command that may write files of `size` bytes at most."""
    import resource

    command = [sys.executable, "-B", "-c", "from fast_tokenizer.cli import main; main()", *map(str, args)]
    limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size, size))
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, timeout=120)
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX limits")
def test_a_disk_that_fills_up_ends_in_one_clear_line_and_leaves_no_half_file(
    episodes: Path, model: Path, tmp_path: Path
) -> None:
    folder, tokens = tmp_path / "tok", tmp_path / "tokens.npz"
    line = run_on_a_disk_of(1000, "fit", episodes, "-o", folder)
    assert f"-o {folder}: cannot write there: File too large" in line
    assert not folder.exists() or not list(folder.iterdir())
    line = run_on_a_disk_of(1000, "encode", model, episodes, "-o", tokens)
    assert f"-o {tokens}: cannot write there: File too large" in line
    assert [p.name for p in tmp_path.iterdir() if p != folder] == []
    spill = ("--memory-budget", 1, "--spill-directory", tmp_path)
    line = run_on_a_disk_of(2000, "fit", episodes, "-o", folder, *spill)
    assert f"no file in {tmp_path} can take them: File too large" in line
    before = (model / "fast_tokenizer.json").read_bytes()
    run_on_a_disk_of(1000, "fit", episodes, "-o", model)
    assert [p.name for p in model.iterdir()] == ["fast_tokenizer.json"]
    assert (model / "fast_tokenizer.json").read_bytes() == before, "the old one stays whole"


def test_a_published_tokenizer_works_like_one_of_ours(shared_data: Path, episodes: Path, tmp_path: Path) -> None:
    published = shared_data / "fast_artifacts" / "fast_plus"
    figures = json.loads(ok("inspect", published, "--json"))
    assert (figures["vocab_size"], figures["symbols"], figures["longest_zero_run"]) == (2048, 256, 1593)
    summary = json.loads(ok("encode", published, episodes, "-o", tmp_path / "tokens.npz", "--horizon", 20, "--json"))
    assert summary["dropped"] == 0
    ok("decode", published, tmp_path / "tokens.npz", "-o", tmp_path / "actions.npz")
    with np.load(tmp_path / "actions.npz") as decoded:
        assert len(decoded["actions"]) == summary["chunks"]
        assert not decoded["broken"].any()
