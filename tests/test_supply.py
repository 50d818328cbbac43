"""What is installed with secateur: few libraries, each with a reason and a licence that is known; and quick imports."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(
    not (ROOT / "pyproject.toml").is_file(),
    reason="pyproject.toml is not beside the tests, as where they are installed",
)

PERMISSIVE = re.compile(
    r"MIT|BSD|Apache|ISC|PSF|Python Software Foundation|MPL|Mozilla|Unlicense|Zlib|HPND|CNRI|0BSD|LGPL|Boost", re.I
)
QUICK = 0.3
"""Seconds beyond torch's own import, and for the help; of the processor, as other processes may be at work."""


def declared() -> tuple[list[str], dict[str, list[str]]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["dependencies"], project["optional-dependencies"]


def name_of(requirement: str) -> str:
    matched = re.match(r"[A-Za-z0-9_.-]+", requirement)
    assert matched
    return matched[0].lower().replace("_", "-")


def closure() -> dict[str, str]:
    """Every library that an install of the core and its extras brings and that is here, with its licence."""
    core, extras = declared()
    waiting = [name_of(text) for text in [*core, *(text for texts in extras.values() for text in texts)]]
    licences: dict[str, str] = {}
    while waiting:
        name = waiting.pop()
        if name in licences or name == "secateur":
            continue
        try:
            about = distribution(name)
        except PackageNotFoundError:
            continue
        texts = [about.metadata.get(key) or "" for key in ("License-Expression", "License")]
        classifiers = [text for text in about.metadata.get_all("Classifier") or [] if text.startswith("License")]
        licences[name] = " ".join([*classifiers, *(text[:200] for text in texts)])
        waiting += [name_of(text) for text in about.requires or [] if "extra ==" not in text]
    return licences


def test_every_core_dependency_is_justified() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = text.partition("## What it stands on")[2].partition("\n## ")[0]
    core, _ = declared()
    assert {name_of(text) for text in core} == set(re.findall(r"^\| `([a-z]+)` \|", section, re.M))


def test_every_requirement_has_a_lower_bound_or_is_known() -> None:
    core, extras = declared()
    unbounded = [text for text in core if not re.search(r">=|==", text)]
    assert not unbounded
    assert all(
        re.search(r">=|==", text)
        for name, texts in extras.items()
        if name not in ("all", "bench", "dev", "site")
        for text in texts
    )


def test_licences_are_known_and_permissive() -> None:
    """Those of NVIDIA's own libraries, which torch's wheels for its devices bring, are NVIDIA's."""
    wrong = {
        name: text
        for name, text in closure().items()
        if not PERMISSIVE.search(text) and not name.startswith(("nvidia-", "cuda-", "triton")) and text.strip()
    }
    assert not wrong


def test_the_versions_that_are_tested_are_written_down() -> None:
    """What `make` installs is pinned, each library once."""
    lines = [
        line.partition("#")[0].strip() for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    ]
    pins = [line for line in lines if line]
    assert all("==" in line for line in pins)
    names = [name_of(line) for line in pins]
    assert len(names) == len(set(names))
    core, _ = declared()
    assert {name_of(text) for text in core} <= set(names)


def test_what_is_installed_fits_together() -> None:
    """As `pip check` says, which needs no network."""
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    ours = [line for line in done.stdout.splitlines() if line.startswith("secateur ")]
    assert not ours


def seconds(code: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *code], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_importing_it_is_quick_beyond_torch() -> None:
    code = "import torch, time; t = time.process_time(); import secateur; print(time.process_time() - t)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert float(done.stdout) < QUICK


def test_the_help_is_quick() -> None:
    assert min(seconds(["-m", "secateur", "--help"]) for _ in range(2)) < QUICK


@pytest.mark.parametrize(
    "module", ["sklearn", "matplotlib", "pandas", "onnx", "PIL", "scipy", "jinja2", "mlxtend", "ray"]
)
def test_extras_are_imported_only_where_they_are_used(module: str) -> None:
    code = (
        "import sys, torch, numpy; before = set(sys.modules); import secateur as sc; "
        f"[getattr(sc, name) for name in sc.__all__]; sys.exit({module!r} in set(sys.modules) - before)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


def test_a_library_that_reports_to_its_makers_is_imported_without() -> None:
    """OpenVINO's converter tells of each conversion, unless the user has said no; the import of what sends is blocked."""
    script = (
        "import sys\nfrom secateur.files import require\nfrom secateur.types import MissingLibraryError\n"
        "try:\n    require('openvino', 'openvino')\n    from openvino.tools.ovc import telemetry_utils\n"
        "    print(telemetry_utils.tm.__name__)\n"
        "except MissingLibraryError:\n    print('openvino.tools.ovc.telemetry_stub')\n"
        "print(sys.modules['openvino_telemetry'])"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["openvino.tools.ovc.telemetry_stub", "None"]
