"""The names and shapes of the authors' tensors, written out by hand."""

import pytest

from nvae_tf.authors.reference_import import reference_slots
from nvae_tf.model.nvae import NVAE
from tests.support import model_cases


def _expand(text):
    """Names and shapes from lines `prefix kind sizes`.

    Kinds: conv (weight O I K K, bias and gain), gain (no bias), raw (weight
    only), bn (C), dense (O I), tensor (the shape), and whole operations:
    mconv (first index, C_in, hidden, K, C_out), down (C_in, C_out), se (C).
    """
    shapes = {}
    for line in text.strip().splitlines():
        prefix, kind, *sizes = line.split()
        shapes |= _shapes(prefix, kind, [int(s) for s in sizes])
    return shapes


def _shapes(prefix, kind, sizes):
    if kind == "tensor":
        return {prefix: tuple(sizes)}
    if kind in ("conv", "gain", "raw"):
        c_out, c_in, size = sizes
        shapes = {f"{prefix}.weight": (c_out, c_in, size, size)}
        if kind != "raw":
            shapes[f"{prefix}.log_weight_norm"] = (c_out, 1, 1, 1)
        if kind == "conv":
            shapes[f"{prefix}.bias"] = (c_out,)
        return shapes
    if kind == "bn":
        names = ("weight", "bias", "running_mean", "running_var")
        return {f"{prefix}.{name}": tuple(sizes) for name in names}
    if kind == "dense":
        return {f"{prefix}.weight": tuple(sizes), f"{prefix}.bias": sizes[:1]}
    return _expand(_operation(prefix, kind, sizes))


def _operation(prefix, kind, sizes):
    if kind == "mconv":
        o, c_in, hidden, size, c_out = sizes
        return f"""
            {prefix}.conv.{o}.bn bn {c_in}
            {prefix}.conv.{o + 1}.conv.0 raw {hidden} {c_in} 1
            {prefix}.conv.{o + 1}.conv.1 bn {hidden}
            {prefix}.conv.{o + 2}.conv.0 raw {hidden} 1 {size}
            {prefix}.conv.{o + 2}.conv.1 bn {hidden}
            {prefix}.conv.{o + 3} raw {c_out} {hidden} 1
            {prefix}.conv.{o + 4}.bn bn {c_out}
        """
    if kind == "down":
        c_in, c_out = sizes
        return f"""
            {prefix}.skip.conv_1 conv {c_out // 4} {c_in} 1
            {prefix}.skip.conv_2 conv {c_out // 4} {c_in} 1
            {prefix}.skip.conv_3 conv {c_out // 4} {c_in} 1
            {prefix}.skip.conv_4 conv {c_out - 3 * (c_out // 4)} {c_in} 1
        """
    assert kind == "se"
    (channels,) = sizes
    return f"""
        {prefix}.se.se.0 dense 4 {channels}
        {prefix}.se.se.2 dense {channels} 4
    """


_CASES = {}

# One group at one scale, two pairs of flows, ELU, no SE, three mixtures.
_CASES["plain"] = (
    model_cases.small(
        image_channels=3,
        num_bits=8,
        likelihood="mixture",
        num_mixtures=3,
        num_latent_scales=1,
        num_groups_per_scale=1,
        num_preprocess_cells=2,
        num_postprocess_cells=2,
        architecture="res_bnelu",
        use_se=False,
        num_flow_pairs=2,
    ),
    """
    prior_ftr0 tensor 8 4 4
    stem conv 4 3 3
    pre_process.0._ops.0.bn.bn bn 4
    pre_process.0._ops.0.conv_0 conv 4 4 3
    pre_process.0._ops.1.bn.bn bn 4
    pre_process.0._ops.1.conv_0 conv 4 4 3
    pre_process.1 down 4 8
    pre_process.1._ops.0.bn.bn bn 4
    pre_process.1._ops.0.conv_0 conv 8 4 3
    pre_process.1._ops.1.bn.bn bn 8
    pre_process.1._ops.1.conv_0 conv 8 8 3
    enc0.1 conv 8 8 1
    enc_sampler.0 conv 6 8 3
    nf_cells.0.cell1.conv.convz.0 gain 18 3 3
    nf_cells.0.cell1.conv.convz.2 gain 18 1 5
    nf_cells.0.cell1.mu.conv_0 conv 3 18 1
    nf_cells.0.cell2.conv.convz.0 gain 18 3 3
    nf_cells.0.cell2.conv.convz.2 gain 18 1 5
    nf_cells.0.cell2.mu.conv_0 conv 3 18 1
    nf_cells.1.cell1.conv.convz.0 gain 18 3 3
    nf_cells.1.cell1.conv.convz.2 gain 18 1 5
    nf_cells.1.cell1.mu.conv_0 conv 3 18 1
    nf_cells.1.cell2.conv.convz.0 gain 18 3 3
    nf_cells.1.cell2.conv.convz.2 gain 18 1 5
    nf_cells.1.cell2.mu.conv_0 conv 3 18 1
    stem_decoder conv 8 3 1
    post_process.0.skip.1 gain 4 8 1
    post_process.0._ops.0.bn.bn bn 8
    post_process.0._ops.0.conv_0 conv 4 8 3
    post_process.0._ops.1.bn.bn bn 4
    post_process.0._ops.1.conv_0 conv 4 4 3
    post_process.1._ops.0.bn.bn bn 4
    post_process.1._ops.0.conv_0 conv 4 4 3
    post_process.1._ops.1.bn.bn bn 4
    post_process.1._ops.1.conv_0 conv 4 4 3
    image_conditional.1 conv 30 4 3
    """,
)

# Three scales of 2, 1 and 1 groups, inverted residuals in both towers, and
# twice the width in the decoder.
_CASES["three scales"] = (
    model_cases.small(
        image_size=16,
        num_latent_scales=3,
        num_channels_dec=8,
        architecture="mbconv_sep",
    ),
    """
    prior_ftr0 tensor 64 2 2
    stem conv 4 1 3
    pre_process.0 down 4 8
    pre_process.0._ops.0 mconv 0 4 12 5 8
    pre_process.0 se 8
    enc_tower.0._ops.0 mconv 0 8 48 5 8
    enc_tower.0 se 8
    enc_tower.1.conv conv 8 16 1
    enc_tower.2._ops.0 mconv 0 8 48 5 8
    enc_tower.2 se 8
    enc_tower.3.conv conv 8 16 1
    enc_tower.4 down 8 16
    enc_tower.4._ops.0 mconv 0 8 48 5 16
    enc_tower.4 se 16
    enc_tower.5._ops.0 mconv 0 16 96 5 16
    enc_tower.5 se 16
    enc_tower.6.conv conv 16 32 1
    enc_tower.7 down 16 32
    enc_tower.7._ops.0 mconv 0 16 96 5 32
    enc_tower.7 se 32
    enc_tower.8._ops.0 mconv 0 32 192 5 32
    enc_tower.8 se 32
    enc0.1 conv 32 32 1
    enc_sampler.0 conv 6 32 3
    enc_sampler.1 conv 6 16 3
    enc_sampler.2 conv 6 8 3
    enc_sampler.3 conv 6 8 3
    dec_sampler.0.1 conv 6 32 1
    dec_sampler.1.1 conv 6 16 1
    dec_sampler.2.1 conv 6 16 1
    dec_tower.0.conv conv 64 67 1
    dec_tower.1.skip.1 gain 32 64 1
    dec_tower.1._ops.0 mconv 1 64 384 5 32
    dec_tower.1 se 32
    dec_tower.2._ops.0 mconv 0 32 192 5 32
    dec_tower.2 se 32
    dec_tower.3.conv conv 32 35 1
    dec_tower.4.skip.1 gain 16 32 1
    dec_tower.4._ops.0 mconv 1 32 192 5 16
    dec_tower.4 se 16
    dec_tower.5._ops.0 mconv 0 16 96 5 16
    dec_tower.5 se 16
    dec_tower.6.conv conv 16 19 1
    dec_tower.7._ops.0 mconv 0 16 96 5 16
    dec_tower.7 se 16
    dec_tower.8.conv conv 16 19 1
    post_process.0.skip.1 gain 8 16 1
    post_process.0._ops.0 mconv 1 16 48 5 8
    post_process.0 se 8
    image_conditional.1 conv 1 8 3
    """,
)

# Two groups of one scale, two cells each, without normalisation; one pair of
# flows per group.
_CASES["one scale"] = (
    model_cases.small(
        num_latent_scales=1,
        num_cells_enc=2,
        num_cells_dec=2,
        architecture="res_elu",
        use_se=False,
        num_flow_pairs=1,
    ),
    """
    prior_ftr0 tensor 8 4 4
    stem conv 4 1 3
    pre_process.0 down 4 8
    pre_process.0._ops.0.conv_0 conv 8 4 3
    pre_process.0._ops.1.conv_0 conv 8 8 3
    enc_tower.0._ops.0.conv_0 conv 8 8 3
    enc_tower.0._ops.1.conv_0 conv 8 8 3
    enc_tower.1._ops.0.conv_0 conv 8 8 3
    enc_tower.1._ops.1.conv_0 conv 8 8 3
    enc_tower.2.conv conv 8 8 1
    enc_tower.3._ops.0.conv_0 conv 8 8 3
    enc_tower.3._ops.1.conv_0 conv 8 8 3
    enc_tower.4._ops.0.conv_0 conv 8 8 3
    enc_tower.4._ops.1.conv_0 conv 8 8 3
    enc0.1 conv 8 8 1
    enc_sampler.0 conv 6 8 3
    enc_sampler.1 conv 6 8 3
    dec_sampler.0.1 conv 6 8 1
    nf_cells.0.cell1.conv.convz.0 gain 18 3 3
    nf_cells.0.cell1.conv.convz.2 gain 18 1 5
    nf_cells.0.cell1.mu.conv_0 conv 3 18 1
    nf_cells.0.cell2.conv.convz.0 gain 18 3 3
    nf_cells.0.cell2.conv.convz.2 gain 18 1 5
    nf_cells.0.cell2.mu.conv_0 conv 3 18 1
    nf_cells.1.cell1.conv.convz.0 gain 18 3 3
    nf_cells.1.cell1.conv.convz.2 gain 18 1 5
    nf_cells.1.cell1.mu.conv_0 conv 3 18 1
    nf_cells.1.cell2.conv.convz.0 gain 18 3 3
    nf_cells.1.cell2.conv.convz.2 gain 18 1 5
    nf_cells.1.cell2.mu.conv_0 conv 3 18 1
    dec_tower.0.conv conv 8 11 1
    dec_tower.1._ops.0.conv_0 conv 8 8 3
    dec_tower.1._ops.1.conv_0 conv 8 8 3
    dec_tower.2._ops.0.conv_0 conv 8 8 3
    dec_tower.2._ops.1.conv_0 conv 8 8 3
    dec_tower.3.conv conv 8 11 1
    post_process.0.skip.1 gain 4 8 1
    post_process.0._ops.0.conv_0 conv 4 8 3
    post_process.0._ops.1.conv_0 conv 4 4 3
    image_conditional.1 conv 1 4 3
    """,
)

# Dilated and plain 3x3 convolutions; two levels of preprocessing.
_CASES["two blocks"] = (
    model_cases.small(
        image_size=16,
        num_preprocess_blocks=2,
        num_latent_scales=1,
        num_groups_per_scale=1,
        architecture="res53_mbconv",
        use_se=False,
    ),
    """
    prior_ftr0 tensor 16 4 4
    stem conv 4 1 3
    pre_process.0 down 4 8
    pre_process.0._ops.0.bn_act bn 4
    pre_process.0._ops.0.conv_0 conv 8 4 3
    pre_process.0._ops.1.bn_act bn 8
    pre_process.0._ops.1.conv_0 conv 8 8 3
    pre_process.1 down 8 16
    pre_process.1._ops.0.bn_act bn 8
    pre_process.1._ops.0.conv_0 conv 16 8 3
    pre_process.1._ops.1.bn_act bn 16
    pre_process.1._ops.1.conv_0 conv 16 16 3
    enc0.1 conv 16 16 1
    enc_sampler.0 conv 6 16 3
    stem_decoder conv 16 3 1
    post_process.0.skip.1 gain 8 16 1
    post_process.0._ops.0 mconv 1 16 48 5 8
    post_process.1.skip.1 gain 4 8 1
    post_process.1._ops.0 mconv 1 8 24 5 4
    image_conditional.1 conv 1 4 3
    """,
)


@pytest.mark.parametrize("case", _CASES)
def test_names_and_shapes_are_those_written_out_here(case):
    config, text = _CASES[case]
    slots = reference_slots(NVAE(config))
    expected = _expand(text)
    assert set(slots) == set(expected)
    for key, shape in expected.items():
        assert slots[key].shape == tuple(shape), key


def test_stacked_groups_keep_their_numbers():
    """Three scales of 1, 2 and 4 groups, from coarse to fine."""
    model = NVAE(
        model_cases.small(
            image_size=16,
            num_latent_scales=3,
            num_groups_per_scale=4,
            num_flow_pairs=2,
        )
    )
    slots = reference_slots(model)
    encoder = model.parts["encoder"].parts
    decoder = model.parts["decoder"].parts

    def is_at(key, layer, index):
        return slots[key].variable is layer.bias and slots[key].index == index

    for number, (name, index) in enumerate(
        [
            ("first", None),
            *[("scale_1", i) for i in range(2)],
            *[("scale_2", i) for i in range(4)],
        ]
    ):
        group = decoder[name].parts
        assert is_at(f"enc_sampler.{number}.bias", group["posterior"], index)
        if number:
            key = f"dec_sampler.{number - 1}.1.bias"
            assert is_at(key, group["prior"], index)
        for flow, place in enumerate(["0.cell1", "0.cell2", "1.cell1"]):
            pair, cell = place.split(".")
            key = f"nf_cells.{2 * number + int(pair)}.{cell}.mu.conv_0.bias"
            project = group[f"flow_{flow}"].parts["project"]
            assert is_at(key, project, index)
    # Bottom-up, the first combiner belongs to the last group.
    combiners = [(1, 3), (3, 2), (5, 1), (7, 0)]
    for place, index in combiners:
        combiner = decoder["scale_2"].parts["encoder_combiner"].parts["conv"]
        assert is_at(f"enc_tower.{place}.conv.bias", combiner, index)
    for place, index in [(0, 0), (2, 1), (4, 2), (6, 3)]:
        cell = encoder["scale_0"].cells[0].parts["op_0"].parts["conv"]
        key = f"enc_tower.{place}._ops.0.conv_0.bias"
        assert is_at(key, cell, index)
    # Top-down: combiner, up, (cell, combiner) twice, up, ...
    for place, name, index in [
        (0, "first", None),
        (3, "scale_1", 0),
        (5, "scale_1", 1),
        (8, "scale_2", 0),
        (14, "scale_2", 3),
    ]:
        combiner = decoder[name].parts["decoder_combiner"].parts["conv"]
        assert is_at(f"dec_tower.{place}.conv.bias", combiner, index)


def test_convolutions_of_a_down_cell_keep_the_order_of_their_shifts():
    model = NVAE(model_cases.CONFIGS["plain_vae"])
    slots = reference_slots(model)
    (cell,) = model.parts["encoder"].parts["preprocess"].cells
    for i in range(4):
        bias = slots[f"pre_process.0.skip.conv_{i + 1}.bias"].variable
        assert bias is cell.parts["skip"].parts[f"phase_{i}"].bias
