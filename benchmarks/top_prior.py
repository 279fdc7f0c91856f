r"""What another prior of the first latent group could gain.

    nvae encode --model=mnist --data_path=data/mnist --split=train --num=10000 \
        --arrays=z,mean,sigma --output=train.npz
    nvae encode --model=mnist --data_path=data/mnist --split=test --num=1000 \
        --arrays=z,mean,sigma --output=test.npz
    python -m benchmarks.top_prior --train=train.npz --test=test.npz

The first group's prior is a standard Normal.  A VampPrior (Tomczak & Welling
2018, arXiv 1705.07120) is a mixture of the posteriors of pseudo-inputs.  With
training images for those, and nothing trained further, the bound of other
images changes by the mean of log p(z) under the one less that under the other.
No prior of this group, of an encoder that stays as it is, can gain more than
the group's whole KL.
"""

import math

import numpy as np
from absl import flags
from scipy import special

from benchmarks import results
from nvae_tf.core.errors import UserError
from nvae_tf.distributions.residual_normal import SIGMA_FLOOR

__all__ = ["gains"]

_ARRAYS = ("z_00", "mean_00", "sigma_00")


def gains(z, mean, sigma, counts) -> list[dict]:
    """By how much mixtures of posteriors are better than the standard prior.

    Args:
      z: draws of the posteriors of held-out images `[N, D]`.
      mean: of the posteriors of training images `[M, D]`.
      sigma: likewise.
      counts: of components: the first so many of the M.

    Returns:
      For each count "components"; "gain", the mean of log p(z) in nats, less
      that of the standard prior; "error", its standard error over images.
    """
    z, mean, sigma = (np.asarray(x, np.float64) for x in (z, mean, sigma))
    wide = np.full([1, z.shape[1]], 1.0 + SIGMA_FLOOR)
    standard = _log_normals(z, np.zeros_like(wide), wide)[:, 0]
    densities = _log_normals(z, mean, sigma)
    found = []
    for count in counts:
        mixture = special.logsumexp(densities[:, :count], axis=1)
        gain = mixture - math.log(count) - standard
        error = gain.std(ddof=1) / math.sqrt(len(gain))
        found.append({"components": count, "gain": gain.mean(), "error": error})
    return found


def _log_normals(z, mean, sigma):
    """Log N(z_n; mean_m, sigma_m), `[N, M]`, without an array `[N, M, D]`."""
    precision = sigma**-2
    square = z**2 @ precision.T - 2 * z @ (mean * precision).T
    constant = np.sum(
        mean**2 * precision + 2 * np.log(sigma) + math.log(2 * math.pi), axis=1
    )
    return -0.5 * (square + constant)


def _read(path):
    """The first group of what `nvae encode` wrote: arrays `[N, D]`."""
    try:
        with np.load(path) as file:
            arrays = [file[name] for name in _ARRAYS]
            kl = file["kl_per_group"][:, 0]
    except (OSError, KeyError, ValueError) as error:
        raise UserError(
            f"{path} is no file that nvae encode --arrays=z,mean,sigma wrote: "
            f"{error}"
        ) from error
    return [x.reshape(len(x), -1) for x in arrays], kl


def _main(_) -> None:
    values = flags.FLAGS
    (_, mean, sigma), _ = _read(values.train)
    (z, _, _), kl = _read(values.test)
    counts = sorted({min(int(n), len(mean)) for n in values.components})
    rows = gains(z, mean, sigma, counts)
    print(f"{len(z)} images, KL of the first group {kl.mean():.2f} nats\n")
    print(
        results.table(
            ["components", "gain, nats", "standard error"],
            [
                [
                    f"{row['components']:,}",
                    f"{row['gain']:+.2f}",
                    f"{row['error']:.2f}",
                ]
                for row in rows
            ],
        )
    )


if __name__ == "__main__":
    from nvae_tf.commands import command_line

    flags.DEFINE_string("train", "", "Codes of training images.")
    flags.DEFINE_string("test", "", "Codes of held-out images.")
    flags.DEFINE_list(
        "components", ["10", "100", "1000", "10000"], "Of the mixtures."
    )
    command_line.run(_main)
