"""`fp.load`: quiet, and the same model from wherever it comes."""

import pytest
from tests.api.samples import SOURCE, TARGET, same, small_sd, told

import freeprompt as fp


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("model") / "small"
    small_sd().save_pretrained(place)
    return place


def test_a_model_by_name_is_loaded_in_silence(editor, capfd) -> None:
    capfd.readouterr()  # what the libraries say when they are first imported
    assert fp.load("tiny-sd", device="cpu").model.name == "tiny-sd"
    assert capfd.readouterr() == ("", "")


def test_a_folder_is_loaded_without_warnings(folder) -> None:
    """Under `python -W error`, a deprecated argument is a model that cannot be loaded."""
    assert fp.load(folder, device="cpu").model.name == str(folder)


def test_a_folder_is_the_model_that_was_saved(editor, folder) -> None:
    with told():
        loaded = fp.load(str(folder), device="cpu", dtype="float32")
    a, b = (e.edit(TARGET, source=SOURCE, steps=1, share=1) for e in (editor, loaded))
    assert same(a.images[0], b.images[0])
    assert a.provenance.model_fingerprint == b.provenance.model_fingerprint
    assert loaded.pipe.unet.training is False


def test_weights_that_do_not_arrive_are_told(folder, monkeypatch) -> None:
    """A transformers that does not know a file's names goes on with random weights."""
    import diffusers

    read = diffusers.DiffusionPipeline.from_pretrained

    def made_up(place, **more):
        pipe = read(place, **more)
        pipe.text_encoder = type(pipe.text_encoder)(pipe.text_encoder.config)
        return pipe

    monkeypatch.setattr(diffusers.DiffusionPipeline, "from_pretrained", made_up)
    with pytest.raises(fp.errors.ModelError, match="does not take the weights of text_encoder"):
        fp.load(folder, device="cpu")
