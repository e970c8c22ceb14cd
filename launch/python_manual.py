"""Writes the manual of Python, which every Python carries, as sentences: python_manual.py FILE"""

import pathlib
import re
import sys
from pydoc_data.topics import topics

parts = re.split(r"\n\s*\n|(?<=[.:;!?])\s", "\n\n".join(topics.values()))
path = pathlib.Path(sys.argv[1])
path.parent.mkdir(parents=True, exist_ok=True)
path.write_text("".join(" ".join(part.split()) + "\n" for part in parts), encoding="utf-8")
