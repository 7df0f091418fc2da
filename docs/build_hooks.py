"""Lets the pages be read in the repository and built into a site: the README as a page, links into the code, formulas."""

import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / 'docs'
_LINK = re.compile(r'(\]\()([^)#\s:]+)((?:#[^)\s]*)?\))')
_FORMULA = re.compile(r'^```math\n(.*?)^```$', re.MULTILINE | re.DOTALL)
_PLACE_OF_CODE = 'files'  # within the site


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the README as the first page, and the files outside docs/ that pages link to."""
    files.append(File.generated(config, 'index.md', content=_localise((ROOT / 'README.md').read_text(), ROOT)))
    linked = {target for page in [ROOT / 'README.md', *DOCS.rglob('*.md')] for target in _outside(page)}
    for target in sorted(linked):
        files.append(File.generated(config, f'{_PLACE_OF_CODE}/{target}', abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Points links at the site's own pages and files, and turns formulas into MathML, which browsers draw by themselves."""
    if page.file.src_uri != 'index.md':
        markdown = _localise(markdown, (DOCS / page.file.src_uri).parent)
    return _FORMULA.sub(lambda found: f'<div>{convert(found[1], display="block")}</div>', markdown)


def _outside(page: Path) -> list[str]:
    """The existing files outside docs/ that a page links to, from the root."""
    targets = [(page.parent / found[2]).resolve() for found in _LINK.finditer(page.read_text())]
    return [str(target.relative_to(ROOT)) for target in targets
            if target.is_file() and target.is_relative_to(ROOT) and DOCS not in target.parents and target.name != 'README.md']


def _localise(text: str, folder: Path) -> str:
    """The text with its relative links as they are within the site; those that lead nowhere stay, and are warned of."""
    def relocate(found: re.Match) -> str:
        target = (folder / found[2]).resolve()
        if not target.exists() or not target.is_relative_to(ROOT):
            return found[0]
        depth = '../' * len(folder.relative_to(DOCS).parts) if folder.is_relative_to(DOCS) else ''
        if target == ROOT / 'README.md':
            place = 'index.md'
        elif target.is_relative_to(DOCS):
            place = str(target.relative_to(DOCS))
        else:
            place = f'{_PLACE_OF_CODE}/{target.relative_to(ROOT)}'
        return f'{found[1]}{depth}{place}{found[3]}'

    return _LINK.sub(relocate, text)
