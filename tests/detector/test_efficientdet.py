import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from effdet import Detections, EfficientDet
from effdet.images.preprocessing import PRESETS, Preprocessing
from effdet.ops.settings import PostprocessSettings
from effdet.weights.own_format import read_safetensors, save_native


def make_model(**changes) -> EfficientDet:
    torch.manual_seed(0)
    return EfficientDet("lite0", **({"num_classes": 3, "image_size": (128, 128)} | changes))


@pytest.fixture(scope="module")
def model():
    """A model whose scores vary: random heads of a fresh model all answer the prior."""
    model = make_model(class_names=["cat", "dog", "cow"], category_ids=[3, 7, 90])
    model.train()
    for _ in range(20):
        model.network(torch.randn(4, 3, 128, 128))  # moves the BN statistics off their start
    with torch.no_grad():
        model.network.class_head.predict.pointwise.weight.mul_(20)
    return model.eval()


def test_training_returns_two_losses_that_reach_every_parameter():
    model = make_model().train()
    images = [torch.rand(3, 90, 120), torch.rand(3, 64, 50)]
    targets = [
        {"boxes": torch.tensor([[10.0, 10, 60, 70]]), "labels": torch.tensor([2])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    losses = model(images, targets)
    assert list(losses) == ["class_loss", "box_loss"]
    assert all(loss.shape == () and loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_batch_without_any_box_gives_every_parameter_a_gradient():
    model = make_model().train()
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    losses = model(torch.rand(2, 3, 64, 64), [empty, empty])
    assert losses["box_loss"].item() == 0.0
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_losses_fall_when_one_batch_is_repeated():
    model = make_model().train()
    images, target = (
        torch.rand(2, 3, 128, 128),
        {"boxes": torch.tensor([[20.0, 30, 90, 100]]), "labels": torch.tensor([1])},
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    values = []
    for _ in range(15):
        loss = sum(model(images, [target, target]).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < 0.6 * values[0]


def test_targets_are_scaled_to_the_network_input(monkeypatch):
    model = make_model().train()
    seen = []
    monkeypatch.setattr(model, "criterion", lambda p, a, targets: seen.extend(targets) or {})
    target = {"boxes": torch.tensor([[20.0, 10, 100, 50]]), "labels": torch.tensor([0])}
    model([torch.rand(3, 64, 256), torch.rand(3, 128, 64)], [target, target])
    assert seen[0].boxes.tolist() == [[10.0, 5.0, 50.0, 25.0]]  # 256 → 128 pixels wide
    assert seen[1].boxes.tolist() == [[20.0, 10.0, 100.0, 50.0]]


def test_one_image_with_a_single_cell_is_refused_in_training():
    target = {"boxes": torch.tensor([[20.0, 10, 100, 50]]), "labels": torch.tensor([0])}
    with pytest.raises(ValueError, match=r"two images or more .* got one image for an input of \(128, 128\)"):
        make_model().train()([torch.rand(3, 64, 64)], [target])


def test_training_without_targets_is_an_error():
    with pytest.raises(ValueError, match="targets must be given in training mode"):
        make_model().train()(torch.rand(1, 3, 64, 64))


def test_detections_follow_the_contract_of_torchvision(model):
    with torch.no_grad():
        found = model([torch.rand(3, 100, 200), torch.rand(3, 80, 40)])
    for result, (height, width) in zip(found, [(100, 200), (80, 40)], strict=True):
        assert set(result) == {"boxes", "labels", "scores"}
        assert (result["boxes"].dtype, result["labels"].dtype, result["scores"].dtype) == (
            torch.float32,
            torch.int64,
            torch.float32,
        )
        assert len(result["boxes"]) == len(result["labels"]) == len(result["scores"]) > 0
        limits = torch.tensor([width, height, width, height])
        assert ((result["boxes"] >= 0) & (result["boxes"] <= limits)).all()
        assert torch.equal(result["scores"], result["scores"].sort(descending=True).values)


def test_a_list_gives_what_its_images_give_alone(model):
    images = [torch.rand(3, 100, 200), torch.rand(3, 80, 40)]
    with torch.no_grad():
        together = model(images)
        alone = [model([image])[0] for image in images]
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a["scores"], b["scores"], rtol=1e-4, atol=1e-5)


def test_a_tensor_means_what_the_list_of_its_images_means(model):
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        for a, b in zip(model(images), model(list(images)), strict=True):
            assert torch.equal(a["boxes"], b["boxes"])


def test_predict_takes_files_folders_pictures_arrays_and_tensors(model, tmp_path):
    picture = Image.effect_noise((90, 60), 80).convert("RGB")
    for name in ("a.png", "b.png"):
        picture.save(tmp_path / name)
    tensor = torch.from_numpy(__import__("numpy").array(picture)).permute(2, 0, 1)
    model.train()
    from_file = model.predict(str(tmp_path / "a.png"), score_threshold=0.0)
    assert model.training  # as it was before
    model.eval()
    assert [type(found) for found in from_file] == [Detections]
    assert from_file[0].source.endswith("a.png")
    assert from_file[0].image_size == (60, 90)
    assert from_file[0].category_ids == (3, 7, 90)
    for source in (tmp_path, [picture, tensor], str(tmp_path / "*.png")):
        for found in model.predict(source, score_threshold=0.0, batch_size=2):
            torch.testing.assert_close(found.scores, from_file[0].scores, rtol=1e-4, atol=1e-5)


def test_predict_leaves_out_what_scores_below_the_threshold(model, tmp_path):
    picture = Image.effect_noise((90, 60), 80).convert("RGB")
    everything = model.predict(picture, score_threshold=0.0)[0]
    threshold = everything.scores.median().item()
    assert len(model.predict(picture, score_threshold=threshold)[0]) == (everything.scores >= threshold).sum()


def test_predict_names_a_missing_file(model):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jpg"):
        model.predict("nowhere.jpg")
    with pytest.raises(ValueError, match="batch_size must be a whole number of 1 or more, got 0"):
        model.predict("nowhere.jpg", batch_size=0)


def test_a_saved_model_comes_back_whole(tmp_path):
    model = make_model().eval()
    model.settings = PostprocessSettings(nms="hard", max_detections=7)
    model.preprocessing = Preprocessing.preset("effdet-advprop")
    model.save_pretrained(tmp_path / "model.safetensors")
    loaded = EfficientDet.from_pretrained(tmp_path / "model.safetensors")
    assert not loaded.training
    for name in ("name", "num_classes", "class_names", "category_ids", "image_size", "stochastic_depth"):
        assert getattr(loaded, name) == getattr(model, name)
    assert (loaded.settings, loaded.preprocessing) == (model.settings, model.preprocessing)
    image = [torch.rand(3, 100, 70)]
    with torch.no_grad():
        for key, value in model(image)[0].items():
            assert torch.equal(loaded(image)[0][key], value)


def test_a_model_that_stretches_says_so_in_its_file_and_maps_boxes_back_by_axis(tmp_path):
    model = make_model(preprocessing=Preprocessing(fit="stretch"), image_size=(64, 128)).eval()
    model.save_pretrained(tmp_path / "model.safetensors")
    loaded = EfficientDet.from_pretrained(tmp_path / "model.safetensors")
    assert loaded.preprocessing == Preprocessing(fit="stretch")
    image = np.random.default_rng(0).integers(0, 256, (64, 128, 3), dtype=np.uint8)
    tall = image.repeat(3, axis=0)  # what is stretched back to the same pixels
    found, other = (loaded.predict(pixels, score_threshold=0.0)[0] for pixels in (image, tall))
    assert len(found) > 5
    torch.testing.assert_close(other.boxes, found.boxes * torch.tensor([1.0, 3.0, 1.0, 3.0]))
    torch.testing.assert_close(other.scores, found.scores)


def test_a_file_that_names_no_preprocessing_has_the_default(tmp_path):
    make_model().save_pretrained(tmp_path / "model.safetensors")
    state, description = read_safetensors(tmp_path / "model.safetensors")
    del description["preprocessing"]
    description["settings"] |= {"clip": True}  # as version 0.1 wrote it
    save_native(tmp_path / "old.safetensors", state, description)
    loaded = EfficientDet.from_pretrained(tmp_path / "old.safetensors")
    assert (loaded.settings, loaded.preprocessing) == (PostprocessSettings(), Preprocessing())


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_reaches_the_network_by_file_and_by_tensor(preset):
    """The network sees the same input either way, up to the whole levels that files keep."""
    model = make_model().eval()
    model.preprocessing = Preprocessing.preset(preset)
    seen = []
    image = np.random.default_rng(0).integers(0, 256, (90, 61, 3), dtype=np.uint8)
    with torch.no_grad(), model.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])):
        model.predict(image)
        model([torch.from_numpy(image).permute(2, 0, 1) / 255])
    by_file, by_tensor = (inputs.float() * model.std.view(3, 1, 1) for inputs in seen)
    assert (by_file - by_tensor).abs().max() < 1.02


def test_a_model_saved_as_a_folder_comes_back_whole(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    for source in (tmp_path / "model", tmp_path / "model" / "model.safetensors"):
        loaded = EfficientDet.from_pretrained(source)
        names = ("name", "class_names", "category_ids", "image_size", "settings", "preprocessing", "training_tiles")
        for name in names:
            assert getattr(loaded, name) == getattr(model, name)
        assert torch.equal(loaded.mean, model.mean)


def test_a_folder_is_described_by_its_config_where_the_weights_lost_theirs(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    save_file(model.state_dict(), tmp_path / "model" / "model.safetensors")
    assert EfficientDet.from_pretrained(tmp_path / "model").class_names == model.class_names


def test_classes_are_named_without_touching_what_is_not_given(model):
    other = make_model(category_ids=[3, 7, 90])
    other.name_classes(["x", "y", "z"])
    assert (other.class_names, other.category_ids) == (("x", "y", "z"), (3, 7, 90))
    other.name_classes(category_ids=[1, 2, 3])
    assert (other.class_names, other.category_ids) == (("x", "y", "z"), (1, 2, 3))
    with pytest.raises(ValueError, match="class_names must have one entry per class"):
        other.name_classes(["x"])


def test_channels_last_weights_can_be_saved(tmp_path):
    model = make_model().to(memory_format=torch.channels_last)
    model.save_pretrained(tmp_path / "model.safetensors")
    loaded = EfficientDet.from_pretrained(tmp_path / "model.safetensors")
    for ours, theirs in zip(model.state_dict().values(), loaded.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_other_classes_swap_the_class_head_and_keep_the_rest(model, tmp_path):
    model.save_pretrained(tmp_path / "model.safetensors")
    other = EfficientDet.from_pretrained(tmp_path / "model.safetensors", num_classes=2, class_names=["a", "b"])
    assert (other.num_classes, other.class_names, other.category_ids) == (2, ("a", "b"), (0, 1))
    assert torch.equal(other.network.backbone.conv_stem.weight, model.network.backbone.conv_stem.weight)
    assert torch.equal(other.network.box_head.predict.pointwise.weight, model.network.box_head.predict.pointwise.weight)
    assert other.network.class_head.predict.pointwise.bias.tolist() == pytest.approx([-4.59512] * 18, abs=1e-5)


def test_a_file_that_does_not_fit_is_refused(model, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.safetensors do not exist"):
        EfficientDet.from_pretrained("nowhere.safetensors")
    (tmp_path / "x.safetensors").write_bytes(b"not weights")
    with pytest.raises(ValueError, match=r"x\.safetensors holds no weights: its first bytes"):
        EfficientDet.from_pretrained(tmp_path / "x.safetensors")
    state = model.state_dict()
    del state["network.backbone.conv_stem.weight"]
    model.save_pretrained(tmp_path / "less.safetensors", state=state)
    with pytest.raises(ValueError, match=r"does not fit lite0.*conv_stem"):
        EfficientDet.from_pretrained(tmp_path / "less.safetensors")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, "num_classes must be 1 or more, got 0"),
        ({"class_names": ["a"]}, "class_names must have one entry per class: num_classes is 3, got 1"),
        ({"category_ids": [1, 2]}, "category_ids must have one entry per class"),
        ({"category_ids": [1, 2, 1]}, "category_ids must differ from each other, got 1 more than once"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_model(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 2.5}, r"num_classes must be a whole number, got 2\.5"),
        ({"num_classes": "3"}, "num_classes must be a whole number, got '3'"),
        ({"class_names": "abc"}, "class_names must be a list of texts, got the text 'abc'"),
    ],
)
def test_arguments_of_another_type_are_refused(arguments, message):
    with pytest.raises(TypeError, match=message):
        make_model(**arguments)


def test_random_weights_are_said_to_be_random():
    assert make_model().start == "random weights"


def test_one_class_and_one_tiny_image_work():
    model = make_model(num_classes=1).eval()
    with torch.no_grad():
        [found] = model([torch.rand(3, 1, 1)])
    assert set(found["labels"].tolist()) <= {0}


@pytest.mark.parametrize("wrap", ["network", "backbone", "parallel"])
def test_a_wrapped_network_is_saved_by_its_own_names(model, tmp_path, wrap):
    import copy

    wrapped = copy.deepcopy(model)
    if wrap == "network":
        wrapped.network = torch.compile(wrapped.network)
    elif wrap == "backbone":
        wrapped.network.backbone = torch.compile(wrapped.network.backbone)
    else:
        wrapped.network = torch.nn.DataParallel(wrapped.network)
    wrapped.save_pretrained(tmp_path / "wrapped.safetensors")
    loaded = EfficientDet.from_pretrained(tmp_path / "wrapped.safetensors")
    expected = model.state_dict()
    assert list(loaded.state_dict()) == list(expected)
    assert all(torch.equal(expected[name], tensor) for name, tensor in loaded.state_dict().items())


def test_a_file_that_an_earlier_version_wrote_of_a_compiled_network_is_loaded(model, tmp_path):
    model.save_pretrained(tmp_path / "model.safetensors")
    state, description = read_safetensors(tmp_path / "model.safetensors")
    state = {name.replace("network.", "network._orig_mod.", 1): tensor for name, tensor in state.items()}
    save_native(tmp_path / "compiled.safetensors", state, description)
    loaded = EfficientDet.from_pretrained(tmp_path / "compiled.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_model_of_another_dtype_detects_in_float32(model, dtype):
    import copy

    images = torch.rand(2, 3, 90, 120, generator=torch.Generator().manual_seed(0))
    expected = model(images)
    converted = copy.deepcopy(model).to(dtype)
    found = converted(images.to(dtype))
    for one, other in zip(found, expected, strict=True):
        assert one["boxes"].dtype == one["scores"].dtype == torch.float32
        assert one["scores"][0].item() == pytest.approx(other["scores"][0].item(), abs=0.05)
    assert len(converted.predict(images, score_threshold=0.0)) == 2
    assert torch.equal(converted.mean, model.mean)  # 123.675 would be 123.5 in bfloat16


def test_half_precision_weights_train_in_bfloat16_only():
    target = {"boxes": torch.tensor([[20.0, 30, 90, 100]]), "labels": torch.tensor([1])}
    losses = make_model().bfloat16().train()(torch.rand(2, 3, 128, 128), [target, target])
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    with pytest.raises(ValueError, match=r"weights in float32 or bfloat16, got torch\.float16.* call model\.float\(\)"):
        make_model().half().train()(torch.rand(2, 3, 128, 128), [target, target])


@pytest.mark.parametrize("preset", ["default", "effdet"])
def test_the_gradient_of_the_image_is_that_of_finite_differences(preset):
    model = make_model(preprocessing=Preprocessing.preset(preset)).double().train()
    with torch.no_grad():
        for head in (model.network.class_head, model.network.box_head):
            head.predict.pointwise.weight.mul_(1e5)
    for module in model.network.modules():  # without noise and statistics of the batch
        module.eval()
    torch.manual_seed(0)
    images = [torch.rand(3, 60, 100, dtype=torch.float64), torch.rand(3, 140, 90, dtype=torch.float64)]
    target = {"boxes": torch.tensor([[10.0, 10, 50, 55]]), "labels": torch.tensor([1])}

    def loss(change=0.0):
        return sum(model([images[0] + change, images[1]], [target, target]).values())

    images[0].requires_grad_()
    loss().backward()
    direction = images[0].grad / images[0].grad.norm()
    with torch.no_grad():
        expected = (loss(0.01 * direction) - loss(-0.01 * direction)) / 0.02

    assert images[0].grad.norm().item() == pytest.approx(expected.item(), rel=0.03)


@pytest.mark.parametrize("training", [False, True])
def test_pixels_of_0_to_255_are_refused(training):
    model = make_model().train(training)
    target = {"boxes": torch.tensor([[20.0, 30, 90, 100]]), "labels": torch.tensor([1])}
    images = torch.rand(2, 3, 64, 64)
    images[1] *= 255
    with pytest.raises(ValueError, match=r"image 1 must be float in \[0, 1\], got values from 0\.0.* to 25.*by 255"):
        model(images, [target, target])


def test_the_input_size_is_one_side_or_a_pair():
    model = make_model()
    model.image_size = 256
    assert model.image_size == (256, 256)
    model.image_size = [96, np.int64(128)]
    assert model.image_size == (96, 128)
    assert make_model(image_size=64).image_size == (64, 64)


@pytest.mark.parametrize(
    ("size", "error", "message"),
    [
        ("256", TypeError, "must be one whole number or a pair .* got '256'"),
        (256.0, TypeError, "must be one whole number or a pair"),
        (True, TypeError, "must be one whole number or a pair"),
        ((1, 2, 3), TypeError, "must be one whole number or a pair"),
        ((96, 128.5), TypeError, "must be one whole number or a pair"),
        (0, ValueError, "sides of 1 pixel or more, got 0"),
        ((64, -64), ValueError, "sides of 1 pixel or more"),
    ],
)
def test_a_bad_input_size_is_refused_when_it_is_set(size, error, message):
    model = make_model()
    with pytest.raises(error, match=message):
        model.image_size = size
    assert model.image_size == (128, 128)
    with pytest.raises(error, match=message):
        make_model(image_size=size)


@pytest.mark.parametrize("training", [False, True])
def test_a_new_class_head_takes_after_the_old_one(training):
    model = make_model().to(torch.bfloat16, memory_format=torch.channels_last).train(training)
    old = model.network.class_head
    model.reset_classes(5, ["a", "b", "c", "d", "e"])
    new = model.network.class_head
    assert {module.training for module in new.modules()} == {training}
    assert [p.stride() for p in new.convs.parameters()] == [p.stride() for p in old.convs.parameters()]
    assert {p.dtype for p in new.parameters()} == {torch.bfloat16}
    assert type(new) is type(old)


@pytest.mark.parametrize(("arguments", "message"), [((0,), "num_classes must be 1"), ((2, ["a"]), "class_names must")])
def test_classes_that_do_not_fit_leave_the_model_as_it_was(arguments, message):
    model = make_model(class_names=["a", "b", "c"])
    head = model.network.class_head
    with pytest.raises(ValueError, match=message):
        model.reset_classes(*arguments)
    assert (model.num_classes, model.class_names, model.network.class_head) == (3, ("a", "b", "c"), head)
