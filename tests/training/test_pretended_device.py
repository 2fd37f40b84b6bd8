"""Everything that runs on CUDA, on a device that is not there: nothing meets a tensor that was left
on the CPU."""

import json

import pytest
import torch
from pretended import device

from mmaccount import AdaptiveClipping, Ledger, Phase, Plan
from trainer import Augmentation, Update, data, probe, processes
from trainer.bench import measure
from trainer.loop import Options, losses, train

PHASE = Phase(steps=2, noise_multiplier=1.0, clip_norm=1.0, learning_rate=0.5)
MIXED = Phase(
    steps=2, noise_multiplier=1.0, clip_norm=1.0, learning_rate=0.5, gap=0.1, truncation=4.0
)
ADAPTIVE = Phase(
    steps=2,
    noise_multiplier=1.0,
    clip_norm=1.0,
    learning_rate=0.5,
    adaptive=AdaptiveClipping(noise=5.0, quantile=0.5, rate=0.2),
)


def plan_of(phase):
    return Plan(dataset_size=40, sample_rate=0.25, batch_size=10, phases=(phase,), delta=1e-4)


def records():
    return data.glyphs(40, 8)


def test_the_device_is_one_of_its_own():
    here = torch.ones(3)
    with device():
        there = torch.ones(3, device="cuda")
        assert (there.device.type, (2 * there).cpu().tolist(), float(there.sum())) == (
            "cuda",
            [2.0, 2.0, 2.0],
            3.0,
        )
        index, number = torch.tensor([0, 2]), torch.tensor(1.0)
        assert there[index].tolist() == [1.0, 1.0]
        assert (there + number).tolist() == [2.0, 2.0, 2.0]
        for mixed in (
            lambda: there + here,
            lambda: there.copy_(here).add_(here),
            lambda: torch.cat([here, there]),
            lambda: torch.stack([there[0], number]),
            lambda: number.add_(there[0]),
            lambda: here[index.to("cuda")],
            lambda: there.index_put_((index,), here[index]),
        ):
            with pytest.raises(RuntimeError, match="tensors on cuda and on cpu"):
                mixed()
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()


@pytest.mark.parametrize(
    ("phase", "options"),
    [
        (
            MIXED,
            {
                "model": "cnn",
                "augmentation": Augmentation(views=2, flip=True, crop=True),
                "precision": "bf16",
            },
        ),
        (
            PHASE,
            {
                "model": "cnn",
                "update": Update(momentum=0.5, weight_decay=0.1, ema=0.9),
                "max_physical_batch_size": 4,
            },
        ),
        (ADAPTIVE, {"model": "linear", "precision": "tf32"}),
    ],
    ids=["mixed", "momentum", "adaptive"],
)
def test_a_run_and_the_rest_of_one(tmp_path, phase, options):
    with device():
        made = train(
            plan_of(phase), records(), tmp_path, Options(device="cuda", **options), quiet=True
        )
        rest = train(
            plan_of(phase),
            records(),
            tmp_path,
            Options(device="cuda", **options),
            resume=True,
            quiet=True,
        )
    assert (
        made["charged_steps"]
        == rest["charged_steps"]
        == Ledger.load(tmp_path / "ledger.json").charged
        == 2
    )
    assert made["held_out_accuracy"] == rest["held_out_accuracy"]
    assert made["norms_and_sums"].startswith(
        "plain: no Triton kernels"
    )  # they need the real device
    rows = [json.loads(line) for line in (tmp_path / "private.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    assert all(
        value.device.type == "cpu"
        for value in torch.load(tmp_path / "model.pt", weights_only=True).values()
    )


def test_a_probe():
    with device():
        made = probe.public(records(), losses, model="cnn", rows=8, device="cuda", seed=0)
    assert made.gram.shape == (8, 8)


def test_the_bench(monkeypatch):
    monkeypatch.setattr(measure, "_counted", lambda given, name: {})  # counts on the meta device
    with device():
        made = measure.measure(model="cnn", batch_size=4, device="cuda", rounds=1)
    rows = {row["method"]: row for row in made["methods"]}
    assert made["device"] == "NVIDIA H100 80GB HBM3"
    assert rows["ours, with noise and mixing"]["error"] < 1e-4
    assert rows["ours"]["ratio"] > 0


def test_processes_exchange_tensors_of_the_device(tmp_path, monkeypatch):
    """Collectives of GPUs take no others. The second of two processes does here what the first
    does."""

    def doubled(sent):
        assert sent.device.type == "cuda"
        sent.mul_(2)

    def kept(sent, src):
        assert (sent.device.type, src) == ("cuda", 0)

    monkeypatch.setattr(processes.distributed, "get_rank", lambda: 0)
    monkeypatch.setattr(processes.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(processes.distributed, "all_reduce", doubled)
    monkeypatch.setattr(processes.distributed, "broadcast", kept)
    monkeypatch.setattr(processes, "here", processes.Several)
    with device():
        made = train(
            plan_of(MIXED), records(), tmp_path, Options(model="linear", device="cuda"), quiet=True
        )
    assert made["charged_steps"] == 2
