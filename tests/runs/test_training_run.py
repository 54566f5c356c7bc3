import contextlib
import functools
import logging
import os
import signal
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from effdet.config import Precision
from effdet.runs.checkpoints import Checkpoints
from effdet.runs.log import RunLog
from effdet.runs.training_run import Plan, TrainingRun
from effdet.structures import Batch, Predictions, Target
from effdet.training.checkpoint import load_checkpoint, tensors_of
from effdet.training.dense_targets import assign_dense
from effdet.training.distillation import Teacher
from effdet.training.distributed import World, join_world
from effdet.training.ema import EMA
from effdet.training.freezing import freeze
from effdet.training.interrupt import Interrupted
from effdet.training.loop import Progress
from effdet.training.losses import DetectionLoss
from effdet.training.schedule import build_optimizer, learning_rate
from effdet.training.step import StepSettings, Trainer, seed_everything

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from processes import Processes

SIZE, STRIDE, K = 32, 8, 2


class Network(nn.Module):
    """One anchor per cell; BN statistics and dropout make order and randomness matter."""

    def __init__(self, dropout=0.2, norm=True):
        super().__init__()
        norm_layer = nn.BatchNorm2d(6) if norm else nn.Identity()
        self.backbone = nn.Sequential(nn.Conv2d(3, 6, STRIDE, STRIDE), norm_layer, nn.SiLU(), nn.Dropout(dropout))
        self.neck = nn.Identity()
        self.class_head, self.box_head = nn.Conv2d(6, K, 1), nn.Conv2d(6, 4, 1)

    def set_bn_momentum(self, momentum):
        self.bn_momentum = momentum
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = momentum

    def forward(self, images):
        features = self.backbone(images)
        return Predictions(*(head(features).flatten(2).mT for head in (self.class_head, self.box_head)))


class Detector(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.network = Network(**options)

    def normalise(self, images, content_sizes):
        return images.float() / 255

    def anchors(self, image_size, device):
        centre = torch.arange(STRIDE / 2, SIZE, STRIDE)
        y, x = torch.meshgrid(centre, centre, indexing="ij")
        return torch.stack([x, y, x, y], -1).reshape(-1, 4) + torch.tensor([-1, -1, 1, 1]) * STRIDE


class Loader:
    """Seven micro-batches an epoch, a pure function of (epoch, step); ``before`` is called ahead of each."""

    def __init__(self, steps=7, images=4, before=lambda epoch, step: None):
        self.steps_per_epoch, self.images, self.before = steps, images, before
        self.plain = {}

    def batch(self, epoch, step):
        generator = torch.Generator().manual_seed(100 * epoch + step)
        corner = torch.rand(self.images, 2, 2, generator=generator) * 16
        boxes = torch.cat([corner, corner + 8 + 8 * torch.rand(self.images, 2, 2, generator=generator)], dim=2)
        counts = [i % 3 for i in range(self.images)]
        return Batch(
            images=torch.randint(0, 256, (self.images, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8),
            content_sizes=torch.full((self.images, 2), SIZE),
            scales=torch.ones(self.images),
            original_sizes=torch.full((self.images, 2), SIZE),
            image_ids=tuple(range(1000 * epoch + 10 * step, 1000 * epoch + 10 * step + self.images)),
            targets=[Target(b[:n], torch.arange(n) % K) for b, n in zip(boxes, counts, strict=True)],
        )

    def epoch(self, epoch, start_step=0, *, plain=False):
        self.plain[epoch] = plain
        for step in range(start_step, self.steps_per_epoch):
            self.before(epoch, step)
            yield self.batch(epoch, step)


def no_scores(model):
    return {"ap": 0.0}


ALONE = World(torch.device("cpu"))


STEP_SETTINGS = {field.name for field in fields(StepSettings)}


def make_run(
    folder,
    *,
    loader=None,
    kind="sgd",
    evaluate=no_scores,
    part="none",
    options=None,
    world=ALONE,
    num_images=0,
    minutes=5.0,
    losses=None,
    teacher=False,
    **settings,
):
    torch.manual_seed(1)
    teacher = Teacher(Detector(dropout=0.0, norm=False), torch.arange(K)) if teacher else None
    torch.manual_seed(0)
    folder.mkdir(exist_ok=True)
    model = Detector(**(options or {}))
    frozen = freeze(model.network, part)
    schedule = functools.partial(learning_rate, peak=0.05, warmup_steps=3, total_steps=21)
    settings = {"epochs": 3, "learning_rate": schedule, **settings}
    trainer = Trainer(
        model,
        criterion=DetectionLoss(**(losses or {})),
        optimizer=build_optimizer(model.network, kind, weight_decay=0.01),
        ema=EMA(model, 0.9),
        world=world,
        frozen=frozen,
        teacher=teacher,
        settings=StepSettings(**{name: value for name, value in settings.items() if name in STEP_SETTINGS}),
    )
    plan = Plan(**{name: value for name, value in settings.items() if name not in STEP_SETTINGS})
    loader, progress, saved = loader or Loader(), Progress(), []
    steps = plan.steps_per_epoch(loader)
    run = TrainingRun(
        trainer=trainer,
        loader=loader,
        progress=progress,
        checkpoints=Checkpoints(folder, trainer, progress, steps, num_images=num_images, minutes=minutes),
        evaluate=evaluate,
        save_best=lambda best: saved.append({n: t.clone() for n, t in tensors_of(best).items()}),
        log=RunLog(folder if world.is_main else None, total_steps=plan.epochs * steps),
        plan=plan,
    )
    run.saved = saved
    return run


LOSSES = {"published": {}, "scores": {"assigner": "task_aligned", "class_loss": "quality_focal", "box_loss": "giou"}}


def resume(run, folder):
    run.checkpoints.load_state_dict(load_checkpoint(folder / "last.ckpt"))


def state_of(run):
    """Every tensor and number that a run carries, flat; time is left out."""
    state = run.checkpoints.state_dict()
    for row in [*state["progress"]["history"], state["progress"]["sums"]]:
        for name in ("seconds", "images_per_second"):
            row.pop(name, None)
    return state


def assert_equal(a, b, where="state"):
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}[{index}]")
    else:
        assert a == b, where


class KilledError(Exception):
    pass


def killer(*moments):
    """Raise once at each (epoch, step), as a kill would: nothing is written any more."""
    left = set(moments)

    def before(epoch, step):
        if (epoch, step) in left:
            left.remove((epoch, step))
            raise KilledError

    return before


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize(
    ("minutes", "kills"),
    [
        (0.0, [(0, 0)]),  # before the first step
        (0.0, [(1, 3)]),  # in mid-epoch
        (1e9, [(1, 3)]),  # some steps after the last checkpoint, which is of the end of epoch 0
        (0.0, [(2, 0)]),  # at a border of epochs
        (0.0, [(0, 5), (2, 1)]),  # twice
    ],
)
def test_a_killed_run_ends_bit_for_bit_as_an_unbroken_one(tmp_path, kind, minutes, kills):
    unbroken = make_run(tmp_path / "a", kind=kind, accumulate=2)
    unbroken.run()

    before = killer(*kills)
    for _ in kills:
        broken = make_run(tmp_path / "b", kind=kind, accumulate=2, loader=Loader(before=before), minutes=minutes)
        if (tmp_path / "b" / "last.ckpt").exists():
            resume(broken, tmp_path / "b")
        with pytest.raises(KilledError):
            broken.run()
    torch.rand(17)  # whatever the generator did meanwhile must not matter
    resumed = make_run(tmp_path / "b", kind=kind, accumulate=2)
    resume(resumed, tmp_path / "b")
    torch.rand(5)
    resumed.run()

    assert_equal(state_of(resumed), state_of(unbroken))
    assert resumed.trainer.ema.count == resumed.progress.step == 12  # 4 steps an epoch, the last of one micro-batch
    tables = [(tmp_path / run / "metrics.csv").read_text().splitlines() for run in "ab"]
    assert len(tables[0]) == 4
    without_speed = [[line.split(",")[:6] for line in table] for table in tables]
    assert without_speed[0] == without_speed[1]


@pytest.mark.parametrize(
    "choice",
    [
        "iou varifocal iou",
        "atss quality_focal diou",
        "task_aligned focal giou",
        "task_aligned quality_focal huber",
        "simota varifocal ciou",
    ],
)
def test_a_resumed_run_of_any_losses_ends_bit_for_bit_as_an_unbroken_one(tmp_path, choice):
    losses = dict(zip(("assigner", "class_loss", "box_loss"), choice.split(), strict=True))
    options = {"losses": losses, "accumulate": 2, "epochs": 2, "teacher": losses["assigner"] == "simota"}
    unbroken = make_run(tmp_path / "a", **options)
    unbroken.run()
    with pytest.raises(KilledError):
        make_run(tmp_path / "b", **options, loader=Loader(before=killer((1, 3))), minutes=0.0).run()
    resumed = make_run(tmp_path / "b", **options)
    resume(resumed, tmp_path / "b")
    resumed.run()
    assert_equal(state_of(resumed), state_of(unbroken))
    assert len(unbroken.progress.history) == 2
    assert unbroken.progress.history[1]["loss"] < unbroken.progress.history[0]["loss"]


def test_a_run_without_boxes_learns_from_its_teacher(tmp_path):
    class WithoutBoxes(Loader):
        def batch(self, epoch, step):
            batch = super().batch(epoch, step)
            return replace(batch, targets=[Target(t.boxes[:0], t.classes[:0]) for t in batch.targets])

    alone = make_run(tmp_path / "a", epochs=1, loader=WithoutBoxes())
    taught = make_run(tmp_path / "b", epochs=1, loader=WithoutBoxes(), teacher=True)
    for run in (alone, taught):
        run.run()
    assert alone.progress.history[0]["box_loss"] == 0
    assert taught.progress.history[0]["box_loss"] > 0
    assert taught.progress.history[0]["class_loss"] > alone.progress.history[0]["class_loss"]


def test_dropout_depends_on_the_step_and_not_on_the_past(tmp_path):
    def draws(seed, step, rank=0):
        seed_everything(seed, step, rank)
        return torch.rand(4).tolist()

    seen = [draws(0, 0), draws(0, 1), draws(1, 0), draws(0, 0, rank=1), draws(1, 1)]
    assert len({tuple(numbers) for numbers in seen}) == 5
    assert draws(0, 1) == seen[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_and_leaves_a_resumable_run(tmp_path, number):
    unbroken = make_run(tmp_path / "a")
    unbroken.run()
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    def interrupt(epoch, step):
        if (epoch, step) == (1, 2):
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted):
        make_run(tmp_path / "b", loader=Loader(before=interrupt)).run()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    state = load_checkpoint(tmp_path / "b" / "last.ckpt")
    assert state["progress"]["step"] == 7 + 3
    resumed = make_run(tmp_path / "b")
    resumed.checkpoints.load_state_dict(state)
    resumed.run()
    assert_equal(state_of(resumed), state_of(unbroken))


def test_a_signal_ends_an_evaluation_at_once_and_resuming_repeats_only_that(tmp_path):
    def evaluate(model):
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the evaluation went on")

    unbroken = make_run(tmp_path / "unbroken")
    unbroken.run()
    with pytest.raises(Interrupted):
        make_run(tmp_path, evaluate=evaluate).run()
    steps = []
    resumed = make_run(tmp_path, loader=Loader(before=lambda epoch, step: steps.append((epoch, step))))
    resume(resumed, tmp_path)
    resumed.run()
    assert steps[0] == (1, 0)
    assert resumed.progress.step == 21
    columns = ("epoch", "step", "lr")
    rows = [[[row[name] for name in columns] for row in run.progress.history] for run in (resumed, unbroken)]
    assert rows[0] == rows[1]


PARTS = slice(0, 1), slice(1, 4)  # the first image has no box


def part_of(batch, part):
    names = ("images", "content_sizes", "scales", "original_sizes", "image_ids", "targets")
    return replace(batch, **{name: getattr(batch, name)[part] for name in names})


class Halves:
    """The batches of ``Loader``, each in two parts of one and three images."""

    steps_per_epoch = 14

    def epoch(self, epoch, start_step=0, *, plain=False):
        for batch in Loader().epoch(epoch):
            yield from (part_of(batch, part) for part in PARTS)


class Share(Loader):
    """One process's part of each batch of ``Loader``."""

    def __init__(self, rank, **options):
        super().__init__(**options)
        self.part = PARTS[rank]

    def batch(self, epoch, step):
        return part_of(super().batch(epoch, step), self.part)


WITHOUT_NORM = {"dropout": 0.0, "norm": False}


def train_in_two(rank, folder):
    with join_world("cpu") as world:
        for name, losses in LOSSES.items():
            options = {"options": WITHOUT_NORM, "epochs": 1, "losses": losses, "teacher": name == "scores"}
            run = make_run(folder / name, loader=Share(rank), **options, world=world)
            run.run()
            torch.save(run.progress.history, folder / f"{name}_{rank}.pt")

        def interrupt(epoch, step):
            if rank == 1 and step == 3:
                os.kill(os.getpid(), signal.SIGTERM)

        stopped = make_run(folder / "three", loader=Share(rank, before=interrupt), epochs=1, world=world)
        with pytest.raises(Interrupted):  # on both processes, though only one had the signal
            stopped.run()


@pytest.mark.slow
def test_two_processes_compute_the_gradient_of_one_and_stop_together(tmp_path):
    with contextlib.closing(Processes(train_in_two, tmp_path)) as processes:
        assert [processes.answer(rank) for rank in range(2)] == [("returned", None)] * 2

    for kind, losses in LOSSES.items():
        options = {"options": WITHOUT_NORM, "epochs": 1, "losses": losses, "teacher": kind == "scores"}
        whole = make_run(tmp_path / "one", **options)
        whole.run()
        for name, tensor in load_checkpoint(tmp_path / kind / "last.ckpt")["model"].items():
            torch.testing.assert_close(tensor, tensors_of(whole.trainer.model)[name], rtol=1e-4, atol=1e-6)
        for rank in range(2):
            (row,) = torch.load(tmp_path / f"{kind}_{rank}.pt")
            assert row["loss"] == pytest.approx(whole.progress.history[0]["loss"], rel=1e-4)
    assert load_checkpoint(tmp_path / "three" / "last.ckpt")["progress"]["step"] in (4, 5)


@pytest.mark.parametrize(("channels_last", "losses"), [(False, "published"), (True, "published"), (True, "scores")])
def test_micro_batches_add_up_to_the_gradient_of_the_whole_batch(tmp_path, channels_last, losses):
    options = {"options": WITHOUT_NORM, "epochs": 1, "channels_last": channels_last, "losses": LOSSES[losses]}
    options["teacher"] = losses == "scores"
    whole = make_run(tmp_path / "a", **options)
    parts = make_run(tmp_path / "b", **options, accumulate=2, loader=Halves())
    whole.run()
    parts.run()
    assert parts.progress.step == whole.progress.step == 7
    for name, tensor in tensors_of(whole.trainer.model).items():
        torch.testing.assert_close(tensors_of(parts.trainer.model)[name], tensor, rtol=1e-4, atol=1e-6)
    for name in ("loss", "class_loss", "box_loss"):
        assert parts.progress.history[0][name] == pytest.approx(whole.progress.history[0][name], rel=1e-4)


def test_the_gradient_is_clipped_at_every_step_over_all_parameters(tmp_path):
    run = make_run(tmp_path, clip_norm=0.01, epochs=2, accumulate=2)
    norms = []

    def measure(optimizer, args, kwargs):
        norms.append(torch.stack([p.grad.norm() for p in run.trainer.model.parameters()]).norm())

    run.trainer.optimizer.register_step_pre_hook(measure)
    run.run()
    torch.testing.assert_close(torch.stack(norms), torch.full((8,), 0.01), rtol=1e-3, atol=0)


def test_the_loop_learns_what_repeats(tmp_path):
    class OneBatch(Loader):
        def batch(self, epoch, step):
            return super().batch(0, 0)

    run = make_run(
        tmp_path, kind="adamw", loader=OneBatch(), options={"dropout": 0.0}, epochs=20, learning_rate=lambda step: 0.02
    )
    run.run()
    losses = [row["loss"] for row in run.progress.history]
    assert losses[-1] < 0.2 * losses[0]


def test_a_step_uses_the_learning_rate_of_its_number(tmp_path):
    run = make_run(tmp_path, learning_rate=lambda step: 0.001 * step)
    rates = []
    run.trainer.optimizer.register_step_pre_hook(lambda o, a, k: rates.append(o.param_groups[0]["lr"]))
    run.run()
    assert rates == [0.001 * step for step in range(21)]


def test_a_loss_that_is_not_finite_names_the_images_and_saves_the_batch(tmp_path):
    run = make_run(tmp_path)
    criterion, good = run.trainer.criterion, {}

    def explode_at_step_ten(*args, **kwargs):
        losses = criterion(*args, **kwargs)
        if run.progress.step != 10:
            return losses
        good.update({name: tensor.clone() for name, tensor in run.trainer.model.named_parameters()})
        return {**losses, "box_loss": losses["box_loss"] * float("nan")}

    explode_at_step_ten.assign = criterion.assign
    explode_at_step_ten.needs_predictions = criterion.needs_predictions
    run.trainer.criterion = explode_at_step_ten
    with pytest.raises(FloatingPointError, match=r"loss is nan at step 10 .* ids \[1030, 1031, 1032, 1033\], saved in"):
        run.run()
    (saved,) = load_checkpoint(tmp_path / "non_finite_batch_rank0.pt")["batches"]
    expected = Loader().batch(1, 3)
    assert torch.equal(saved["images"], expected.images)
    assert torch.equal(saved["targets"][2]["boxes"], expected.targets[2].boxes)
    for name, tensor in run.trainer.model.named_parameters():
        assert torch.equal(tensor, good[name])  # the weights of the last good step


def test_a_gradient_that_is_not_finite_stops_the_run(tmp_path):
    run = make_run(tmp_path)
    run.trainer.model.network.box_head.bias.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(FloatingPointError, match=r"gradient norm is (nan|inf) at step 0 .* ids \[0, 1, 2, 3\]"):
        run.run()
    assert all(parameter.isfinite().all() for parameter in run.trainer.model.parameters())


def test_evaluation_comes_every_so_often_and_at_the_end_and_the_best_average_is_kept(tmp_path):
    scores, seen = iter([0.3, 0.1, 0.3]), []

    def evaluate(model):
        seen.append({name: tensor.clone() for name, tensor in tensors_of(model).items()})
        assert model is run.trainer.ema.model
        assert not model.training
        return {"ap": next(scores), "ap50": 0.5}

    run = make_run(tmp_path, evaluate=evaluate, epochs=5, evaluate_every=2)
    run.run()
    assert [row.get("ap") for row in run.progress.history] == [None, 0.3, None, 0.1, 0.3]
    assert run.progress.best == 0.3
    assert_equal(run.saved, [seen[0], seen[2]])  # of equals the later one


def test_a_run_without_a_better_score_ends_early_also_when_it_is_resumed(tmp_path, caplog):
    scores = iter([0.1, 0.4, 0.4, 0.3, 0.9])
    run = make_run(tmp_path, evaluate=lambda _: {"ap": next(scores)}, epochs=9, patience=2)
    with caplog.at_level("INFO"):
        run.run()
    assert [row["ap"] for row in run.progress.history] == [0.1, 0.4, 0.4, 0.3]
    assert "no better AP in 2 evaluations: the run ends after epoch 4" in caplog.text
    resumed = make_run(tmp_path, epochs=9, patience=2)
    resume(resumed, tmp_path)
    resumed.run()
    assert len(resumed.progress.history) == 4


def test_the_best_score_survives_a_resume(tmp_path):
    with pytest.raises(KilledError):
        make_run(tmp_path, evaluate=lambda _: {"ap": 0.7}, loader=Loader(before=killer((1, 0)))).run()
    resumed = make_run(tmp_path, evaluate=lambda _: {"ap": 0.6})
    resume(resumed, tmp_path)
    resumed.run()
    assert resumed.progress.best == 0.7
    assert resumed.saved == []


def test_rows_behind_the_checkpoint_are_written_anew(tmp_path):
    make_run(tmp_path, epochs=2).run()
    state = load_checkpoint(tmp_path / "last.ckpt")
    state["progress"]["history"] = state["progress"]["history"][:1]  # as if killed before the last checkpoint
    resumed = make_run(tmp_path, epochs=2)
    resumed.checkpoints.load_state_dict(state)
    resumed.loader.before = lambda epoch, step: pytest.fail("all steps are done")
    resumed.run()
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 3


def test_the_last_epochs_are_plain(tmp_path):
    loader = Loader()
    make_run(tmp_path, loader=loader, plain_epochs=2).run()
    assert loader.plain == {0: False, 1: True, 2: True}


def test_the_first_epochs_are_plain(tmp_path):
    loader = Loader()
    make_run(tmp_path, loader=loader, plain_start=1, plain_epochs=1).run()
    assert loader.plain == {0: True, 1: False, 2: True}


def test_frozen_modules_stay_as_they_are_through_the_loop(tmp_path):
    run = make_run(tmp_path, part="backbone")
    before = {name: tensor.clone() for name, tensor in run.trainer.model.network.backbone.state_dict().items()}
    run.run()
    for name, tensor in run.trainer.model.network.backbone.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_batches_without_a_single_box_train_every_parameter(tmp_path):
    class Empty(Loader):
        def batch(self, epoch, step):
            batch = super().batch(epoch, step)
            none = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
            return replace(batch, targets=[none] * self.images)

    run = make_run(tmp_path, loader=Empty(), epochs=1)
    run.trainer.optimizer.register_step_pre_hook(
        lambda o, a, k: gradients.append([p.grad for p in run.trainer.parameters])
    )
    gradients = []
    run.run()
    assert all(gradient is not None and gradient.isfinite().all() for step in gradients for gradient in step)
    assert run.progress.history[0]["box_loss"] == 0


def test_bfloat16_follows_float32(tmp_path):
    options = {"dropout": 0.0}
    full = make_run(tmp_path / "a", options=options, epochs=1)
    half = make_run(tmp_path / "b", options=options, epochs=1, precision=Precision.bf16)
    full.run()
    half.run()
    loss = full.progress.history[0]["loss"]
    assert half.progress.history[0]["loss"] != loss
    assert half.progress.history[0]["loss"] == pytest.approx(loss, rel=0.03)


def test_an_unreadable_file_is_reported_once(tmp_path, caplog):
    class Broken(Loader):
        def batch(self, epoch, step):
            return replace(super().batch(epoch, step), unreadable=("photo_7.jpg",))

    with caplog.at_level(logging.WARNING, "effdet"):
        make_run(tmp_path, loader=Broken()).run()
    assert [record.getMessage() for record in caplog.records] == [
        "photo_7.jpg cannot be decoded; another image takes its place"
    ]


def test_a_run_cannot_go_on_with_other_batches(tmp_path):
    make_run(tmp_path, epochs=1, num_images=28).run()
    state = load_checkpoint(tmp_path / "last.ckpt")
    for change in ({"accumulate": 2, "num_images": 28}, {"num_images": 27}):
        with pytest.raises(ValueError, match="a resumed run must keep its data and batches"):
            make_run(tmp_path, **change).checkpoints.load_state_dict(state)


def test_a_finished_run_does_nothing_more(tmp_path):
    make_run(tmp_path).run()
    again = make_run(tmp_path, loader=Loader(before=lambda epoch, step: pytest.fail("no step is left")))
    resume(again, tmp_path)
    again.run()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the compiler
def test_a_compiled_network_learns_the_same(tmp_path):
    plain = make_run(tmp_path / "a", options={"dropout": 0.0}, epochs=1)
    compiled = make_run(tmp_path / "b", options={"dropout": 0.0}, epochs=1, compile=True)
    plain.run()
    compiled.run()
    for name, tensor in tensors_of(plain.trainer.model).items():
        torch.testing.assert_close(tensors_of(compiled.trainer.model)[name], tensor, rtol=1e-3, atol=1e-5)


def test_every_step_sets_the_bn_momentum_of_its_number(tmp_path):
    seen = []
    run = make_run(tmp_path / "run", loader=Loader(steps=70), epochs=2)
    network = run.trainer.model.network
    network.register_forward_hook(lambda *_: seen.append(network.backbone[1].momentum))
    run.run()
    assert seen == [0.1] * 100 + [0.03] * 40


def test_the_average_follows_the_weights_after_the_step(tmp_path):
    run = make_run(tmp_path, epochs=1, loader=Loader(steps=1))
    trainer = run.trainer
    trainer.ema.decay = 0.0  # the average is the model
    before = {name: tensor.clone() for name, tensor in tensors_of(trainer.model).items()}
    run.run()
    after = tensors_of(trainer.model)
    assert any(not torch.equal(tensor, before[name]) for name, tensor in after.items())
    assert all(torch.equal(tensor, after[name]) for name, tensor in tensors_of(trainer.ema.model).items())


def test_the_state_of_the_gradient_scaler_survives_a_resume(tmp_path):
    def with_scaler():
        run = make_run(tmp_path, epochs=1, loader=Loader(steps=1))
        run.trainer.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1)
        return run

    first = with_scaler()
    first.run()
    assert first.trainer.scaler.get_scale() == 2048.0  # one good step doubles it
    resumed = with_scaler()
    resume(resumed, tmp_path)
    assert resumed.trainer.scaler.get_scale() == 2048.0


def test_a_run_made_shorter_than_its_first_evaluation_is_evaluated(tmp_path):
    scores = {"ap": 0.5}
    first = make_run(tmp_path, epochs=4, evaluate_every=5, evaluate=lambda model: scores, loader=Loader(steps=1))

    def stop(history):
        if len(history) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        first.run(after_epoch=stop)
    assert not any("ap" in row for row in first.progress.history)
    shorter = make_run(tmp_path, epochs=1, evaluate_every=5, evaluate=lambda model: scores, loader=Loader(steps=1))
    resume(shorter, tmp_path)
    shorter.run()
    assert [row.get("ap") for row in shorter.progress.history] == [None, 0.5]
    assert ",0.5," in (tmp_path / "metrics.csv").read_text()


def test_a_run_goes_on_in_fp16_after_another_precision(tmp_path):
    make_run(tmp_path, epochs=1, loader=Loader(steps=1)).run()  # its scaler is off: the checkpoint has none
    resumed = make_run(tmp_path, epochs=1, loader=Loader(steps=1))
    resumed.trainer.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    resume(resumed, tmp_path)
    assert resumed.trainer.scaler.get_scale() == 1024.0


def test_a_step_reads_its_numbers_from_the_device_once(tmp_path, monkeypatch):
    """On a GPU each reading waits for the device."""
    readings = []
    for name in ("item", "tolist", "__float__", "__bool__", "__int__"):
        method = getattr(torch.Tensor, name)
        read = functools.partial(lambda method, name, tensor: readings.append(name) or method(tensor), method, name)
        monkeypatch.setattr(torch.Tensor, name, lambda tensor, read=read: read(tensor))
    run = make_run(tmp_path, epochs=1)
    run.trainer.criterion.assign = functools.partial(assign_dense, positive_iou=0.5)  # as on a GPU
    run.trainer.train_mode()
    run.trainer.step([Loader().batch(0, 0), Loader().batch(0, 1)], 0)
    assert readings == ["__float__"] * 2 + ["tolist"]  # the former are of the focal loss on a CPU, one per micro-batch


def test_what_follows_an_epoch_sees_the_rows_so_far_and_may_end_a_run_that_goes_on_later(tmp_path):
    seen = []

    def after_epoch(history):
        seen.append([row["epoch"] for row in history])
        if len(seen) == 2:
            raise KilledError

    run = make_run(tmp_path)
    with pytest.raises(KilledError):
        run.run(after_epoch=after_epoch)
    assert seen == [[1], [1, 2]]

    continued = make_run(tmp_path)
    resume(continued, tmp_path)
    continued.run(after_epoch=after_epoch)
    assert seen[2:] == [[1, 2, 3]]
    whole = make_run(tmp_path / "whole")
    whole.run()
    assert_equal(state_of(continued), state_of(whole))
