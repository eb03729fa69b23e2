"""The speakers of ``farvox sample`` are told apart by the pretrained model, whatever the seed."""

SEEDS = 60


def test_every_pair_of_a_sample_is_a_tenth_from_the_threshold(tmp_path, sample_margins, tell):
    margins = [sample_margins(tmp_path / "sample", seed) for seed in range(SEEDS)]
    same, other = (min(each) for each in zip(*margins, strict=True))
    tell("samples told apart", seeds=SEEDS, same=f"{same:+.3f}", other=f"{other:+.3f}")
    assert min(same, other) >= 0.1
