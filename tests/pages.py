"""Pages of documentation, whose blocks run from top to bottom, as written, in one folder."""

import contextlib
import io
import re
from pathlib import Path
from typing import NamedTuple

from command_line import run


class Block(NamedTuple):
    """What stands between two fences."""

    kind: str
    text: str


def blocks(page: Path) -> list[Block]:
    """The blocks of Python and of the shell, and plain ones, which show what these print."""
    found = re.findall(
        r"^```(python|sh|text)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE
    )
    return [Block(*each) for each in found]


def commands(block: Block) -> list[str]:
    """Lines of the shell, those that go on joined."""
    return block.text.replace("\\\n", " ").splitlines()


def run_page(page: Path, folder: Path) -> list[tuple[Block, str]]:
    """Run what is not plain text, in this folder, which is the current one; what it printed."""
    names: dict[str, object] = {}
    done = []
    for block in blocks(page):
        printed = ""
        if block.kind == "python":
            with contextlib.redirect_stdout(io.StringIO()) as output:
                exec(compile(block.text, page.name, "exec"), names)
            printed = output.getvalue()
        elif block.kind == "sh":
            for line in commands(block):
                if line.startswith("skild-physics "):
                    printed += run(line.removeprefix("skild-physics "), folder).stdout
        done.append((block, printed))
    return done
