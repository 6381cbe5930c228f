"""diffkit as its own first plugin: the only importer of concrete kinds.

The imports are inside the functions so that loading this module does not load torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from diffkit.plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from diffkit.spec import Component


@hookimpl
def register_components() -> Iterable[type[Component]]:
    """Return every kind that diffkit brings."""
    return [*_data(), *_schedules(), *_diffusion(), *_nn(), *_optim(), *_callbacks(), *_evaluation()]


def _data() -> list[type[Component]]:
    from diffkit.data.arrays import Arrays
    from diffkit.data.augmentation import EdmAugmentation, NoAugmentation
    from diffkit.data.cifar10 import Cifar10
    from diffkit.data.condition import Grey, LowResolution, NoCondition
    from diffkit.data.digits import Digits
    from diffkit.data.image_folder import ImageFolder
    from diffkit.data.mnist import FashionMnist, Mnist
    from diffkit.data.unspecified import Unspecified

    return [
        *(Arrays, Cifar10, Digits, FashionMnist, ImageFolder, Mnist, Unspecified),
        *(NoCondition, LowResolution, Grey),
        *(NoAugmentation, EdmAugmentation),
    ]


def _schedules() -> list[type[Component]]:
    from diffkit.schedules.cosine import Cosine
    from diffkit.schedules.from_alpha_bar import FromAlphaBar
    from diffkit.schedules.ramps import Linear, Quadratic, ScaledLinear, Sigmoid, Warmup
    from diffkit.schedules.simple import Constant, Jsd

    return [Linear, ScaledLinear, Quadratic, Cosine, Sigmoid, Constant, Jsd, Warmup, FromAlphaBar]


def _diffusion() -> list[type[Component]]:
    from diffkit.diffusion.classifier_guidance import ClassifierGuidance
    from diffkit.diffusion.ddpm_process import DdpmProcess
    from diffkit.diffusion.distillation.consistency import Consistency as ConsistencyDistillation
    from diffkit.diffusion.distillation.progressive import Progressive
    from diffkit.diffusion.distillation.trajectory import Trajectory
    from diffkit.diffusion.edm_process import EdmProcess
    from diffkit.diffusion.flow_process import FlowProcess
    from diffkit.diffusion.guidance import Autoguidance, ClassifierFree
    from diffkit.diffusion.importance import ImportanceTimes
    from diffkit.diffusion.loss import L1, Huber, Mse, PseudoHuber
    from diffkit.diffusion.noise_spacings import Exponential, Karras, LogSnr, TimeList
    from diffkit.diffusion.prediction import (
        DataPrediction,
        EdmPrediction,
        FlowPrediction,
        NoisePrediction,
        VelocityPrediction,
    )
    from diffkit.diffusion.samplers.adams import Deis, Ipndm, Lms
    from diffkit.diffusion.samplers.consistency import Consistency, Tcd
    from diffkit.diffusion.samplers.ddim import Ddim
    from diffkit.diffusion.samplers.ddpm import Ddpm
    from diffkit.diffusion.samplers.dpm_2 import Dpm2, Dpm2Ancestral
    from diffkit.diffusion.samplers.dpmpp_multi import Dpmpp2M, Dpmpp2MSde, Dpmpp3M, Dpmpp3MSde
    from diffkit.diffusion.samplers.dpmpp_single import Dpmpp2SAncestral, DpmppSde
    from diffkit.diffusion.samplers.dpmpp_singlestep import DpmppSinglestep
    from diffkit.diffusion.samplers.euler import Euler, EulerAncestral
    from diffkit.diffusion.samplers.heun import Heun
    from diffkit.diffusion.samplers.pndm import Pndm
    from diffkit.diffusion.samplers.predictor_corrector import PredictorCorrector
    from diffkit.diffusion.samplers.restart import Restart
    from diffkit.diffusion.samplers.unipc import UniPc
    from diffkit.diffusion.stride_spacings import BetaQuantile, Leading, Linspace, QuadraticSpacing, Trailing
    from diffkit.diffusion.time_sampling import LogitNormalTimes, LogNormalTimes, StratifiedTimes, UniformTimes
    from diffkit.diffusion.variance import FixedLarge, FixedSmall, Learned, LearnedRange
    from diffkit.diffusion.weighting import (
        P2,
        EdmWeighting,
        MinSnr,
        SigmoidWeighting,
        SnrWeighting,
        SoftMinSnr,
        TruncatedSnr,
        UniformWeighting,
    )
    from diffkit.diffusion.x0_rule import Clip, DynamicThreshold, NoRule

    return [
        *(DdpmProcess, EdmProcess, FlowProcess),
        *(NoisePrediction, DataPrediction, VelocityPrediction, FlowPrediction, EdmPrediction),
        *(FixedSmall, FixedLarge, Learned, LearnedRange),
        *(Mse, L1, Huber, PseudoHuber),
        *(UniformWeighting, MinSnr, SoftMinSnr, SigmoidWeighting, SnrWeighting, TruncatedSnr, P2, EdmWeighting),
        *(UniformTimes, StratifiedTimes, LogitNormalTimes, LogNormalTimes, ImportanceTimes),
        *(Leading, Trailing, Linspace, QuadraticSpacing, BetaQuantile),
        *(Karras, Exponential, LogSnr, TimeList),
        *(Clip, DynamicThreshold, NoRule),
        *(ClassifierFree, Autoguidance, ClassifierGuidance),
        *(Progressive, ConsistencyDistillation, Trajectory),
        *(Ddpm, Ddim, Euler, EulerAncestral, Heun, Restart, PredictorCorrector),
        *(Dpm2, Dpm2Ancestral, Dpmpp2SAncestral, DpmppSde, Dpmpp2M, Dpmpp2MSde, Dpmpp3M, Dpmpp3MSde),
        *(DpmppSinglestep, UniPc, Deis, Lms, Ipndm, Pndm, Consistency, Tcd),
    ]


def _nn() -> list[type[Component]]:
    from diffkit.nn import activation, attention, downsample, embedding, norm, progressive, resnet, upsample
    from diffkit.nn.dit import DiT
    from diffkit.nn.k_unet import KUNet
    from diffkit.nn.lucidrains import LucidrainsUNet
    from diffkit.nn.memory_attention import LinearMemoryAttention, MemoryAttention
    from diffkit.nn.post_norm import PostNorm
    from diffkit.nn.unet import UNet
    from diffkit.nn.uvit import UViT

    return [
        norm.Group,
        norm.Layer,
        norm.Rms,
        norm.NoNorm,
        activation.Silu,
        activation.Gelu,
        activation.Relu,
        activation.Mish,
        embedding.Sinusoidal,
        embedding.Fourier,
        embedding.LearnedFourier,
        embedding.LogFourier,
        embedding.Table,
        resnet.Ddpm,
        resnet.ScaleShift,
        PostNorm,
        attention.FullAttention,
        attention.EfficientAttention,
        MemoryAttention,
        LinearMemoryAttention,
        attention.NoAttention,
        downsample.ConvDown,
        downsample.ConvAsymmetric,
        downsample.AvgPool,
        downsample.MaxPool,
        downsample.PixelUnshuffle,
        downsample.FirDown,
        downsample.ResnetDown,
        upsample.Nearest,
        upsample.NearestConv,
        upsample.Transpose,
        upsample.BilinearConv,
        upsample.PixelShuffle,
        upsample.FirUp,
        upsample.ResnetUp,
        progressive.NoInput,
        progressive.SkipInput,
        progressive.ResidualInput,
        progressive.NoOutput,
        progressive.SkipOutput,
        UNet,
        KUNet,
        LucidrainsUNet,
        DiT,
        UViT,
    ]


def _optim() -> list[type[Component]]:
    from diffkit.optim.ema import Decay, HalfLife, NoEma, Power, WarmupDecay
    from diffkit.optim.lr_schedules import Constant, Cosine, InverseSqrt, Linear, Warmup
    from diffkit.optim.optimizers import Adam, AdamW, Sgd

    return [Adam, AdamW, Sgd, Constant, Warmup, Cosine, Linear, InverseSqrt, Decay, WarmupDecay, HalfLife, Power, NoEma]


def _callbacks() -> list[type[Component]]:
    from diffkit.callbacks.jsonl import Jsonl
    from diffkit.callbacks.progress import ProgressBar
    from diffkit.callbacks.sample_grid import SampleGrid
    from diffkit.callbacks.tensorboard import TensorBoard

    return [Jsonl, ProgressBar, SampleGrid, TensorBoard]


def _evaluation() -> list[type[Component]]:
    from diffkit.evaluation.classifier import ClassifierFeatures
    from diffkit.evaluation.frechet import Frechet
    from diffkit.evaluation.inception import Inception
    from diffkit.evaluation.kernel import Kernel
    from diffkit.evaluation.manifold import DensityCoverage, PrecisionRecall
    from diffkit.evaluation.pixels import Pixels
    from diffkit.nll import NegativeLogLikelihood

    metrics = (Frechet, Kernel, PrecisionRecall, DensityCoverage, NegativeLogLikelihood)
    return [*metrics, *(Pixels, ClassifierFeatures, Inception)]
