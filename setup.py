"""The text that a package index shows: the README without what needs its folder. All else is in pyproject.toml."""

import re
from pathlib import Path

from setuptools import setup

README = Path(__file__).with_name("README.md")
#: Targets that work everywhere; the others are files beside the README.
EVERYWHERE = r"(?!https?:|#)"


def without_files(text: str) -> str:
    """Leave out pictures that are files, and keep of links to files their text."""
    text = re.sub(rf"^!\[[^]]*\]\({EVERYWHERE}[^)]*\)\n+", "", text, flags=re.M)
    return re.sub(rf"\[([^]]*)\]\({EVERYWHERE}[^)]*\)", r"\1", text)


setup(long_description=without_files(README.read_text(encoding="utf-8")), long_description_content_type="text/markdown")
