"""The page in a real browser: draws, draws on, links, fits, stays silent."""

import contextlib
import functools
import http.server
import io
import json
import re
import shutil
import time

import numpy as np
import pytest
from PIL import Image

from nvae_tf.export.onnx_runner import OnnxRunner
from nvae_tf.export.onnx_sampler import Sampler, noise_rows
from nvae_tf.web import manifest
from nvae_tf.web.server import PageServer
from tests.support.browser import SOFTWARE_GPU, needs_chromium, open_page
from tests.support.running import running

pytestmark = [needs_chromium, pytest.mark.long]

_VIEWS = ("samples", "between", "image", "latent", "about")
# What a link says unless a test has it otherwise.
_DEFAULTS = (
    "view=samples&seed=0&count=4&temperature=0.7,0.7&keep=none&level=1"
    "&t=0.5&group=0&channel=0&amount=0"
)
_CONTROLS = {
    "button",
    "combobox",
    "image",
    "radio",
    "slider",
    "spinbutton",
    "tab",
}
_SECONDS = 240
_READY = "document.querySelector('#loading.done') !== null"


@pytest.fixture(scope="module")
def site(page_of):
    """A page of a gray, binary model of two scales."""
    return page_of("digits")


@contextlib.contextmanager
def _serving(server):
    """Runs a server; gives its address."""
    with running(server):
        yield f"http://127.0.0.1:{server.server_address[1]}/"


@pytest.fixture(scope="module")
def url(site):
    with _serving(PageServer(site)) as address:
        yield address


@pytest.fixture(scope="module")
def sampler(site):
    return Sampler(site / "model" / "nvae.onnx")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with open_page(tmp_path_factory.mktemp("browser")) as page:
        yield page


@pytest.fixture
def open_view(browser, url):
    """Follows a link and waits until the page has drawn.

    In the page that is loaded, or in a `fresh` one.
    """
    browser.problems.clear()
    browser.requests.clear()
    browser.resize(1100, 900)

    def opened(link="", *, fresh=False):
        text = f"{_DEFAULTS}&{link}".rstrip("&")
        if fresh or not browser.evaluate(f"location.href.startsWith('{url}')"):
            # Another address first: one that differs in its hash is not loaded.
            browser.go("about:blank")
            browser.go(f"{url}#{text}")
            browser.wait_for(_READY)
        else:
            browser.evaluate(
                f"""new Promise((resolve) => {{
                  addEventListener(
                    "hashchange", () => setTimeout(resolve), {{ once: true }});
                  location.hash = {json.dumps(text)} + "&" + Math.random();
                }})"""
            )
        view = re.findall(r"view=(\w+)", text)[-1]
        _wait(browser, view)
        return browser

    yield opened
    assert browser.problems == []
    outside = [r for r in browser.requests if not r.startswith((url, "blob:"))]
    assert outside == ["about:blank"] * len(outside)


def _wait(page, view):
    page.wait_for(
        f"document.getElementById('{view}').getAttribute('aria-busy') "
        "=== 'false'"
    )


def _pixels(page, selector):
    """The gray levels of canvases, `[N, H, W]`."""
    values = page.evaluate(
        f"""[...document.querySelectorAll({selector!r})].map((canvas) => {{
          const {{ width, height }} = canvas;
          const context = canvas.getContext("2d");
          const {{ data }} = context.getImageData(0, 0, width, height);
          return [height, width, ...data.filter((_, i) => i % 4 === 0)];
        }})"""
    )
    return np.array([np.reshape(v[2:], v[:2]) for v in values], np.uint8)


def _wait_for_pixels(page, selector, expected):
    """Waits until a canvas shows a picture, and the page rests."""
    end = time.monotonic() + _SECONDS
    while not np.array_equal(_pixels(page, selector)[0], expected):
        assert time.monotonic() < end, f"{selector} shows something else"
        time.sleep(0.05)
    _wait(page, "image")


def _assert_same(shown, expected):
    """Pictures are equal; a level that is a half may be rounded either way."""
    difference = np.abs(shown.astype(int) - expected)
    assert difference.max() <= 1
    assert np.mean(difference > 0) <= 1e-3
    assert expected.std() > 5


def _change(page, selector, value):
    """Sets a control as a person would."""
    page.evaluate(
        f"""{{
          const control = document.querySelector({selector!r});
          control.value = {value!r};
          control.dispatchEvent(new Event("input", {{ bubbles: true }}));
          control.dispatchEvent(new Event("change", {{ bubbles: true }}));
        }}"""
    )


def _click(page, selector):
    page.evaluate(f"document.querySelector({selector!r}).click()")


def test_samples_are_those_of_python(open_view, sampler):
    page = open_view("seed=3&count=4&temperature=0.9,0.6")
    groups = sampler.num_groups
    upper = groups // 3
    temperature = [0.9] * upper + [0.6] * (groups - upper)
    expected = sampler.sample([3, 4, 5], temperature)[..., 0]
    _assert_same(_pixels(page, "#grid canvas")[:3], expected)
    _change(page, "#seed", "100")
    _wait(page, "samples")
    expected = sampler.sample([100, 101, 102], temperature)[..., 0]
    _assert_same(_pixels(page, "#grid canvas")[:3], expected)


def test_class_is_chosen_for_all_of_the_page(page_of, browser):
    site = page_of("classes")
    sampler = Sampler(site / "model" / "nvae.onnx")

    def expected(seeds, labels):
        mean = sampler.sample(seeds, 0.7, labels=labels, output="mean")
        return np.rint(255 * mean)[..., 0]

    browser.problems.clear()
    with _serving(PageServer(site)) as address:
        browser.go("about:blank")
        browser.go(f"{address}#view=samples&seed=3&count=4&pixels=mean")
        browser.wait_for(_READY)
        _wait(browser, "samples")
        canvases = "#grid canvas"
        seeds = [3, 4, 5, 6]
        shown = _pixels(browser, canvases)
        _assert_same(shown, expected(seeds, [0, 1, 2, 0]))
        _change(browser, "#label", "2")
        _wait(browser, "samples")
        _assert_same(_pixels(browser, canvases), expected(seeds, 2))
        # Another view is of the same class, and so is a link.
        _click(browser, "#tab-latent")
        _wait(browser, "latent")
        assert browser.evaluate("document.querySelector('#label').value") == "2"
        browser.wait_for("location.hash.includes('label=2')")
        _click(browser, "#tab-samples")
        # A sample of another class is gone on with as what it is.
        _change(browser, "#label", "")
        _wait(browser, "samples")
        _click(browser, "#grid button:nth-child(2)")
        _click(browser, "#chosen [data-do=encode]")
        _wait(browser, "image")
        assert browser.evaluate("document.querySelector('#label').value") == "1"
    assert browser.problems == []


def test_page_of_a_model_without_classes_offers_none(open_view):
    page = open_view()
    assert page.evaluate("document.querySelector('#class').hidden")


def test_page_says_what_it_loads(open_view, site, url):
    # What the line says, from before the page's own scripts.
    script = open_view().command(
        "Page.addScriptToEvaluateOnNewDocument",
        source="""
          self.said = [];
          addEventListener("DOMContentLoaded", () => {
            const line = document.getElementById("status");
            // It is run in the empty page on the way, too.
            if (line) new MutationObserver(
              () => self.said.push(line.textContent))
              .observe(line, { childList: true });
          });""",
    )
    page = open_view(fresh=True)
    page.command("Page.removeScriptToEvaluateOnNewDocument", **script)
    said = page.evaluate("self.said")
    assert said[:4] == [
        "Loading the engine.",
        "Loading the model.",
        "Preparing the model.",
        "Drawing.",
    ]
    # Nothing is loaded twice, nor before it is needed.
    files = manifest.read(site)["files"]
    names = [
        request.removeprefix(url).partition("#")[0] or "index.html"
        for request in page.requests
        if request.startswith(url)
    ]
    names = [name for name in names if name in files]
    assert "model/nvae.onnx" in names
    assert not {"model/nvae_infer.onnx"} & {*names}
    large = [name for name in names if files[name]["bytes"] > 100_000]
    assert len(large) == len(set(large))
    first = page.evaluate(
        "performance.getEntriesByName('first picture')[0].startTime"
    )
    assert first > 0
    # For whoever reports it: pytest -rP.
    loaded = sum(files[name]["bytes"] for name in names)
    print(f"The first picture: {loaded} bytes, {first / 1000:.2f} s.")


def _box(page, selector):
    """Left, top, width, height of an element."""
    return page.evaluate(
        f"""(() => {{
          const box = document.querySelector({selector!r})
            .getBoundingClientRect();
          return [box.left, box.top, box.width, box.height];
        }})()"""
    )


def test_drawn_digit_is_reconstructed_and_scored(open_view, site):
    page = open_view("view=image", fresh=True)
    left, top, width, height = _box(page, "#pad canvas")
    # A seven.
    stroke = [(0.25, 0.25), (0.5, 0.25), (0.75, 0.25), (0.6, 0.5), (0.45, 0.8)]
    page.mouse(*[(left + x * width, top + y * height) for x, y in stroke])
    page.wait_for("document.querySelector('#score strong')")
    _wait(page, "image")
    (drawn,) = _pixels(page, "#pad canvas")
    assert (drawn >= 128).sum() > 10
    assert drawn[0].max() == 0
    runner = OnnxRunner(site / "model" / "nvae.onnx")
    specs = runner.noise("infer")
    still, noise = (
        {
            spec["name"]: scale
            * noise_rows([0], "normal", spec["stream"], spec["shape"])
            for spec in specs
        }
        for scale in (np.float32(0), np.float32(1))
    )
    images = drawn[None, ..., None]
    mean = runner.run("infer", {**still, "images": images})["mean"]
    (shown,) = _pixels(page, "#reconstruction canvas")
    np.testing.assert_allclose(shown, 255 * mean[0, ..., 0], atol=1)
    scores = runner.run("infer", {**noise, "images": images})
    text = page.evaluate("document.getElementById('score').textContent")
    assert text.startswith(f"{scores['bits_per_dim'][0]:.3f} bits/dim")
    bars = page.evaluate(
        """[...document.querySelectorAll("#bars div")]
          .map((bar) => parseFloat(bar.textContent))"""
    )
    np.testing.assert_allclose(bars, scores["kl_per_group"][0], atol=0.051)
    levels = _pixels(page, "#levels canvas")
    assert len(levels) == 2
    np.testing.assert_array_equal(levels[-1], shown)
    assert (levels[0] != levels[1]).any()
    # Undone, the picture is empty again.
    _click(page, "#undo")
    _wait(page, "image")
    assert not _pixels(page, "#pad canvas").any()


def _own_picture(tmp_path, size):
    path = tmp_path / "own.png"
    image = np.zeros((size, size), np.uint8)
    image[3:-3, size // 2 - 1 : size // 2 + 1] = 255
    Image.fromarray(image).save(path)
    return path, image


def _open_file(page, selector, path):
    document = page.command("DOM.getDocument")["root"]["nodeId"]
    node = page.command(
        "DOM.querySelector", nodeId=document, selector=selector
    )["nodeId"]
    page.command("DOM.setFileInputFiles", nodeId=node, files=[str(path)])


def test_opened_picture_is_taken_pixel_by_pixel_and_linked(
    open_view, site, tmp_path
):
    page = open_view("view=image")
    size = manifest.read(site)["model"]["image_shape"][0]
    path, image = _own_picture(tmp_path, size)
    _open_file(page, "#file", path)
    _wait_for_pixels(page, "#pad canvas", image)
    shown = _pixels(page, "#levels canvas")
    _click(page, "#image [data-do=link]")
    page.wait_for("location.hash.includes('image.')")
    link = page.evaluate("location.hash.slice(1)")
    page = open_view(link, fresh=True)
    np.testing.assert_array_equal(_pixels(page, "#pad canvas")[0], image)
    again = _pixels(page, "#levels canvas")
    # Large areas of equal level may be rounded the other way.
    np.testing.assert_allclose(again.astype(int), shown, atol=1)
    # One end of a way, whose other end is a sample.
    _click(page, "#image-a")
    _wait(page, "between")
    strip = _pixels(page, "#between-strip canvas")
    np.testing.assert_allclose(strip[0].astype(int), shown[-1], atol=1)
    assert (strip[0] != strip[-1]).any()


@pytest.mark.parametrize("way", ["dropped", "pasted"])
def test_dropped_and_pasted_pictures_are_opened(open_view, site, tmp_path, way):
    page = open_view("view=about")
    size = manifest.read(site)["model"]["image_shape"][0]
    path, image = _own_picture(tmp_path, size)
    if way == "pasted":
        Image.fromarray(image[::-1, ::-1].T).save(path)
        image = image[::-1, ::-1].T
    event = {
        "dropped": 'new DragEvent("drop", { dataTransfer, ...both })',
        "pasted": 'new ClipboardEvent("paste", { clipboardData, ...both })',
    }[way]
    page.evaluate(
        f"""{{
          const bytes = Uint8Array.from({[*path.read_bytes()]});
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(
            new File([bytes], "own.png", {{ type: "image/png" }}));
          const clipboardData = dataTransfer;
          const both = {{ bubbles: true, cancelable: true }};
          document.body.dispatchEvent({event});
        }}"""
    )
    _wait_for_pixels(page, "#pad canvas", image)
    assert not page.evaluate("document.getElementById('image').hidden")


def test_unreadable_file_is_told_of(open_view, tmp_path):
    page = open_view("view=image")
    path = tmp_path / "own.png"
    path.write_text("no picture")
    _open_file(page, "#file", path)
    page.wait_for("!document.getElementById('problem').hidden")
    text = page.evaluate("document.getElementById('problem').textContent")
    assert "cannot read that file" in text
    # It goes with the next thing that is done.
    _change(page, "#seed", "5")
    assert page.evaluate("document.getElementById('problem').hidden")


def test_coarse_part_is_kept_and_linked(open_view, sampler):
    page = open_view("seed=20&count=4&keep=coarse&level=1&from=9")
    groups = sampler.num_groups
    specs = [s for s in sampler.noise if s["stream"] < groups]
    feeds = {
        spec["name"]: noise_rows(
            # The coarsest scale has two of six groups.
            [9] * 4 if spec["stream"] < 2 else range(20, 24),
            spec["kind"],
            spec["stream"],
            spec["shape"],
        )
        for spec in specs
    }
    feeds["temperature"] = np.full([4, groups], 0.7, np.float32)
    (expected,) = sampler.session.run(["images"], feeds)
    shown = _pixels(page, "#grid canvas")
    _assert_same(shown, expected[..., 0])
    _click(page, "#samples [data-do=link]")
    page.wait_for("location.hash.includes('keep=coarse')")
    page = open_view(page.evaluate("location.hash.slice(1)"), fresh=True)
    np.testing.assert_array_equal(_pixels(page, "#grid canvas"), shown)


def test_chosen_sample_goes_on_to_other_views(open_view):
    page = open_view("seed=30&count=4")
    _click(page, "#grid button:nth-child(3)")
    _click(page, "#chosen [data-do=b]")
    _wait(page, "between")
    assert page.evaluate(
        "document.querySelector('[data-source=b] input').value"
    )
    strip = _pixels(page, "#between-strip canvas")
    assert len(strip) == 9
    assert (strip[0] != strip[-1]).any()
    # The slider's ends show the strip's ends.
    _change(page, "#t", "1")
    _wait(page, "between")
    _assert_same(_pixels(page, "#between-big canvas")[0], strip[-1])


def test_buttons_wait_for_the_pictures_that_they_are_about(open_view):
    page = open_view("seed=40&count=4")
    disabled = """["#samples [data-do=download]", "#chosen [data-do=encode]"]
      .map((one) => document.querySelector(one).disabled)"""
    _click(page, "#grid button:nth-child(2)")
    assert page.evaluate(disabled) == [False, False]
    # What is seen is that of other seeds until it is drawn.
    before = page.evaluate(
        f"""(() => {{
          document.querySelector("#seed-next").click();
          document.querySelector("#grid button").click();
          return {disabled};
        }})()"""
    )
    assert before == [True, True]
    _wait(page, "samples")
    assert page.evaluate(disabled) == [False, False]
    (shown, *_) = _pixels(page, "#grid canvas")
    _click(page, "#chosen [data-do=encode]")
    _wait_for_pixels(page, "#pad canvas", shown)


def test_nothing_is_saved_where_nothing_is_drawn(open_view):
    page = open_view("view=image", fresh=True)
    assert page.evaluate(
        "document.querySelector('#image [data-do=download]').disabled"
    )


def test_latent_slider_moves_the_picture_and_channels_are_ranked(open_view):
    page = open_view("view=latent&base=4&group=1")
    before = _pixels(page, "#latent-big canvas")
    channels = page.evaluate(
        """[...document.querySelectorAll("#channels label")].map(
          (label) => [label.textContent, label.querySelector("i").style.width]
        )"""
    )
    widths = [float(width.removesuffix("%")) for _, width in channels]
    assert widths == sorted(widths, reverse=True)
    assert widths[0] == 100
    _click(page, "#channels label input")
    _change(page, "#amount", "3")
    _wait(page, "latent")
    assert (_pixels(page, "#latent-big canvas") != before).any()


def test_keyboard_alone_goes_everywhere(open_view):
    page = open_view("count=4")
    page.evaluate("document.querySelector('[role=tab]').focus()")
    seen = []
    for _ in _VIEWS:
        seen.append(
            page.evaluate(
                "document.querySelector('[role=tab][aria-selected=true]')"
                ".dataset.view"
            )
        )
        page.key("ArrowRight")
    assert tuple(seen) == _VIEWS
    page.key("ArrowLeft")
    page.key("ArrowLeft")
    _click(page, "#clear")
    page.evaluate("document.querySelector('#pad canvas').focus()")
    page.key(" ")
    for _ in range(5):
        page.key("ArrowRight")
    page.key(" ")
    _wait(page, "image")
    (drawn,) = _pixels(page, "#pad canvas")
    assert (drawn.max(axis=0) > 128).sum() >= 5


def test_focus_is_not_lost(open_view, site, tmp_path):
    page = open_view("view=image", fresh=True)
    focused = "document.activeElement.id || document.activeElement.tagName"
    size = manifest.read(site)["model"]["image_shape"][0]
    path, image = _own_picture(tmp_path, size)
    _open_file(page, "#file", path)
    _wait_for_pixels(page, "#pad canvas", image)
    # Where the button is hidden with its view, it goes on to the new one's tab.
    press = """(selector) => {
      const button = document.querySelector(selector);
      button.focus();
      button.click();
    }"""
    page.evaluate(f"({press})('#image-a')")
    assert page.evaluate(focused) == "tab-between"
    own = "[data-source=b] .own button"
    page.evaluate(f"({press})('{own}')")
    assert page.evaluate(f"document.activeElement.matches('{own}')")
    assert (
        page.evaluate(
            f"document.querySelector('{own}').getAttribute('aria-pressed')"
        )
        == "true"
    )
    # Focus that comes back with the window opens nothing.
    page.evaluate("document.getElementById('tab-about').focus()")
    assert page.evaluate("document.getElementById('about').hidden")
    _wait(page, "between")


@pytest.mark.parametrize("view", _VIEWS)
def test_every_control_has_a_name(open_view, view):
    page = open_view(f"view={view}&keep=coarse")
    nodes = page.command("Accessibility.getFullAXTree")["nodes"]
    controls = [
        (node["role"]["value"], node["name"]["value"])
        for node in nodes
        if not node["ignored"] and node["role"]["value"] in _CONTROLS
    ]
    assert {"tab"} <= {role for role, _ in controls}
    assert [role for role, name in controls if not name.strip()] == []


@pytest.mark.parametrize("view", _VIEWS)
def test_view_fits_a_phone(open_view, view):
    page = open_view(f"view={view}&count=4&keep=coarse")
    page.resize(360, 740, mobile=True)
    overflow = page.evaluate(
        "document.documentElement.scrollWidth - innerWidth"
    )
    assert overflow <= 0
    small = page.evaluate(
        """[...document.querySelectorAll("main button, main select")]
          .filter((e) => e.offsetParent && !e.querySelector("canvas"))
          .map((e) => [e.textContent, e.getBoundingClientRect().height])
          .filter(([, height]) => height < 38)"""
    )
    assert small == []


def test_dark_is_dark_and_light_is_light(open_view):
    page = open_view("count=4")
    ground = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g)"
    levels = {}
    for scheme in ("light", "dark"):
        page.prefer(color_scheme=scheme)
        levels[scheme] = np.mean([*map(int, page.evaluate(f"[...{ground}]"))])
    page.prefer(color_scheme="light")
    assert levels["light"] > 200
    assert levels["dark"] < 60


def test_png_holds_what_is_seen(open_view, sampler, tmp_path):
    page = open_view("seed=1&count=4")
    page.command(
        "Browser.setDownloadBehavior",
        behavior="allow",
        downloadPath=str(tmp_path),
        eventsEnabled=True,
    )
    _click(page, "#samples [data-do=download]")
    end = time.monotonic() + _SECONDS
    while not (files := [*tmp_path.glob("*.png")]):
        assert time.monotonic() < end, "there is no file"
        page.evaluate("new Promise((resolve) => setTimeout(resolve, 50))")
    image = np.asarray(Image.open(io.BytesIO(files[0].read_bytes())))
    expected = sampler.sample([1], 0.7)[0, ..., 0]
    size = len(expected)
    factor = image.shape[0] // (2 * size + 2)
    assert factor >= 1
    first = image[: size * factor : factor, : size * factor : factor, 0]
    _assert_same(first, expected)


def test_policy_lets_nothing_inline_run_and_nothing_out(open_view):
    page = open_view()
    ran = page.evaluate(
        """(() => {
          const script = document.createElement("script");
          script.textContent = "self.ran = true";
          document.body.append(script);
          return Boolean(self.ran);
        })()"""
    )
    assert not ran
    for place in ("https://example.org/", "http://127.0.0.1:9/"):
        sent = page.evaluate(f"fetch('{place}').then(() => true, () => false)")
        assert not sent
    # In its own words, so that it was the policy that refused.
    refused = [p for p in page.problems if "Content Security Policy" in p]
    assert len(refused) >= 3
    page.problems.clear()
    page.requests.clear()


def test_page_is_isolated_and_has_threads(open_view):
    page = open_view("count=4")
    assert page.evaluate("crossOriginIsolated")
    cores = page.evaluate("navigator.hardwareConcurrency")
    if cores > 1:
        chip = page.evaluate("document.getElementById('engine').textContent")
        assert "threads" in chip


def test_plain_host_gives_one_thread_and_the_same_pictures(
    browser, site, sampler
):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=site)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    with _serving(server) as address:
        browser.problems.clear()
        browser.go(f"{address}#seed=3&count=4")
        browser.wait_for(_READY)
        assert not browser.evaluate("crossOriginIsolated")
        expected = sampler.sample([3, 4, 5], 0.7)[..., 0]
        _assert_same(_pixels(browser, "#grid canvas")[:3], expected)
        _click(browser, "[data-view=about]")
        note = browser.wait_for(
            "document.getElementById('engine-note').textContent"
        )
        assert "one thread" in note
        assert browser.problems == []
        browser.go("about:blank")


def test_gpu_is_compared_before_it_takes_over(url, tmp_path, sampler):
    with open_page(tmp_path, SOFTWARE_GPU) as page:
        page.go(f"{url}#view=about")
        has_gpu = page.evaluate(
            "navigator.gpu?.requestAdapter().then((a) => Boolean(a)) ?? false"
        )
        if not has_gpu:
            pytest.skip("This Chromium has no WebGPU, nor one in software.")
        note = page.wait_for(
            """(() => {
              const text = document.getElementById("engine-note").textContent;
              return text.includes("WebGPU") && text;
            })()""",
            seconds=400,
        )
        assert "draws the same picture" in note, page.problems
        _click(page, "[data-view=samples]")
        _wait(page, "samples")
        expected = sampler.sample(range(3), 0.7)[..., 0].astype(int)
        shown = _pixels(page, "#grid canvas")[:3]
        assert np.abs(shown - expected).max() <= 1
        assert page.problems == []


def test_page_without_its_model_says_so(browser, site, tmp_path):
    broken = shutil.copytree(site, tmp_path / "broken")
    (broken / "model" / "nvae.onnx").unlink()
    with _serving(PageServer(broken)) as address:
        browser.go(address)
        browser.wait_for("document.querySelector('#problem:not([hidden])')")
        text = browser.evaluate(
            "document.getElementById('problem').textContent"
        )
        assert "model/nvae.onnx cannot be loaded: 404" in text
        browser.go("about:blank")
