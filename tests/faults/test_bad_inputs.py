"""The corpus of bad inputs: each ends in one sentence and a non-zero exit, or in a listed skip; none in frames, none hangs."""

import re
from pathlib import Path

import pytest
from bad_input import BadInput
from checkpoint_inputs import CHECKPOINT_CASES
from data_inputs import DATA_CASES
from forked import Call, Outcome, run_all

CASES = [*CHECKPOINT_CASES, *DATA_CASES]


def test_enough_cases():
    assert len(CASES) >= 60
    assert len(CHECKPOINT_CASES) >= 30
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.fixture(scope='module')
def outcomes(request: pytest.FixtureRequest, shapes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """How each of the chosen cases ended."""
    chosen = [item.callspec.params['case'] for item in request.session.items
              if item.module is request.module and 'case' in getattr(getattr(item, 'callspec', None), 'params', {})]
    root = tmp_path_factory.mktemp('inputs')
    calls = []
    for i, case in enumerate(chosen):
        folder, streams = root / f'{i}', root / f'{i}_streams'
        folder.mkdir()
        streams.mkdir()
        calls.append(Call(case.make(folder, shapes_root), str(streams)))
    return {case.name: outcome for case, outcome in zip(chosen, run_all(calls), strict=True)}


@pytest.mark.slow
@pytest.mark.parametrize('case', [pytest.param(case, id=case.name.replace(' ', '-')) for case in CASES])
def test_one_sentence(case: BadInput, outcomes: dict[str, Outcome]):
    outcome = outcomes[case.name]
    text = f'exit {outcome.code} after {outcome.seconds:.0f} s\n{outcome.stdout[-1500:]}\n{outcome.stderr[-3000:]}'
    assert outcome.code is not None, f'killed {text}'
    assert 'Traceback' not in outcome.stdout + outcome.stderr, text
    if case.listed_skip:
        assert outcome.code == 0, text
        assert re.search(case.sentence, outcome.stdout + outcome.stderr), text
        return
    assert outcome.code in (1, 2), text
    errors = [line for line in outcome.stderr.splitlines() if re.match(r'(\w+\.py: )?error: ', line)]
    assert len(errors) == 1, text
    assert re.search(case.sentence, errors[0]), text
