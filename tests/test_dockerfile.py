"""The Dockerfile without Docker: what it copies is there, and it installs what setup.cfg knows."""

import configparser
import re
import shlex
import subprocess
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
LINES = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", "").splitlines()
ARGUMENTS = dict(line.removeprefix("ARG ").split("=", 1) for line in LINES if line.startswith("ARG "))
PARTS = ("options", "options.extras_require", "options.packages.find")


@pytest.fixture(scope="module")
def setup():
    found = configparser.ConfigParser()
    found.read(ROOT / "setup.cfg", encoding="utf-8")
    return {part: found[part] for part in PARTS}


def _pip_lines(**arguments):
    """The words of each call of pip, as the shell of the image makes them of its arguments."""
    lines = [line.removeprefix("RUN ") for line in LINES if line.startswith("RUN pip ")]
    lines = [command.strip() for line in lines for command in line.split("&&")]
    environment = {"PATH": "/usr/bin:/bin", **ARGUMENTS, **arguments}
    found = []
    for line in lines:
        printed = subprocess.run(
            ["sh", "-euc", line.replace("pip ", "printf '%s\\n' ", 1)],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
        )
        found.append(printed.stdout.splitlines())
    return found


def test_what_is_copied_is_there_and_is_all_that_is_installed(setup):
    copied = {word for line in LINES if line.startswith("COPY ") for word in shlex.split(line)[1:-1]}
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    sent = {line.removeprefix("!") for line in ignore if line.startswith("!")}
    assert ignore[0] == "*"
    assert copied == sent
    assert all((ROOT / name).exists() for name in copied)
    packages = setup["options.packages.find"]["include"].split()
    assert all(any(fnmatch(name, pattern) for name in copied) for pattern in packages)


def test_the_index_alone_is_asked_unless_another_is_named():
    first, second, *_ = _pip_lines()
    assert first == ["install", "--no-cache-dir", "torch", "torchvision"]
    assert second == ["install", "--no-cache-dir", f".[{ARGUMENTS['EXTRAS']}]"]
    first, again, *_ = _pip_lines(TORCH_INDEX="https://x.test/whl/cpu")
    assert first[2:] == ["--index-url", "https://x.test/whl/cpu", "torch", "torchvision"]
    assert again == second


def test_extras_are_those_of_the_package_and_can_be_had_together(setup):
    extras = setup["options.extras_require"]
    wanted = ARGUMENTS["EXTRAS"].split(",")
    assert set(wanted) <= set(extras)
    lines = "\n".join([setup["options"]["install_requires"], *(extras[name] for name in wanted)])
    for requirement in map(Requirement, filter(None, lines.splitlines())):
        if requirement.marker is None or requirement.marker.evaluate():
            try:
                version = metadata.version(requirement.name)
            except metadata.PackageNotFoundError:
                continue
            assert requirement.specifier.contains(version), str(requirement)


def test_opencv_is_the_one_that_needs_no_libraries_for_windows():
    """What brings the other one overwrites its files, so those are written again once the other is gone."""
    *_, gone, again = _pip_lines()
    assert gone == ["uninstall", "--yes", "opencv-python"]
    assert again == [
        "install", "--no-cache-dir", "--no-deps", "--force-reinstall", "opencv-python-headless"
    ]  # fmt: skip


def test_the_python_of_the_image_is_one_that_the_package_takes(setup):
    (image,) = re.findall(r"^FROM python:([\d.]+)-slim$", "\n".join(LINES), flags=re.M)
    assert Requirement(f"python{setup['options']['python_requires']}").specifier.contains(image)
