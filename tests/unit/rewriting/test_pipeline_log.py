"""What the pipeline logs under ``TOPONAS_DEBUG``."""

import logging

import pytest
from test_pipeline import ReplaceRelu, Watch, model

from toponas_fx.rewriting.pipeline import run_passes


@pytest.fixture
def log(monkeypatch, caplog):
    """Run the passes at a debug level and return the lines of the log."""

    def run(level, *passes):
        monkeypatch.setenv("TOPONAS_DEBUG", str(level))
        gm = model()
        caplog.clear()
        with caplog.at_level(logging.DEBUG, logger="toponas_fx"):
            run_passes(gm, passes or [ReplaceRelu()])
        return [record.getMessage() for record in caplog.records]

    return run


def test_logs_nothing_by_default(log):
    assert log(0) == log("") == log("no number") == []


def test_level_1_logs_one_line_a_pass(log):
    assert log(1, ReplaceRelu(), Watch()) == ["replace-relu: 2 changes, 4 nodes", "watch: 0 changes, 4 nodes"]


def test_level_2_logs_the_graph_after_each_change(log):
    lines = log(2)
    assert len(lines) == 3
    assert lines[0].startswith("after replace-relu:\n%0 = input x : f32[2,3]\n%1 = tanh(%0) : f32[2,3]\n%2 = relu(%1)")
    assert "relu(" not in lines[1]


def test_level_3_logs_every_match_and_refusal(log):
    lines = log(3)
    assert "replace-relu matches %1 = relu(%0) : f32[2,3]: `relu` becomes a tanh" in lines
    assert "replace-relu refuses %3 = sigmoid(%0) : f32[2,3]: it is a sigmoid" in lines
    assert len(lines) == 2 * 2 + 1 + 1


def test_debugging_adds_one_handler_to_a_bare_logger(monkeypatch):
    logger = logging.getLogger("toponas_fx")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "level", logging.NOTSET)
    monkeypatch.setenv("TOPONAS_DEBUG", "1")
    gm = model()
    for _ in range(2):
        run_passes(gm, [Watch()])
    assert len(logger.handlers) == 1
    assert logger.isEnabledFor(logging.DEBUG)
