"""Settings of a config stand in any place of a command line."""

import importlib

import pytest

from effdet.commands import main


def parse(command, *words):
    return importlib.import_module(f"effdet.commands.{command}").parser().parse_args(words)


@pytest.mark.parametrize(
    ("words", "overrides"),
    [
        (["custom"], []),
        (["custom", "a.b=1", "c.d=2"], ["a.b=1", "c.d=2"]),
        (["a.b=1", "custom"], ["a.b=1"]),
        (["a.b=1", "custom", "--neck-width", "1.2", "a.b=2"], ["a.b=1", "a.b=2"]),
        (
            ["custom", "--neck-width", "1.2", "1.3", "a.b_c.d=[1, 2]", "--width", "1", "e.f="],
            ["a.b_c.d=[1, 2]", "e.f="],
        ),
        (["custom", "--width", "1", "--stride", "32", "epochs=3"], ["epochs=3"]),  # load_config says what is wrong
    ],
)
def test_an_option_with_several_values_leaves_settings_alone(words, overrides):
    args = parse("scale", "search", "--out", "x", "--images", "9", *words)
    assert (args.config, args.overrides) == ("custom", overrides)
    assert args.neck_width == ([1.2, 1.3] if "1.3" in words else [1.2] if "1.2" in words else None)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("train", ["--find-lr", "a.b=1", "custom"]),
        ("search", ["--target-ms", "9", "a.b=1", "custom", "--free", "channels=32,48"]),
        ("adapt", ["--weights", "w", "a.b=1", "--target-ms", "9"]),
        ("data", ["check", "custom", "--image-size", "320", "416", "a.b=1"]),
        ("data", ["show", "--images", "3", "a.b=1", "custom"]),
        ("scale", ["budget", "--macs", "3e9", "a.b=1"]),
        ("scale", ["compare", "custom", "--out", "x", "--images", "9", "--phi", "1", "2", "a.b=1"]),
        ("config", ["--yaml", "a.b=1", "custom"]),
    ],
)
def test_every_command_with_a_config_takes_settings_anywhere(command, words):
    assert parse(command, *words).overrides == ["a.b=1"]


def test_a_setting_of_no_config_is_refused(capsys):
    assert main(["config", "train.lr=1"]) == 2
    assert "train.lr=1 needs the NAME of the config whose setting it replaces" in capsys.readouterr().err


def test_a_command_without_a_config_takes_no_settings(capsys):
    assert main(["data", "split", "photos", "--val", "0.2", "train.lr=1"]) == 2
    assert "unrecognized arguments: train.lr=1" in capsys.readouterr().err
