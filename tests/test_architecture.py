"""The structure of the project: imports between folders, file sizes, docstrings, and configs as plain data."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "semask_d2"
MODULES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted(
    path for folder in (".", "demo", "datasets", "tools", "benchmarks", "docs") for path in (ROOT / folder).glob("*.py")
)
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))

# A folder of the package imports only from folders in earlier lines, and from folders in the same line if that makes no
# cycle. The folders of `modeling` are named without it.
LINES = (
    ("utils", "version"),
    ("kernels",),
    ("d2", "layers"),
    ("config", "checkpoint", "backbones", "pixel_decoders", "transformer_decoders"),
    ("heads", "losses"),
    ("meta_arch",),
    ("modeling", "postprocessing"),
    ("data",),
    ("export",),
    ("evaluation", "inference"),
    ("factory",),
    ("report",),
    ("engine",),
    ("commands",),
    ("semask_d2",),  # the package's own __init__
    ("__main__",),
)
LINE_OF_FOLDER = {folder: number for number, folders in enumerate(LINES) for folder in folders}
MAX_LINES = 400
# first words of a docstring that opens with neither a verb nor a noun
WRONG_OPENINGS = ("As", "How", "That", "Those", "What", "When", "Where", "Whether", "Which", "Who")
TEMPORARY = (  # files and folders whose docstrings are still to be reworded
    "docs/lazy_model.py",
    "semask_d2/checkpoint",
    "semask_d2/config/checks.py",
    *(f"semask_d2/data/{name}.py" for name in ("check_page", "checking", "image_io", "labels", "mapper", "sampler")),
    *(f"semask_d2/data/{name}.py" for name in ("segment_mapper", "statistics", "workers")),
    *(f"semask_d2/engine/{name}.py" for name in ("hooks", "launch", "step")),
    "semask_d2/evaluation",
    "semask_d2/export",
    "semask_d2/modeling",
    *(f"semask_d2/utils/{name}.py" for name in ("memory", "segment_drawing")),
)


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


def folder_of(module: str) -> str:
    """Return the folder of a dotted name: `layers` for `semask_d2.modeling.layers.conv`."""
    parts = module.split(".")
    if len(parts) > 2 and parts[1] == "modeling":
        return parts[2]
    return parts[1] if len(parts) > 1 else parts[0]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    """Return the absolute dotted names of all modules that a file imports, anywhere in it."""
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
            for alias in node.names:
                name = f"{base}.{alias.name}"
                is_module = (ROOT / name.replace(".", "/")).is_dir() or (
                    ROOT / f"{name.replace('.', '/')}.py"
                ).is_file()
                names.add(name if is_module else base)
    return names


def imported_folders(path: Path) -> set[str]:
    """Return the other folders of the package that a file imports from."""
    folders = {folder_of(name) for name in imports(path) if name.split(".")[0] == "semask_d2"}
    return folders - {folder_of(module_name(path))}


def test_every_folder_has_a_line() -> None:
    assert {folder_of(module_name(path)) for path in MODULES} == LINE_OF_FOLDER.keys()


@pytest.mark.parametrize("path", MODULES, ids=label)
def test_imports_run_one_way(path: Path) -> None:
    line = LINE_OF_FOLDER[folder_of(module_name(path))]
    backwards = {folder for folder in imported_folders(path) if LINE_OF_FOLDER[folder] > line}
    assert not backwards


def test_imports_between_folders_make_no_cycle() -> None:
    edges: dict[str, set[str]] = {folder: set() for folder in LINE_OF_FOLDER}
    for path in MODULES:
        edges[folder_of(module_name(path))] |= imported_folders(path)
    done: set[str] = set()
    while ready := {folder for folder in edges.keys() - done if edges[folder] <= done}:
        done |= ready
    assert not edges.keys() - done


@pytest.mark.parametrize("path", [*MODULES, *SCRIPTS], ids=label)
def test_only_d2_imports_detectron2(path: Path) -> None:
    if not path.is_relative_to(PACKAGE / "d2"):
        assert "detectron2" not in {name.split(".")[0] for name in imports(path)}
        assert not imported_by_name(path) & {"detectron2"}


def imported_by_name(path: Path) -> set[str]:
    """Return the packages that a file imports with `import_module("...")` or `__import__("...")`."""
    packages = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if function in ("import_module", "__import__"):
                packages.add(str(node.args[0].value).split(".")[0])
    return packages


def test_imports_by_name_are_seen(tmp_path: Path) -> None:
    source = tmp_path / "x.py"
    source.write_text(
        "importlib.import_module('one.two')\n__import__('three')\nimport_module('four', x)\nprint('five')\n"
    )
    assert imported_by_name(source) == {"one", "three", "four"}


@pytest.mark.parametrize(
    "path", sorted(x for name in ("kernels", "layers") for x in (PACKAGE / "modeling" / name).glob("*.py")), ids=label
)
def test_kernels_and_layers_know_only_torch(path: Path) -> None:
    """Check imports: kernels may also use Triton, which comes with torch on Linux, and both may use UserError."""
    allowed = {"torch", "torchvision", *sys.stdlib_module_names}
    project_modules = ["semask_d2.modeling.kernels", "semask_d2.utils.errors"]
    if path.parent.name == "kernels":
        allowed |= {"triton"}
    else:
        project_modules += ["semask_d2.modeling.layers"]
    for name in imports(path):
        assert name.split(".")[0] in allowed or name.startswith(tuple(project_modules)), name


@pytest.mark.parametrize("path", sorted((PACKAGE / "modeling/kernels").glob("plain_*.py")), ids=label)
def test_formulas_read_alone(path: Path) -> None:
    """Check that a plain formula imports `grid_sample` and no faster implementation of itself."""
    used = {name for name in imports(path) if name.startswith("semask_d2")}
    assert used == {"semask_d2.modeling.kernels.grid_sample"}


@pytest.mark.parametrize("path", [*MODULES, *SCRIPTS], ids=label)
def test_files_are_short_and_say_what_they_are_for(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_LINES
    assert ast.get_docstring(ast.parse(text)), "no module docstring"


# except toy_painter's brushes, which are named after what they draw
@pytest.mark.parametrize("path", [path for path in MODULES if path.name != "toy_painter.py"], ids=label)
def test_public_classes_and_functions_have_a_docstring(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), node.name


def wrong_openings(text: str) -> list[str]:
    """Return the first lines of a module's docstrings that open with one of WRONG_OPENINGS."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = [ast.get_docstring(node) for node in ast.walk(ast.parse(text)) if isinstance(node, kinds)]
    pattern = re.compile(rf"({'|'.join(WRONG_OPENINGS)})\b")
    return [docstring.split("\n")[0] for docstring in docstrings if docstring and pattern.match(docstring)]


@pytest.mark.parametrize(
    "path", [path for path in (*MODULES, *SCRIPTS) if not label(path).startswith(TEMPORARY)], ids=label
)
def test_docstrings_open_with_a_verb_or_a_noun(path: Path) -> None:
    assert not wrong_openings(path.read_text(encoding="utf-8"))


def test_wrong_openings_are_recognized() -> None:
    functions = 'class A:\n    """Whether."""\n    def f(self):\n        """As `g`.\n\n        x"""\n'
    source = f'"""How it works."""\n{functions}'
    assert wrong_openings(source) == ["How it works.", "Whether.", "As `g`."]
    assert not wrong_openings('"""Assets of a page."""\ndef f():\n    """Return whether it is."""\n')


@pytest.mark.parametrize("path", TEMPORARY)
def test_temporary_exemptions_exist(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize("path", CONFIGS, ids=label)
def test_configs_are_plain_data(path: Path) -> None:
    tokens = yaml.scan(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    assert not [token.value for token in tokens if isinstance(token, yaml.TagToken)]


def test_files_and_imports_are_found() -> None:
    assert len(MODULES) > 40
    assert len(CONFIGS) > 5
    assert ROOT / "train_net.py" in SCRIPTS
    assert "detectron2" in {name.split(".")[0] for name in imports(PACKAGE / "d2/real.py")}
    assert imported_folders(PACKAGE / "modeling/heads/mask_former_head.py") >= {"d2", "pixel_decoders"}
