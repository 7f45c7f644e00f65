"""Training: one loop over N SAEs, optimiser, dead-latent tracker, checkpoints, metric sinks."""

from saelab.training.member import Member
from saelab.training.spec import TensorBoardSpec, TrackioSpec, TrainSpec, WandbSpec
from saelab.training.trainer import Progress, Trainer

__all__ = ["Member", "Progress", "TensorBoardSpec", "TrackioSpec", "TrainSpec", "Trainer", "WandbSpec"]
