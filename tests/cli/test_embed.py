from farvox.cli.main import main
from farvox.datadir.kaldi import Utterance, write_data_dir
from farvox.features.frontend import FrontEndConfig
from farvox.models.registry import build_model
from farvox.zoo import save_model

SIZES = {"channels": 4, "pooled_channels": 4, "embedding_dim": 4}


def test_a_folder_of_other_things_is_refused_before_any_audio_is_read(tmp_path, capsys):
    save_model(tmp_path / "model", build_model("xvector", **SIZES), FrontEndConfig(), "xvector", SIZES)
    write_data_dir(tmp_path / "data", [Utterance("a", "/absent.wav")])
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter1.txt").touch()
    words = ["extract", str(tmp_path / "model"), str(tmp_path / "data"), str(tmp_path / "thesis")]
    assert main([*words, "--device", "cpu"]) == 1
    assert "thesis: holds other things" in capsys.readouterr().err
