"""``bcos-vit convert``: what a state dict cannot say is neither guessed nor passed over."""

import torch

from bcos_vit import create_model, save_model
from toys import toy


def test_our_keys_do_not_tell_one_kind_of_positions_from_another(command, tmp_path):
    torch.save(create_model("bcos_vitc_ti_rope_patch1_14").state_dict(), tmp_path / "rope.pth")
    said = command("convert", tmp_path / "rope.pth", tmp_path / "out.safetensors")
    assert said.status == 2
    assert "rope.pth does not say which model its weights belong to" in said.err
    assert not (tmp_path / "out.safetensors").exists()
    name = "bcos_vitc_ti_rope_patch1_14"
    assert command("convert", tmp_path / "rope.pth", tmp_path / "out.safetensors", "--model", name).status == 0
    assert create_model(tmp_path / "out.safetensors").spec.position == "rope"


def test_fields_that_are_lost_are_named(command, tmp_path):
    model = toy("bcos_simple_vit_ti_patch16_224", b=1.5, logit_bias=-0.25)
    save_model(model, tmp_path / "mine.safetensors")
    said = command("convert", tmp_path / "mine.safetensors", tmp_path / "out.pth")
    assert said.status == 0
    assert said.err == "note: a state dict does not say b 1.5, logit_bias -0.25: build its model with it\n"
    save_model(toy("bcos_simple_vit_ti_patch16_224"), tmp_path / "usual.safetensors")
    assert command("convert", tmp_path / "usual.safetensors", tmp_path / "usual.pth").err == ""
