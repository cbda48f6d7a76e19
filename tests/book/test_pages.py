from types import SimpleNamespace

import nbformat

from titlesmith.book import pages
from titlesmith.markup import render


def test_runs_show_their_titles_for_the_three_abstracts_or_how_to_get_them():
    class Shown:
        def __init__(self, name, metrics):
            self.name, self.metrics = name, metrics

        def record(self, stage):
            return {"settings": {"template": "title" if self.name == "other" else "abstract-to-title"}}

    done = Shown(
        "done", {"three_abstracts": [{"title": "<One>", "titles": ["$x$"]}, {"title": "2", "titles": [], "why": "no"}]}
    )
    runs = [done, Shown("waiting", {}), Shown("other", {})]
    shown = list(filter(pages.makes_titles, runs))
    page = render("abstracts.md.j2", reports=shown)
    assert shown == runs[:2]
    assert "&lt;One&gt;" in page and ">$x$</td>" in page and ">no</td>" in page and "mathjax_ignore" in page
    assert "## waiting\n\nThis run generates" in page


def test_real_papers_lead_and_a_run_in_no_sweep_before_the_others():
    def run(name, made_up=False, sweep=None):
        return SimpleNamespace(name=name, made_up=made_up, sweep=sweep)

    reports = [run("sample", True), run("swept", sweep={"name": "s"}), run("newer"), run("older")]
    assert pages.choose_lead(reports).name == "newer"
    assert pages.choose_lead(reports[:2]).name == "swept"
    assert pages.choose_lead(reports[:1]).name == "sample"
    assert pages.choose_lead([]) is None


def test_the_best_texts_are_the_likeliest_with_different_beginnings_and_no_copies_repeats_or_unfinished_ones():
    good = {"finished": True, "nearest_similarity": 0.5}
    texts = [
        good | {"text": "Deep networks for voices", "logprob": -2.0},
        good | {"text": "Music genres of songs", "logprob": -1.1},
        good | {"text": "music genres of sounds", "logprob": -1.0},
        good | {"text": "Music genres of sounds", "logprob": -1.5},
        good | {"text": "copy", "logprob": -0.1, "nearest_similarity": 0.95},
        good | {"text": "cut", "logprob": -0.1, "finished": False},
        {"text": "unknown", "finished": True, "nearest_similarity": None},
    ]
    best = ["music genres of sounds", "Deep networks for voices", "unknown", "Music genres of songs"]
    assert [row["text"] for row in pages.choose_best(SimpleNamespace(texts=texts))] == best


def test_sections_whose_tables_are_all_empty_are_not_shown():
    def table(html):
        output = nbformat.v4.new_output("display_data", {"text/html": html})
        return nbformat.v4.new_code_cell(outputs=[output])

    heading = nbformat.v4.new_markdown_cell
    cells = [heading("# T"), heading("## Overlap"), table('<p class="empty">None.</p>'), heading("note")]
    cells += [heading("## Style"), table("<table>"), table('<p class="empty">None.</p>'), heading("**Next**")]
    kept = pages._drop_empty_sections(cells)
    assert [cell.source for cell in kept if cell.cell_type == "markdown"] == ["# T", "## Style", "**Next**"]
