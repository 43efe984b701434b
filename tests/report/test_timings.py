"""The benchmark's ratios, table and figure, from a record written by hand."""

import io

import measures
import pytest
import rich.console

from dn_jax.report import timings

PEER = {"first_start": 30.0, "second_start": 4.0, "peak": 100.0, "first_peak": 300.0, "parameters": 2666}
SECONDS = {"dn_jax+none": [1.0, 2.0, 4.0], "flax": [3.0, 3.0, 8.0]}
RECORD = {
  "network": {"depth": 10, "growth_rate": 4, "batch_size": 8},
  "machine": {"processor": "a processor", "cores": 2},
  "repeats": 3,
  "peers": {
    "dn_jax+none": PEER | {"seconds": SECONDS["dn_jax+none"]},
    "flax": PEER | {"seconds": SECONDS["flax"], "peak": 250.0},
    "keras": {"failed": "not installed"},
  },
  "ratios": {"dn_jax+none": {"dn_jax+none": 1.0, "flax": 0.5}, "flax": {"dn_jax+none": 2.0, "flax": 1.0}},
}


def test_a_ratio_is_the_median_of_the_rounds_ratios():
  # 3, 1.5, 2 by round; the ratio of the medians would be 1.5.
  assert timings.ratios(SECONDS) == {
    "dn_jax+none": {"dn_jax+none": 1.0, "flax": 0.5},
    "flax": {"dn_jax+none": 2.0, "flax": 1.0},
  }


def test_the_table_has_median_spread_ratio_and_memory():
  console = rich.console.Console(width=160, file=io.StringIO())
  console.print(timings.table(RECORD))
  rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in console.file.getvalue().splitlines()]
  assert ["flax", "3.000 (3.000 to 8.000)", "2.00", "30.0", "4.0", "250 (300)"] in rows
  assert ["keras", "failed", "", "", "", ""] in rows


def test_the_figure_has_a_bar_a_network_that_ran_with_its_value_and_its_name_in_words():
  figure = measures.laid_out(timings.draw(RECORD))
  times, memory = figure.axes
  assert [bar.get_width() for bar in times.patches] == [2.0, 3.0]
  assert [bar.get_width() for bar in memory.patches] == pytest.approx([100.0, 250.0])
  assert [label.get_text() for label in times.get_yticklabels()] == ["dn_jax, none", "Flax, plain"]
  assert [text.get_text() for text in times.texts] == ["2.00", "3.00"]
  assert [text.get_text() for text in memory.texts] == ["100", "250"]
  assert figure.get_suptitle().endswith("\na processor, 2 cores")
  assert measures.cut_off(figure) == []
  assert times.get_xlabel().startswith("seconds per step (median of 3 rounds")
  assert memory.get_xlabel().endswith(", MiB")


def test_a_peers_options_follow_its_name():
  assert timings.in_words("torch+checkpointed+channels-last") == "PyTorch, checkpointed, channels-last"


def test_the_figure_names_the_device_unless_it_is_the_processor():
  peers = {name: peer | {"device": "cpu"} for name, peer in RECORD["peers"].items()}
  assert timings.draw(RECORD | {"peers": peers}).get_suptitle().endswith("2 cores")
  peers["flax"] |= {"device": "a GPU"}
  assert timings.draw(RECORD | {"peers": peers}).get_suptitle().endswith("2 cores, a GPU")
