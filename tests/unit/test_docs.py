"""The documents say what is: links lead somewhere, tests and options that are named exist, none is missing.

``python -m tests.unit.test_docs --write`` writes the parts of docs/cli.md that are made from the parser.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

import insula
import insula.lambda_api.operations  # registers all errors
from insula.cli.main import _parser
from insula.dispatch.report import exited, oversize_document, timed_out
from insula.model import limits
from insula.model.errors import AccessError, LambdaError
from insula.sandbox.driver import Exit

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("bench/*.md")])
CLI = ROOT / "docs/cli.md"
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")
_GENERATED = re.compile(r"<!-- (insula[a-z ]*) -->\n(.*?)<!-- end -->", re.DOTALL)
_FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def _links(document: Path) -> Iterator[tuple[str, str]]:
    """Text and target of every relative link."""
    for text, target in _LINK.findall(_FENCE.sub("", document.read_text())):
        if "://" not in target:
            yield text, target


@cache
def _anchors(document: Path) -> frozenset[str]:
    """Names of a document's headings, made as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", document.read_text()), re.MULTILINE)
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)


@cache
def _tests(path: Path) -> frozenset[str]:
    """Names of a file's test functions."""
    nodes = ast.parse(path.read_text()).body
    return frozenset(node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_somewhere(document: Path) -> None:
    for _, target in _links(document):
        name, _, anchor = target.partition("#")
        found = (document.parent / name).resolve() if name else document
        assert found.exists(), target
        assert not anchor or anchor in _anchors(found), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_tests_that_are_named_exist(document: Path) -> None:
    for text, target in _links(document):
        if text.startswith("test_"):
            assert text in _tests((document.parent / target).resolve()), f"{target}::{text}"


def _two(make: Callable[[], Any]) -> list[Any]:
    """Empty results of an endpoint and of the floor."""
    return [make(), make()]


def test_every_promise_names_a_test_or_says_that_none_checks_it() -> None:
    text = (ROOT / "SPECIFICATION.md").read_text().partition("## Not built yet")[0]
    promises = re.split(r"^\*\*([A-Z]\d+)\. ", text, flags=re.MULTILINE)[1:]
    assert len(promises) > 20
    for name, promise in zip(promises[::2], promises[1::2], strict=True):
        assert "](tests/" in promise or "*not checked yet*" in promise, name


def test_benchmark_rows_that_are_named_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    with mock.patch.dict(sys.modules):  # the benchmark's modules have short names: none stays
        measure, report, target = (importlib.import_module(name) for name in ("measure", "report", "target"))
    tenants = {handler: _two(measure.NewTenants) for handler in target.HANDLERS}
    results = report.Results(("a", "b"), _two(measure.Loads), tenants, _two(measure.NewTenants), _two(measure.Crowd))
    rows = {line.split(" | ")[0].removeprefix("| ") for line in report.markdown(results, {}).splitlines()}
    targets = re.findall(r"^\| \*\*P\d\*\*.*", (ROOT / "SPECIFICATION.md").read_text(), re.MULTILINE)
    named = [row for line in targets for row in re.findall(r"`([^`]+)`", line)]
    assert len(named) > 5
    assert set(named) <= rows


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_make_targets_that_are_named_exist(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|&& |^)make ([a-z-]+)", document.read_text(), re.MULTILINE)) <= targets


def test_the_newest_version_of_the_changelog_is_this_one() -> None:
    versions = re.findall(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == insula.__version__


def test_every_error_is_documented_with_its_status() -> None:
    classes = (each for each in LambdaError.registry.values() if each.__module__.startswith("insula."))
    wanted = {(each.code, str(each.status)) for each in classes if each is not AccessError}
    text = (ROOT / "docs/errors.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \| (\d{3}) \|", text, re.MULTILINE)) == wanted


def test_every_error_document_of_the_platform_is_documented() -> None:
    text = (ROOT / "docs/errors.md").read_text()
    for failure in (timed_out(1), exited(Exit(1, None)), exited(Exit(None, 9, out_of_memory=True))):
        assert f"`{failure.kind}`" in text
    assert json.loads(oversize_document())["errorType"] in text


@pytest.mark.parametrize(
    "number",
    [
        limits.CREATE_REQUEST_BYTES,
        limits.ENVIRONMENT_BYTES,
        limits.MEMORY_PER_VCPU_MB,
        limits.PROCESSES,
        limits.FILE_DESCRIPTORS,
        limits.TENANT_ENVIRONMENTS_PER_THOUSAND,
        limits.ACCOUNT_CONCURRENCY,
        limits.MAX_TAGS,
    ],
)
def test_limits_are_documented_as_they_are(number: int) -> None:
    assert re.search(rf"(?<![\d,]){number:,}(?![\d,])", (ROOT / "docs/behavior.md").read_text())


def test_every_package_is_on_the_map() -> None:
    source = ROOT / "src/insula"
    parts = [*(path.parent for path in source.glob("*/__init__.py")), *source.glob("[a-z]*.py")]
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert [part.name for part in parts if f"`{part.relative_to(ROOT)}`" not in text] == []


def test_the_command_line_is_documented() -> None:
    text = CLI.read_text()
    assert set(re.findall(r"<!-- (insula[a-z ]*) -->", text)) == set(_parsers())
    assert _generate(text) == text, "run: python -m tests.unit.test_docs --write"


def _parsers() -> dict[str, argparse.ArgumentParser]:
    """The parser of each command, by the words that call it."""
    # The default of --data-dir is the user's own.
    with mock.patch.dict(os.environ, {"INSULA_DATA_DIR": "~/.local/share/insula"}):
        top = _parser()
    commands = next(action for action in top._actions if isinstance(action, argparse._SubParsersAction))
    return {"insula": top, **{f"insula {name}": parser for name, parser in commands.choices.items()}}


def _generate(text: str) -> str:
    """The document with its generated parts made anew."""
    parsers = _parsers()
    return _GENERATED.sub(lambda m: f"<!-- {m[1]} -->\n{_describe(m[1], parsers[m[1]])}<!-- end -->", text)


def _describe(name: str, parser: argparse.ArgumentParser) -> str:
    """Arguments and options as a table. Not the parser's own help, of which the form differs between Pythons."""
    rows = [row for action in parser._actions for row in _rows(action)]
    if not rows:
        return f"`{name}` has no options.\n"
    lines = ["| argument | meaning |", "|---|---|", *(f"| `{head}` | {text} |" for head, text in rows)]
    return "\n".join(lines) + "\n"


def _rows(action: argparse.Action) -> Iterator[tuple[str, str]]:
    if isinstance(action, argparse._HelpAction):
        return
    if isinstance(action, argparse._SubParsersAction):
        for choice in action._choices_actions:
            yield f"insula {choice.dest}", choice.help or ""
        return
    words = [", ".join(action.option_strings)] if action.option_strings else []
    if action.nargs != 0:
        choices = [str(choice) for choice in action.choices or ()]
        several = "{" + ",".join(choices) + "}" if len(choices) > 1 else "".join(choices)
        name = action.metavar or several or action.dest.upper()
        words.append(f"[{name} ...]" if action.nargs == "*" else str(name))
    yield " ".join(words), action.help or ""


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: python -m tests.unit.test_docs --write")
    CLI.write_text(_generate(CLI.read_text()))
