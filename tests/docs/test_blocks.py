"""Every code block of README.md and of docs/ does what it says; what cannot run is named in not_run.txt."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.docs.blocks import Block, BlockError, Reader, Setting, blocks, matches, needs, pages
from tests.support.commands import REPOSITORY

ALLOWED = Path(__file__).with_name("not_run.txt")
PAGES = {str(path.relative_to(REPOSITORY)): path.read_text(encoding="utf-8") for path in pages()}
BLOCKS = {name: blocks(text, name) for name, text in PAGES.items()}


@pytest.mark.parametrize("page", [name for name in PAGES if BLOCKS[name]])
def test_blocks_are_well_formed(page: str) -> None:
    for block in BLOCKS[page]:
        block.check()


def grouped(page: str) -> Any:
    """Return a page as a parameter, in the group of those tests that use the same cluster."""
    return pytest.param(page, marks=pytest.mark.xdist_group("slurm") if "slurm" in needs(PAGES[page]) else ())


@pytest.mark.parametrize("page", [grouped(name) for name in PAGES if any(block.runs for block in BLOCKS[name])])
def test_blocks_run(page: str, setting: Setting, request: pytest.FixtureRequest) -> None:
    for name in needs(PAGES[page]):
        request.getfixturevalue(f"with_{name}")
    read(BLOCKS[page], setting)


def read(page: list[Block], setting: Setting) -> None:
    """Read a page from its beginning to its end."""
    reader = Reader(setting)
    try:
        for block in page:
            reader.read(block)
    finally:
        reader.close()


def test_only_allowed_blocks_are_not_run() -> None:
    left_out = [(name, block) for name in PAGES for block in BLOCKS[name] if "not run" in block.notes]
    found = [f"{name}: {block.notes['not run']}" for name, block in left_out]
    allowed = [line for line in ALLOWED.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert sorted(found) == sorted(allowed), f"{ALLOWED.name} must list each block that is not run, with its reason"


LINK = re.compile(r"\]\((?!https?:|#|mailto:)(?P<path>[^)#\s]+)")


@pytest.mark.parametrize("page", sorted(path.name for path in REPOSITORY.glob("*.md")))
def test_links_of_the_repository_lead_somewhere(page: str) -> None:
    # Those between the pages of docs/ are checked where the site is built.
    for link in LINK.finditer((REPOSITORY / page).read_text(encoding="utf-8")):
        assert (REPOSITORY / link["path"]).exists(), f"{page} links to {link['path']}"


PAGE = """\
```sh
export NAME=world; word() { echo hello; }
```
A block that must fail:
<!-- fails: 4 -->
```sh
word; (exit 4)
```

<!-- file: greet.py -->
```python
print("written, not run")
```

```python
import os
x = os.environ["NAME"]
```
Text, and an indented block:

  ```python
  print(x)
  print("a line")
  ```
  <!-- output -->
  ```text
  world
  a ...
  ```

<!-- fails: KeyError -->
```python
{}[x]
```

```sh
word
python greet.py
```
<!-- output -->
```text
hello
written, not run
```
"""


def test_a_page_is_read_as_it_is_meant(setting: Setting) -> None:
    page = blocks(PAGE, "page")
    assert " ".join(block.language for block in page) == "sh sh python python python text python sh text"
    read(page, setting)


@pytest.mark.parametrize(
    ("wrong", "right", "complaint"),
    [
        ("fails: 4", "fails: 5", "ended with '4'"),
        ("hello", "hullo", "expected"),
        ("fails: KeyError", "fails: IndexError", "ended with 'KeyError'"),
        ("print(x)", "print(y)", "NameError"),
        ("python greet.py", "false\npython greet.py", "ended with '1'"),
        ("python greet.py", "exit 7", "ended with '7'"),
        ("print(x)", "os._exit(3)", "ended with 'exit 3'"),
    ],
)
def test_what_goes_wrong_in_a_page_is_found(wrong: str, right: str, complaint: str, setting: Setting) -> None:
    text = PAGE.replace(wrong, right, 1) if wrong != "hello" else PAGE.replace("\nhello", "\nhullo")
    with pytest.raises(BlockError, match=complaint):
        read(blocks(text, "page"), setting)


@pytest.mark.parametrize(
    "text",
    ["```bash\ntrue\n```", "```\ntrue\n```", "```toml\n[a\n```", "```json\n{a}\n```", "```python\nx = \n```",
     "```sh\nif\n```", "```xml\n<a>\n```", "<!-- notrun: x -->\n```sh\ntrue\n```"],
)  # fmt: skip
def test_a_block_that_is_not_well_formed_is_found(text: str) -> None:
    (block,) = blocks(text, "page")
    with pytest.raises(BlockError):
        block.check()


def test_a_block_without_an_end_is_found() -> None:
    with pytest.raises(BlockError, match="page:2"):
        blocks("text\n```sh\ntrue\n", "page")


def test_dots_stand_for_anything() -> None:
    assert matches("a ... c\n...e", "a b\nb c\nd e\n")
    assert matches("...\na\n...", "a")
    assert matches("...\na", "b\nc\na\n")
    assert not matches("...\na", "b\nca\n")
    assert not matches("a ... c", "a b d")
    assert not matches("a.c", "abc")
