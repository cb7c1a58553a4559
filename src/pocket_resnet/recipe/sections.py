"""The sections of a recipe. In TOML, each is a table.

Lengths are in pixels. Learning rates are for a mean loss.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from pocket_resnet.recipe.base import Count, Fraction, Pixels, Rate, RecipeError, Section


class DataRecipe(Section):
    """Data set and splits."""

    name: str = "cifar10"
    """cifar10, cifar100, digits, auto, or a folder with one subfolder per class (same as --data)."""
    train_on: Literal["train", "trainval"] = "train"
    """train: hold out the validation split. trainval: train on it too, for a final run after all choices are made."""
    seed: Annotated[int, Field(ge=0)] | None = None
    """Seed of image order and augmentation (default: the value of --seed)."""
    num_workers: Count = 16
    """Threads that decode image files, at most one per core."""


class AugmentRecipe(Section):
    """Augmentation of the training images, drawn at random in every epoch."""

    normalize: bool = True
    """Subtract the training set's mean and divide by its standard deviation, per channel."""
    crop_px: Pixels = 4
    """Maximum random shift in pixels, horizontally and vertically."""
    crop_fill: Literal["zero", "reflect"] = "zero"
    """How pixels beyond the border are filled after a shift."""
    flip: Literal["none", "random", "alternating"] = "random"
    """Flip horizontally: at random, or every second time an image is trained on (arXiv:2404.00498, section 3.6)."""
    trivial_augment: bool = False
    """Apply one random operation of random strength to each image (Müller & Hutter 2021, arXiv:2103.10158)."""
    cutout_px: Pixels = 0
    """Side in pixels of the square that is blanked out (DeVries & Taylor 2017, arXiv:1708.04552). 0 turns it off."""
    random_erasing: Fraction = 0.0
    """Probability of blanking out a random rectangle (Zhong et al. 2017, arXiv:1708.04896)."""
    mixup: Rate = 0.0
    """Mixup's alpha (Zhang et al. 2017, arXiv:1710.09412). If CutMix is on too, each batch uses one at random."""
    cutmix: Rate = 0.0
    """CutMix's alpha (Yun et al. 2019, arXiv:1905.04899)."""
    distort_until: Fraction = 1.0
    """Share of the run after which images are only cropped and flipped, and learned from labels without a teacher."""

    def undistorted(self) -> Self:
        """The same crop and flip, without distortion, blanking and mixing."""
        off = {"trivial_augment": False, "cutout_px": 0, "random_erasing": 0.0, "mixup": 0.0, "cutmix": 0.0}
        return self.model_copy(update=off)


class OptimRecipe(Section):
    """Optimizer."""

    name: Literal["sgd", "muon"] = "sgd"
    """sgd for all weights, or muon: Muon for the filters of convolutions followed by a norm, sgd for the rest."""
    lr: Rate = 0.1
    """Peak learning rate of sgd."""
    momentum: Fraction = 0.9
    """Momentum of sgd."""
    nesterov: bool = False
    """Use Nesterov momentum in sgd."""
    weight_decay: Rate = 5e-4
    """Coefficient of the L2 penalty in sgd."""
    decay_norms_and_biases: bool = True
    """Apply weight decay to norm gains and biases too."""
    norm_bias_lr_scale: Rate = 1.0
    """Factor on the learning rate of batch-norm biases. It divides their decay (Jordan 2024, section 3.4, uses 64)."""
    head_lr_scale: Rate = 1.0
    """Factor on the learning rate of the classifier's weights. It divides their decay."""
    muon_lr: Rate = 0.24
    """Peak learning rate of Muon: how far a step turns a convolution's filters, relative to their size."""
    muon_momentum: Fraction = 0.6
    """Momentum of Muon."""
    clip_value: Rate = 0.0
    """Clip every gradient entry to ± this value. 0 turns it off."""
    clip_norm: Rate = 0.0
    """Scale the whole gradient down to at most this Euclidean norm. 0 turns it off."""
    lookahead_steps: Annotated[int, Field(ge=0)] = 0
    """Lookahead's k (Zhang et al. 2019, arXiv:1907.08610): steps between slow-weight updates. 0 turns it off."""
    lookahead_alpha: Fraction = 0.5
    """Lookahead's alpha: how far the slow weights move towards the fast ones."""


class ScheduleRecipe(Section):
    """Learning rate schedule."""

    shape: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls from its peak to zero: cosine or linear. constant: it stays at the peak."""
    warmup_epochs: Rate = 0.0
    """Epochs of linear warm-up from zero to the peak."""


class EmaRecipe(Section):
    """Exponential moving average of the weights, evaluated and saved instead of the last weights."""

    window: Fraction = 0.0
    """Length of the average as a share of the run's steps, 0.03 to 0.04 for long runs. 0 turns it off."""
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Alternative to window: decay per step, warmed up as (1 + step) / (10 + step). 0 turns it off."""

    @model_validator(mode="after")
    def _refuse_both(self) -> Self:
        if self.window and self.decay:
            raise RecipeError("ema.decay", "give ema.window or ema.decay, not both", hint="set one of them to 0")
        return self


class HardwareRecipe(Section):
    """Device and precision. A run that resumes with other values is not bit-exact."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """auto: a CUDA GPU if there is one, otherwise the CPU."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 if the hardware supports it, otherwise fp32."""
    channels_last: bool = True
    """Store images and filters with channels innermost."""
    compile: bool = False
    """Compile the network with torch.compile."""
    winograd: bool = True
    """Compute wide 3 x 3 convolutions with a quarter of the multiplications, in training and by the teacher (Lavin and
    Gray 2015, arXiv:1509.09308). This has an effect on the CPU in fp32 with channels last, not compiled."""
    num_threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads. 0 uses all cores, or the number in OMP_NUM_THREADS if it is set."""

    def choices(self) -> dict[str, Any]:
        """The arguments of device.choose."""
        return self.model_dump(exclude={"compile"}) | {"winograd": self.winograd and not self.compile}


class TeacherRecipe(Section):
    """Distillation from a trained network (Hinton et al. 2015, arXiv:1503.02531)."""

    model: str | None = None
    """The teacher's model directory, with the same classes as the data (train: same as --teacher)."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """SHA-256 of the teacher's weights, filled in when the run begins."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Softmax temperature of both networks in the distillation loss."""
    weight: Fraction = 1.0
    """Weight of the distillation loss, from 0 to 1. The loss on the labels has the remaining weight."""
    epochs: Count = 30
    """Number of epochs whose augmented images the teacher predicts. Later epochs repeat these, from a cache."""


class PretrainedRecipe(Section):
    """Fine-tuning: start from a trained model's weights, with a new head for other classes."""

    model: str | None = None
    """The model directory to start from. The network is that model's; classes of the same name keep their weights
    (train: same as --from)."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """SHA-256 of that model's weights, filled in when the run begins."""
    freeze_epochs: Annotated[int, Field(ge=0)] = 0
    """Epochs at the beginning that train only the head; all else keeps its weights and batch-norm statistics
    (train: same as --freeze)."""


class CheckpointRecipe(Section):
    """Checkpoints."""

    every_s: Rate = 60.0
    """Seconds between checkpoints. 0 saves after every step."""
    keep: Count = 2
    """Number of newest checkpoints to keep."""
    keep_at: tuple[Annotated[float, Field(gt=0, le=1)], ...] = ()
    """Fractions of the run at which to save a permanent checkpoint, such as 0.5 0.9 (see --init-from)."""
