import math

import pytest
import torch
import torchvision

from effdet.ops.boxes import box_areas, clip_boxes, decode, encode, intersection_matrix, iou_matrix


def random_boxes(*shape: int, side: float = 100.0) -> torch.Tensor:
    corner = torch.rand(*shape, 2) * side
    return torch.cat([corner, corner + 1 + torch.rand(*shape, 2) * side], dim=-1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_encode_gives_the_deltas_worked_out_by_hand():
    anchor = torch.tensor([10.0, 20.0, 30.0, 60.0])  # centre (20, 40), 20 × 40
    box = torch.tensor([20.0, 20.0, 60.0, 40.0])  # centre (40, 30), 40 × 20
    by_hand = torch.tensor([20 / 20, -10 / 40, math.log(2), -math.log(2)])
    torch.testing.assert_close(encode(box, anchor), by_hand)
    torch.testing.assert_close(decode(by_hand, anchor), box)


def test_zero_deltas_are_the_anchor():
    anchors = random_boxes(20)
    torch.testing.assert_close(decode(torch.zeros(20, 4), anchors), anchors)
    torch.testing.assert_close(encode(anchors, anchors), torch.zeros(20, 4))


def test_decode_inverts_encode():
    boxes, anchors = random_boxes(3, 64), random_boxes(64)
    torch.testing.assert_close(decode(encode(boxes, anchors), anchors), boxes, atol=1e-3, rtol=1e-5)


def test_coding_is_that_of_torchvision_with_unit_weights_and_no_limit():
    boxes, anchors = random_boxes(50), random_boxes(50)
    coder = torchvision.models.detection._utils.BoxCoder((1.0, 1.0, 1.0, 1.0), bbox_xform_clip=math.inf)
    deltas = coder.encode_single(boxes, anchors)
    torch.testing.assert_close(encode(boxes, anchors), deltas)
    torch.testing.assert_close(decode(deltas, anchors), coder.decode_single(deltas, anchors))


def test_encode_is_finite_for_boxes_and_anchors_without_area():
    point, box = torch.tensor([5.0, 5.0, 5.0, 5.0]), torch.tensor([0.0, 0.0, 10.0, 10.0])
    assert encode(point, box)[2].item() == pytest.approx(math.log(1e-9))
    assert encode(point, box).isfinite().all()
    assert encode(box, point).isfinite().all()


def test_decode_of_half_precision_deltas_works_in_the_precision_of_the_anchors():
    deltas, anchors = torch.randn(10, 4).to(torch.bfloat16), random_boxes(10)
    decoded = decode(deltas, anchors)
    assert decoded.dtype == torch.float32
    torch.testing.assert_close(decoded, decode(deltas.float(), anchors), atol=0, rtol=0)


def test_areas_are_those_of_torchvision():
    boxes = random_boxes(30)
    torch.testing.assert_close(box_areas(boxes), torchvision.ops.box_area(boxes))


def test_area_of_an_inverted_box_is_zero():
    assert box_areas(torch.tensor([[5.0, 5.0, 2.0, 1.0], [5.0, 5.0, 2.0, 9.0]])).tolist() == [0, 0]


def test_intersection_by_hand():
    a = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    b = torch.tensor([[5.0, 8.0, 20.0, 20.0], [10.0, 0.0, 20.0, 10.0], [2.0, 3.0, 4.0, 6.0]])
    assert intersection_matrix(a, b).tolist() == [[10.0, 0.0, 6.0]]


def test_iou_is_that_of_torchvision():
    a, b = random_boxes(40), random_boxes(30)
    torch.testing.assert_close(iou_matrix(a, b), torchvision.ops.box_iou(a, b))


def test_iou_of_a_batch_is_that_of_its_elements():
    a, b = random_boxes(3, 7), random_boxes(3, 5)
    batched = iou_matrix(a, b)
    assert batched.shape == (3, 7, 5)
    for i in range(3):
        torch.testing.assert_close(batched[i], torchvision.ops.box_iou(a[i], b[i]))


def test_iou_without_area_is_zero_not_nan():
    point = torch.tensor([[5.0, 5.0, 5.0, 5.0]])
    assert iou_matrix(point, point).item() == 0
    assert iou_matrix(point, torch.tensor([[0.0, 0.0, 10.0, 10.0]])).item() == 0


@pytest.mark.parametrize(("m", "n"), [(0, 3), (3, 0), (0, 0)])
def test_iou_with_no_boxes_is_an_empty_matrix(m, n):
    assert iou_matrix(torch.zeros(m, 4), torch.zeros(n, 4)).shape == (m, n)


def test_clip_is_that_of_torchvision():
    boxes = random_boxes(50) * 3 - 100
    torch.testing.assert_close(clip_boxes(boxes, (80, 120)), torchvision.ops.clip_boxes_to_image(boxes, (80, 120)))


def test_clip_takes_one_size_for_each_image():
    boxes = torch.tensor([[-5.0, -5.0, 50.0, 50.0]]).expand(2, 1, 4)  # (B, D, 4)
    sizes = torch.tensor([[10, 20], [40, 30]])  # (B, 2) height, width
    assert clip_boxes(boxes, sizes[:, None]).tolist() == [[[0, 0, 20, 10]], [[0, 0, 30, 40]]]
