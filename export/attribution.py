"""What the network looked at: integrated gradients over the log-mel spectrogram (Sundararajan et al. 2017).

Grad-CAM would show the last feature map, which for a spectrogram of 64 bins by 63 frames has 2 by 2 cells; these have
the spectrogram's resolution, and serve every backbone.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from captum.attr import IntegratedGradients

from export.network import WhaleNet
from export.store import Audio

_STEPS = 32
_BATCH = 32  # spectrograms at once


def attribute(network: WhaleNet, audio: Audio, label: npt.NDArray[np.intp]) -> tuple[Audio, Audio]:
    """Log-mel spectrograms of waveforms (clips, samples), and how much each place moved the clip's label's logit.

    The sum over a clip is the logit's distance from that of a spectrogram without contrast (arXiv:1703.01365).

    Args:
        label: (clips,) the number of the label asked for.

    Returns:
        Both (clips, mel bins, frames); positive towards a call.
    """
    with torch.no_grad():
        log_mel = network.features(torch.from_numpy(audio))
    towards = IntegratedGradients(network.classify).attribute(
        log_mel,
        baselines=log_mel.mean((2, 3), keepdim=True).expand_as(log_mel),
        target=torch.from_numpy(label),
        n_steps=_STEPS,
        internal_batch_size=_BATCH,
    )
    return log_mel[:, 0].numpy(), towards[:, 0].detach().numpy().astype(np.float32)
