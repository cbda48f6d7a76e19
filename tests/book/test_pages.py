from titlesmith.book import pages


def test_runs_show_their_titles_for_the_three_abstracts_or_how_to_get_them():
    class Shown:
        def __init__(self, name, metrics):
            self.name, self.metrics = name, metrics

        def record(self, stage):
            return {"settings": {"template": "title" if self.name == "other" else "abstract-to-title"}}

    done = Shown(
        "done", {"three_abstracts": [{"title": "<One>", "titles": ["$x$"]}, {"title": "2", "titles": [], "why": "no"}]}
    )
    page = pages.render_three_abstracts([done, Shown("waiting", {}), Shown("other", {})])
    assert "## done" in page and "&lt;One&gt;" in page and "mathjax_ignore" in page
    assert "## waiting\n\nThis run generates" in page and "other" not in page
    assert "No run" in pages.render_three_abstracts([Shown("other", {})])
