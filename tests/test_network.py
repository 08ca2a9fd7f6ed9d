"""The network: dropout, pools, and backbones of other families than the shipped model's."""

from __future__ import annotations

import pytest
import torch
from clips import fast_config

from export.network import POOLS, GeM, WhaleNet
from pam_daemon.errors import ConfigError

WIDE = ("audio.hop_size=32", "audio.mel_frequency_bins=64")  # so that there is more than one place to pool


def test_dropout_drops_while_training_alone() -> None:
    network = WhaleNet(fast_config("architecture.dropout=0.5"))
    audio = torch.randn(8, 4000)
    with torch.no_grad():
        assert not torch.equal(network.train()(audio), network(audio))
        assert torch.equal(network.eval()(audio), network(audio))


def test_generalised_means_lie_between_average_and_maximum() -> None:
    features = torch.rand(2, 3, 4, 5) + 0.1
    gem = GeM((2, 3), keepdim=False)
    with torch.no_grad():
        gem.p.fill_(1.0)
        torch.testing.assert_close(gem(features), features.mean((2, 3)))
        gem.p.fill_(3.0)
        assert ((gem(features) > features.mean((2, 3))) & (gem(features) < features.amax((2, 3)))).all()
        gem.p.fill_(200.0)
        torch.testing.assert_close(gem(features), features.amax((2, 3)), rtol=0.03, atol=0)


def test_every_pool_gives_another_network() -> None:
    audio = torch.randn(2, 4000)
    outputs = []
    for pool in POOLS:
        torch.manual_seed(1)
        network = WhaleNet(fast_config(f"architecture.pool={pool}", *WIDE)).eval()
        with torch.no_grad():
            outputs.append(network(audio).flatten().tolist())
    assert len({tuple(output) for output in outputs}) == len(POOLS)


def test_the_exponent_of_a_generalised_mean_is_trained() -> None:
    network = WhaleNet(fast_config("architecture.pool=GeM", *WIDE))
    network(torch.randn(3, 4000)).sum().backward()
    exponent = network.backbone.get_parameter("global_pool.pool.p")
    assert exponent.grad is not None and exponent.grad != 0


@pytest.mark.parametrize("backbone", ["test_convnext", "test_efficientnet", "test_vit", "test_mambaout"])
def test_networks_of_other_families_take_the_spectrogram_as_it_is(backbone: str) -> None:
    network = WhaleNet(fast_config(f"architecture.backbone={backbone}", "audio.mel_frequency_bins=32"))
    logits = network(torch.randn(2, 4000))
    assert logits.shape == (2, 1)
    logits.sum().backward()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["architecture.backbone=resnet51"], r"timm has no resnet51; try .*resnet50"),
        (["architecture.backbone=efficientnet-b0"], r"timm has no efficientnet-b0; try .*efficientnet_b0"),
        (["architecture.backbone=''"], r"timm has no ; try resnet18, resnet50"),
        (
            ["architecture.backbone=test_vit", "audio.hop_size=512"],
            r"test_vit cannot be built for 16 mel bins x 8 frames .*patch size.*; use resnet50, or other audio keys",
        ),
        (["architecture.backbone=test_vit", "architecture.pool=GeM"], r"test_vit pools no feature map, so GeM"),
    ],
)
def test_a_backbone_that_cannot_be_had_is_refused_by_name(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        WhaleNet(fast_config(*overrides))
    assert "\n" not in str(caught.value)
