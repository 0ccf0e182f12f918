"""The artefact: every field survives saving, every kind of damage has its refusal, saving is all or nothing."""

import hashlib
import json
import os
import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fast_tokenizer import ArtefactError, FastTokenizer, Normalizer, TokenizerSpec, spec
from fast_tokenizer import format as artefact
from fast_tokenizer.relative import Relative

KINDS = ("quantile", "min-max", "mean-std", "identity")
FILE_NAME = "fast_tokenizer.json"

NEW_IN_2 = ("end_of_block", "parsing", "dead_zone", "levels_beyond", "relative")
GOLDEN = """\
{
  "format": "fast_tokenizer",
  "version": 2,
  "vocab_size": 5,
  "min_coefficient": -1,
  "max_coefficient": 1,
  "levels_beyond": 0,
  "order": "dimension-first",
  "end_of_block": null,
  "parsing": "optimal",
  "dead_zone": 0.6,
  "scale": [10.0, 0.1],
  "time_horizon": 4,
  "action_dim": 2,
  "hz": 29.97,
  "dimension_names": ["x", "gr\\u00edpper"],
  "normalizer": {"kind": "quantile", "center": [0.25, -1e-07], "half_range": [0.3333333333333333, 0.0], "clip": 1.5},
  "relative": {"dimensions": [1], "state_columns": [3], "state_dim": 5, "state_names": ["q3"]},
  "merges": [[1, 1], [3, 1]]
}
"""
GOLDEN_FINGERPRINT = "98ab6e389be7ac08766b117f69f8bb903258b5783b467d804c7f7318e584598f"


def golden_spec(**changes):
    normalizer = Normalizer("quantile", np.array([0.25, -1e-7]), np.array([1 / 3, 0.0]), clip=1.5)
    fields = {
        "scale": (10.0, 0.1),
        "min_coefficient": -1,
        "max_coefficient": 1,
        "merges": np.array([[1, 1], [3, 1]], np.int32),
        "normalizer": normalizer,
        "time_horizon": 4,
        "action_dim": 2,
        "hz": 29.97,
        "dimension_names": ("x", "grípper"),
        "order": "dimension-first",
        "end_of_block": None,
        "parsing": "optimal",
        "dead_zone": 0.6,
        "relative": Relative((1,), (3,), 5, ("q3",)),
    }
    return TokenizerSpec(**(fields | changes))


def saved_and_loaded(spec, folder):
    FastTokenizer(spec).save(folder)
    return FastTokenizer.load(folder).spec


def exact(value):
    """A value in a form that differs whenever a bit differs."""
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, tuple):
        return tuple(exact(v) for v in value)
    if isinstance(value, Normalizer):
        return tuple(exact(v) for v in (value.kind, value.center, value.half_range, value.clip))
    return value


def assert_same_spec(a, b):
    for name in TokenizerSpec.__dataclass_fields__:
        assert exact(getattr(a, name)) == exact(getattr(b, name)), name


# ---- What is written is what is read -----------------------------------------------------------------


def test_golden_file_is_written_byte_for_byte(tmp_path):
    FastTokenizer(golden_spec()).save(tmp_path)
    assert (tmp_path / FILE_NAME).read_bytes() == GOLDEN.encode()


def test_golden_file_is_read(tmp_path):
    (tmp_path / FILE_NAME).write_bytes(GOLDEN.encode())
    assert_same_spec(FastTokenizer.load(tmp_path).spec, golden_spec())


def test_an_artefact_of_version_1_is_read(tmp_path):
    """It had neither ends of blocks nor another order, parsing or rounding."""
    values = json.loads(GOLDEN) | {"version": 1, "order": "frequency-first"}
    (tmp_path / FILE_NAME).write_text(json.dumps({k: v for k, v in values.items() if k not in NEW_IN_2}))
    plain = {"relative": None, "order": "frequency-first", "end_of_block": None, "parsing": "bpe", "dead_zone": 0.5}
    assert_same_spec(FastTokenizer.load(tmp_path).spec, golden_spec(**plain))


@pytest.mark.parametrize("field", [*NEW_IN_2, "embodiments"])
def test_what_version_1_did_not_have_is_refused_in_it(refusal, field):
    values = {k: v for k, v in json.loads(GOLDEN).items() if k not in NEW_IN_2} | {field: None}
    assert refusal(json.dumps(values | {"version": 1})) == f"unknown field {field!r}"


def test_golden_fingerprint():
    assert FastTokenizer(golden_spec()).fingerprint() == GOLDEN_FINGERPRINT


def test_fingerprint_is_the_sha256_of_the_sorted_compact_json():
    compact = json.dumps(json.loads(GOLDEN), sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(compact.encode()).hexdigest() == GOLDEN_FINGERPRINT


@pytest.mark.parametrize(
    "changes",
    [
        {"scale": (10.0, 0.2)},
        {"scale": 10.0},
        {"min_coefficient": -2, "merges": [[1, 1], [4, 1]]},
        {"max_coefficient": 2, "merges": [[1, 1], [4, 1]]},
        {"merges": [[1, 1], [1, 3]]},
        {"merges": [[1, 1]]},
        {"normalizer": None},
        {"normalizer": Normalizer("min-max", np.array([0.25, -1e-7]), np.array([1 / 3, 0.0]), clip=1.5)},
        {"normalizer": Normalizer("quantile", np.array([0.25, 0.0]), np.array([1 / 3, 0.0]), clip=1.5)},
        {"normalizer": Normalizer("quantile", np.array([0.25, -1e-7]), np.array([1 / 3, 1.0]), clip=1.5)},
        {"normalizer": Normalizer("quantile", np.array([0.25, -1e-7]), np.array([1 / 3, 0.0]))},
        {"time_horizon": 5},
        {"time_horizon": None},
        {"hz": None},
        {"hz": 30.0},
        {"dimension_names": None},
        {"relative": None},
        {"relative": Relative((0,), (3,), 5, ("q3",))},
        {"relative": Relative((1,), (2,), 5, ("q3",))},
        {"relative": Relative((1,), (3,), 6, ("q3",))},
        {"relative": Relative((1,), (3,), 5)},
        {"embodiment": "arm"},
        {"dimension_names": ("x", "y")},
        {"order": "frequency-first"},
        {"end_of_block": "chunk", "merges": [[1, 1], [4, 1]]},
        {"end_of_block": "dimension", "merges": [[1, 1], [4, 1]]},
        {"parsing": "bpe"},
        {"dead_zone": 0.5},
        {"levels_beyond": 2, "merges": [[1, 1], [7, 1]]},
    ],
)
def test_every_field_counts_in_the_fingerprint(changes):
    assert artefact.fingerprint(golden_spec(**changes)) != GOLDEN_FINGERPRINT


@pytest.mark.parametrize("order", ["frequency-first", "dimension-first"])
@pytest.mark.parametrize("end_of_block", [None, "chunk", "dimension"])
@pytest.mark.parametrize("parsing", ["bpe", "optimal"])
def test_every_coding_survives(tmp_path, order, end_of_block, parsing):
    if end_of_block == "dimension" and order != "dimension-first":
        return
    zeros = [[1, 1]]
    spec = golden_spec(order=order, end_of_block=end_of_block, parsing=parsing, merges=zeros)
    assert_same_spec(saved_and_loaded(spec, tmp_path), spec)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clip", [None, 1.0, np.nextafter(1.0, 2.0)])
def test_every_normalizer_survives(tmp_path, kind, clip):
    third, tiny = 1 / 3, 1e-100
    normalizer = Normalizer(kind, np.array([0.1, -0.0, 1e99]), np.array([third, 0.0, tiny]), clip)
    spec = golden_spec(normalizer=normalizer, scale=10.0, action_dim=3, dimension_names=None)
    assert_same_spec(saved_and_loaded(spec, tmp_path), spec)


def test_absent_values_survive(tmp_path):
    spec = TokenizerSpec(10.0, -3, 4, np.empty((0, 2), np.int32))
    read = saved_and_loaded(spec, tmp_path)
    assert_same_spec(read, spec)
    assert read.normalizer is read.time_horizon is read.action_dim is read.hz is read.dimension_names is None


def test_one_scale_for_all_and_one_per_dimension_stay_apart(tmp_path):
    one, each = golden_spec(scale=10.0), golden_spec(scale=(10.0, 10.0))
    assert saved_and_loaded(one, tmp_path).scale == 10.0
    assert saved_and_loaded(each, tmp_path).scale == (10.0, 10.0)


@pytest.mark.parametrize("names", [("", " "), ('"', "\\"), ("\n", "\x00"), ("日本", "🤖"), ("same", "same")])
def test_any_dimension_names_survive(tmp_path, names):
    assert saved_and_loaded(golden_spec(dimension_names=names), tmp_path).dimension_names == names


positive = st.floats(1e-100, 1e100)
anything = st.floats(-1e100, 1e100)


@given(
    st.tuples(positive, positive),
    st.lists(anything, min_size=2, max_size=2),
    st.lists(st.just(0.0) | positive, min_size=2, max_size=2),
    st.none() | positive,
    st.none() | positive,
)
def test_floats_survive_to_the_last_bit(scale, center, half_range, clip, hz):
    normalizer = Normalizer("mean-std", np.array(center), np.array(half_range), clip)
    spec = golden_spec(scale=scale, normalizer=normalizer, hz=hz)
    text = json.dumps(spec.to_json())
    assert_same_spec(artefact.loads(text.encode()), spec)


@pytest.mark.parametrize(
    "options",
    [
        {"hz": 30},
        {"hz": np.float32(30)},
        {"normalize": "quantile", "clip": 2},
        {"normalize": "min-max", "clip": np.float32(0.5)},
        {"scale": 10},
        {"scale": [10, 20]},
        {"scale": np.array([10, 20])},
        {"dimension_names": np.array(["x", "y"])},
    ],
    ids=str,
)
def test_options_given_as_other_number_types_keep_their_fingerprint(tmp_path, options):
    chunks = np.random.default_rng(0).normal(0, 0.3, (20, 5, 2))
    fitted = FastTokenizer.fit(chunks, 64, **options)
    fitted.save(tmp_path)
    assert FastTokenizer.load(tmp_path).fingerprint() == fitted.fingerprint()


def test_names_that_are_not_text_are_refused_when_fitting_not_when_loading():
    chunks = np.random.default_rng(0).normal(0, 0.3, (20, 5, 2))
    with pytest.raises((TypeError, ValueError), match="dimension_names"):
        FastTokenizer.fit(chunks, 64, dimension_names=[1, 2])


def test_loading_takes_the_folder_or_the_file(tmp_path):
    FastTokenizer(golden_spec()).save(tmp_path)
    assert FastTokenizer.load(str(tmp_path)) == FastTokenizer.load(tmp_path / FILE_NAME)


def test_nothing_there_is_file_not_found(tmp_path):
    with pytest.raises(FileNotFoundError, match=FILE_NAME):
        FastTokenizer.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        FastTokenizer.load(tmp_path / "nowhere")


def test_field_order_and_white_space_do_not_matter(tmp_path):
    backwards = dict(reversed(json.loads(GOLDEN).items()))
    (tmp_path / FILE_NAME).write_text(json.dumps(backwards, indent=7))
    assert FastTokenizer.load(tmp_path).fingerprint() == GOLDEN_FINGERPRINT


def test_whole_numbers_serve_as_floats(tmp_path):
    (tmp_path / FILE_NAME).write_text(GOLDEN.replace("[10.0, 0.1]", "[10, 0.1]"))
    assert FastTokenizer.load(tmp_path).fingerprint() == GOLDEN_FINGERPRINT


# ---- What is refused ---------------------------------------------------------------------------------


@pytest.fixture
def refusal(tmp_path, monkeypatch):
    """refusal(content) is the message that refuses it: at once, short, and before any table is built."""

    def build_nothing(*args, **kwargs):
        pytest.fail("a table was built")

    def refuse(content, by_core=False):
        path = tmp_path / FILE_NAME
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        if not by_core:
            monkeypatch.setattr(spec, "Codec", build_nothing)
        start = time.process_time()
        with pytest.raises(ArtefactError) as caught:
            FastTokenizer.load(tmp_path)
        assert time.process_time() - start < 2
        message = str(caught.value)
        assert message.startswith(f"{path}: "), "the message names the file"
        message = message.removeprefix(f"{path}: ")
        assert len(message) < 300
        return message

    return refuse


def changed(**changes):
    return json.dumps(json.loads(GOLDEN) | changes)


def with_literal(field, literal):
    """The golden artefact with a field of literal JSON text."""
    return changed(**{field: "@"}).replace('"@"', literal)


def normalizer(**changes):
    return {"normalizer": json.loads(GOLDEN)["normalizer"] | changes}


def with_merges(*merges, symbols=3):
    return changed(max_coefficient=symbols - 2, vocab_size=symbols + len(merges), merges=merges)


def test_an_empty_file_is_refused(refusal):
    assert "not valid JSON" in refusal("")


@pytest.mark.parametrize("share", np.arange(0.05, 1.0, 0.05).round(2))
def test_a_truncated_file_is_refused(refusal, share):
    assert "truncated perhaps" in refusal(GOLDEN[: int(share * len(GOLDEN))])


@pytest.mark.parametrize("content", ["hello", "{", '{"a": }', GOLDEN + "{}", "\ufeff" + GOLDEN, b"\x80\x04\x95pickle"])
def test_what_is_not_json_is_refused(refusal, content):
    assert "not valid JSON" in refusal(content)


@pytest.mark.parametrize("content", [b"\xff" + GOLDEN.encode(), GOLDEN.encode("latin-1").replace(b"x", b"\xe9")])
def test_what_is_not_utf8_is_refused(refusal, content):
    assert "utf-8" in refusal(content)


@pytest.mark.parametrize(
    ("content", "kind"), [("[]", "list"), (f"[{GOLDEN}]", "list"), ("null", "NoneType"), ('"a"', "str"), ("1", "int")]
)
def test_what_is_not_an_object_is_refused(refusal, content, kind):
    assert refusal(content) == f"expected a JSON object, got {kind}"


@pytest.mark.parametrize("header", ["FAST", "", None, 1, ["fast_tokenizer"]])
def test_another_format_is_refused(refusal, header):
    assert refusal(changed(format=header)) == f"'format' must be 'fast_tokenizer', got {header!r}"


@pytest.mark.parametrize("version", [0, -1, 3, 1_000_000])
def test_an_older_or_newer_version_is_refused(refusal, version):
    assert refusal(changed(version=version)) == f"artefact version {version}; this library reads versions 1 to 2"


@pytest.mark.parametrize("version", ["1", True, 1.0, None, [1]])
def test_a_version_that_is_no_integer_is_refused(refusal, version):
    assert refusal(changed(version=version)) == f"'version': expected an integer of 32 bits, got {version!r}"


def test_another_version_is_named_before_its_unknown_fields(refusal):
    assert "artefact version 3" in refusal(changed(version=3, news="from the future"))


@pytest.mark.parametrize(
    ("field", "allowed"),
    [
        ("order", "'frequency-first' or 'dimension-first'"),
        ("end_of_block", "'chunk' or 'dimension'"),
        ("parsing", "'bpe' or 'optimal'"),
    ],
)
@pytest.mark.parametrize("value", ["time-first", "", 1, ["chunk"]])
def test_another_coding_is_refused(refusal, field, allowed, value):
    assert refusal(changed(**{field: value})) == f"'{field}': must be {allowed}, got {value!r}"


def test_an_end_of_dimensions_goes_with_dimension_first_order(refusal):
    content = changed(order="frequency-first", end_of_block="dimension", vocab_size=6)
    assert refusal(content) == "end_of_block='dimension' goes with order='dimension-first'"


def test_the_end_of_a_block_is_a_symbol(refusal):
    message = refusal(changed(end_of_block="chunk"))
    assert message == "vocab_size is 5, but 4 symbols and 2 merges make 6"


@pytest.mark.parametrize("dead_zone", [0.49, 1.0, -1, 1e9])
def test_a_dead_zone_outside_its_bounds_is_refused(refusal, dead_zone):
    assert refusal(changed(dead_zone=dead_zone)) == f"dead_zone must lie in [0.5, 0.99], got {float(dead_zone)}"


@pytest.mark.parametrize("field", json.loads(GOLDEN))
def test_a_missing_field_is_refused(refusal, field):
    values = json.loads(GOLDEN)
    del values[field]
    message = refusal(json.dumps(values))
    assert f"'{field}'" in message
    assert "missing" in message or field == "format"


@pytest.mark.parametrize("field", ["center", "half_range", "clip", "kind"])
def test_a_missing_field_of_the_normalizer_is_refused(refusal, field):
    values = json.loads(GOLDEN)
    del values["normalizer"][field]
    message = refusal(json.dumps(values))
    assert message.startswith("'normalizer': expected an object with")
    assert f"'{field}'" in message


def test_an_unknown_field_is_refused(refusal):
    assert refusal(changed(colour="red")) == "unknown field 'colour'"


def test_an_unknown_field_with_an_endless_name_is_refused_briefly(refusal):
    assert refusal(changed(**{"x" * 100_000: 1})).startswith("unknown field 'xxx")


def test_an_unknown_field_of_the_normalizer_is_refused(refusal):
    assert refusal(changed(**normalizer(colour="red"))).startswith("'normalizer': expected an object with")


@pytest.mark.parametrize("field", ["version", "merges", "hz"])
def test_a_repeated_field_is_refused_by_name(refusal, field):
    values = json.loads(GOLDEN)
    repeated = f'{{"{field}": {json.dumps(values[field])}, ' + json.dumps(values)[1:]
    message = refusal(repeated)
    assert "given twice" in message
    assert f"'{field}'" in message


def test_a_repeated_field_of_the_normalizer_is_refused(refusal):
    assert "given twice" in refusal(GOLDEN.replace('"clip": 1.5', '"clip": 1.5, "clip": 1.5'))


@pytest.mark.parametrize("field", ["vocab_size", "min_coefficient", "max_coefficient", "time_horizon", "action_dim"])
@pytest.mark.parametrize("value", ["1", 1.0, True, [1], 2**31, -(2**31), 10**400])
def test_integers_must_be_integers_of_32_bits(refusal, field, value):
    message = refusal(changed(**{field: value}))
    assert message.startswith(f"'{field}': expected an integer of 32 bits, got ")


@pytest.mark.parametrize("field", ["vocab_size", "min_coefficient", "max_coefficient", "merges", "scale"])
def test_what_must_be_there_may_not_be_null(refusal, field):
    assert refusal(changed(**{field: None})).startswith(f"'{field}': expected ")


@pytest.mark.parametrize("field", ["vocab_size", "merges", "scale", "hz"])
@pytest.mark.parametrize("digits", [400, 4_000, 5_000, 10_000_000])
def test_an_integer_of_very_many_digits_is_refused(refusal, field, digits):
    message = refusal(with_literal(field, "9" * digits))
    assert field in message or "integer string conversion" in message  # Python's own limit, 4300 digits, has no field


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize(
    "field", ["scale", "hz", "normalizer", "vocab_size"], ids=["scale", "hz", "normalizer", "vocab_size"]
)
def test_nan_and_infinity_are_refused_by_field(refusal, field, constant):
    statistics = f'{{"kind": "quantile", "center": [0.0, {constant}], "half_range": [1.0, 1.0], "clip": null}}'
    message = refusal(with_literal(field, statistics if field == "normalizer" else constant))
    assert "finite" in message or "integer" in message
    assert f"'{field}'" in message


@pytest.mark.parametrize("literal", ["1e999", "-1e999", "9" * 400])
@pytest.mark.parametrize("field", ["scale", "hz", "clip", "center", "half_range"])
def test_numbers_too_large_for_a_float_are_refused(refusal, field, literal):
    if field in ("scale", "hz"):
        message = refusal(with_literal(field, literal))
        assert message.startswith(f"'{field}': ")
    else:
        values = {"kind": '"quantile"', "center": "[0.0, 0.0]", "half_range": "[1.0, 1.0]", "clip": "null"}
        values[field] = literal if field == "clip" else f"[0.0, {literal}]"
        message = refusal(with_literal("normalizer", "{" + ", ".join(f'"{k}": {v}' for k, v in values.items()) + "}"))
        assert message.startswith("'normalizer': ")
    assert "finite" in message or "too large" in message


@pytest.mark.parametrize("literal", ["0", "-1", "-0.0", "[10.0, 0.0]", "[10.0, -0.1]"])
def test_a_scale_that_is_not_positive_is_refused(refusal, literal):
    assert refusal(with_literal("scale", literal)).startswith("scale must be finite and positive, got ")


@pytest.mark.parametrize("value", ["10", True, [[10.0, 10.0]], ["a", "b"], {}])
def test_a_scale_that_is_no_number_is_refused(refusal, value):
    assert refusal(changed(scale=value)).startswith("'scale': expected a number, got ")


@pytest.mark.parametrize("hz", [0, -30.0])
def test_a_rate_that_is_not_positive_is_refused(refusal, hz):
    assert refusal(changed(hz=hz)) == f"hz must be finite and positive, got {float(hz)}"


@pytest.mark.parametrize("names", ["xy", [1, 2], [None, None], [["x"], ["y"]]])
def test_names_that_are_not_strings_are_refused(refusal, names):
    assert refusal(changed(dimension_names=names)).startswith("'dimension_names': expected a ")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": [10.0]}, "scale has 1 dimensions, action_dim is 2"),
        ({"scale": []}, "scale must be a number or one per dimension, got none"),
        ({"dimension_names": ["x", "y", "z"]}, "dimension_names has 3 dimensions, action_dim is 2"),
        ({"action_dim": 3}, "scale has 2 dimensions, action_dim is 3"),
        ({"action_dim": None}, "scale has 2 dimensions, action_dim is None"),
        ({"scale": 1.0, **normalizer(center=[0.0], half_range=[1.0])}, "normalizer has 1 dimensions, action_dim is 2"),
    ],
)
def test_lists_of_a_wrong_length_are_refused(refusal, changes, message):
    assert refusal(changed(**changes)) == message


@pytest.mark.parametrize(
    "statistics",
    [{"center": [0.0]}, {"half_range": [1.0, 1.0, 1.0]}, {"center": [], "half_range": []}],
)
def test_statistics_of_unequal_length_are_refused(refusal, statistics):
    message = refusal(changed(**normalizer(**statistics)))
    assert message.startswith("'normalizer': center and half_range must be vectors of one length, got ")


@pytest.mark.parametrize(
    ("statistics", "message"),
    [
        ({"half_range": [1.0, -0.5]}, "half_range of dimension 1 is -0.5"),
        ({"half_range": [5e-324, 1.0]}, "half_range of dimension 0 is 5e-324; it must lie in 1e-100..1e100, or be 0"),
        ({"center": [0.0, "0"]}, "expected a number, got '0'"),
        ({"center": 0.0}, "expected a list, got 0.0"),
        ({"center": [[0.0], [0.0]]}, "expected a number, got [0.0]"),
        ({"kind": "z-score"}, "normalizer kind must be one of "),
        ({"kind": None}, "expected a string, got None"),
        ({"clip": 0.0}, "clip must be positive"),
        ({"clip": -1.0}, "clip must be positive"),
        ({"clip": True}, "expected a number, got True"),
    ],
)
def test_bad_statistics_are_refused(refusal, statistics, message):
    assert refusal(changed(**normalizer(**statistics))).startswith(f"'normalizer': {message}")


@pytest.mark.parametrize("value", [[], 1.0, "quantile", True])
def test_a_normalizer_that_is_no_object_is_refused(refusal, value):
    assert refusal(changed(normalizer=value)).startswith("'normalizer': expected an object with")


@pytest.mark.parametrize(("lowest", "highest"), [(1, 3), (-3, -1), (1, -1), (-16383, 0), (0, 16383)])
def test_a_coefficient_range_without_0_or_beyond_the_maximum_is_refused(refusal, lowest, highest):
    symbols = highest - lowest + 1
    content = changed(min_coefficient=lowest, max_coefficient=highest, vocab_size=symbols, merges=[])
    assert refusal(content).startswith("the coefficient range must include 0 and lie within +-16382, got ")


@pytest.mark.parametrize("horizon", [0, -4, 2**20 + 1])
def test_a_horizon_out_of_range_is_refused(refusal, horizon):
    assert refusal(changed(time_horizon=horizon)) == f"time_horizon must lie in 1..1048576, got {horizon}"


@pytest.mark.parametrize("dims", [0, -1])
def test_an_action_dim_that_is_not_positive_is_refused(refusal, dims):
    assert refusal(changed(action_dim=dims)).startswith("action_dim must be positive, got ")


@pytest.mark.parametrize("vocab_size", [4, 6, 0, -5])
def test_a_vocab_size_that_symbols_and_merges_do_not_make_is_refused(refusal, vocab_size):
    message = refusal(changed(vocab_size=vocab_size))
    assert message == f"vocab_size is {vocab_size}, but 3 symbols and 2 merges make 5"


@pytest.mark.parametrize("highest", [2, 16382])
def test_a_vocabulary_beyond_the_maximum_is_refused(refusal, highest):
    symbols = 16382 + 1 + highest
    content = changed(min_coefficient=-16382, max_coefficient=highest, vocab_size=symbols, merges=[])
    assert refusal(content) == f"the vocabulary must have at most 16384 ids, got {symbols}"


def test_merges_beyond_the_maximum_are_refused(refusal):
    content = with_merges(*[[0, i] for i in range(16384)])
    assert refusal(content) == "the vocabulary must have at most 16384 ids, got 16387"


@pytest.mark.parametrize("id_", [-1, 5, 1000, 2**31 - 1])
@pytest.mark.parametrize("side", [0, 1])
def test_a_merge_out_of_range_is_refused(refusal, id_, side):
    merge = [0, 0]
    merge[side] = id_
    assert refusal(with_merges([1, 1], merge)) == f"merge 1 joins {merge}, but only ids 0..3 exist before it"


@pytest.mark.parametrize("merges", [[[1, 4], [1, 1]], [[4, 1], [1, 1]], [[3, 3], [1, 1]]])
def test_a_merge_of_a_later_id_or_its_own_is_refused(refusal, merges):
    assert refusal(with_merges(*merges)) == f"merge 0 joins {merges[0]}, but only ids 0..2 exist before it"


@pytest.mark.parametrize("id_", [2**31, 2**40, -(2**40), 2**64, 1.5, 1.0, True, None, "1", [1]])
def test_a_merge_of_what_is_no_id_is_refused(refusal, id_):
    message = refusal(with_merges([1, 1], [id_, 1]))
    assert message.startswith(f"'merges': expected an integer of 32 bits, got {id_!r}")


@pytest.mark.parametrize("merge", [[1, 1, 1], [1], [], 1, "11", {"1": 1}, None])
def test_a_merge_that_is_no_pair_is_refused(refusal, merge):
    message = refusal(with_merges([1, 1], merge))
    assert message == f"'merges': merge 1: expected two token ids, got {merge!r}"


def test_merges_that_are_no_list_are_refused(refusal):
    assert refusal(changed(merges={"0": [1, 1]})).startswith("'merges': expected a list, got ")


def test_a_merge_that_occurs_twice_is_refused(refusal):
    assert refusal(with_merges([0, 1], [1, 1], [3, 2], [1, 1])) == "merge 1 [1, 1] occurs more than once"


def test_merges_that_no_training_can_produce_are_refused(refusal):
    # 0 1 2: merge 0 joins 1 2 first, so 0 1 and its merge 2 never stand there.
    message = refusal(with_merges([1, 2], [0, 1], [4, 2]), by_core=True)
    assert message.startswith("merge 2 (4, 2): can never be produced")


def test_doubling_merges_whose_expansion_explodes_are_refused(refusal):
    doubling = [[1, 1]] + [[i, i] for i in range(3, 60)]
    message = refusal(with_merges(*doubling), by_core=True)
    assert message == "merge 14 (16, 16): expands to 32768 symbols, more than 16384"


def test_merges_whose_expansions_explode_together_are_refused(refusal):
    run = [[1, 1]] + [[4000 + i, 4000 + i] for i in range(12)]  # the last, id 4012, stands for 8192 symbols
    each_once_more = [[4012, i] for i in range(2, 3000)]
    message = refusal(with_merges(*run, *each_once_more, symbols=4000), by_core=True)
    assert message.endswith("the table's expansions exceed 4194304 symbols")


def test_100_mb_of_nested_brackets_are_refused_by_size(refusal):
    assert refusal(b"[" * 100_000_000) == "larger than 16777216 bytes, which no artefact is"


@pytest.mark.parametrize(
    "content",
    [b"[" * (16 * 2**20), b"[" * 8_000_000 + b"]" * 8_000_000, b'{"a":' * 3_000_000, b'{"merges":' + b"[" * 16_000_000],
    ids=["open", "closed", "objects", "merges"],
)
def test_nested_brackets_below_the_size_limit_are_refused_by_depth(refusal, content):
    assert refusal(content) == "nested too deeply to be an artefact"


@pytest.mark.parametrize("field", json.loads(GOLDEN))
def test_a_value_nested_just_within_the_parser_s_depth_is_refused(field):
    # Whatever depth the parser allows, showing the value in the message may not fail.
    for depth in range(sys.getrecursionlimit() - 250, sys.getrecursionlimit() + 10):
        with pytest.raises(ArtefactError):
            artefact.loads(with_literal(field, "[" * depth + "]" * depth).encode())


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(content):
    with pytest.raises(ArtefactError, match=r"^here: "):
        artefact.loads(content, where="here")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@given(st.sampled_from(sorted(json.loads(GOLDEN))), json_values)
def test_any_value_of_any_field_is_taken_or_refused_as_an_artefact_error(field, value):
    try:
        spec = artefact.loads(changed(**{field: value}).encode())
    except ArtefactError:
        return
    FastTokenizer(spec)


# ---- All or nothing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("fails", ["replace", "fsync", "chmod"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=["OSError", "KeyboardInterrupt"])
def test_a_failing_save_leaves_the_old_artefact_and_no_rubbish(tmp_path, monkeypatch, fails, error):
    def fail(*args, **kwargs):
        raise error

    old, new = FastTokenizer(golden_spec()), FastTokenizer(golden_spec(hz=50.0))
    old.save(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(os, fails, fail)
        with pytest.raises(type(error)):
            new.save(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [FILE_NAME]
    assert FastTokenizer.load(tmp_path) == old
    new.save(tmp_path)
    assert FastTokenizer.load(tmp_path) == new


def test_a_failing_first_save_leaves_nothing(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        FastTokenizer(golden_spec()).save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_saving_leaves_one_file_and_makes_the_folder(tmp_path):
    folder = tmp_path / "a" / "b"
    for _ in range(3):
        FastTokenizer(golden_spec()).save(folder)
    assert [p.name for p in folder.iterdir()] == [FILE_NAME]


def test_a_reader_meets_the_old_or_the_new_artefact_and_never_half_of_one(tmp_path):
    versions = [FastTokenizer(golden_spec(hz=hz)) for hz in (30.0, 50.0)]
    versions[0].save(tmp_path)

    def save_in_turns():
        for i in range(60):
            versions[i % 2].save(tmp_path)

    writer = threading.Thread(target=save_in_turns)
    writer.start()
    seen = set()
    while writer.is_alive() or not seen:
        seen.add(FastTokenizer.load(tmp_path).spec.hz)
    writer.join()
    assert seen <= {30.0, 50.0}


@pytest.fixture
def umask():
    """umask(mask) sets it for the rest of the test."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_file_has_the_mode_that_the_umask_leaves(tmp_path, umask, mask, mode):
    umask(mask)
    FastTokenizer(golden_spec()).save(tmp_path)
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o777 == mode
    assert os.umask(mask) == mask, "saving must leave the umask as it was"


def test_a_replaced_file_keeps_its_mode(tmp_path):
    FastTokenizer(golden_spec()).save(tmp_path)
    (tmp_path / FILE_NAME).chmod(0o604)
    FastTokenizer(golden_spec(hz=1.0)).save(tmp_path)
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o777 == 0o604
