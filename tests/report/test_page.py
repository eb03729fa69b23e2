"""The one-file report."""

import re
from html.parser import HTMLParser

import numpy as np

from farvox.metrics.detection import detection_error
from farvox.report.page import write_report
from farvox.report.plots import ScoreSet

VOID = {"meta", "br", "link", "img"}


class Balanced(HTMLParser):
    """Collects the texts and checks that every element is closed in its place."""

    def __init__(self):
        super().__init__()
        self.open, self.texts = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def systems(*names):
    target = (np.arange(300) % 3 == 0).astype(np.int8)
    draw = np.random.default_rng(5).standard_normal
    return [ScoreSet(name, draw(300) + (1 + n) * target, target) for n, name in enumerate(names)]


def test_the_page_holds_the_figures_of_every_system_and_trial_list(tmp_path):
    lists = {"near-near": systems("pre-trained", "+ mix <b>"), "near-far": systems("pre-trained")}
    page = write_report(tmp_path / "r.html", "Demo & more", lists, notes=["The voices are synthetic."])
    parser = Balanced()
    parser.feed(page.read_text("utf-8"))
    assert parser.open == []
    text = " ".join(parser.texts)
    for s in lists["near-near"] + lists["near-far"]:
        figures = detection_error(s.scores, s.target)
        assert s.name in text and f"{figures.eer:.2%}" in text and f"{figures.min_dcf:.4f}" in text
    assert "Demo & more" in text and "The voices are synthetic." in text and "near-far" in text


def test_the_page_loads_nothing_and_follows_the_colour_scheme_of_the_reader(tmp_path):
    page = write_report(tmp_path / "r.html", "Demo", {"trials": systems("a")}).read_text("utf-8")
    assert "http" not in page and "<script" not in page and "<link" not in page
    assert not re.findall(r'(?:src|href)="(?!#)', page)
    assert "prefers-color-scheme: dark" in page


def test_a_folder_gets_the_page_and_every_picture(tmp_path):
    page = write_report(tmp_path / "out", "Demo", {"one": systems("a"), "two": systems("a")})
    assert page == tmp_path / "out" / "report.html"
    pictures = {
        f"{stem}_{n}{suffix}" for stem in ("det", "scores") for n in (1, 2) for suffix in (".png", ".svg")
    }
    assert {path.name for path in page.parent.iterdir()} == {"report.html", *pictures}


def test_the_prior_and_the_rule_for_ties_are_said(tmp_path):
    page = write_report(tmp_path / "r.html", "x", {"t": systems("a")}, p_target=0.05, ties="grouped")
    assert "0.05" in page.read_text() and "Equal scores are one threshold" in page.read_text()
