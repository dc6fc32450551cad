"""The report: what happened to each candidate, by which pass, and what forward leaves out."""

import dataclasses
import json

import pytest
import torch
from torch import nn

import toponas_fx
from toponas_fx.analysis.costs import Costs
from toponas_fx.analysis.topology import build_topology
from toponas_fx.passes import DetectMixedOps
from toponas_fx.report.building import build_report
from toponas_fx.report.report import Report
from toponas_fx.rewriting.pass_base import Semantics
from toponas_fx.rewriting.pipeline import Change, PassRecord

C = 4
BEFORE = Costs(convolutions=4, norms=2, activations=0, poolings=1, nodes=20, parameters=1000, flops=12345678)
AFTER = Costs(convolutions=1, norms=1, activations=0, poolings=1, nodes=10, parameters=1000, flops=6172839)


def conv_bn(kernel_size):
    return nn.Sequential(nn.Conv2d(C, C, kernel_size, padding=kernel_size // 2, bias=False), nn.BatchNorm2d(C))


class MixedOp(nn.Module):
    def __init__(self):
        super().__init__()
        self.ops = nn.ModuleList([nn.Identity(), conv_bn(1), conv_bn(3), nn.Tanh()])

    def forward(self, x, weights):
        return sum(w * op(x) for w, op in zip(weights, self.ops, strict=False))


class Chain(nn.Module):
    """Mixed operations one after the other."""

    def __init__(self, count=2, elements=4):
        super().__init__()
        self.edges = nn.ModuleList(MixedOp() for _ in range(count))
        self.alphas = nn.Parameter(torch.randn(count, elements))

    def forward(self, x):
        for edge, weights in zip(self.edges, self.alphas, strict=True):
            x = edge(x, weights)
        return x


def image():
    return torch.randn(2, C, 8, 8)


def detected(model):
    return toponas_fx.simplify(model, image(), passes=(DetectMixedOps(),))


def record(name, changes=(), refusals=(), semantics=Semantics.EXACT):
    return PassRecord(name, semantics, BEFORE, AFTER, list(changes), list(refusals))


def report_on(model, records=(), before=BEFORE, after=AFTER, notes=()):
    return build_report("Chain", "share", build_topology(detected(model)), records, before, after, notes)


def test_mixtures_and_candidates_as_the_user_wrote_them():
    report = report_on(Chain())
    assert [(mixed.name, mixed.source) for mixed in report.mixtures] == [
        ("edges.0.ops", "x : f32[2,4,8,8]"),
        ("edges.1.ops", "mixed_sum_1 : f32[2,4,8,8]"),
    ]
    labels = ["identity", "Conv2d 1x1, BatchNorm2d", "Conv2d 3x3, BatchNorm2d", "Tanh"]
    assert [[part.label for part in mixed.candidates] for mixed in report.mixtures] == [labels, labels]
    assert [part.weight for part in report.mixtures[1].candidates] == [f"alphas[1][{i}]" for i in range(4)]


def test_changes_and_refusals_go_to_the_candidates_they_are_about():
    records = [
        record("share-modules", [Change("norms shared", ("edges_0_ops_1_1", "edges_0_ops_2_1"))]),
        record("merge-kernels", refusals=[Change("costs more", ("edges_1_ops_2_0",))]),
    ]
    first, second = report_on(Chain(), records).mixtures
    assert [part.changes for part in first.candidates] == [
        (),
        ("share-modules: norms shared",),
        ("share-modules: norms shared",),
        (),
    ]
    assert [part.refusals for part in second.candidates] == [(), (), ("merge-kernels refused: costs more",), ()]
    assert not any(part.refusals for part in first.candidates)
    assert not any(part.changes for part in second.candidates)


def test_changes_stand_in_the_order_of_the_passes_and_once():
    again = Change("again", ("edges_0_ops_1_0",))
    records = [record("first", [again, again]), record("second", [Change("norm", ("edges_0_ops_1_1",))])]
    assert report_on(Chain(), records).mixtures[0].candidates[1].changes == ("first: again", "second: norm")


def test_details():
    records = [
        record("share-modules", [Change("norms shared", ("edges_1_ops_1_1",))], semantics=Semantics.SHARES),
        record("merge-kernels", refusals=[Change("costs more", ("edges_1_ops_2_0",)), Change("too odd", ("x",))]),
    ]
    assert report_on(Chain(), records, notes=["mind the gap"]).details().splitlines() == [
        "Chain, mode share: 2 edges, 8 candidate operations",
        "",
        "edges.0.ops, from x : f32[2,4,8,8]",
        "  alphas[0][0]  skip_connect: identity",
        "  alphas[0][1]  nor_conv_1x1: Conv2d 1x1, BatchNorm2d",
        "  alphas[0][2]  nor_conv_3x3: Conv2d 3x3, BatchNorm2d",
        "  alphas[0][3]  Tanh",
        "",
        "edges.1.ops, from mixed_sum_1 : f32[2,4,8,8]",
        "  alphas[1][0]  skip_connect: identity",
        "  alphas[1][1]  nor_conv_1x1: Conv2d 1x1, BatchNorm2d",
        "                  share-modules: norms shared",
        "  alphas[1][2]  nor_conv_3x3: Conv2d 3x3, BatchNorm2d",
        "                  merge-kernels refused: costs more",
        "  alphas[1][3]  Tanh",
        "",
        "                                    before           after   ratio",
        "convolutions                             4               1    0.25",
        "norms                                    2               1    0.50",
        "activations                              0               0       -",
        "poolings                                 1               1    1.00",
        "graph nodes                             20              10    0.50",
        "parameters                           1,000           1,000    1.00",
        "FLOPs                           12,345,678       6,172,839    0.50",
        "",
        "share-modules (SHARES): 1 change, 0 refusals",
        "merge-kernels (EXACT): 0 changes, 2 refusals",
        "    refused elsewhere: too odd",
        "note: mind the gap",
    ]


def test_what_several_candidates_share_is_written_once():
    shared = Change("norms shared", ("edges_0_ops_1_1", "edges_0_ops_2_1"))
    lines = report_on(Chain(1), [record("share-modules", [shared])]).details().splitlines()
    assert [line for line in lines if "norms shared" in line] == ["  candidates 2, 3: share-modules: norms shared"]


def test_details_of_costs_that_were_not_measured():
    unknown = dataclasses.replace(AFTER, flops=None, saved_bytes=5)
    text = report_on(Chain(), after=unknown).details()
    assert "FLOPs" not in text
    assert "bytes" not in text


def test_mixtures_that_differ_in_names_only_are_written_once():
    changes = [Change(f"`edges.{i}.ops.1.1` stays", (f"edges_{i}_ops_1_1",)) for i in range(6)]
    lines = report_on(Chain(6), [record("share-modules", changes)]).details().splitlines()
    title = "edges.0.ops, from x : f32[2,4,8,8], x6: also edges.1.ops, edges.2.ops, edges.3.ops, 2 more"
    assert lines[2] == title
    assert [line for line in lines if "stays" in line] == ["                  share-modules: `edges.0.ops.1.1` stays"]


@pytest.mark.parametrize("kind", ["changes", "refusals"])
def test_mixtures_that_fared_differently_are_written_apart(kind):
    other = record("share-modules", **{kind: [Change("not here", ("edges_2_ops_3",))]})
    titles = [line for line in report_on(Chain(6), [other]).details().splitlines() if ", from " in line]
    assert [title.split(",")[0] for title in titles] == ["edges.0.ops", "edges.2.ops"]
    assert titles[0].endswith("x5: also edges.1.ops, edges.3.ops, edges.4.ops, 1 more")
    assert titles[1].endswith("f32[2,4,8,8]")


def test_refusals_elsewhere_are_shortened():
    refusals = [Change(f"`{i}` is odd", ("x",)) for i in range(9)] + [Change(f"reason {i}", ("x",)) for i in range(4)]
    lines = report_on(Chain(), [record("any", refusals=refusals)]).details().splitlines()
    assert [line.strip() for line in lines if "elsewhere" in line] == [
        "refused elsewhere: `0` is odd (x9)",
        "refused elsewhere: reason 0",
        "refused elsewhere: reason 1",
        "refused elsewhere: and 2 more",
    ]


def test_model_without_mixtures():
    report = report_on(nn.Sequential(nn.Conv2d(C, C, 1)), notes=["as written"])
    text = report.details()
    assert "no mixed operation found: nothing to simplify" in text
    assert text.endswith("note: as written")
    assert "nothing to simplify" not in report_on(Chain()).details()


def test_dict_survives_json():
    records = [record("share-modules", [Change("norms shared", ("edges_0_ops_1_1",))], semantics=Semantics.SHARES)]
    report = report_on(Chain(), records, notes=["note"])
    plain = report.as_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["mixtures"][0]["candidates"][1] == {
        "label": "Conv2d 1x1, BatchNorm2d",
        "weight": "alphas[0][1]",
        "changes": ["share-modules: norms shared"],
        "refusals": [],
        "name": "nor_conv_1x1",
    }
    assert plain["records"][0]["semantics"] == "SHARES"
    assert plain["records"][0]["changes"] == [{"sentence": "norms shared", "origins": ["edges_0_ops_1_1"]}]
    assert plain["before"] == dataclasses.asdict(BEFORE)
    assert set(plain) == {"kinds", *(field.name for field in dataclasses.fields(Report))}


def test_report_of_a_whole_simplification():
    report = toponas_fx.simplify(Chain(), image()).report
    skip, small, large, tanh = report.mixtures[1].candidates
    taken = "share-modules: BatchNorm2d `edges.1.ops.1.1` takes the place of `edges.1.ops.2.1`"
    assert taken in small.changes
    assert taken in large.changes
    assert any(change.startswith("merge-kernels: ") for change in large.changes)
    assert any("`edges.1.ops.2.0.weight`" in change for change in large.changes)
    assert not any("`edges.1.ops.2.0.weight`" in change for change in small.changes)
    assert skip.changes == tanh.changes == ()
    assert (report.before.convolutions, report.after.convolutions) == (4, 2)


class Pooled(Chain):
    """Has norms that follow no kernel, which therefore cannot be shared."""

    def __init__(self):
        super().__init__(1)
        for place, pool in ((1, nn.AvgPool2d(3, 1, 1)), (2, nn.MaxPool2d(3, 1, 1))):
            self.edges[0].ops[place] = nn.Sequential(pool, nn.BatchNorm2d(C))


def test_refusal_of_a_whole_simplification():
    report = toponas_fx.simplify(Pooled(), image()).report
    (mixed,) = report.mixtures
    refused = [part.label for part in mixed.candidates if part.refusals]
    assert refused == ["AvgPool2d 3x3, BatchNorm2d", "MaxPool2d 3x3, BatchNorm2d"]
    assert all(text.startswith("share-modules refused: ") for text in mixed.candidates[1].refusals)
    assert "refused elsewhere" not in report.details()
