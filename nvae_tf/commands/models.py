r"""Lists the models that come with the project.

    nvae models
    nvae sample --model=NAME --output=samples.png

Every command that takes --model takes these names, folders that nvae export
pretrained wrote, and hf://user/repo of Hugging Face's hub.
"""

_COLUMNS = ("model", "data", "images", "parameters", "size", "metrics")


def main(argv) -> None:
    """Prints a table."""
    del argv
    from nvae_tf.runs import model_places, pretrained_folder

    found = {
        name: pretrained_folder.describe(path)
        for name, path in model_places.shipped().items()
    }
    if not found:
        print("No models come with this copy of the project.")
        return
    rows = [_COLUMNS, *(_row(*item) for item in found.items())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            text.ljust(width) for text, width in zip(row, widths, strict=True)
        )
        print("  ".join(cells).rstrip())


def _row(name: str, stored) -> tuple[str, ...]:
    """What is worth knowing of a model, a text for each column."""
    from nvae_tf.runs.model_card import data_text

    model, facts = stored.config.model, stored.facts
    data = ", ".join(facts.get("datasets", ()))
    return (
        name,
        data or data_text(stored.config.to_dict()),
        f"{model.image_size}x{model.image_size}x{model.image_channels}",
        f"{stored.parameters:,}",
        f"{stored.num_bytes / 1e6:.1f} MB",
        _metrics(facts),
    )


def _metrics(facts) -> str:
    """The best estimate of the likelihood, and its cost in bits."""
    found = {}
    for metric in facts.get("metrics", ()):
        # Of several K the last, which is the largest.
        found[metric["type"]] = metric
    chosen = [found[k] for k in ("nll", "nelbo", "fid") if k in found]
    if not chosen:
        return "not measured"
    images = [_images(metric) for metric in chosen]
    if len(set(images)) == 1:
        # Said once.
        images = ["" for _ in images[:-1]] + images[-1:]
    return "; ".join(
        f"{metric['name']}: {metric['value']:#.4g}{of}"
        for metric, of in zip(chosen, images, strict=True)
    )


def _images(metric) -> str:
    """What was measured, where that is known: the first so many of a split."""
    num = metric.get("settings", {}).get("num_images")
    return f" ({num:,} {metric['split']} images)" if num else ""
