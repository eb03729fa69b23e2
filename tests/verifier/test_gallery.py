import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from farvox.errors import StoreError
from farvox.verifier.gallery import Gallery, Rows


def gallery_of(templates, names=None, block=3):
    """A gallery filled a few rows at a time, in three steps."""
    templates = np.asarray(templates, np.float32)
    names = names or [f"s{n:03}" for n in range(len(templates))]
    made = Gallery(templates.shape[1])
    for part in np.array_split(np.arange(len(templates)), 3):
        pieces = [part[n : n + block] for n in range(0, len(part), block)]
        blocks = [Rows([n + 1 for n in p], [names[n] for n in p], templates[p]) for p in pieces]
        made = made.extended(blocks, len(part))
    return made


def brute_force(templates, names, emb_E, top):
    """By the definition of the cosine, in float64, one by one."""
    scored = []
    for name, row in zip(names, np.asarray(templates, np.float64), strict=True):
        scored.append((name, row @ emb_E / np.sqrt(row @ row) / np.sqrt(emb_E @ emb_E)))
    return sorted(scored, key=lambda pair: (-round(pair[1], 6), pair[0]))[:top]


# Rows of {-2..2}: many are equal, and cosines that differ at all differ by far more than rounding.
grid = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 40), st.just(4)), elements=st.integers(-2, 2).map(float)
).filter(lambda rows: rows.any(axis=1).all())


@given(rows=grid, probe=st.integers(0, 39), top=st.integers(1, 50), order=st.randoms())
def test_the_best_are_those_of_brute_force(rows, probe, top, order):
    names = [f"s{n:03}" for n in range(len(rows))]
    order.shuffle(names)
    emb_E = rows[probe % len(rows)] * np.float32(0.37)
    found = gallery_of(rows, names).best(emb_E, top)
    expected = brute_force(rows, names, emb_E.astype(np.float64), top)
    np.testing.assert_allclose([score for _, score in found], [score for _, score in expected], atol=1e-6)
    own = dict(brute_force(rows, names, emb_E.astype(np.float64), len(rows)))
    np.testing.assert_allclose([own[name] for name, _ in found], [s for _, s in found], atol=1e-6)
    assert found == sorted(found, key=lambda pair: (-pair[1], pair[0]))


@given(
    rows=hnp.arrays(np.float32, (12, 6), elements=st.floats(-1, 1, width=32)).filter(
        lambda rows: rows.any(axis=1).all()
    ),
    top=st.integers(1, 12),
)
def test_scores_of_any_templates_are_cosines(rows, top):
    names = [f"s{n:03}" for n in range(len(rows))]
    emb_E = np.linspace(-1, 2, 6)
    found = gallery_of(rows, names).best(emb_E, top)
    expected = brute_force(rows, names, emb_E, top)
    np.testing.assert_allclose([s for _, s in found], [s for _, s in expected], atol=1e-6)


@pytest.mark.parametrize("num", [1, 2, 7, 8, 9, 1000])
def test_equal_templates_come_by_name_wherever_they_lie(num):
    row = np.random.default_rng(0).standard_normal(193).astype(np.float32)
    names = [f"s{n:04}" for n in np.random.default_rng(1).permutation(num)]
    found = gallery_of(np.tile(row, (num, 1)), names).best(row, 5)
    assert [name for name, _ in found] == sorted(names)[:5]
    assert len({score for _, score in found}) == 1


@pytest.mark.parametrize("scale", [1e-40, 1e-20, 1e20, 1e38])
def test_lengths_do_not_count(scale):
    rows = np.eye(3)[[0, 1, 2]] * scale
    assert gallery_of(rows).best(np.array([0, scale, 0]), 1) == [("s001", 1.0)]
    assert gallery_of(np.eye(3)).best(np.array([0, 1e300, 0]), 1) == [("s001", 1.0)]
    assert gallery_of(np.eye(3)).best(np.array([0, 0, -1e-300]), 3)[-1] == ("s002", -1.0)


def test_removing_rows_leaves_the_others():
    gallery = gallery_of(np.eye(5))
    kept = gallery.keeping(np.array([2, 5]))
    assert (kept.names, kept.ids_N.tolist()) == (["s001", "s004"], [2, 5])
    assert kept.best(np.eye(5)[4], 1) == [("s004", 1.0)]
    assert len(gallery) == 5
    assert gallery.keeping(np.empty(0, np.int64)).best(np.eye(5)[4], 1) == []


def test_a_gallery_does_not_change_when_it_is_extended():
    gallery = gallery_of(np.eye(4)[:3].repeat(10, axis=0))
    before = gallery.unit_NE.copy()
    longer = gallery.extended([Rows([99], ["new"], np.eye(4, dtype=np.float32)[3:])], 1)
    assert np.shares_memory(gallery.unit_NE, longer.unit_NE)
    np.testing.assert_array_equal(gallery.unit_NE, before)
    assert (len(gallery), len(longer)) == (30, 31)
    assert longer.best(np.eye(4)[3], 1) == [("new", 1.0)]


@pytest.mark.parametrize("value", [0, np.nan, np.inf])
def test_a_template_that_cannot_be_is_named(value):
    with pytest.raises(StoreError, match="template of 's001' is damaged"):
        gallery_of([[1, 0], [value, 0]])
