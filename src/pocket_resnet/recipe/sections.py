"""The sections of a recipe, a table each in its TOML file.

Lengths are in pixels, learning rates are for a mean loss.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pocket_resnet.recipe.base import Count, Fraction, Pixels, Rate, RecipeError, Section


class DataRecipe(Section):
    """Which images."""

    name: str = "cifar10"
    """cifar10, cifar100, digits, auto, or a folder with one subfolder a class."""
    train_on: Literal["train", "trainval"] = "train"
    """train: leave the validation split out (choose on it). trainval: a final run with everything fixed."""
    seed: Annotated[int, Field(ge=0)] | None = None
    """Decides order and augmentation (default: `seed`), so that `seed` alone can vary weights and dropout."""
    num_workers: Count = 16
    """Threads that decode image files (at most the number of cores are used)."""


class AugmentRecipe(Section):
    """What is done to each training image, afresh in every epoch."""

    normalize: bool = True
    """Subtract the training set's mean and divide by its standard deviation, per channel."""
    crop_px: Pixels = 4
    """Shift by up to this many pixels in both directions."""
    crop_fill: Literal["zero", "reflect"] = "zero"
    """What stands beyond the border after a shift."""
    flip: Literal["none", "random", "alternating"] = "random"
    """Mirror left-right: by a coin, or every second time that the image is trained (arXiv:2404.00498, section 3.6)."""
    trivial_augment: bool = False
    """One random operation of random strength an image (Müller & Hutter 2021, arXiv:2103.10158)."""
    cutout_px: Pixels = 0
    """Side of the square that is blanked (DeVries & Taylor 2017, arXiv:1708.04552); 0: none."""
    random_erasing: Fraction = 0.0
    """Chance that a random rectangle is blanked (Zhong et al. 2017, arXiv:1708.04896)."""
    mixup: Rate = 0.0
    """Mixup's alpha (Zhang et al. 2017, arXiv:1710.09412); with cutmix also set, a coin decides per batch."""
    cutmix: Rate = 0.0
    """CutMix's alpha (Yun et al. 2019, arXiv:1905.04899)."""


class OptimRecipe(Section):
    """How weights follow gradients."""

    name: Literal["sgd", "muon"] = "sgd"
    """sgd for everything, or Muon for the filters of convolutions that a norm follows and sgd for the rest."""
    lr: Rate = 0.1
    """Peak learning rate of sgd."""
    momentum: Fraction = 0.9
    """Momentum of sgd."""
    nesterov: bool = False
    """Nesterov's momentum in sgd."""
    weight_decay: Rate = 5e-4
    """L2 penalty's coefficient in sgd."""
    decay_norms_and_biases: bool = True
    """Whether weight decay also pulls on norm gains and biases."""
    norm_bias_lr_scale: Rate = 1.0
    """Multiplies the learning rate of batch-norm biases, and divides their decay (Jordan 2024, section 3.4: 64)."""
    head_lr_scale: Rate = 1.0
    """Multiplies the learning rate of the classifier's weights, and divides their decay."""
    muon_lr: Rate = 0.24
    """Peak learning rate of Muon: how far a step turns a convolution's filters, relative to their size."""
    muon_momentum: Fraction = 0.6
    """Momentum of Muon."""
    clip_value: Rate = 0.0
    """Clip every gradient entry to ± this; 0: do not."""
    clip_norm: Rate = 0.0
    """Scale the whole gradient down to at most this Euclidean norm; 0: do not."""
    lookahead_steps: Annotated[int, Field(ge=0)] = 0
    """Lookahead's k (Zhang et al. 2019, arXiv:1907.08610): every k steps pull towards slow weights; 0: off."""
    lookahead_alpha: Fraction = 0.5
    """Lookahead's alpha: how far the slow weights move."""


class ScheduleRecipe(Section):
    """Learning rate over the run."""

    shape: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape of the decay from the peak to zero."""
    warmup_epochs: Rate = 0.0
    """Epochs of linear rise from zero to the peak."""


class EmaRecipe(Section):
    """An exponential moving average of the weights, evaluated and saved in place of the last weights."""

    window: Fraction = 0.0
    """Length of the average as a share of the run's steps, 0.03 to 0.04 for long runs; 0: no averaging."""
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """In place of window: share of the average kept at each step, warmed up as (1 + step) / (10 + step); 0: off."""

    @model_validator(mode="after")
    def _refuse_both(self) -> Self:
        if self.window and self.decay:
            raise RecipeError("ema.decay", "give ema.window or ema.decay, not both", hint="set one of them to 0")
        return self


class HardwareRecipe(Section):
    """Where and in which numbers; may differ on resume, which is then not bit-exact."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """auto: a CUDA GPU where there is one, else the CPU."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 multiplications where the device has them in hardware."""
    channels_last: bool = True
    """Memory layout of images and filters: channels innermost, or else contiguous."""
    compile: bool = False
    """Compile the network with torch.compile."""
    num_threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads; 0: all cores."""


class TeacherRecipe(Section):
    """A trained network whose answers are learned (Hinton et al. 2015, arXiv:1503.02531)."""

    model: str | None = None
    """Its model directory; it knows the classes of the data."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """SHA-256 of its weights; filled in when the run begins."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Divides the logits of both networks before their probabilities are compared."""
    weight: Fraction = 1.0
    """Share of the loss that compares with the teacher; the rest compares with the labels."""
    epochs: Count = 30
    """Epochs whose views of the images are answered, in turn; answers are computed once and cached."""


class CheckpointRecipe(Section):
    """How much work a crash may cost."""

    every_s: Rate = 60.0
    """Seconds between checkpoints; 0: after every step."""
    keep: Count = 2
    """How many of the newest checkpoints stay."""
    keep_at: tuple[Annotated[float, Field(gt=0, le=1)], ...] = ()
    """Fractions of the run at which to save a checkpoint and keep it, for example 0.5 0.9 (see --init-from)."""
