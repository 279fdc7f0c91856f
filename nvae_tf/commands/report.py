"""Writes a report of a run: one HTML file to open, keep or send.

    nvae report --workdir=runs/demo

Curves, KL and active latents of every group, samples, reconstructions,
interpolations, evaluations, events and configuration. The file loads nothing
from elsewhere. A run that is still training can be reported on too: what is
not there yet is left out. Needs the extra `report`.
"""

import pathlib

from absl import flags

from nvae_tf.commands import flags as common_flags
from nvae_tf.commands import values
from nvae_tf.commands.model_flags import RunFlags
from nvae_tf.core.errors import UserError

_MODEL = RunFlags()
_OUTPUT = common_flags.define_output(
    "", "The HTML file to write; by default report.html in the workdir."
)
_PICTURES = flags.DEFINE_bool(
    "pictures", True, "Let the model draw; without, records alone are shown."
)
_TEMPERATURES = flags.DEFINE_list(
    "temperatures", "", "Of the samples; by default those of the run."
)
_NUM = flags.DEFINE_integer(
    "num", 36, "Samples per temperature.", lower_bound=1
)
_READJUST = common_flags.define_readjust_bn()
_SPLIT = common_flags.define_split("test")
_SEED = common_flags.define_seed("Of the draws.")
# Of `evaluate` and `evaluate_samples`, in the workdir.
_RESULTS = ("evaluation.json", "sample_quality.json")


def main(argv) -> None:
    """Reads the records, lets the model draw, writes the page."""
    del argv
    from nvae_tf.report import page as report_page

    # Before TensorFlow is loaded.
    report_page.require_packages()
    config = _MODEL.read_config()
    _temperatures(config)
    output = _OUTPUT.value or f"{_MODEL.workdir}/report.html"
    values.require_suffix(output, ".html")
    from nvae_tf.core.files import write_bytes
    from nvae_tf.report import records as report_records
    from nvae_tf.report import sections as report_sections
    from nvae_tf.runs.workdir import Workdir

    folder = Workdir(_MODEL.workdir)
    history = report_records.read_history(folder.metrics_path)
    results = {
        name: report_records.read_result(folder.path / name)
        for name in _RESULTS
    }
    pictures, notes = [], []
    if _PICTURES.value:
        pictures = _pictures(notes)
    progress = report_records.progress_text(
        history, _latest_state(folder), config.train.epochs
    )
    page = report_page.Page(
        title=config.name,
        subtitle=f"{progress}. Workdir {folder.path.resolve().name}.",
        notes=notes,
        facts=report_sections.facts(
            config, history, results["evaluation.json"], ema=_MODEL.ema
        ),
        sections=[
            report_sections.training(config, history),
            report_sections.latents(config, history),
            *pictures,
            report_sections.evaluations(history, results),
            report_sections.events(history),
            report_sections.configuration(config),
        ],
    )
    write_bytes(pathlib.Path(output), report_page.render(page).encode())
    print(f"Report in {output}")


def _latest_state(folder) -> dict:
    """The plain state of the latest checkpoint, empty without one."""
    try:
        checkpoint = folder.checkpoints().restore_latest()
    except UserError:
        return {}
    return checkpoint.metadata if checkpoint else {}


def _pictures(notes: list[str]) -> list:
    """Sections of what the model draws; what cannot be drawn is noted."""
    from nvae_tf.report.page import Section
    from nvae_tf.report.pictures import Pictures
    from nvae_tf.sampling import readjust

    try:
        model, config, info = _MODEL.load()
    except UserError as error:
        notes.append(f"Without pictures: {error}")
        return []
    draws = Pictures(model, config, _SEED.value)
    weights = "averaged weights" if info["ema"] else "weights"
    origin = f"Drawn with the {weights} of step {info['step']:,}"
    # Before the samples, which may change the model's statistics.
    held_out = _held_out(draws, f"{origin}.", notes)
    if _READJUST.value:
        origin += ", batch normalisation re-adjusted at each temperature"
    tag = readjust.checkpoint_tag(info["step"], info["ema"])
    samples = _samples(draws, model, config, tag)
    return [Section("Samples", f"{origin}.", samples), *held_out]


def _samples(draws, model, config, tag: str) -> tuple:
    """A figure for every temperature."""
    from nvae_tf.core.progress import progress
    from nvae_tf.report.page import figure
    from nvae_tf.sampling import readjust

    figures = []
    for temperature in progress(
        _temperatures(config), desc="drawing", unit="grid"
    ):
        if _READJUST.value:
            readjust.readjust_cached(model, _MODEL.workdir, tag, temperature)
        png = draws.samples(temperature, _NUM.value)
        caption = f"Draws at temperature {temperature:g}"
        figures.append(figure(png, caption, is_picture=True))
    return tuple(figures)


def _held_out(draws, origin: str, notes: list[str]) -> list:
    """The section of the split's images; empty, and a note, without them."""
    from nvae_tf.report.page import Section, figure

    try:
        pictures = draws.held_out(_SPLIT.value)
    except UserError as error:
        notes.append(f"Without reconstructions: {error}")
        return []
    captions = {
        "reconstructions": "Images, each followed by its reconstruction",
        "interpolation": "Each row leads from one image to another, through "
        "the noise of all latent groups",
    }
    figures = tuple(
        figure(png, captions[name], is_picture=True)
        for name, png in pictures.items()
    )
    return [Section(f"Images of the {_SPLIT.value} split", origin, figures)]


def _temperatures(config) -> list[float]:
    """Those of the flag, or else the run's own."""
    given = values.numbers("temperatures", _TEMPERATURES.value)
    if any(temperature < 0 for temperature in given):
        raise UserError("--temperatures holds numbers below 0.")
    return given or list(config.evaluation.image_temperatures)
