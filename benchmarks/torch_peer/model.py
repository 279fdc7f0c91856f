"""The whole model: bottom-up encoder, top-down decoder, image head."""

import typing
from collections.abc import Sequence

import torch
from torch import nn

from benchmarks.torch_peer.cells import (
    DecoderCombiner,
    EncoderCombiner,
    FlowPair,
    ResidualCell,
)
from benchmarks.torch_peer.distributions import (
    Normal,
    likelihood,
    num_pixel_parameters,
)
from benchmarks.torch_peer.layers import Conv2d
from nvae_tf.config import ModelConfig, cell_operations

__all__ = ["NVAE", "Output"]


class Output(typing.NamedTuple):
    """What a pass over images returns; float32, nats.

    Attributes:
      logits: parameters of the likelihood, `[B, P, H, W]`.
      kl: of every group and channel, summed over space, `[B, L, d]`.
      log_q: `[B]`; None if not asked for.
      log_p: `[B]`; None if not asked for.
    """

    logits: torch.Tensor
    kl: torch.Tensor
    log_q: torch.Tensor | None
    log_p: torch.Tensor | None


class NVAE(nn.Module):
    """NVAE; its `state_dict` has the authors' names.

    Args:
      config: the architecture.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.stem = Conv2d(config.image_channels, config.num_channels_enc, 3)
        width = self._build_preprocess()
        state, features = self._build_encoder(width)
        self._build_groups(state, features)
        self._build_image(state[-1])

    def _cell(self, kind: str, c_in: int, c_out: int, resample="none"):
        config = self.config
        operations = cell_operations(config.architecture, kind)
        return ResidualCell(operations, c_in, c_out, resample, config.use_se)

    def _build_preprocess(self) -> int:
        """Returns the channels after it."""
        config = self.config
        width = config.num_channels_enc
        self.pre_process = nn.ModuleList()
        for _ in range(config.num_preprocess_blocks):
            for _ in range(config.num_preprocess_cells - 1):
                self.pre_process.append(self._cell("pre", width, width))
            self.pre_process.append(self._cell("pre", width, 2 * width, "down"))
            width *= 2
        return width

    def _build_encoder(self, width: int) -> tuple[list[int], list[int]]:
        """Returns the widths of the decoder's state and the encoder's features.

        Both by scale, coarsest first.
        """
        config = self.config
        scales = range(config.num_latent_scales)
        enc, dec = config.latent_width
        state = [dec // 2**s for s in scales]
        features = [enc // 2**s for s in scales]
        self.enc_tower = nn.ModuleList()
        remaining = config.num_groups
        for s in reversed(scales):  # Finest first.
            if s < scales[-1]:
                cell = self._cell("enc", width, features[s], "down")
                self.enc_tower.append(cell)
                width = features[s]
            for _ in range(config.groups_top_down[s]):
                if config.is_plain_vae:
                    break
                for _ in range(config.num_cells_enc):
                    self.enc_tower.append(self._cell("enc", width, width))
                remaining -= 1
                if remaining:
                    self.enc_tower.append(EncoderCombiner(state[s], width))
        self.enc0 = nn.Sequential(nn.ELU(), Conv2d(enc, enc), nn.ELU())
        return state, features

    def _build_groups(self, state: list[int], features: list[int]) -> None:
        config = self.config
        d = config.num_latent_per_group
        size = config.scale_sizes[0]
        self.prior_ftr0 = nn.Parameter(
            torch.rand(state[0], size, size),
            requires_grad=not config.is_plain_vae,  # Where nothing reads it.
        )
        self.enc_sampler = nn.ModuleList()
        self.dec_sampler = nn.ModuleList()
        self.nf_cells = nn.ModuleList()
        self.dec_tower = nn.ModuleList()
        for s, groups in enumerate(config.groups_top_down):
            if s:
                self.dec_tower.append(
                    self._cell("dec", state[s - 1], state[s], "up")
                )
            for _ in range(groups):
                if len(self.enc_sampler):
                    for _ in range(config.num_cells_dec):
                        self.dec_tower.append(
                            self._cell("dec", state[s], state[s])
                        )
                    self.dec_sampler.append(
                        nn.Sequential(nn.ELU(), Conv2d(state[s], 2 * d))
                    )
                self.enc_sampler.append(Conv2d(features[s], 2 * d, 3))
                for _ in range(config.num_flow_pairs):
                    self.nf_cells.append(FlowPair(d))
                if not config.is_plain_vae:
                    self.dec_tower.append(DecoderCombiner(state[s], d))
        if config.is_plain_vae:
            self.stem_decoder = Conv2d(d, state[0])

    def _build_image(self, width: int) -> None:
        config = self.config
        self.post_process = nn.ModuleList()
        for _ in range(config.num_preprocess_blocks):
            self.post_process.append(
                self._cell("post", width, width // 2, "up")
            )
            width //= 2
            for _ in range(config.num_postprocess_cells - 1):
                self.post_process.append(self._cell("post", width, width))
        self.image_conditional = nn.Sequential(
            nn.ELU(), Conv2d(width, num_pixel_parameters(config), 3)
        )

    def forward(
        self,
        x: torch.Tensor,
        eps: Sequence[torch.Tensor] | None = None,
        with_densities: bool = False,
    ) -> Output:
        """Encodes images and decodes samples of the posterior.

        Args:
          x: `[B, C, H, W]` in [0, 1].
          eps: standard Normal noise, `[B, d, h, w]` for each group, top-down;
            drawn if None.
          with_densities: whether to compute `log_q` and `log_p`.
        """
        eps = self._noise(len(x), x.device) if eps is None else eps
        top, remembered = self._encode(x)
        kls, log_qs, log_ps = [], [], []

        def posterior_sample(group, h, prior):
            if group == 0:
                features = top
            else:
                combiner, e = remembered[-group]
                features = combiner(e, h)
            raw = self.enc_sampler[group](features).float().chunk(2, dim=1)
            if self.config.residual_posterior and group:
                raw = [q + p for q, p in zip(raw, prior, strict=True)]
            posterior = Normal(*raw)
            z = before_flow = posterior.sample(eps[group])
            z = self._flow(group, z)
            if prior is None:
                prior = [torch.zeros_like(raw[0])] * 2
            prior = Normal(*prior)
            has_flow = self.config.num_flow_pairs > 0
            if with_densities or has_flow:
                log_q = posterior.log_prob(before_flow)
                log_p = prior.log_prob(z)
            if with_densities:
                log_qs.append(log_q.sum(dim=(1, 2, 3)))
                log_ps.append(log_p.sum(dim=(1, 2, 3)))
            kl = log_q - log_p if has_flow else posterior.kl(prior)
            kls.append(kl.sum(dim=(2, 3)))
            return z

        logits = self._decode(len(x), posterior_sample)
        return Output(
            logits.float(),
            torch.stack(kls, dim=1),
            sum(log_qs) if with_densities else None,
            sum(log_ps) if with_densities else None,
        )

    def sample_logits(
        self,
        batch_size: int,
        temperature: float = 1.0,
        eps: Sequence[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Parameters of the likelihood, `[B, P, H, W]`, from the prior.

        Args:
          batch_size: B.
          temperature: of every group.
          eps: see `forward`.
        """
        if eps is None:
            eps = self._noise(batch_size, self.prior_ftr0.device)

        def prior_sample(group, h, prior):
            del h
            if prior is None:
                prior = [torch.zeros_like(eps[group])] * 2
            return Normal(*prior, temperature).sample(eps[group])

        return self._decode(batch_size, prior_sample).float()

    def sample(self, batch_size: int, temperature: float = 1.0):
        """Mean images `[B, C, H, W]` in [0, 1], from the prior."""
        logits = self.sample_logits(batch_size, temperature)
        return likelihood(self.config, logits).mean()

    def _noise(self, batch_size: int, device) -> list[torch.Tensor]:
        return [
            torch.randn(batch_size, d, h, w, device=device)
            for h, w, d in self.config.latent_shapes
        ]

    def _encode(self, x: torch.Tensor):
        """The top features, and combiners with theirs, bottom-up."""
        h = self.stem(2.0 * x - 1.0)
        for cell in self.pre_process:
            h = cell(h)
        remembered = []
        for part in self.enc_tower:
            if isinstance(part, EncoderCombiner):
                remembered.append((part, h))
            else:
                h = part(h)
        return self.enc0(h), remembered

    def _decode(self, batch_size: int, sampler) -> torch.Tensor:
        """Walks down; `sampler` makes z of group, state and raw prior."""
        if self.config.is_plain_vae:
            h = self.stem_decoder(sampler(0, None, None))
        else:
            h = self.prior_ftr0.expand(batch_size, -1, -1, -1)
            group = 0
            for part in self.dec_tower:
                if not isinstance(part, DecoderCombiner):
                    h = part(h)
                    continue
                prior = None
                if group:
                    raw = self.dec_sampler[group - 1](h)
                    prior = raw.float().chunk(2, dim=1)
                h = part(h, sampler(group, h, prior))
                group += 1
        for cell in self.post_process:
            h = cell(h)
        return self.image_conditional(h)

    def _flow(self, group: int, z: torch.Tensor) -> torch.Tensor:
        pairs = self.config.num_flow_pairs
        for pair in range(group * pairs, (group + 1) * pairs):
            z = self.nf_cells[pair](z)
        return z
