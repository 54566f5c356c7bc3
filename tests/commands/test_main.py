import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

import effdet.commands
from effdet.commands import COMMANDS, main, program
from effdet.config import ConfigError, load_config

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"torch", "torchvision", "numpy", "cv2", "albumentations", "timm", "scipy", "matplotlib", "pycocotools"}
RUN_AND_LIST_MODULES = """
import sys
from effdet.commands import main
status = main({argv!r})
print("loaded:", *sorted({{name.partition(".")[0] for name in sys.modules}}))
sys.exit(status)
"""


@pytest.fixture
def command(monkeypatch):
    """Put a command of our own in the place of `train`; its `run` is the function given."""

    def replace(run):
        module = types.ModuleType("effdet.commands.train")
        module.parser = lambda: effdet.commands.argparse.ArgumentParser()
        module.run = run
        monkeypatch.setitem(sys.modules, "effdet.commands.train", module)

    return replace


def test_a_tilde_behind_an_equals_sign_is_the_home_folder(command, monkeypatch, capsys):
    def run(args):
        print(*args.words, sep="|")
        return 0

    def parser():
        result = effdet.commands.argparse.ArgumentParser()
        result.add_argument("--out", dest="words", action="append")
        result.add_argument("words", nargs="*", action="extend")
        return result

    command(run)
    monkeypatch.setattr(sys.modules["effdet.commands.train"], "parser", parser)
    monkeypatch.setenv("HOME", "/house")
    assert main(["train", "--out=~/a", "--out", "~/b", "--out=x~/c", "~", "key=~/d", "~e"]) == 0
    assert capsys.readouterr().out == "/house/a|/house/b|x~/c|/house|key=~/d|~e\n"


def python(*arguments, cwd=ROOT):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=cwd, timeout=120)


def commands_present():
    return [name for name in COMMANDS if (ROOT / "effdet" / "commands" / f"{name}.py").exists()]


@pytest.mark.parametrize("argv", [["--help"], *([name, "--help"] for name in commands_present())], ids=" ".join)
def test_help_imports_nothing_heavy(argv):
    done = python("-c", RUN_AND_LIST_MODULES.format(argv=argv))
    loaded = done.stdout.partition("loaded:")[2].split()
    assert done.returncode == 0, done.stderr
    assert "effdet" in loaded
    assert HEAVY.isdisjoint(loaded)


@pytest.mark.parametrize("name", commands_present())
def test_a_tool_calls_itself_by_its_file_and_runs_from_any_folder(name, tmp_path):
    done = python(str(ROOT / "tools" / f"{name}.py"), "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: tools/{name}.py")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_tool_exists_for_every_command_and_prefers_its_own_clone(name):
    text = (ROOT / "tools" / f"{name}.py").read_text()
    assert "sys.path.insert(0, str(Path(__file__).resolve().parents[1]))" in text
    assert f'main(["{name}", *sys.argv[1:]])' in text


def test_front_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name.replace('_', '-')} " in text for name in COMMANDS)


def test_no_arguments_print_the_help(capsys):
    assert main([]) == 0
    assert capsys.readouterr().out.startswith("usage: effdet")


def test_an_unknown_command_is_a_usage_error(capsys):
    assert main(["trian"]) == 2
    assert "invalid choice: 'trian'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["inspect-data", "inspect_data"])
def test_a_command_may_have_hyphens_or_underscores(name, capsys):
    assert main([name, "--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: effdet inspect-data")


def test_an_unknown_option_is_a_usage_error(command, capsys):
    command(lambda args: 0)
    assert main(["train", "--no-such-option"]) == 2
    assert "effdet train: error: unrecognized arguments: --no-such-option" in capsys.readouterr().err


def test_the_status_of_the_command_is_returned(command):
    command(lambda args: 1)
    assert main(["train"]) == 1


def test_program_name_follows_the_script(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/tools/train.py"])
    assert program("train") == "tools/train.py"
    assert program("evaluate") == "effdet evaluate"
    monkeypatch.setattr(sys, "argv", ["/usr/bin/effdet"])
    assert program("train") == "effdet train"


def test_a_config_error_is_a_usage_error_in_one_sentence(command, capsys, tmp_path):
    (tmp_path / "bad.yaml").write_text("train: {epoch: 3}\n")
    command(lambda args: load_config(tmp_path / "bad.yaml"))
    assert main(["train"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("effdet train: error: ")
    assert error.endswith("unknown key 'epoch'; did you mean 'epochs'?\n")
    assert error.count("\n") == 1


def test_a_missing_file_is_one_sentence_with_its_name(command, capsys, tmp_path):
    command(lambda args: (tmp_path / "gone.txt").read_text())
    assert main(["train"]) == 1
    assert capsys.readouterr().err == f"effdet train: error: {tmp_path / 'gone.txt'}: No such file or directory\n"


@pytest.mark.parametrize("kind", [ValueError, FloatingPointError, RuntimeError, ImportError, ConfigError])
def test_an_error_that_the_package_raises_is_one_sentence(command, capsys, kind):
    raising = compile(f"def run(args):\n    raise {kind.__name__}('what must hold')", effdet.commands.__file__, "exec")
    names = {"ConfigError": ConfigError}
    exec(raising, names)
    command(names["run"])
    assert main(["train"]) == (2 if kind is ConfigError else 1)
    assert capsys.readouterr().err == "effdet train: error: what must hold\n"


@pytest.mark.parametrize("kind", [KeyError, TypeError, AssertionError, NotImplementedError, ValueError, RuntimeError])
def test_a_programming_error_keeps_its_traceback(command, kind):
    def run(args):  # raised outside the package, as by a library that was called wrongly
        raise kind("shapes differ")

    command(run)
    with pytest.raises(kind, match="shapes differ"):
        main(["train"])


def test_a_missing_module_of_our_own_keeps_its_traceback(command):
    def run(args):
        import effdet.no_such_room  # noqa: F401

    command(run)
    with pytest.raises(ModuleNotFoundError, match="no_such_room"):
        main(["train"])


def test_a_full_gpu_is_one_sentence(command, capsys):
    def run(args):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB")

    command(run)
    assert main(["train"]) == 1
    assert "error: the GPU has too little memory for this; a smaller batch size" in capsys.readouterr().err


def test_ctrl_c_is_status_130_without_a_traceback(command, capsys):
    def run(args):
        raise KeyboardInterrupt

    command(run)
    assert main(["train"]) == 130
    assert capsys.readouterr().err == "effdet train: interrupted\n"


def test_log_lines_go_to_stderr_while_a_command_runs(command, capsys):
    logger = effdet.commands.logging.getLogger("effdet.somewhere")

    def run(args):
        logger.info("half way")
        return 0

    command(run)
    assert main(["train"]) == 0
    logger.warning("after")
    assert capsys.readouterr() == ("", "half way\n")


def test_a_reader_that_goes_away_is_no_error_message():
    script = "import sys; from effdet.commands import main; sys.exit(main(['inspect_data', '--help']))"
    done = subprocess.run(
        f'"{sys.executable}" -c "{script}" | true', shell=True, capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert done.stderr == ""


def test_a_broken_pipe_that_is_not_stdout_is_reported(command, capsys):
    def run(args):
        raise BrokenPipeError(32, "Broken pipe")

    command(run)
    assert main(["train"]) == 1
    assert capsys.readouterr().err == "effdet train: error: [Errno 32] Broken pipe\n"


COMMAND_OF_OUR_OWN = """
import argparse, logging, os, sys, types
from effdet.commands import main
def run(args):
    sys.stdin.readline()  # until the reader of stderr has gone
    for _ in range(3):
        logging.getLogger("effdet").info("a line")
        print("another", file=sys.stderr)
    print("größe 红细胞")
    return 0
module = types.ModuleType("effdet.commands.train")
module.parser, module.run = argparse.ArgumentParser, run
sys.modules["effdet.commands.train"] = module
sys.exit(main(["train"]))
"""


def test_a_reader_of_stderr_that_goes_away_does_not_end_the_command():
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-c", COMMAND_OF_OUR_OWN]
    with subprocess.Popen(command, **pipes, cwd=ROOT, env=environment) as process:
        process.stderr.close()
        process.stdin.write(b"\n")
        process.stdin.close()
        assert process.stdout.read() == rb"gr\xf6\xdfe \u7ea2\u7ec6\u80de" + b"\n"
    assert process.returncode == 0


def test_a_module_of_the_package_is_the_command_line():
    done = python("-m", "effdet", "--version")
    assert done.stdout == f"effdet {effdet.__version__}\n"
    assert python("-m", "effdet", "trian").returncode == 2


CLOSED = """
import os, sys
from pathlib import Path
from effdet.commands import main
import types
def run(args):
    print("to stdout")
    print("to stderr", file=sys.stderr)
    with open(sys.argv[1], "w") as file:
        os.write(1, b"a library's word")
        os.write(2, b"a library's word")
        file.write(f"{file.fileno()} {sys.stdin.read()!r}")
    return 0
import argparse
module = types.ModuleType("effdet.commands.train")
module.parser, module.run = argparse.ArgumentParser, run
sys.modules["effdet.commands.train"] = module
sys.exit(main(["train"]))
"""


@pytest.mark.skipif(os.name != "posix", reason="closes streams by a POSIX shell")
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_take_no_file(tmp_path, closed):
    (tmp_path / "run.py").write_text(CLOSED)
    command = f"'{sys.executable}' '{tmp_path}/run.py' '{tmp_path}/file' {closed}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, env=environment, input="", text=True, capture_output=True)
    assert done.returncode == 0
    assert "Error" not in done.stderr
    number, _, rest = (tmp_path / "file").read_text().partition(" ")
    assert int(number) > 2
    assert rest == "''"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device /dev/full")
def test_a_full_disk_under_stdout_is_one_sentence():
    script = COMMAND_OF_OUR_OWN.replace("range(3)", "range(0)")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", script], input="", stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT
        )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("effdet")
    assert line.endswith("No space left on device")


def test_a_reader_of_stdout_that_goes_away_ends_the_command_without_a_word():
    script = COMMAND_OF_OUR_OWN.replace("range(3)", "range(0)").replace('"größe 红细胞"', '"x" * 1_000_000')
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", script], **pipes, cwd=ROOT) as process:
        process.stdout.close()
        process.stdin.write(b"\n")
        process.stdin.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_a_command_without_output_does_not_mind_that_nobody_reads_stdout_and_stderr():
    """As ``effdet train ... 2>&1 | head -1`` is called."""
    script = COMMAND_OF_OUR_OWN.replace('    print("größe 红细胞")', "")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen([sys.executable, "-c", script], **pipes, cwd=ROOT) as process:
        process.stdout.close()
        process.stdin.write(b"\n")
        process.stdin.close()
    assert process.returncode == 0
