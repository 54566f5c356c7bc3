import pytest
from timm.models._efficientnet_builder import decode_arch_def

from effdet.models.block_strings import Block, check_stages, parse_block

TEXTS = [
    "ir_r2_k3_s2_e6_c24_se0.25",
    "ds_r1_k3_s1_c16_noskip",
    "dsa_r2_k5_s2_c64_se0.25",
    "er_r4_k3_s2_e8_c48_gs64",
    "er_r1_k3_s1_e4_c24_fc24_noskip",
    "cn_r2_k3_s1_c24_skip",
    "uir_r1_a3_k5_s2_e4_c80",
    "uir_r1_k0_s1_e2_c160_nre",
    "mqa_r1_k3_s1_c160_h4_d64_v2",
    "mha_r1_k3_s1_c160_h4_d64",
    "ir_r1_a1.1_k3.5.7_p1.1_s2_e3.67_c40_se0.5_cc4_nhs",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_block_reads_back_and_timm_understands_the_same(text):
    block = parse_block(text)
    assert parse_block(str(block)) == block
    (timms,) = decode_arch_def([[text]])
    (again,) = decode_arch_def([[str(block)]])
    assert again == timms
    assert (len(timms), timms[0]["out_chs"], timms[0]["stride"]) == (block.repeats, block.channels, block.stride)


def test_the_parts_of_a_string_have_their_names():
    assert parse_block("ir_r2_k3.5_s2_e2.5_c24_se0.25_nhs_noskip") == Block(
        kind="ir", repeats=2, kernel=(3, 5), stride=2, expansion=2.5, channels=24, se=0.25, activation="hs", skip=False
    )
    assert parse_block("ds_r1_k3_s1_e1_c16") == Block(kind="ds", channels=16)
    assert str(Block(kind="ir", channels=24, expansion=10 / 3)) == "ir_r1_k3_s1_e3.3333333333333335_c24"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("xx_r1_k3_s1_c8", "must begin with one of ir, ds, .*, got 'xx_r1_k3_s1_c8'"),
        ("", "must begin with one of"),
        ("ir_r1_k3_s1_c8", "of kind 'ir' must have e, got"),
        ("mqa_r1_k3_s1_c8", "of kind 'mqa' must have h, d, got"),
        ("ds_k3_c8", "of kind 'ds' must have r, s, got"),
        ("ds_r1_k3_s1_c8_e6", "of kind 'ds' must not have e, got"),
        ("ir_r1_k3_s1_e6_c8_skip", "of kind 'ir' must not have skip, got"),
        ("ir_r1_k3_s1_e6_c8_d1", "of kind 'ir' must not have d, got"),
        ("ir_r1_k3_s1_e6_c8_c9", "must say 'c' once, got"),
        ("ir_r1_k3_s1_e6_c8_nxx", "activation of a block must be one of re, r6, hs, sw, mi, got"),
        ("ir_r1_k3_s3_e6_c8", "must have stride 1 or 2, got"),
        ("ir_r1_k4_s1_e6_c8", "must have odd kernels, got"),
        ("ir_r1_k0_s1_e6_c8", "must have odd kernels, got"),
        ("uir_r1_k0_s2_e6_c8", "must have a kernel that can carry its stride, got"),
        ("ir_r0_k3_s1_e6_c8", "must have positive numbers, got r0 in"),
        ("ir_r1_k3_s1_e6_c0", "must have positive numbers, got c0 in"),
        ("cn_r1_k3.5_s1_c8", "of kind 'cn' must have one kernel, got"),
        ("ir_r1_k3_s1_e6_c8.5", "must be words such as 'k3', got 'c8.5' in"),
        ("ir_r1_k3_s1_e6_c-8", "must be words such as 'k3', got 'c-8' in"),
        ("ir_r1_k3_s1_e6_c8_", "must be words such as 'k3', got '' in"),
        ("ir_r1_k3_s1_e1.2.3_c8", "must be words such as 'k3', got 'e1.2.3' in"),
    ],
)
def test_a_string_that_timm_would_not_follow_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_block(text)


DS, S2 = "ds_r1_k3_s1_c16", "ir_r1_k3_s2_e6_c24"


def test_the_strides_of_all_stages_lead_to_32():
    check_stages("backbone_blocks", ((DS,), (S2, DS), (S2,), (S2,), (S2,)))
    check_stages("backbone_blocks", ((S2,), (S2,), (S2,), (S2,)))
    with pytest.raises(ValueError, match=r"backbone_blocks must have 4 stages that begin with stride 2, .* got 3"):
        check_stages("backbone_blocks", ((DS,), (S2,), (S2,), (S2,)))
    with pytest.raises(ValueError, match=r"stride 2 in the first block of a stage only, got .* in stage 1; begin"):
        check_stages("backbone_blocks", ((DS,), (DS, S2), (S2,), (S2,), (S2,)))
    attention = "mqa_r1_k3_s1_c24_h2_d16"
    check_stages("backbone_blocks", ((S2,), (S2,), (S2,), (S2, attention, DS)))
    for stages in (((S2,), (S2, attention), (S2,), (S2,)), ((S2,), (S2,), (S2,), (S2, attention))):
        with pytest.raises(ValueError, match="must not have attention as the last block before a stage of stride 2"):
            check_stages("backbone_blocks", stages)
