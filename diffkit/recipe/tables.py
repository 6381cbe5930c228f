"""The tables of a recipe."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from diffkit.callbacks.base import Callback
from diffkit.data.augmentation import Augmentation
from diffkit.data.base import Dataset
from diffkit.diffusion.distillation.base import Distillation
from diffkit.diffusion.guidance import Guidance
from diffkit.diffusion.objective import Objective
from diffkit.diffusion.process import Process
from diffkit.diffusion.samplers.base import Sampler
from diffkit.diffusion.spacing import Spacing
from diffkit.diffusion.x0_rule import X0Rule
from diffkit.nn.base import Model
from diffkit.nn.classifier import Classifier
from diffkit.optim.base import Ema, LrSchedule, Optimizer
from diffkit.spec import FilePath, Many, Spec


class Train(Spec):
    """How the network is trained."""

    steps: int = Field(ge=1, le=10**9)
    """Number of optimizer steps."""
    batch_size: int = Field(128, ge=1, le=10**6)
    """Number of images of one optimizer step."""
    device_batch_size: int | None = Field(None, ge=1)
    """Number of images that go through the network at once; gradients of several such parts add up to one
    step. The whole batch by default."""
    augmentation: Augmentation = Field("none", validate_default=True)
    """How images are changed, anew each time they are drawn. The network is told."""
    optimizer: Optimizer = Field("adam", validate_default=True)
    """What turns gradients into steps."""
    lr_schedule: LrSchedule = Field("constant", validate_default=True)
    """The learning rate over the run."""
    ema: Ema = Field("decay", validate_default=True)
    """The average of the weights that sampling uses."""
    shard: Literal["none", "optimizer", "full"] = "none"
    """What each of several processes keeps a part of only, to save memory: nothing; the optimizer's states (ZeRO stage
    1); or "full", weights, gradients, states and averages (fully sharded data parallelism). It changes nothing else.
    With `adam` the states take twice the memory of the weights."""
    grad_clip: float | None = Field(None, gt=0)
    """Largest norm of all gradients together; larger ones are scaled down to it. No limit by default."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Type of the network's arithmetic. Weights, loss and averages are float32 in any case."""
    compile: bool = False
    """Compile the network with torch.compile."""
    log_every: int = Field(50, ge=1)
    """Steps between two log events."""
    checkpoint_every: int = Field(5_000, ge=1)
    """Steps between two checkpoints. One more is written at the end and when a run is interrupted."""
    keep_last: int = Field(2, ge=1)
    """Number of newest checkpoints to keep."""
    keep_every: int | None = Field(None, ge=1)
    """Checkpoints whose step is a multiple of this are never deleted."""


class ClassifierTraining(Spec):
    """A classifier of noisy images, for guidance, and how it is trained."""

    steps: int = Field(1_000, ge=1, le=10**9)
    """Number of optimizer steps."""
    batch_size: int = Field(128, ge=1, le=10**6)
    """Number of images of one step."""
    optimizer: Optimizer = Field({"kind": "adamw", "lr": 3e-4, "weight_decay": 0.05}, validate_default=True)
    """What turns gradients into steps."""
    lr_schedule: LrSchedule = Field("constant", validate_default=True)
    """The learning rate over the training."""
    held_out: float = Field(0.1, ge=0, lt=1)
    """Part of the images that the classifier doesn't learn from, to tell its accuracy by at the end."""
    network: Classifier = Field({}, validate_default=True)
    """The network."""


class Sample(Spec):
    """How images are sampled, unless the command line says otherwise."""

    sampler: Sampler = Field("ddpm", validate_default=True)
    """The way from noise to images."""
    steps: int = Field(1000, ge=1, le=1_000_000)
    """Number of levels that the sampler denoises at, at most the process's."""
    spacing: Spacing = Field("trailing", validate_default=True)
    """Which of the process's times are visited."""
    x0_rule: X0Rule = Field("clip", validate_default=True)
    """What happens to an estimated x0 outside of [-1, 1]."""
    guidance: Guidance = Field("cfg", validate_default=True)
    """What steers the model. A number is the weight w of classifier-free guidance: 0 is unconditional, 1 conditional,
    more exaggerates the class."""
    count: int = Field(64, ge=1, le=10**7)
    """Number of images."""
    batch_size: int = Field(64, ge=1, le=10**6)
    """Number of images that are sampled at once. It doesn't change the images."""


class Recipe(Spec):
    """All of a model and its training."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    """Name of the recipe; run folders are called after it."""
    seed: int = Field(0, ge=0, lt=2**63)
    """All randomness of the training follows from it."""
    plugins: Many[FilePath] = ()
    """Python files with further components, loaded before the rest of the recipe is read."""
    data: Dataset
    """The images."""
    process: Process = Field("ddpm", validate_default=True)
    """How noise is added."""
    objective: Objective = Field({}, validate_default=True)
    """What the network learns."""
    model: Model
    """The network."""
    train: Train
    """How the network is trained."""
    sample: Sample = Field({}, validate_default=True)
    """How images are sampled."""
    distillation: Distillation | None = None
    """From whom the network learns to make images in few steps; without this table it learns from the images alone."""
    classifier: ClassifierTraining | None = None
    """A classifier for guidance, as `diffkit train-classifier` trains it; without this table, one with all its
    defaults."""
    callbacks: Many[Callback] = ()
    """What watches the training, besides `progress` and `jsonl`, which every run has."""
