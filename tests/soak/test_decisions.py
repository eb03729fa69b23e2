"""The default way to compute CAM++ decides as torch does."""


def test_all_decisions_on_real_speech_are_those_of_torch(assert_decisions_alike, tell):
    pairs = assert_decisions_alike(slice(None))
    tell("decisions of the graph and of torch", pairs=pairs, different=0)
    assert pairs == 124_750
