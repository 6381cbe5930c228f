import pytest

from diffkit.benchmarking.flops import count
from diffkit.benchmarking.measure import benchmark, flops_of_step
from diffkit.benchmarking.workload import network_call, sampling_copy, training_run


def test_report_hangs_together(tiny, cpu):
    report = benchmark(tiny(), device=cpu, rounds=2, memory=False, least=0)
    assert (report.recipe, report.batch_size, report.rounds, report.against) == ("tiny", 8, 2, None)
    for job, speed in report.speed.items():
        assert speed.memory is None
        assert 0 < speed.wall.low <= speed.wall.median <= speed.wall.high
        assert speed.images_per_second.high == pytest.approx(8 / speed.wall.low, rel=0.5)
        fastest = report.flops[job] / speed.wall.low / report.matrix_product.low
        assert 0 < speed.share.median <= fastest * (1 + 1e-9)
    network = {name: flops for name, flops in report.part_flops.items() if name in report.breakdown.parts}
    assert sum(network.values()) == report.flops["sampling"]
    assert set(report.part_share) == set(network)
    forward = report.breakdown.parts["conv_in"].forward
    product = 2 * report.matrix_size**3 / report.breakdown.reference
    assert report.part_share["conv_in"] == pytest.approx(network["conv_in"] / forward / product)


def test_self_conditioning_counts_the_mean_of_both_steps(tiny, cpu):
    recipes = [tiny(f"objective.self_conditioning={on}") for on in ("false", "true")]
    runs = [training_run(recipe, recipe.data.info(), cpu) for recipe in recipes]
    plain, twice = (flops_of_step(run) for run in runs)
    call = count(network_call(recipes[0], runs[0].data, sampling_copy(runs[0]), cpu)).total
    first = 2 * 8 * 8 * 8 * 8 * 1 * 9  # what one more channel costs the first convolution: batch 8, 8x8, 8 channels
    extra = call + first
    # half of the steps make an estimate; the weights' gradient sees the further channel too
    assert twice == plain + 2 * first + extra // 2
