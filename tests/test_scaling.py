"""The page on clusters: its figures are those of the results, and what it works out from them."""

import json

import pytest

from benchmarks import scaling


@pytest.fixture
def results():
    return json.loads(scaling.RESULTS.read_text())


def test_the_page_has_the_figures_of_the_results(results):
    text = scaling.PAGE.read_text()
    assert scaling.page(text, results) == text


def test_twice_the_nodes_take_half_the_time_but_for_the_trips(results):
    measured = results["constants"]
    one, two = (scaling.project(measured, 10_000_000, nodes, 16) for nodes in (10, 20))
    for name in ("statistics", "quantize", "store_bytes_a_node", "shard_bytes_a_node"):
        assert two[name] == pytest.approx(one[name] / 2)
    assert two["merge_driver"] > one["merge_driver"]
    assert one["merge_driver_one_by_one"] > 2 * one["merge_driver"]
    assert measured["trips_one_by_one"] == measured["merges"]


def test_the_driver_gets_the_counts_of_all_pairs_too(results):
    measured = results["constants"]
    one = scaling.project(measured | {"merges": 0}, 10_000_000, 10, 16)
    assert one["driver_bytes"] == 10 * measured["pair_count_bytes"] > 0


def test_a_fixed_cost_below_none_is_told(results):
    for seconds, told in ((-0.02, True), (0.02, False)):
        changed = results | {"constants": results["constants"] | {"shard_fixed_seconds": seconds}}
        assert ("came out as -20 ms" in scaling.blocks(changed)["scaling-clusters"]) is told
