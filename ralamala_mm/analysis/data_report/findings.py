"""What is wrong with the data, kind by kind: how bad it is, where, and what to do."""

from collections import defaultdict
from dataclasses import dataclass

from ralamala_mm.datasets.report import CORRECTED, ERROR, Problem, some
from ralamala_mm.datasets.validation import DataReport, Fault

LEVELS = ('error', 'corrected', 'note')  # keeps the data from being used; handled; harmless, but good to know
_REPLACE = 'Replace the file, or take the image out of the annotations.'
_REMEDIES = {  # by kind of fault, or what a problem is
    'missing': 'Put the file there, or take the image out of the annotations.',
    'damaged': 'Copy or download the file again, or take the image out of the annotations.',
    'other size': 'Export the image and its annotations together, or correct width, height, boxes and masks.',
    'images of another size than the annotations say': 'Export the images and their annotations together, or correct width, '
                                                       'height, boxes and masks.',
    'annotation': 'Correct the annotation, or remove it.',
    'annotations': 'Correct the annotation file; what --data DIR can correct, it does in a copy.',
    'segmentations that cannot be read': 'Correct these annotations, or export them again.',
    'image ids used twice': 'Give each image an id of its own.',
    'category ids used twice': 'Give each category an id of its own.',
    'category names used twice': 'Give each category a name of its own.',
    'missing mask': 'Draw the mask, or take the image out.',
    'unreadable mask': 'Save the mask again, as PNG.',
    'masks that cannot be read': 'Save the masks again, as PNG.',
    'mask of another size': 'Save the mask with the size of its image.',
    'masks of another size than their image': 'Save each mask with the size of its image.',
    'values outside the classes': 'Correct the values of the mask, or the list of classes.',
    'masks with values above 255': 'Save the masks with 8 bits, the values being the classes.',
    'deep mask': 'Save the mask with 8 bits, the values being the classes.',
    'coloured mask': 'Run with --data DIR, which converts color masks.',
    'worker killed': 'Run with fewer --workers, which needs less memory.',
}


@dataclass
class Finding:
    """One kind of problem in one split."""

    level: str  # of LEVELS
    split: str
    what: str
    count: int  # 0 where it is not counted
    which: str  # names of some
    advice: str
    anchor: str = ''  # of the first card that shows it

    @property
    def key(self) -> tuple[str, str]:
        """By which examples are found."""
        return self.split, self.what


def level_of(problem: Problem, is_corrected: bool) -> str:
    """How bad a problem is; `is_corrected` says whether what can be corrected was."""
    if problem.level == ERROR or (problem.needed and not is_corrected):
        return 'error'
    return 'corrected' if problem.level == CORRECTED and is_corrected else 'note'


def advice_on(problem: Problem, is_corrected: bool) -> str:
    """What to do about a problem, or what is done about it."""
    if problem.correcting:
        start = '--data corrects it in a copy' if is_corrected else 'Run with --data DIR, which corrects it in a copy'
        return f'{start}: {problem.correcting}.'
    text = _sentence(problem.consequence)
    return text or _REMEDIES.get(problem.what.partition(', of ')[0], '')


def advice_on_fault(fault: Fault) -> str:
    """What to do about a file that cannot be used."""
    return _REMEDIES.get(fault.kind, _REPLACE)


def file_faults(report: DataReport) -> list[Fault]:
    """The faults that were found as files were opened, without those that repeat a problem."""
    told = {(problem.split, problem.with_remedy(corrected)) for problem, corrected in report.problems}
    return [fault for fault in report.faults if (fault.split, fault.text) not in told]


def find_all(report: DataReport) -> list[Finding]:
    """All that was found, the worst first."""
    findings = []
    for problem, corrected in report.problems:
        findings.append(Finding(level_of(problem, corrected), problem.split, problem.what or _sentence(problem.text),
                                problem.count, problem.which, advice_on(problem, corrected)))
    kinds: dict[tuple[str, str], list[Fault]] = defaultdict(list)
    for fault in file_faults(report):
        # Of an annotation file as a whole there is one text for each fault.
        kinds[fault.split, fault.text if fault.kind in ('annotations', 'names') else fault.kind].append(fault)
    for (split, what), faults in kinds.items():
        names = [fault.file.rpartition('/')[2] for fault in faults]
        findings.append(Finding('error', split, what, len(faults), some(names), advice_on_fault(faults[0])))
    told = {(problem.split, problem.with_remedy(corrected)) for problem, corrected in report.problems}
    findings += [Finding('note', split, _sentence(text), 0, '', '') for split, text in report.notes if (split, text) not in told]
    return sorted(findings, key=lambda finding: LEVELS.index(finding.level))


def _sentence(text: str) -> str:
    if not text:
        return ''
    return text[0].upper() + text[1:] + ('' if text.endswith('.') else '.')
