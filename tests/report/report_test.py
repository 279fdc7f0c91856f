"""The report of a run: complete, self-contained, and honest about gaps."""

import base64
import contextlib
import dataclasses
import html.parser
import io
import json
import os
import re
import sys

import numpy as np
import pytest
from PIL import Image

from nvae_tf.core.errors import DataError
from nvae_tf.model.nvae import NVAE
from nvae_tf.model.regularizers import SpectralRegularizer
from nvae_tf.report import page as report_page
from nvae_tf.report import plots as report_plots
from nvae_tf.report import records as report_records
from nvae_tf.report import sections as report_sections
from nvae_tf.runs.workdir import Workdir, read_tensors
from nvae_tf.sampling import readjust
from nvae_tf.training.optimizer import Adamax
from nvae_tf.training.train_step import TrainStep
from tests.support.browser import needs_chromium, open_page
from tests.support.in_process import run
from tests.support.run_helpers import make_config, write_images

_VOID = {"meta", "link", "img", "br", "hr", "input"}


class _Strict(html.parser.HTMLParser):
    """Parses a page in which every element must be closed in order."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self._open: list[str] = []
        self.images: list[dict] = []
        self.urls: list[str] = []
        self.headings: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        assert len(attributes) == len(attrs), f"repeated attribute in {tag}"
        if tag == "img":
            self.images.append(attributes)
        self.urls += [
            value
            for name, value in attrs
            if name in ("src", "href", "srcset", "action", "data", "poster")
        ]
        assert tag not in ("script", "iframe", "object", "base"), tag
        if tag not in _VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] in ("h1", "h2"):
            self.headings.append(data)
        elif self._open and self._open[-1] == "style":
            # Neither images nor fonts nor other sheets.
            assert not re.search(r"url\(|@import", data)
        else:
            self.text.append(data)


def _check(text: str) -> _Strict:
    """What every page must be; returns it parsed."""
    assert text.startswith("<!DOCTYPE html>")
    page = _Strict(text)
    assert all(url.startswith("data:") for url in page.urls)
    assert 'name="viewport"' in text
    for image in page.images:
        assert image["alt"]
        header, _, encoded = image["src"].partition(",")
        assert header == "data:image/png;base64"
        with Image.open(io.BytesIO(base64.b64decode(encoded))) as picture:
            picture.load()
            size = [str(n) for n in picture.size]
        assert [image["width"], image["height"]] == size
    return page


def _write_records(path, steps=30, groups=3):
    random = np.random.default_rng(0)
    with open(path, "w", encoding="utf-8") as file:
        for step in range(1, steps + 1):
            record = {
                "step": step,
                "kind": "train",
                "nelbo": 400 / step,
                "reconstruction_nll": 300 / step,
                "kl": 100 / step,
                "kl_per_group": random.uniform(0, 9, groups).tolist(),
                "active_latents": [1.0] * groups,
                "gradient_norm": None if step == 3 else 2.0,
                "beta": step / steps,
                "skipped": float(step > 10),
            }
            file.write(json.dumps(record) + "\n")
            if step % 10 == 0:
                record = {
                    "step": step,
                    "kind": "evaluation",
                    "nelbo": 410 / step,
                    "nll": 399.5 / step,
                    "kl_per_group": [1.0, 2.0, 3.0],
                    "active_latents": [1.0, 2.0, 0.0],
                }
                file.write(json.dumps(record) + "\n")
        event = {"step": 20, "kind": "rollback", "why": "<b>NaN</b> & more"}
        file.write(json.dumps(event) + "\n")
        # The run is writing its next record.
        file.write('{"step": 31, "kind": "tr')


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run with records, a checkpoint and evaluation.json."""
    path = tmp_path_factory.mktemp("report") / "w"
    config = make_config(write_images(path.parent / "blobs.npy"))
    folder = Workdir(path)
    folder.write_config(config)
    model = NVAE(config.model)
    step = TrainStep(
        model, Adamax(model.trainable_variables), SpectralRegularizer(model)
    )
    folder.checkpoints().save(
        30,
        read_tensors(step.named_variables()),
        {"steps_per_epoch": 30, "position": [1, 0]},
    )
    _write_records(folder.metrics_path)
    evaluation = {"nelbo": 12.5, "metrics": {"fid": 7.25}, "kl": None}
    (path / "evaluation.json").write_text(json.dumps(evaluation))
    (path / "sample_quality.json").write_text('{"precision": 0.625}')
    return path


@pytest.fixture(scope="module")
def printed(workdir):
    """What the command said."""
    original = readjust.readjust_cached

    def few_steps(*arguments):
        original(*arguments, steps=2)

    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(io.StringIO()) as output,
    ):
        patch.setattr(readjust, "readjust_cached", few_steps)
        run(
            "report",
            f"--workdir={workdir}",
            "--temperatures=0.5,1",
            "--num=4",
            "--readjust_bn",
            "--split=validation",
        )
    return output.getvalue()


def test_report_is_one_complete_file(workdir, printed):
    assert str(workdir / "report.html") in printed
    kept = (workdir / readjust.FOLDER).glob("step30_*_temperature*")
    assert len([*kept]) == 2
    page = _check((workdir / "report.html").read_text("utf-8"))
    assert page.headings == [
        "blobs",
        "Training",
        "Latent groups",
        "Samples",
        "Images of the validation split",
        "Evaluation",
        "Events",
        "Configuration",
    ]
    assert len(page.images) >= 10
    captions = [image["alt"] for image in page.images]
    for words in (
        "Negative evidence lower bound",
        "KL per latent group on training",
        "Active latents per group on training",
        "Draws at temperature 0.5",
        "Draws at temperature 1",
        "reconstruction",
        "leads from one image to another",
    ):
        assert any(words in caption for caption in captions), words
    text = " ".join(" ".join(page.text).split())
    for words in (
        "Step 30 of 60 (2 epochs): 50 %",
        "weights of step 30, batch normalisation re-adjusted at each",
        "metrics.fid 7.25",
        "precision 0.625",
        "<b>NaN</b> & more",
        "1 steps were skipped",
        "model.num_latent_per_group 2",
        "All",
    ):
        assert words in text, words


@needs_chromium
def test_page_is_drawn_by_a_browser(workdir, printed, tmp_path):
    picture = tmp_path / "screen.png"
    with open_page(tmp_path / "browser") as page:
        page.resize(500, 1500)
        page.go((workdir / "report.html").as_uri())
        page.wait_for("document.readyState === 'complete'")
        page.screenshot(picture)
        assert page.problems == []
        assert page.evaluate(
            "document.documentElement.scrollWidth <= innerWidth"
        )
    with Image.open(picture) as image:
        assert image.size == (500, 1500)
        # Curves and text on white, down to the bottom.
        lower = np.asarray(image.convert("RGB"))[500:]
        assert len(np.unique(lower.reshape(-1, 3), axis=0)) > 100


def test_run_without_records_and_checkpoint_still_has_a_page(tmp_path):
    config = make_config(tmp_path / "none.npy")
    history = report_records.read_history(tmp_path / "metrics.jsonl")
    evaluation = report_records.read_result(tmp_path / "evaluation.json")
    assert evaluation == {}
    page = _check(_render(config, history, evaluation))
    assert page.headings == [
        "run",
        "Training",
        "Evaluation",
        "Configuration",
    ]
    text = " ".join(page.text)
    assert "No record of training yet." in text
    assert "Not evaluated yet." in text
    assert not page.images


def _render(config, history, evaluation=None, **changes):
    values = {
        "title": "run",
        "subtitle": report_records.progress_text(history, {}, 2),
        "notes": [],
        "facts": report_sections.facts(config, history),
        "sections": [
            report_sections.training(config, history),
            report_sections.latents(config, history),
            report_sections.evaluations(
                history, {"evaluation.json": evaluation or {}}
            ),
            report_sections.events(history),
            report_sections.configuration(config),
        ],
    }
    return report_page.render(report_page.Page(**(values | changes)))


def test_text_of_a_run_is_escaped(tmp_path):
    config = make_config(tmp_path / "none.npy")
    history = report_records.History([], [], [])
    name = '<script>alert("x")</script>'
    page = _check(_render(config, history, title=name, notes=[f"{name} & co"]))
    assert page.headings[0] == name
    assert f"{name} & co" in page.text


@pytest.mark.parametrize(
    ("step", "nelbo", "shown_step"),
    [(20, "13.67", "30"), (30, "7", "30"), (40, "7", "40")],
)
def test_latest_evaluation_stands_first(workdir, step, nelbo, shown_step):
    history = report_records.read_history(workdir / "metrics.jsonl")
    config = make_config(workdir)
    evaluation = {"step": step, "nelbo": 7.0}
    facts = dict(report_sections.facts(config, history, evaluation))
    assert facts["NELBO, nats"] == nelbo
    assert facts["held out, at step"] == shown_step
    for seen in ({}, {**evaluation, "split": "train"}):
        without = dict(report_sections.facts(config, history, seen))
        assert without["NELBO, nats"] == "13.67"


@pytest.mark.parametrize(
    ("step", "images", "nelbo"),
    [(30, 9, "13.67"), (30, 10, "7"), (31, 9, "7")],
)
def test_quick_look_replaces_no_evaluation_of_more_images(
    workdir, step, images, nelbo
):
    history = report_records.read_history(workdir / "metrics.jsonl")
    history.evaluations[-1]["num_images"] = 10
    evaluation = {"step": step, "nelbo": 7.0, "num_images": images}
    config = make_config(workdir)
    facts = dict(report_sections.facts(config, history, evaluation))
    assert facts["NELBO, nats"] == nelbo


def test_numbers_of_averaged_weights_stand_first(workdir, tmp_path):
    path = tmp_path / "metrics.jsonl"
    _write_records(path)
    with open(path, "a", encoding="utf-8") as file:
        record = {"step": 30, "kind": "evaluation_ema", "nelbo": 9.125}
        file.write("\n" + json.dumps(record) + "\n")
    history = report_records.read_history(path)
    assert [r["kind"] for r in history.events] == ["rollback"]
    config = make_config(workdir, train={"ema_decay": 0.9})
    for evaluation, ema, nelbo, weights in (
        ({}, None, "9.125", "averaged"),
        ({}, True, "9.125", "averaged"),
        ({}, False, "13.67", "as trained"),
        ({"step": 40, "nelbo": 7.0, "ema": True}, None, "7", "averaged"),
        ({"step": 40, "nelbo": 7.0, "ema": False}, None, "7", "as trained"),
    ):
        facts = dict(report_sections.facts(config, history, evaluation, ema))
        assert facts["NELBO, nats"] == nelbo
        assert facts["weights"] == weights
    averaged, plain = report_sections.evaluations(history, {}).tables
    assert averaged.rows[0].cells == ("30", "9.125")
    assert "averaged" in averaged.header[0]
    assert plain.rows[0].cells[:2] == ("30", "13.67")


def test_history_keeps_whole_records_alone(workdir):
    history = report_records.read_history(workdir / "metrics.jsonl")
    assert len(history.train) == 30
    assert [r["step"] for r in history.evaluations] == [10, 20, 30]
    assert [r["kind"] for r in history.events] == ["rollback"]
    assert history.last_step == 30
    norms = history.series("gradient_norm")
    assert len(norms) == 29
    assert 3 not in norms.steps
    assert history.series("kl_per_group").values.shape == (30, 3)
    assert history.series("nothing") is None


_HUGE = "1" + "0" * 400
# Each is a line of metrics.jsonl that no run writes.
_HOSTILE_LINES = [
    b"\xff\xfe",
    b'{"step": 5, "kind": "train", "nelbo": "\x80"}',
    b"[" * 100_000,
    b"null",
    b"7",
    b'{"step": "5", "kind": "train"}',
    b'{"step": NaN, "kind": "train"}',
    b'{"step": -1, "kind": "train"}',
    b'{"step": 1e3, "kind": "evaluation"}',
    b'{"step": %s, "kind": "train"}' % _HUGE.encode(),
    b'{"step": 9000000000000000000, "kind": "train"}',
    b'{"step": 5, "kind": "train", "nelbo": %s}' % _HUGE.encode(),
    b'{"step": 5, "kind": "train", "nelbo": 1e308, "kl": -1e300}',
    b'{"step": 5, "kind": "train", "nelbo": "many", "skipped": [1]}',
    b'{"step": 5, "kind": "train", "nelbo": {"a": 1}, "kl": true}',
    b'{"step": 5, "kind": "train", "nelbo": [[1], 2]}',
    b'{"step": 5, "kind": "train", "kl_per_group": ["a", null, 1e308]}',
    b'{"step": 5, "kind": "train", "kl_per_group": 3}',
    b'{"step": 7, "kind": "evaluation", "nelbo": Infinity}',
    b'{"step": 7, "kind": "evaluation", "kl_per_group": [null, "x", {}]}',
    b'{"step": 7, "kind": "evaluation", "active_latents": "abc"}',
    b'{"step": 7, "kind": ["rollback"], "a": [{"b": [[[[[[1]]]]]]}]}',
    b'{"step": 7, "b": {"c": [1e999, -0.0, 1e300, NaN]}, "d": "' + b"<" * 50,
    b'{"step": 7, "kind": null, "b": {"c": [1e999, -0.0, 1e300, NaN]}}',
    b'{"step": 7, "a": ' + b'{"a":' * 200 + b"1" + b"}" * 201,
]


@pytest.mark.parametrize("order", [1, -1])
def test_records_from_elsewhere_do_not_disturb_those_of_the_run(
    workdir, tmp_path, order
):
    path = tmp_path / "metrics.jsonl"
    own = (workdir / "metrics.jsonl").read_bytes().splitlines()[:10]
    lines = _HOSTILE_LINES[::order]
    path.write_bytes(b"\n".join([*lines[:12], *own, *lines[12:]]))
    history = report_records.read_history(path)
    values = history.series("nelbo").values
    assert {400 / step for step in range(1, 9)} <= {*values}
    assert np.all(np.diff(history.series("nelbo").steps) >= 0)
    config = make_config(tmp_path / "none.npy")
    _check(_render(config, history))


@pytest.mark.parametrize("line", _HOSTILE_LINES)
def test_record_from_elsewhere_alone_still_makes_a_page(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(line)
    history = report_records.read_history(path)
    _check(_render(make_config(tmp_path / "none.npy"), history))


@pytest.mark.parametrize(
    "content",
    [
        b"\xff",
        b"[" * 100_000,
        b'{"nelbo": %s}' % _HUGE.encode(),
        b'{"nelbo": "a", "step": "b", "bits_per_dim": [1, {"a": 2}]}',
        b'{"nelbo": 1e300, "step": NaN, "bits_per_dim": {"a": [[[]]]}}',
        b'{"a": ' * 300 + b"1" + b"}" * 300,
        b"7",
        b"[[[[1]]], {}]",
    ],
)
def test_evaluation_from_elsewhere_does_not_disturb(tmp_path, content):
    path = tmp_path / "evaluation.json"
    path.write_bytes(content)
    config = make_config(tmp_path / "none.npy")
    history = report_records.History([], [], [])
    evaluation = report_records.read_result(path)
    facts = report_sections.facts(config, history, evaluation)
    _check(_render(config, history, evaluation, facts=facts))


def test_pipes_in_place_of_records_are_not_waited_for(tmp_path):
    for name in ("metrics.jsonl", "evaluation.json"):
        os.mkfifo(tmp_path / name)
    history = report_records.read_history(tmp_path / "metrics.jsonl")
    assert history.last_step == 0
    assert report_records.read_result(tmp_path / "evaluation.json") == {}


def test_state_from_elsewhere_makes_no_progress():
    history = report_records.History([], [], [])
    for value in ("9", [1], -3, 0, None, 2.5):
        text = report_records.progress_text(
            history, {"steps_per_epoch": value}, 2
        )
        assert "2 epochs in all" in text


def test_vectors_of_another_length_are_left_out():
    records = [
        {"step": 1, "kl_per_group": [1.0, 2.0]},
        {"step": 2, "kl_per_group": [1.0, 2.0, None]},
        {"step": 3, "kl_per_group": [1.0, 2.0, 3.0]},
    ]
    series = report_records.History(records, [], []).series("kl_per_group")
    assert series.steps.tolist() == [2, 3]
    assert np.isnan(series.values[0, 2])


def test_thinning_keeps_the_mean_of_what_is_known():
    values = np.arange(100.0)
    values[3] = np.nan
    series = report_records.Series(np.arange(100.0), values)
    thin = series.thinned(10)
    assert len(thin) == 10
    assert thin.steps[0] == pytest.approx(4.5)
    assert thin.values[0] == pytest.approx((45 - 3) / 9)
    assert thin.values[1] == pytest.approx(14.5)
    assert series.thinned(100) is series


def test_nested_values_of_an_evaluation_are_all_found():
    value = {"a": {"b": 1, "c": [1, 2]}, "d": [{"e": "x"}, {"e": "y"}]}
    assert report_records.leaves(value) == [
        ("a.b", 1),
        ("a.c", [1, 2]),
        ("d.0.e", "x"),
        ("d.1.e", "y"),
    ]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1]"])
def test_damaged_evaluation_does_not_disturb(tmp_path, content):
    path = tmp_path / "evaluation.json"
    path.write_bytes(content)
    evaluation = report_records.read_result(path)
    history = report_records.History([], [], [])
    section = report_sections.evaluations(history, {path.name: evaluation})
    assert section.text == "Not evaluated yet."


@pytest.mark.parametrize(
    ("record", "title"),
    [
        ({"frechet_distance": 7.25, "fid": 7.25, "features": "g.pb"}, "FID"),
        (
            {"frechet_distance": 7.25, "features": "a/g.pb"},
            "Frechet distance (g.pb)",
        ),
        (
            {"frechet_distance": 7.25, "features": "inception"},
            "Frechet distance (inception)",
        ),
        # Of before there was another name than "fid".
        ({"fid": 7.25, "features": "a/classify_image_graph_def.pb"}, "FID"),
        (
            {"fid": 7.25, "features": "inception"},
            "Frechet distance (inception)",
        ),
        ({"fid": 7.25}, "Frechet distance (?)"),
    ],
)
def test_distance_is_called_fid_where_it_is_one(record, title):
    history = report_records.History([], [], [])
    section = report_sections.evaluations(
        history, {"sample_quality.json": record}
    )
    (table,) = section.tables
    found = [row.cells for row in table.rows if row.cells[1] == "7.25"]
    assert found == [(title, "7.25")]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (True, "True"),
        (12345, "12,345"),
        (3.0, "3"),
        (0.00012, "0.00012"),
        (1234.567, "1,234.57"),
        ((0.5, 1.0), "0.5, 1"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
    ],
)
def test_values_are_shown_as_people_read_them(value, text):
    assert report_sections.shown(value) == text


def _decoded(png):
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_heatmap_shows_early_steps_left_and_upper_groups_above():
    values = np.zeros([40, 4])
    values[:20, :2] = 5.0
    series = report_records.Series(np.arange(40.0), values)
    image = _decoded(report_plots.heatmap(series, (2, 2), "x", largest=5))
    rows, columns = image.shape[:2]
    yellow = (image[..., 0] > 200) & (image[..., 2] < 80)
    # Without the bar of colours at the right.
    where = np.argwhere(yellow[:, : int(0.8 * columns)])
    centre = where.mean(axis=0) / (rows, columns)
    assert centre[0] < 0.45
    assert centre[1] < 0.4


@pytest.mark.parametrize(
    "values",
    [[1.0], [np.nan, np.nan], [-5.0, 3.0], [0.0, 0.0], [1e-9, 1e9]],
    ids=str,
)
def test_plots_bear_any_numbers(values):
    steps = np.arange(1.0, len(values) + 1)
    series = report_records.Series(steps, np.array(values))
    matrix = report_records.Series(steps, np.array(values)[:, None])
    for png in (
        report_plots.lines({"a": series}, {"b": series}, "nats"),
        report_plots.heatmap(matrix, (1,), "nats"),
        report_plots.group_bars(values, (len(values),), "nats"),
    ):
        image = _decoded(png)
        assert image.min() < 100 < image.max()


def test_configuration_marks_what_was_changed(tmp_path):
    config = make_config(tmp_path / "x.npy")
    config = dataclasses.replace(config, precision="mixed_float16")
    changed, whole = report_sections.configuration(config).tables
    keys = [row.cells[0] for row in changed.rows]
    assert "precision" in keys
    assert "train.learning_rate" not in keys
    marked = [row.cells[0] for row in whole.rows if row.is_changed]
    assert marked == keys


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_missing_extra_is_named(package, monkeypatch):
    report_page.require_packages()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DataError, match=rf"{package}.*\[report\]"):
        report_page.require_packages()
