import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffkit.nn.base import TimeEmbedding
from diffkit.nn.embedding import Fourier, LearnedFourier, LogFourier, Sinusoidal, Table
from diffkit.testing import kinds_of

every_kind = pytest.mark.parametrize("kind", kinds_of(TimeEmbedding))


def exact(time: float, channels: int, endpoint: bool, max_period: float = 10_000.0) -> tuple[list, list]:
    half = channels // 2
    last = (half - 1 or 1) if endpoint else half
    phases = [time * math.exp(-math.log(max_period) * i / last) for i in range(half)]
    return list(map(math.sin, phases)), list(map(math.cos, phases))


@given(
    time=st.floats(0, 999, width=32),
    channels=st.integers(2, 67),
    endpoint=st.booleans(),
    max_period=st.floats(2, 1e6),
    order=st.sampled_from(["sin_cos", "cos_sin", "interleaved", "interleaved_cos_sin"]),
)
def test_sinusoidal(time, channels, endpoint, max_period, order):
    sines, cosines = exact(time, channels, endpoint, max_period)
    expected = {
        "sin_cos": sines + cosines,
        "cos_sin": cosines + sines,
        "interleaved": [value for pair in zip(sines, cosines, strict=True) for value in pair],
        "interleaved_cos_sin": [value for pair in zip(cosines, sines, strict=True) for value in pair],
    }[order] + [0.0] * (channels % 2)
    embedding = Sinusoidal(order=order, endpoint=endpoint, max_period=max_period).build(channels)
    features = embedding(torch.tensor([time], dtype=torch.float32))
    assert features.shape == (1, channels)
    # a phase of up to 999 radians has a rounding error of 6e-5 in float32
    torch.testing.assert_close(features[0], torch.tensor(expected), rtol=0, atol=1.5e-4)


def test_endpoint_is_the_convention_of_ddpm():
    frequencies = Sinusoidal().frequencies(128)
    assert frequencies[0] == 1
    assert frequencies[-1].item() == pytest.approx(1e-4, rel=1e-12)
    assert Sinusoidal(endpoint=False).frequencies(128)[-1].item() == pytest.approx(10 ** (-4 * 63 / 64), rel=1e-12)


def test_as_diffusers():
    embeddings = pytest.importorskip("diffusers.models.embeddings")
    time = torch.arange(0, 1000, 7)
    for flip in (False, True):
        for shift in (0, 1):
            theirs = embeddings.get_timestep_embedding(time, 64, flip_sin_to_cos=flip, downscale_freq_shift=shift)
            ours = Sinusoidal(order="cos_sin" if flip else "sin_cos", endpoint=shift == 1).build(64)(time.float())
            torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-4)


@pytest.mark.parametrize("kind", [Fourier(scale=3.0, time_range=10.0), LearnedFourier(scale=3.0, time_range=10.0)])
def test_fourier(kind):
    embedding = kind.build(8).double()
    w = embedding.frequencies.detach().double()
    features = embedding(torch.tensor([7.0]))[0].double()
    expected = torch.cat(((2 * math.pi * w * 0.7).cos(), (2 * math.pi * w * 0.7).sin()))
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-5)


def test_log_fourier():
    embedding = LogFourier(scale=3.0).build(8)
    phase = 2 * math.pi * embedding.frequencies.double() * math.log(7.0)
    features = embedding(torch.tensor([7.0]))[0].double()
    torch.testing.assert_close(features, torch.cat((phase.sin(), phase.cos())), rtol=0, atol=1e-4)
    assert list(embedding.state_dict()) == ["frequencies"]
    assert LogFourier().refuses_least(1e-9) is None
    assert "least one is 0" in LogFourier().refuses_least(0.0)


def test_fourier_frequencies_are_random_with_the_scale_and_saved():
    fixed, learned = Fourier(scale=5.0).build(20_000), LearnedFourier(scale=5.0).build(20_000)
    for embedding in (fixed, learned):
        assert embedding.frequencies.std().item() == pytest.approx(5.0, rel=0.05)
        assert list(embedding.state_dict()) == ["frequencies"]
    assert not list(fixed.parameters())
    assert len(list(learned.parameters())) == 1


def test_sinusoidal_has_nothing_to_save():
    assert not Sinusoidal().build(8).state_dict()


def test_table_rounds_times_and_has_no_others():
    table = Table(times=5).build(4)
    assert torch.equal(table(torch.tensor([3.0, 2.6, 3.4])), table.weight[3].expand(3, 4))
    assert Table(times=5).times_known() == 5
    assert Sinusoidal().times_known() is None
    with pytest.raises(IndexError):
        table(torch.tensor([5.0]))


@every_kind
@pytest.mark.parametrize("channels", [2, 8, 64])
def test_shape_and_type(kind, channels):
    least = 0 if kind.refuses_least(0.0) is None else 1
    for dtype in (torch.float32, torch.int64):
        features = kind.build(channels)(torch.tensor([least, 3, 999], dtype=dtype))
        assert features.shape == (3, channels)
        assert features.dtype == torch.float32
        assert features.isfinite().all()


@every_kind
def test_neighbouring_times_differ_in_a_bfloat16_model(kind):
    embedding = kind.build(32).to(torch.bfloat16)
    features = embedding(torch.arange(990.0, 1000.0))
    assert features.dtype == torch.float32
    assert (torch.cdist(features, features) + torch.eye(10)).min() > 1e-3


@pytest.mark.parametrize("kind", [Sinusoidal(), Fourier(), LogFourier()])
def test_times_are_exact_in_a_bfloat16_model_and_under_autocast(kind):
    embedding, time = kind.build(32), torch.arange(1.0, 1000.0)
    exact = embedding(time)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(embedding(time), exact)
    assert torch.equal(embedding.to(torch.bfloat16)(time), exact)


def test_frequencies_survive_the_way_over_the_meta_device():
    with torch.device("meta"):
        embedding = Sinusoidal().build(16)
    assert torch.equal(embedding.to_empty(device="cpu").frequencies, Sinusoidal().build(16).frequencies)


@pytest.mark.parametrize(
    ("kind", "channels", "message"),
    [
        (Sinusoidal(), 1, "a sine and a cosine need at least 2 channels, not 1"),
        (Fourier(), 7, "as many sines as cosines need an even number of channels, not 7"),
        (LearnedFourier(), 7, "as many sines as cosines need an even number of channels, not 7"),
    ],
)
def test_channels_that_do_not_fit(kind, channels, message):
    with pytest.raises(ValueError) as caught:
        kind.build(channels)
    assert str(caught.value) == message


def test_scaled_times_have_the_features_of_times_of_1000_steps():
    times = torch.tensor([0.0, 4.0, 3996.0])
    scaled = Sinusoidal(time_scale=0.25).build(32)(times)
    torch.testing.assert_close(scaled, Sinusoidal().build(32)(times / 4), rtol=0, atol=0)
