def test_a_page_is_written_into_the_run_and_never_over_another(diffkit, here):
    done = diffkit("report")  # the newest run
    assert (done.code, done.out) == (0, "runs/tiny-1/report.html\n")
    assert (here / "runs/tiny-1/report.html").read_text().startswith("<!doctype html>")
    again = diffkit("report", "runs/tiny-1")
    assert again.code == 2
    assert again.err == "Error: runs/tiny-1/report.html: exists already; --force overwrites it\n"
    assert diffkit("report", "runs/tiny-1", "--force").code == 0
    assert diffkit("report", "runs/tiny-1", "-o", here / "page.html").out == f"{here / 'page.html'}\n"


def test_a_folder_that_holds_no_run(diffkit, tmp_path):
    done = diffkit("report", tmp_path)
    assert (done.code, done.err) == (2, f"Error: {tmp_path}: holds no run: there is no recipe.toml in it\n")
