"""The network: a 3D Attention V-Net with one logit per head and voxel.

References
----------
V-Net: Milletari, Navab, Ahmadi 2016, arXiv:1606.04797. Attention gates: Oktay et al. 2018, arXiv:1804.03999.
"""

from __future__ import annotations

import itertools
import math
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor, nn

HEADS = ("lesion", "tumour", "brain")
DOWN_CONVOLUTIONS = (1, 2, 3, 3, 3)
UP_CONVOLUTIONS = (1, 2, 3, 3)
SUPERVISED_STAGES = 3
STATISTICS_MOMENTUM = 0.02  # crops are few and unlike each other: an average over about fifty


class NetworkConfig(BaseModel):
    """What the network is built with; kept in every checkpoint and in the release card."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    widths: tuple[int, ...] = (16, 32, 64, 128, 256)
    kernel_size: int = 3
    gates: bool = True
    norm: Literal["instance", "batch", "group", "none"] = "instance"
    heads: tuple[str, ...] = Field(default=HEADS, min_length=1)

    @field_validator("heads")
    @classmethod
    def _known_heads(cls, heads: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := set(heads) - set(HEADS):
            raise ValueError(f"no such head: {', '.join(sorted(unknown))}; there are {', '.join(HEADS)}")
        if len(set(heads)) < len(heads):
            raise ValueError(f"a head stands twice in {', '.join(heads)}")
        return heads


def _norm(kind: str, width: int) -> nn.Module:
    if kind == "instance":
        return nn.InstanceNorm3d(width, affine=True)
    if kind == "batch":
        return nn.BatchNorm3d(width, momentum=STATISTICS_MOMENTUM)
    if kind == "group":
        return nn.GroupNorm(math.gcd(8, width), width)
    return nn.Identity()


def _convolution(kind: str, size: int, inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv3d(inputs, outputs, size, padding=size // 2, bias=kind == "none"), _norm(kind, outputs), nn.PReLU(outputs))


class Stage(nn.Module):
    """Some convolutions at one width, and a residual sum over all of them."""

    def __init__(self, config: NetworkConfig, inputs: int, width: int, convolutions: int) -> None:
        super().__init__()
        layers = [_convolution(config.norm, config.kernel_size, inputs if index == 0 else width, width) for index in range(convolutions)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """`residual` has the stage's width, or one channel that is broadcast."""
        out: Tensor = self.layers(x)
        return out + residual


class Gate(nn.Module):
    """Additive attention on a skip: says, voxel by voxel, how much of it passes. Starts nearly open (bias +2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = max(width // 2, 1)
        self.skip = nn.Conv3d(width, inner, 1, bias=False)
        self.signal = nn.Conv3d(width, inner, 1)
        self.attention = nn.Conv3d(inner, 1, 1)
        nn.init.constant_(self.attention.bias if self.attention.bias is not None else torch.empty(0), 2.0)

    def forward(self, skip: Tensor, signal: Tensor) -> tuple[Tensor, Tensor]:
        """The gated skip, and the attention map (one channel, in (0, 1))."""
        attention = torch.sigmoid(self.attention(torch.relu(self.skip(skip) + self.signal(signal))))
        return skip * attention, attention


class Up(nn.Module):
    """One step of the decoder: transposed convolution, gated skip, stage."""

    def __init__(self, config: NetworkConfig, below: int, width: int, convolutions: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose3d(below, width, 2, stride=2)
        self.gate = Gate(width) if config.gates else None
        self.stage = Stage(config, 2 * width, width, convolutions)

    def forward(self, x: Tensor, skip: Tensor) -> tuple[Tensor, Tensor | None]:
        """The decoded stage, and the attention map where there is a gate."""
        x = self.up(x)
        attention = None
        if self.gate is not None:
            skip, attention = self.gate(skip, x)
        out: Tensor = self.stage(torch.cat((x, skip), dim=1), x)
        return out, attention


class AttentionVNet(nn.Module):
    """FLAIR in, one logit per head and voxel out.

    Input float32 (n, 1, i, j, k) with i, j, k divisible by 16 (2 to the power of the stages below the first). Serving output:
    logits (n, heads, i, j, k). While training: a tuple of logits at full, half and quarter resolution (deep supervision).
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        if not 2 <= len(widths) <= len(DOWN_CONVOLUTIONS):
            raise ValueError(f"widths: 2 to {len(DOWN_CONVOLUTIONS)} stages, got {len(widths)}")
        if config.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {config.kernel_size}")
        self.first = Stage(config, 1, widths[0], DOWN_CONVOLUTIONS[0])
        self.reduce = nn.ModuleList(nn.Sequential(nn.Conv3d(a, b, 2, stride=2), nn.PReLU(b)) for a, b in itertools.pairwise(widths))
        self.down = nn.ModuleList(Stage(config, w, w, n) for w, n in zip(widths[1:], DOWN_CONVOLUTIONS[1:], strict=False))
        self.up = nn.ModuleList(Up(config, below, w, n) for w, below, n in zip(widths[:-1], widths[1:], UP_CONVOLUTIONS, strict=False))
        supervised = min(SUPERVISED_STAGES, len(self.up))
        self.heads = nn.ModuleList(nn.Conv3d(widths[stage], len(config.heads), 1) for stage in range(supervised))
        self._initialise()

    def _initialise(self) -> None:
        """He initialisation; heads start from a low prior, or rare lesions cost the first hundred steps."""
        for module in self.modules():
            if isinstance(module, nn.Conv3d) and module.kernel_size[0] > 1:
                nn.init.kaiming_normal_(module.weight, a=0.25, nonlinearity="leaky_relu")
        for head in self.heads:
            if isinstance(head, nn.Conv3d) and head.bias is not None:
                nn.init.constant_(head.bias, -2.0)

    def encoder_parameters(self) -> list[nn.Parameter]:
        """The contracting path: what fine-tuning moves a tenth as fast."""
        return [*self.first.parameters(), *self.reduce.parameters(), *self.down.parameters()]

    def decoder_parameters(self) -> list[nn.Parameter]:
        """Expanding path and gates."""
        return list(self.up.parameters())

    def head_parameters(self) -> list[nn.Parameter]:
        """The last layer of every head, at every supervised scale."""
        return list(self.heads.parameters())

    def learn_statistics(self, learns: bool) -> None:
        """While training: whether batch norm takes each crop's own statistics and averages them, or the averages, as when it serves.

        Instance norm sees other statistics in a whole head than in a crop of it; averages are the same in both. Other norms keep none.
        """
        for module in self.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.train(learns)

    @property
    def lacks_statistics(self) -> bool:
        """Whether it has batch norm that never saw a crop."""
        seen = [module.num_batches_tracked for module in self.modules() if isinstance(module, nn.BatchNorm3d)]
        return any(count is None or int(count) == 0 for count in seen)

    def decode(self, x: Tensor) -> tuple[list[Tensor], list[Tensor | None]]:
        """Decoded stages and attention maps, full resolution first."""
        skips = [self.first(x, x)]
        for reduce, stage in zip(self.reduce, self.down, strict=True):
            reduced = reduce(skips[-1])
            skips.append(stage(reduced, reduced))
        out = skips.pop()
        decoded: list[Tensor] = []
        attention: list[Tensor | None] = []
        for up, skip in zip(reversed(list(self.up)), reversed(skips), strict=True):
            out, seen = up(out, skip)
            decoded.insert(0, out)
            attention.insert(0, seen)
        return decoded, attention

    def attention_maps(self, x: Tensor) -> tuple[Tensor, ...]:
        """How much of each skip its gate lets through, (n, 1, i, j, k) in (0, 1), full resolution first; none without gates.

        In training mode as in evaluation; gradients flow through them.
        """
        return tuple(seen for seen in self.decode(x)[1] if seen is not None)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Logits; at all supervised scales while training."""
        decoded, _ = self.decode(x)
        if not self.training:
            logits: Tensor = self.heads[0](decoded[0])
            return logits
        return tuple(head(stage) for head, stage in zip(self.heads, decoded, strict=False))


def fold_norm(network: AttentionVNet) -> AttentionVNet:
    """The same function without batch norm: its fixed scale and shift go into the convolutions before it.

    What serves is then faster, and a part of a volume gives what the whole gives. A network of another norm is returned as it is.
    """
    if network.config.norm != "batch":
        return network
    folded = AttentionVNet(network.config.model_copy(update={"norm": "none"}))
    state = {name: value for name, value in network.state_dict().items() if name in folded.state_dict()}
    for name, layer in network.named_modules():
        if not isinstance(layer, nn.Sequential) or len(layer) < 2 or not isinstance(layer[1], nn.BatchNorm3d):
            continue
        convolution, norm = layer[0], layer[1]
        variance, mean = norm.get_buffer("running_var"), norm.get_buffer("running_mean")
        scale = norm.weight.detach() / torch.sqrt(variance + norm.eps)
        state[f"{name}.0.weight"] = convolution.get_parameter("weight").detach() * scale[:, None, None, None, None]
        state[f"{name}.0.bias"] = norm.bias.detach() - mean * scale
    folded.load_state_dict(state)
    return folded.train(network.training)


def count_parameters(network: nn.Module) -> int:
    """Trainable numbers in the network."""
    return sum(parameter.numel() for parameter in network.parameters())
