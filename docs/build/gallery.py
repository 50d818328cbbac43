"""Run the code of the gallery's pages, each in a folder of its own, and put the picture that it draws beside the page.

`python docs/build/gallery.py` does all pages, `python docs/build/gallery.py lstm unet` those.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

GALLERY = Path(__file__).parents[1] / "gallery"
CODE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# The same code makes the same file: no date, no drawn ids; text stays text.
LOOK = "svg.hashsalt: secateur\nsvg.fonttype: none\nsavefig.facecolor: white\n"


def draw(page: Path) -> None:
    """Run a page in an empty folder and fetch its picture."""
    code = "\n".join(CODE.findall(page.read_text(encoding="utf-8")))
    picture = f"{page.stem}.svg"
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "page.py").write_text(code, encoding="utf-8")
        Path(folder, "matplotlibrc").write_text(LOOK, encoding="utf-8")
        surroundings = {**os.environ, "MPLBACKEND": "agg", "SOURCE_DATE_EPOCH": "0"}
        subprocess.run([sys.executable, "page.py"], cwd=folder, env=surroundings, check=True)
        shutil.copyfile(Path(folder, picture), GALLERY / picture)


def main(names: list[str]) -> None:
    """Draw the pages of these names, or all."""
    for page in sorted(GALLERY.glob("*.md")):
        if page.stem != "index" and (not names or page.stem in names):
            print(f"{page.stem} …", flush=True)
            draw(page)


if __name__ == "__main__":
    main(sys.argv[1:])
