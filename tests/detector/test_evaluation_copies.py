"""Predictions beside training: nothing in the model changes, and every answer is that of evaluation mode."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from effdet import Architecture, EfficientDet
from effdet.detector.evaluation_copies import (
    EvaluationCopies,
    copy_for_evaluation,
    unwrapped,
    without_wrapper_names,
)

IMAGES = [np.random.default_rng(seed).integers(0, 256, (60 + seed, 90, 3), dtype=np.uint8) for seed in range(8)]
EXPANDED = replace(Architecture.named("lite0"), expanded_features=True)  # timm collects its features by hooks


def make_model(architecture="lite0"):
    torch.manual_seed(0)
    model = EfficientDet(architecture, num_classes=3, image_size=(96, 128))
    with torch.no_grad():
        model.network.class_head.predict.pointwise.weight.mul_(20)
    return model


def boxes(model, image):
    return model.predict(image, score_threshold=0.0)[0].boxes


def test_a_copy_shares_every_tensor_and_is_in_evaluation_mode():
    network = make_model().train().network
    twin = copy_for_evaluation(network)
    tensors, shared = (dict(one.state_dict(keep_vars=True)) for one in (network, twin))
    assert list(tensors) == list(shared)
    assert all(tensors[name] is shared[name] for name in tensors)
    assert all(module.training for module in network.modules())
    assert not any(module.training for module in twin.modules())


def test_a_copy_sees_tensors_that_were_replaced():
    network = make_model().network
    twin = copy_for_evaluation(network)
    network.half()
    network.neck.register_buffer("extra", torch.ones(1))
    assert {tensor.dtype for tensor in twin.parameters()} == {torch.float16}
    assert twin.neck.extra is network.neck.extra


@pytest.mark.parametrize("architecture", ["lite0", EXPANDED], ids=["blocks", "hooks"])
def test_many_threads_predict_on_a_model_in_training_mode(architecture):
    model = make_model(architecture).train()
    model.network.backbone.bn1.eval()  # as frozen BN is
    modes = [module.training for module in model.modules()]
    before = copy.deepcopy(model.state_dict())
    quiet = copy.deepcopy(model).eval()
    expected = [boxes(quiet, image) for image in IMAGES]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda image: boxes(model, image), IMAGES * 3))
    for one, other in zip(found, expected * 3, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-4)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_answers_are_right_while_another_thread_trains():
    model = make_model().train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0  # so that training leaves the statistics as they are
    expected = [boxes(copy.deepcopy(model).eval(), image) for image in IMAGES]
    targets = [{"boxes": torch.tensor([[5.0, 5.0, 40.0, 40.0]]), "labels": torch.tensor([1])}] * 2
    stop = threading.Event()

    def train():
        steps = 0
        while not stop.is_set():
            sum(model(torch.rand(2, 3, 96, 128), targets).values()).backward()
            steps += 1
        return steps

    with ThreadPoolExecutor(1) as trainer:
        training = trainer.submit(train)
        found = [boxes(model, image) for image in IMAGES * 2]
        stop.set()
        assert training.result() > 0
    for one, other in zip(found, expected * 2, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-4)


def test_a_prediction_sees_a_new_head_new_hooks_and_new_weights():
    model = make_model().train()
    assert len(boxes(model, IMAGES[0]))
    seen = []
    handle = model.network.box_head.register_forward_hook(lambda *_: seen.append(1))
    boxes(model, IMAGES[0])
    assert seen == [1]
    handle.remove()
    model.reset_classes(1)
    assert set(model.predict(IMAGES[0], score_threshold=0.0)[0].labels.tolist()) == {0}
    with torch.no_grad():
        model.network.class_head.predict.pointwise.bias.fill_(-20.0)
    assert len(boxes(model, IMAGES[0])) == 0


def test_a_copy_is_used_again_but_not_by_two_at_once():
    copies, network = EvaluationCopies(), nn.Sequential(nn.Linear(2, 2))
    with copies.borrow(network) as first, copies.borrow(network) as second:
        assert first is not second
    with copies.borrow(network) as third:
        assert third in (first, second)
    network.append(nn.Dropout())
    with copies.borrow(network) as fourth:
        assert len(fourth.network) == 2


def test_a_copy_is_not_used_again_after_an_error():
    copies, network = EvaluationCopies(), nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(RuntimeError), copies.borrow(network) as first:
        raise RuntimeError
    with copies.borrow(network) as second:
        assert second is not first


def test_a_compiled_network_is_compiled_in_the_copy_too():
    network = make_model().train().network
    calls = []

    def backend(graph, _):
        calls.append(1)
        return graph.forward

    twin = copy_for_evaluation(torch.compile(network, backend=backend))
    images = torch.rand(1, 3, 96, 128)
    with torch.no_grad():
        assert torch.equal(twin(images).class_logits, copy_for_evaluation(network)(images).class_logits)
    assert calls
    assert network.training


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel, lambda one: torch.compile(nn.DataParallel(one))])
def test_wrappers_are_taken_off_a_network_and_off_names(wrap):
    network = nn.Sequential(nn.Linear(2, 2))
    wrapped = wrap(network)
    assert unwrapped(wrapped) is network
    assert list(without_wrapper_names(wrapped.state_dict())) == ["0.weight", "0.bias"]
    assert copy_for_evaluation(nn.DataParallel(network))[0].weight is network[0].weight
