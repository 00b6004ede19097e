"""A preprocessor of mdBook: links that leave this folder. The pages are read in the repository too, where such links work as they are.

A chapter that is only `{{#include ../FILE.md}}` becomes that file, and links to FILE.md lead to the chapter. Pictures are put
into the page. Of any other link that leaves the folder the text stays.
"""

import base64
import json
import re
import sys
from pathlib import Path
from posixpath import dirname, join, normpath, relpath

LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
INCLUDE = re.compile(r"\{\{#include (\S+)\}\}")


def chapters(items):
    for item in items:
        if isinstance(item, dict) and "Chapter" in item:
            yield item["Chapter"]
            yield from chapters(item["Chapter"]["sub_items"])


def main():
    context, book = json.load(sys.stdin)
    docs = Path(context["root"])
    pages = [page for page in chapters(book["items"]) if page["path"]]
    # Where in the repository the text of a chapter stands.
    home = {page["path"]: join(docs.name, page["path"]) for page in pages}
    for page in pages:
        if included := INCLUDE.search(page["content"]):
            file = normpath(join(docs.name, dirname(page["path"]), included[1]))
            home[page["path"]] = file
            page["content"] = (docs.parent / file).read_text()
    chapter_of = {file: path for path, file in home.items()}
    for page in pages:
        here = home[page["path"]]

        def rewritten(link):
            mark, text, target = link.groups()
            path, _, anchor = target.partition("#")
            if ":" in target or not path:
                return link[0]
            file = normpath(join(dirname(here), path))
            if file in chapter_of or file.startswith(f"{docs.name}/"):
                inside = chapter_of.get(file) or relpath(file, docs.name)
                return f"{mark}[{text}]({relpath(inside, dirname(page['path']) or '.')}{'#' + anchor if anchor else ''})"
            if mark:
                picture = base64.b64encode((docs.parent / file).read_bytes()).decode()
                return f"![{text}](data:image/{file.rsplit('.')[-1]};base64,{picture})"
            return text

        page["content"] = LINK.sub(rewritten, page["content"])
    json.dump(book, sys.stdout)


if sys.argv[1:2] != ["supports"]:
    main()
