"""The commands beside a station: what there is, what it is made of, and a sea to try it on."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from pam_daemon.cli.options import PATH
from pam_daemon.config import Provider
from pam_daemon.settings import commented_yaml


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def devices(as_json: bool) -> None:
    """List what can be captured from, with the names that --device takes."""
    from pam_daemon.capture.sources.device import list_devices

    for device in list_devices():
        line = f"{device.full_name}\t{device.channels} channels\t{device.sample_rate_hz} Hz"
        click.echo(msgspec.json.encode(device) if as_json else line)


@click.command()
def config() -> None:
    """Print the whole configuration, commented."""
    click.echo(commented_yaml(), nl=False)


@click.command()
@click.argument("file", type=PATH, required=False)
@click.option("--provider", type=click.Choice(["auto", "cuda", "cpu"]), default="auto", show_default=True)
def model(file: Path | None, provider: Provider) -> None:
    """Print a model's card (the shipped one's without FILE) and run its golden self-test."""
    from pam_daemon.analysis.model import Model, shipped_model
    from pam_daemon.tools.console import card_lines

    for line in card_lines(Model(file or shipped_model(), provider)):
        click.echo(line)


@click.command()
@click.argument("path", type=PATH)
@click.option("--minutes", type=float, default=10.0, show_default=True)
@click.option("--calls", type=int, default=30, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True)
def simulate(path: Path, minutes: float, calls: int, seed: int) -> None:
    """Write a simulated sea with upcalls at known times, and its truth as a Raven table beside it."""
    from pam_daemon.tools.simulate import simulate as simulate_sea
    from pam_daemon.tools.simulate import truth_path

    simulate_sea(path, minutes=minutes, calls=calls, seed=seed)
    click.echo(f"{path}: a simulated sea, {minutes:g} min with {calls} upcalls; the truth is in {truth_path(path)}")


@click.command()
@click.argument("clip", type=PATH)
@click.option("--out", type=PATH, help="The PNG, instead of CLIP.png beside it.")
@click.option("--model", type=PATH, help="Frequencies up to this model's mel range, instead of the shipped one's.")
@click.option("--channel", type=int, default=1, show_default=True)
def picture(clip: Path, out: Path | None, model: Path | None, channel: int) -> None:
    """Draw the spectrogram of a clip, or of any recording."""
    from pam_daemon.analysis.model import Model, shipped_model
    from pam_daemon.tools.picture import draw_clip

    features = Model(model or shipped_model(), "cpu").card.features
    click.echo(draw_clip(clip, out, 1.1 * features.max_hz, channel))


@click.command()
@click.option("--dir", "directory", type=PATH, default=Path("demo"), show_default=True, help="Where the files go.")
def demo(directory: Path) -> None:
    """Simulate a sea, replay it while another process listens, and compare with the truth."""
    from pam_daemon.tools.demo import demonstrate

    demonstrate(directory)
