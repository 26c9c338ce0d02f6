import pytest

from bcos_vit import save_model
from bcos_vit.cli.main import main
from commands import NAMES, Said
from hostile import picture
from toys import VITC, toy


@pytest.fixture
def command(capsys):
    """``bcos-vit`` in this process."""

    def run(*arguments):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as stop:  # argparse leaves so
            status = stop.code
        said = Said(status, *capsys.readouterr())
        assert "Traceback" not in said.err
        return said

    return run


@pytest.fixture(scope="session")
def model_file(tmp_path_factory):
    """A small B-cos model with a stem, for images of 48 pixels."""
    model = toy(VITC, seed=1)
    model.class_names = NAMES
    path = tmp_path_factory.mktemp("model") / "toy.safetensors"
    save_model(model, path)
    return path


@pytest.fixture(scope="session")
def photo(tmp_path_factory):
    """A photo that every model can be asked about."""
    path = tmp_path_factory.mktemp("photo") / "cat.png"
    picture(80, 60).save(path)
    return path
