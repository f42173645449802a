#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Says which links in the documentation lead nowhere: to a file that git does not have, or to a heading that
the page does not have. Links to other sites are not looked at.
"""

import os.path
import pathlib
import re
import subprocess
import sys

files = set(subprocess.check_output(["git", "ls-files"], text=True).splitlines())
folders = {str(folder) for file in files for folder in pathlib.PurePath(file).parents}


def text_of(page):
    """The page without its code."""
    with open(page, encoding="utf-8") as lines:
        return "".join(line for line in lines if not line.startswith("    "))


def anchors(page):
    """The anchors of the headings, as the usual sites make them."""
    for heading in re.findall(r"^#+ (.*)", text_of(page), re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


dead = 0
for page in sorted(file for file in files if file.endswith(".md")):
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        path = os.path.normpath(os.path.join(os.path.dirname(page), path)) if path else page
        if path not in files | folders:
            print(f"{page}: {link}: there is no {path}")
        elif anchor and anchor not in anchors(path):
            print(f"{page}: {link}: {path} has no such heading")
        else:
            continue
        dead += 1
sys.exit(dead > 0)
