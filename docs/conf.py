"""Sphinx builds the pages of this folder; `make docs` does, with warnings as errors."""

import ast
import hashlib
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from docutils import nodes
from pydantic import BaseModel
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from skild_physics.config import Config, load_config, shipped_names
from skild_physics.version import __version__

ROOT = Path(__file__).parents[1]


def _digest() -> str:
    """Of all code that notebooks run."""
    found = hashlib.sha256()
    for folder in ("skild_physics", "cli", "data_gen"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            found.update(path.read_bytes())
    return found.hexdigest()[:16]


project = "skild_physics"
author = "skild_physics developers"
copyright = "2026, the skild_physics authors"
release = version = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click"]
# what stands between single backticks in docstrings
default_role = "code"
html_theme = "furo"
html_title = f"skild_physics {release}"
# nothing is fetched from elsewhere, neither by the build nor by a reader
html_theme_options = {"top_of_page_buttons": []}

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
# tutorials are notebooks, run here, each in an empty folder; what they showed is kept until they
# or the package change
nb_execution_mode = "cache"
nb_execution_cache_path = str(ROOT / "build" / "notebooks" / _digest())
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 600
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False


def _described(section: type[BaseModel]) -> dict[str, str]:
    """What is said of each key, in the docstrings that follow them, here or in a base class."""
    found: dict[str, str] = {}
    for each in reversed(section.__mro__):
        if not issubclass(each, BaseModel) or each is BaseModel:
            continue
        body = ast.parse(inspect.cleandoc("\n" + inspect.getsource(each))).body[0]
        assert isinstance(body, ast.ClassDef)
        for first, second in zip(body.body, body.body[1:], strict=False):
            if not isinstance(first, ast.AnnAssign) or not isinstance(first.target, ast.Name):
                continue
            if isinstance(second, ast.Expr) and isinstance(second.value, ast.Constant):
                found[first.target.id] = " ".join(str(second.value.value).split())
    return found


def _plain(text: str) -> str:
    """For a cell of a table in Markdown: without the roles of reStructuredText."""
    return re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text).replace("|", r"\|")


def _toml(value: Any) -> str:
    """A default as it would stand in a file."""
    return json.dumps(value, default=str)


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    """The tables of the configuration that a key may hold."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _sections(part)


def _tables(section: type[BaseModel], name: str) -> Iterator[str]:
    """A table of keys in Markdown for a table of the configuration and for all within it."""
    about, within, rows = _described(section), [], []
    for key, field in section.model_fields.items():
        path = f"{name}.{key}" if name else key
        tables = list(_sections(field.annotation))
        within += [(each, path) for each in tables]
        default = "required" if field.is_required() else ""
        if not (field.is_required() or field.default is None or tables):
            default = f"`{_toml(field.default)}`"
        text = about.get(key, "a table, below" if tables else "")
        rows.append(f"| `{key}` | {default} | {_plain(text)} |")
    title = f"[{name}]" if name else "The file"
    kind = str(section.model_fields["kind"].default) if "kind" in section.model_fields else ""
    shown = get_args(section.model_fields["kind"].annotation) if kind else ()
    heading = f"## {title}" + (f', `kind = "{shown[0]}"`' if shown else "")
    first = (section.__doc__ or "").split("\n\n")[0]
    yield "\n".join([heading, "", first, "", "| key | default | |", "|---|---|---|", *rows, ""])
    for each, path in within:
        yield from _tables(each, path)


class ConfigurationKeys(SphinxDirective):
    """All keys of a configuration, from the classes that read them."""

    def run(self) -> list[nodes.Node]:
        """Sections of a page."""
        text = "\n".join(_tables(Config, ""))
        return self.parse_text_to_nodes(text, allow_section_headings=True)


class ShippedConfigurations(SphinxDirective):
    """The configurations that come with the package."""

    def run(self) -> list[nodes.Node]:
        """A table."""
        rows = ["| name | process | network |", "|---|---|---|"]
        for name in shipped_names():
            config = load_config(name)
            rows.append(f"| `{name}` | {config.kind} | {config.network.kind} |")
        return self.parse_text_to_nodes("\n".join(rows))


def setup(app: Sphinx) -> None:
    """Add what these pages need."""
    app.add_directive("configuration-keys", ConfigurationKeys)
    app.add_directive("shipped-configurations", ShippedConfigurations)
