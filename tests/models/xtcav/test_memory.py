from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ground.errors import BadInput
from models.xtcav import memory, plan
from models.xtcav.__main__ import main
from models.xtcav.config import resolve
from models.xtcav.network import NETS, convnet_app

SEED = convnet_app(8, 8, 8, 6, 10)


def test_the_seeds_step_takes_what_was_told() -> None:
    lines, total = memory.notes_table(SEED, (726, 568), 32)
    assert total == pytest.approx(1274.76, abs=0.005)
    sizes = {line.name: round(line.output / memory.MB, 2) for line in lines}
    assert sizes["input"] == 50.34
    assert sizes["conv1"] == sizes["nonlinear1"] == 402.70
    assert sizes["pool1"] == sizes["U1"] == sizes["conv2"] == sizes["nonlinear2"] == 4.06
    assert sizes["pool2"] == sizes["U2"] == 0.05
    assert sum(line.output for line in lines) / memory.MB == pytest.approx(872.09, abs=0.005)


def test_valid_pools_and_strides_are_counted() -> None:
    lines, _ = memory.notes_table(NETS["six_layer"], (726, 568), 1)
    shapes = [line.shape[1:3] for line in lines if line.name.startswith("pool")]
    assert shapes == [(242, 189), (48, 37), (9, 7)]
    assert memory.notes_table(NETS["lasing_report"], (284, 363), 1)[0][1].shape == (1, 142, 182, 16)


@pytest.mark.parametrize("name", ["convnet_app", "cnn", "residual", "mobilenet_v3_small"])
def test_layers_are_told_without_computing(name: str) -> None:
    config = resolve({"NET": name, "BATCH_SIZE": 4})
    lines = memory.planned(config, (160, 140), 1, 4)
    from models.xtcav.build import build

    network = build(config, (160, 140), 1, 4)
    assert sum(line.parameters for line in lines) == sum(p.numel() for p in network.parameters())
    assert lines[0].shape == (4, 1, 160, 140)
    # what is kept is what really is kept
    kept: dict[int, torch.UntypedStorage] = {}
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        network(torch.randn(4, 1, 160, 140), torch.randn(4, 1))
    real = sum(storage.nbytes() for place, storage in kept.items() if place not in own)
    assert sum(line.kept for line in lines) == pytest.approx(real, rel=0.05)


def test_a_step_that_does_not_fit_is_refused_by_layer() -> None:
    config = resolve({"NET": "convnet_app"})
    lines = memory.planned(config, (726, 568), 0, 4)
    assert memory.too_large(lines, config, 10 * 2**30) == ""
    reason = memory.too_large(lines, config, 2**30)
    assert "convs.1" in reason and "BATCH_SIZE 32" in reason and "\n" not in reason
    with pytest.raises(BadInput, match=r"convs\.1"):
        memory.refuse_too_large({**config, "BATCH_SIZE": 10**6}, (726, 568), 0, 4, torch.device("cpu"))


def test_the_estimate_is_near_what_a_process_takes() -> None:
    config = resolve({"NET": "convnet_app", "OPTIMIZER": "momentum", "SCALARS": False, "BATCH_SIZE": 8})
    lines, reason = plan.run(None, {name: config[name] for name in ("NET", "OPTIMIZER", "BATCH_SIZE")}, None, 4, 1)
    assert not reason
    told = next(line for line in lines if line.startswith("measured"))
    peak = float(told.split("process ")[1].split()[0])
    expected = (memory.step_bytes(memory.planned(config, (726, 568), 0, 4), config) + memory.PROCESS) / memory.MB
    assert 0.6 < peak / expected < 1.4
    assert "training step" in told


def test_plan_as_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--threads", "0"]) == 0
    out = capsys.readouterr().out
    assert "6726 variables" in out and "1274.76 MB" in out
    file = tmp_path / "mine.yaml"
    file.write_text("fixed: {NET: residual, BATCH_SIZE: 5000000}\n")
    assert main(["plan", "--config", str(file), "--image", "300x200", "--threads", "0"]) == 1
    captured = capsys.readouterr()
    assert "body.1" in captured.out and "needs" in captured.err and captured.err.count("\n") == 1
    for wrong in (["--image", "3"], ["--set", "NET"], ["--set", "NETT=cnn"], ["--config", str(tmp_path / "no.yaml")]):
        assert main(["plan", *wrong]) == 2
