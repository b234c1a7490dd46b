import pytest

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.plugin import link as module
from sgnet_nnunet.plugin.shims import MARK, SHIMS


def test_link_writes_every_shim_and_again_nothing(package):
    assert len(module.link(package)) == len(SHIMS)
    assert module.link(package) == []


def test_unlink_removes_what_link_wrote_and_nothing_else(package):
    other = package / "training" / "nnUNetTrainer" / "nnUNetTrainer.py"
    other.parent.mkdir(parents=True)
    other.write_text("")
    written = module.link(package)
    assert module.unlink(package) == written
    assert module.unlink(package) == []
    assert list(package.rglob("*.py")) == [other]


def test_file_of_a_stranger_is_neither_overwritten_nor_deleted(package):
    path = package / SHIMS[1].path
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(SGNetError, match=rf"{path.name}: was not placed by sgnet link; move it"):
        module.link(package)
    assert [each for each in package.rglob("*") if each.is_file()] == [path]
    path.unlink()
    module.link(package)
    path.write_text("mine")
    assert len(module.unlink(package)) == len(SHIMS) - 1
    assert path.read_text() == "mine"


def test_folder_that_is_a_link_to_elsewhere_is_refused(package, tmp_path):
    module.link(package)
    outside = tmp_path / "outside"
    (package / "experiment_planning").rename(outside)
    (package / "experiment_planning").symlink_to(outside)
    for action in (module.link, module.unlink):
        with pytest.raises(SGNetError, match=r"experiment_planning.*leads out of"):
            action(package)
    assert len(list(outside.rglob("*.py"))) == 1


@pytest.mark.parametrize("action", [module.link, module.unlink])
def test_read_only_package_is_refused_and_the_remedy_named(package, monkeypatch, action):
    module.link(package)
    (package / SHIMS[0].path).write_text(f"outdated{MARK}")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.write_text", refuse)
    monkeypatch.setattr("pathlib.Path.unlink", refuse)
    with pytest.raises(SGNetError, match=r"Permission denied.*export nnUNet_extTrainer=.*trainers"):
        action(package)


def test_missing_nnunet_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(SGNetError, match="pip install nnunetv2"):
        module.nnunet_package()


def test_shims_of_an_editable_install_do_not_belong_to_a_wheel(monkeypatch):
    monkeypatch.setattr(module, "files", lambda _: ["sgnet_nnunet/__init__.py"])
    assert not module.shims_belong_to_wheel()
    monkeypatch.setattr(module, "files", lambda _: [f"nnunetv2/{SHIMS[0].path}"])
    assert module.shims_belong_to_wheel()
