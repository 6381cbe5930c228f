"""Pictures of quality against cost."""

from diffkit.plotting.quality import Point, draw_quality

LINES = {
    "ddim": [Point(20, 1.0, 0.1), Point(5, 30.0, 2.0)],
    "heun": [Point(9, 4.0), Point(10, 3.0)],
}


def test_lines_go_by_cost_with_their_errors():
    figure = draw_quality({"fid": LINES}, {"fid": LINES["heun"][1]}, "title")
    (axes,) = figure.axes
    assert axes.get_title() == "fid"
    (ddim, heun) = axes.containers
    assert ddim[0].get_xydata().tolist() == [[5, 30], [20, 1]]
    assert heun[0].get_xydata().tolist() == [[9, 4], [10, 3]]
    (bars,) = ddim[2]
    assert [segment[:, 1].tolist() for segment in bars.get_segments()] == [[28, 32], [0.9, 1.1]]
    ring = next(line for line in axes.lines if line.get_label() == "recommended")
    assert ring.get_xydata().tolist() == [[10, 3]]


def test_ticks_are_costs_that_do_not_stand_in_each_other():
    (axes,) = draw_quality({"fid": LINES}, {"fid": LINES["heun"][1]}, "title").axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["5", "9", "20"]


def test_wide_ranges_are_on_a_log_scale_and_negative_values_are_shown():
    negative = {"ddim": [Point(5, -0.01), Point(10, 3.0)]}
    wide, whole = draw_quality(
        {"fid": LINES, "kid": negative}, {"fid": LINES["ddim"][0], "kid": negative["ddim"][0]}, "title"
    ).axes
    assert (wide.get_yscale(), whole.get_yscale()) == ("log", "linear")
    assert whole.get_ylim()[0] < -0.01
