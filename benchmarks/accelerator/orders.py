"""Which programs `run` measures, and in which order."""

__all__ = ["ORDER", "programs", "split", "waves"]

# A line is a program; "+tf32" lets products of float32 round their factors,
# and "+asked" leaves it to the device to ask how often loops run.  What has no
# empty line between is compiled side by side, and then measured in turn.
ORDER = """\
step-cifar-32-bfloat16-bn_swish
step-cifar-32-float32-bn_swish+tf32
step-cifar-32-float32-bn_swish
check-tiny-2-float32-bn_swish
step-mnist-32-float32-bn_swish
step-deep-4-float32-bn_swish
sample-cifar-32-float32

check-small-32-float32-bn_swish
step-small-32-float32-bn_swish
step-cifar-32-bfloat16-none
step-small-32-float32-bn_swish-masked
step-mnist-32-bfloat16-bn_swish
step-mnist-32-float32-bn_swish+tf32
sample-mnist-32-float32

step-cifar-32-float32-none
step-cifar-32-float32-none+tf32
sample-cifar-32-float32+tf32
sample-mnist-32-float32+tf32
step-deep-4-float32-bn_swish+asked
step-deep-4-float32-bn_swish-unrolled
step-deep-4-float32-bn_swish+tf32
step-deep-4-bfloat16-bn_swish

step-small-32-float32-bn_swish+tf32
step-small-32-bfloat16-bn_swish
step-cifar-128-bfloat16-bn_swish
step-mnist-200-bfloat16-bn_swish
step-cifar-32-float32-cell
step-mnist-32-float32-none
sample-cifar-32-bfloat16
sample-small-32-float32
sample-deep-4-float32
"""


def programs(order: str) -> list[str]:
    """The programs of an order, each once."""
    labels = [label for wave in waves(order) for label in wave]
    return list(dict.fromkeys(split(label)[0] for label in labels))


def waves(order: str) -> list[list[str]]:
    """The labels of an order that are compiled together."""
    found = [[]]
    for line in order.splitlines():
        label = line.partition("#")[0].strip()
        if label:
            found[-1].append(label)
        elif not line.strip() and found[-1]:
            found.append([])
    return [wave for wave in found if wave]


def split(label: str) -> tuple[str, dict[str, bool]]:
    """The program of a label, and what `Program` takes."""
    name, *changes = label.split("+")
    unknown = set(changes) - {"tf32", "asked"}
    if unknown:
        raise ValueError(f"{label} asks for {', '.join(sorted(unknown))}.")
    return name, {
        "exact": "tf32" not in changes,
        "known_rounds": "asked" not in changes,
    }
