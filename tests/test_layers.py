"""The arrows between the rooms: a module imports from lower layers or its own folder, and Ray lives in one place."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = {
    "errors": 0,
    "records": 0,
    "resample": 0,
    "metrics": 0,
    "fields": 1,
    "archive": 1,
    "decode": 2,
    "prepare": 3,
    "cohort": 4,
    "learn": 5,
    "predict": 6,
    "search": 6,
    "report": 7,
    "phantom": 7,
    "endpoint": 8,
    "on_ray": 9,
    "config": 10,
}
MODULES = sorted((ROOT / "mri_ray").rglob("*.py"))


def imported(source: str) -> Iterator[str]:
    """Every module that a source imports, also inside functions; `from a import b` counts as a and as a.b."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written in full"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "mri_ray" and len(parts) > 1 and parts[1] in LAYERS else None


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_downwards(path):
    own = room(name_of(path))
    if own is None:
        assert name_of(path) == "mri_ray"
        return
    for module in imported(path.read_text()):
        other = room(module)
        if other is not None and other != own:
            assert LAYERS[other] < LAYERS[own] or LAYERS[own] == LAYERS[other] == 0, f"{own} must not import {module}"


def test_no_cycles_between_modules():
    names = {name_of(path): path for path in MODULES}
    arrows = {name: {m for m in imported(path.read_text()) if m in names} - {name} for name, path in names.items()}
    while arrows:
        free = {name for name, targets in arrows.items() if not targets & arrows.keys()}
        assert free, f"an import cycle among {sorted(arrows)}"
        arrows = {name: targets for name, targets in arrows.items() if name not in free}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_on_ray_imports_ray(path):
    uses = any(module.split(".")[0] == "ray" for module in imported(path.read_text()))
    assert not uses or name_of(path).startswith("mri_ray.on_ray.")


def test_settings_and_config_need_no_ray():
    """A config is checked before Ray starts, so checking must not load it."""
    import subprocess
    import sys

    code = "import sys, mri_ray.config; raise SystemExit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("path", sorted((ROOT / "jobs").glob("*.py")), ids=lambda path: path.stem)
def test_entry_points_are_short_and_do_nothing_at_import(path):
    source = path.read_text()
    assert len(source.splitlines()) < 40
    allowed = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.Assign)
    for node in ast.parse(source).body:
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        guard = isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)
        assert isinstance(node, allowed) or docstring or guard, ast.unparse(node)
