"""The documents: their commands exist, and what they point at is there."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from twotower.pipeline import cli
from twotower.serving.server.options import parse_flags

ROOT = Path(__file__).parents[1]
DOCUMENTS = (
    "README.md",
    "BUILD.md",
    "docs/your-data.md",
    "docs/evaluation.md",
    "docs/kubeflow.md",
    "docs/serving.md",
    "docs/callers.md",
    "docs/rollout.md",
    "docs/skew.md",
    "docs/beam.md",
    "docs/sizing.md",
    "benchmarks/README.md",
    "serving/client/README.md",
)
FENCED = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
# What commands make; a fresh clone has none of it.
MADE = re.compile(r"(\.venv(-3\.12)?|build|out|examples/\w+/data)(/|$)")
SOURCE_NAME = re.compile(r"Makefile|[\w-]+\.(py|sh|toml|lock|proto|j2|md|config|yaml)")


@pytest.fixture(scope="module", params=DOCUMENTS)
def document(request: pytest.FixtureRequest) -> Path:
    return ROOT / str(request.param)


@pytest.fixture(scope="module")
def text(document: Path) -> str:
    return document.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def everything() -> str:
    return "\n".join((ROOT / document).read_text(encoding="utf-8") for document in DOCUMENTS)


def fenced_lines(text: str) -> list[str]:
    """The lines of the shell blocks, continued ones joined; of a block with prompts, what stands behind them."""
    lines: list[str] = []
    for language, block in FENCED.findall(text):
        if language in {"", "sh", "bash", "shell", "console"}:
            whole = re.sub(r"\\\n\s*", "", block).splitlines()
            prompted = [line.removeprefix("$ ") for line in whole if line.startswith("$ ")]
            lines += prompted or whole
    return lines


def spans(text: str) -> list[str]:
    """The code spans outside the fenced blocks."""
    return re.findall(r"`([^`\n]+)`", FENCED.sub("", text))


def commands(program: str, lines: list[str]) -> list[list[str]]:
    """The arguments of each call of ``program``, up to a comment, ``|``, ``>``, ``&&`` and their like."""
    found = []
    for line in lines:
        if re.match(rf"(\S+=\S+ )*(\S*/)?{program} ", line):
            lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
            lexer.commenters = "#"
            words = list(lexer)
            end = next((place for place, word in enumerate(words) if set(word) <= set("();<>|&")), len(words))
            start = next(place for place, word in enumerate(words) if Path(word).name == program)
            found.append(words[start + 1 : end])
    return found


def parses(arguments: list[str]) -> bool:
    try:
        cli.parser().parse_args(arguments)
    except SystemExit as stop:
        return stop.code == 0
    return True


def paths(text: str) -> list[str]:
    """The code spans that are paths here: beginning with one of the top-level folders, or a source file's name."""
    folders = {entry.name for entry in ROOT.iterdir() if entry.is_dir()}
    plain = [span for span in spans(text) if re.fullmatch(r"[\w./*-]+", span)]
    return [span for span in plain if ("/" in span and span.split("/")[0] in folders) or SOURCE_NAME.fullmatch(span)]


def anchors(text: str) -> set[str]:
    """The headings as GitHub makes anchors of them."""
    headings = re.findall(r"^#+ +(.+?) *$", FENCED.sub("", text), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_commands_are_found_as_a_person_reads_them() -> None:
    text = """Say `make demo` or `twotower run`.
```sh
make test  # all
.venv/bin/twotower run --spec 'a b' \\
    --out o | head
```
```console
$ A=1 twotower doctor && make x
twotower prints this
```
```yaml
make: no
```
"""
    assert commands("make", fenced_lines(text)) == [["test"]]
    assert commands("twotower", fenced_lines(text)) == [["run", "--spec", "a b", "--out", "o"], ["doctor"]]
    assert spans(text) == ["make demo", "twotower run"]


def test_every_make_target_exists(everything: str) -> None:
    found = commands("make", [*fenced_lines(everything), *spans(everything)])
    assert found
    for arguments in found:
        done = subprocess.run(["make", "--dry-run", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"make {shlex.join(arguments)}: {done.stderr}"


def test_every_command_in_a_block_parses(everything: str) -> None:
    found = commands("twotower", fenced_lines(everything))
    assert found
    for arguments in found:
        assert parses(arguments), f"`twotower {shlex.join(arguments)}` does not parse"


def test_every_subcommand_in_the_text_exists(everything: str) -> None:
    for arguments in commands("twotower", spans(everything)):
        assert parses([arguments[0], "--help"]), f"twotower has no subcommand {arguments[0]}"


def test_every_path_exists(text: str) -> None:
    names = {path.name for path in ROOT.rglob("*") if not path.relative_to(ROOT).parts[0].startswith(".venv")}
    for path in paths(text):
        if "/" not in path:
            assert path in names, f"no file is called {path}"
        elif not MADE.match(path):
            assert list(ROOT.glob(path.rstrip("/"))), f"{path} does not exist"


def test_paths_are_found(everything: str) -> None:
    assert {"/" in path for path in paths(everything)} == {False, True}


def test_every_internal_link_resolves(document: Path, text: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", text)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        linked = document.parent / file if file else document
        assert linked.exists(), f"the link {target} leads to no file"
        assert not anchor or anchor in anchors(linked.read_text(encoding="utf-8")), f"no heading for the link {target}"


def test_the_model_server_parses_its_commands(everything: str) -> None:
    found = commands("twotower-model-server", fenced_lines(everything))
    assert found
    for arguments in found:
        assert parse_flags(arguments).model_base_path
