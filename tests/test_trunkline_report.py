"""The report of a run, read back as a browser or a person would."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest

from trunkline.charts import line_chart, number, thinned, ticks
from trunkline.errors import StorageError
from trunkline.report import main, write_report


def run_folder(folder: Path, records: list[dict], about: dict | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "metrics.jsonl").write_text(lines)
    (folder / "run.json").write_text(json.dumps(about or {"status": "finished"}))
    return folder


def records(steps: int = 20) -> list[dict]:
    return [
        {
            "step": 10 * step,
            "loss": 5.0 / step,
            "masked_accuracy": 0.02 * step,
            "unmasked_accuracy": 0.03 * step,
            "masked_accuracy_slot0": 0.02 * step,
            "masked_accuracy_slot1": 0.01 * step,
            "codebook_coverage": 0.9,
            "codebook_entropy": 4.1,
            "masked_features_fraction": 0.48,
            "counted_frames_fraction": 0.11,
            "grad_norm": 1.0,
            "lr": 1e-3,
            "rss_gb": 1.2,
            "something_new": step,
        }
        for step in range(1, steps + 1)
    ]


def charts(page: str) -> dict[str, ElementTree.Element]:
    found = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    elements = [ElementTree.fromstring(text) for text in found]
    return {element.attrib["aria-label"]: element for element in elements}


def heights(chart: ElementTree.Element) -> list[float]:
    line = chart.find("polyline").attrib["points"]
    return [float(point.split(",")[1]) for point in line.split()]


class Balanced(HTMLParser):
    """Fails on a tag that is closed without being open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_each_metric_is_drawn_once_with_those_it_belongs_to(tmp_path):
    page = write_report(run_folder(tmp_path / "run", records())).read_text()
    lines = {name: len(chart.findall("polyline")) for name, chart in charts(page).items()}
    assert lines == {
        "Loss": 1,
        "Accuracy": 2,
        "Accuracy by label slot": 2,
        "Codebook coverage": 1,
        "Codebook entropy": 1,
        "Masking": 2,
        "Gradient norm": 1,
        "Learning rate": 1,
        "Memory (GB)": 1,
        "something_new": 1,
    }


def test_a_falling_loss_falls_in_the_picture(tmp_path):
    page = write_report(run_folder(tmp_path, records())).read_text()
    drawn = heights(charts(page)["Loss"])
    assert drawn == sorted(drawn) and drawn[0] < drawn[-1]  # SVG counts downwards


def test_the_page_is_well_formed_and_asks_for_nothing_from_elsewhere(tmp_path):
    page = write_report(run_folder(tmp_path, records())).read_text()
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    assert not re.search(r"https?://|<script|<link|src=|url\(", page)


def test_evaluations_have_pictures_of_their_own_though_their_lines_are_few(tmp_path):
    evaluation = {"probe_accuracy": 0.6, "masked_accuracy_full": 0.3, "masked_accuracy_8-40-0": 0.2}
    line = {"step": 100} | {f"evaluate/{name}": value for name, value in evaluation.items()}
    page = write_report(run_folder(tmp_path, [*records(), line])).read_text()
    points = {name: len(chart.findall("circle")) for name, chart in charts(page).items()}
    assert points["Probe accuracy"] == 1 and points["Accuracy when evaluated"] == 2
    assert "masked_accuracy_8-40-0 <b>20.0 %</b>" in page


def test_values_that_were_not_finite_are_counted_not_hidden(tmp_path):
    lines = [*records(), {"step": 300, "loss": None}, {"step": 310, "loss": float("inf")}]
    page = write_report(run_folder(tmp_path, lines)).read_text()
    assert "loss was not finite at 2 steps" in page


def test_a_line_cut_by_a_kill_is_left_out_and_counted(tmp_path):
    folder = run_folder(tmp_path, records())
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 300, "lo')
    page = write_report(folder).read_text()
    assert "1 damaged lines" in page and "Loss" in charts(page)


def test_settings_quarantine_and_given_tables_are_shown_as_text(tmp_path):
    folder = run_folder(tmp_path, records(), {"train": {"lr": 0.002}, "note": "<b>bold</b>"})
    fault = {"id": "call-7", "reason": "a.wav holds <no> samples"}
    (folder / "quarantine.jsonl").write_text(json.dumps(fault) + "\n")
    page = write_report(folder, tables={"Dead clusters": [{"slot": 3, "dead": 17}]}).read_text()
    assert "<td>train.lr</td><td>0.002</td>" in page
    assert "&lt;b&gt;bold&lt;/b&gt;" in page and "<b>bold" not in page
    assert "<td>call-7</td><td>a.wav holds &lt;no&gt; samples</td>" in page
    assert "<h2>Dead clusters</h2>" in page and "<td>3</td><td>17</td>" in page


def test_a_folder_of_runs_gives_one_report_with_a_section_for_each(tmp_path):
    run_folder(tmp_path / "iteration-0" / "run", records())
    run_folder(tmp_path / "iteration-1" / "run", records())
    page = write_report(tmp_path).read_text()
    assert re.findall(r"<h2>(iteration-\d/run)</h2>", page) == [
        "iteration-0/run",
        "iteration-1/run",
    ]
    assert page.count('aria-label="Loss"') == 2


def test_a_run_stopped_before_its_first_record_still_has_a_report(tmp_path):
    assert "No metrics were recorded" in write_report(run_folder(tmp_path, [])).read_text()


def test_a_folder_without_a_run_is_an_error_that_names_it(tmp_path, capsys):
    with pytest.raises(StorageError, match=re.escape(str(tmp_path))):
        write_report(tmp_path)
    assert main([str(tmp_path)]) == 1
    assert "holds no metrics.jsonl" in capsys.readouterr().err


def test_the_command_says_where_the_report_lies(tmp_path, capsys):
    run_folder(tmp_path, records())
    assert main([str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"report": str(tmp_path / "report.html")}


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (3.2, 3.2), (0, 0), (-2, 5), (1e-9, 3e-9), (0, 123456), (-7, -7)]
)
def test_ticks_are_round_and_span_the_values(low, high):
    marks = ticks(low, high, 5)
    steps = [after - before for before, after in zip(marks, marks[1:], strict=False)]
    assert marks[0] <= low + 1e-12 and high <= marks[-1] + 1e-12 and 2 <= len(marks) <= 13
    assert max(steps) - min(steps) < 1e-6 * max(steps)
    assert f"{steps[0]:.1e}"[:3] in ("1.0", "2.0", "5.0")


def test_numbers_have_the_digits_their_scale_needs():
    assert number(0.25, 0.05) == "0.25"
    assert number(0.25, 0.05, percent=True) == "25 %"
    assert number(20000, 5000) == "20\u2009000"
    assert number(0.0005, 0.0001) == "0.0005"
    assert number(2e-5, 1e-5) == "2e\u221205"


def test_a_spike_in_a_long_run_stays_in_the_picture():
    line = [(float(step), 1.0) for step in range(100_000)]
    line[77_777] = (77_777.0, 9.0)
    kept = thinned(line)
    assert len(kept) <= 500 and (77_777.0, 9.0) in kept


def test_every_line_of_a_chart_has_its_own_colour_and_legend_entry():
    lines = {f"slot{index}": [(0.0, index), (1.0, index + 1)] for index in range(8)}
    text = line_chart(lines)
    colours = re.findall(r'stroke="(var\(--line\d\))"', text)
    assert len(set(colours)) == 8 and text.count("<span>") == 8
