"""What setup.cfg cannot say: the wheel holds a copy of ``configs/`` as ``effdet/configs/``."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

CONFIGS = Path("configs")


class BuildWithConfigs(build_py):
    """Copy the configs beside the modules of the package; an editable install reads them where they are."""

    def run(self) -> None:
        """Build the package, then copy the configs into it."""
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib, "effdet", "configs")
            target.mkdir(parents=True, exist_ok=True)
            for file in sorted(CONFIGS.glob("*.yaml")):
                shutil.copy(file, target)


setup(cmdclass={"build_py": BuildWithConfigs})
