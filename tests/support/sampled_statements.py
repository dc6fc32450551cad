"""What forward of a random sampled supernet consists of: statements as text that draw a choice, read it and use it.

The choice ``{n}`` has ``{c}`` candidates ``self.e{n}`` and architecture parameters ``self.a{n}``, f64[{c}]. A draw
makes ``i{n}``, i64[], and weights ``w{n}``, f64[{c}]. A use makes an image ``{o}`` of an image ``{x}``, f64[N,4,8,8].
What is kept instead of drawn is read as ``k``, of an attribute that is set between the steps, by number or by name.
"""

from __future__ import annotations

import textwrap

_DRAWS = """
rows{n}, index{n} = sample(self.a{n}[None], self.tau)
w{n}, i{n} = rows{n}[0], index{n}[0, 0]
---
w{n} = F.gumbel_softmax(self.a{n}, self.tau, hard=True)
i{n} = w{n}.argmax()
---
w{n} = F.gumbel_softmax(self.a{n}, tau=self.tau, hard=True, dim=-1)
i{n} = w{n}.detach().nonzero()[0, 0]
---
w{n} = self.a{n}.softmax(-1)
i{n} = torch.multinomial(w{n}, 1)[0]
---
w{n} = self.a{n}.log_softmax(-1)
i{n} = w{n}.detach().exp().multinomial(1).squeeze(0)
---
draw{n} = Categorical(logits=self.a{n})
i{n} = draw{n}.sample()
w{n} = draw{n}.probs * (1 + draw{n}.log_prob(i{n}))
---
draw{n} = OneHotCategorical(logits=self.a{n}).sample()
w{n} = draw{n} + self.a{n}.softmax(-1) - self.a{n}.softmax(-1).detach()
i{n} = draw{n}.max(-1)[1]
---
top{n}, i{n} = (self.a{n} + torch.rand_like(self.a{n})).max(-1)
w{n} = self.a{n}.sigmoid() * top{n}
---
w{n} = (self.a{n} / self.tau).softmax(0)
i{n} = (w{n}.log() - torch.empty_like(w{n}).exponential_().log()).topk(1)[1][0]
---
w{n} = self.a{n}.softmax(0)
i{n} = (self.a{n} + torch.randn({c}, dtype=x.dtype)).sort(descending=True).indices[0]
---
w{n} = self.a{n}.softmax(0)
i{n} = torch.searchsorted(w{n}.detach().cumsum(0), torch.rand(1, dtype=x.dtype)).clamp(max={c} - 1)[0]
---
w{n} = self.a{n}.softmax(0)
i{n} = w{n}.argmax()
---
w{n} = self.a{n}.sigmoid()
i{n} = torch.randint({c}, ())
---
w{n} = self.a{n}.sigmoid()
i{n} = (torch.rand(()) < w{n}[0]).long()
---
w{n} = self.a{n}.softmax(0)
i{n} = torch.tensor(random.randrange({c}))
---
w{n} = self.a{n}.softmax(0)
i{n} = torch.randperm({c})[0]
"""

_USES = """
k{n} = i{n}.item()
{o} = self.e{n}[k{n}]({x}) * w{n}[k{n}]
---
{o} = self.e{n}[int(i{n})]({x}) * w{n}[i{n}]
---
{o} = list(self.e{n})[i{n}]({x}) + w{n}.sum()
---
{o} = sum(w{n}[k] * op({x}) if k == i{n} else w{n}[k] for k, op in enumerate(self.e{n}))
---
k{n} = i{n}.item()
{o} = sum(w{n}[k] * op({x}) if k == k{n} else 0.1 * w{n}[k] for k, op in enumerate(self.e{n}))
---
for k, op in enumerate(self.e{n}):
    if i{n} == k:
        {o} = op({x}) * w{n}[k]
---
hard{n} = F.one_hot(i{n}, {c})
{o} = sum(w * op({x}) for w, op, flag in zip(w{n}, self.e{n}, hard{n}) if flag > 0)
---
flags{n} = F.one_hot(i{n}, {c}).bool().tolist()
{o} = sum(w * op({x}) for w, op, flag in zip(w{n}, self.e{n}, flags{n}) if flag)
---
k{n} = i{n}.tolist()
if k{n} == 0:
    {o} = {x}.tanh() * w{n}[0]
elif k{n} == {c} - 1:
    {o} = self.e{n}[-1]({x})
else:
    {o} = self.e{n}[k{n}]({x}) - w{n}[k{n}]
---
{o} = {x}
for _ in range(i{n}.item()):
    {o} = self.e{n}[0]({o}) * w{n}[0]
---
name{n} = ["first", "second", "third"][i{n}.item()]
{o} = dict(zip(["first", "second", "third"], self.e{n}))[name{n}]({x}) * w{n}.index_select(0, i{n}.view(1))
---
match i{n}.item():
    case 0:
        {o} = self.e{n}[0]({x})
    case k{n}:
        {o} = self.e{n}[k{n}]({x}) * w{n}[k{n}] + {x}
---
{o} = getattr(self.e{n}, str(i{n}.item()))({x}) * w{n}.gather(0, i{n}.view(1))
---
k{n} = int(i{n})
{o} = self.e{n}[k{n}]({x}) * w{n}[k{n}]
self.seen{n}[k{n}] += 1
---
k{n} = i{n}.item()
{o} = self.e{n}[k{n}]({x}) * (w{n}[k{n}] if k{n} % 2 else 1.5) + 0.1 * k{n} * {x}
---
if not bool(i{n}):
    {o} = self.e{n}[0]({x}) * w{n}[0]
else:
    {o} = self.e{n}[1]({x}) * w{n}[1] + self.e{n}[0]({x}) * w{n}[0]
"""

_KEPT = """
k = self.k{n}
---
k = self.path[{n}]
---
k = self.table["e{n}"]
---
k = self.structure.nodes[{n}][0]
---
k = self.names{n}.index(self.structure.nodes[{n}][1])
---
k = self.names{n}.index(self.name{n})
"""

_KEPT_USES = """
{o} = self.e{n}[k]({x}) * self.a{n}.softmax(0)[k]
---
{o} = getattr(self.e{n}, str(k))({x}) + self.a{n}[k]
---
{o} = sum(self.a{n}[j] * op({x}) if j == k else 0.1 * self.a{n}[j] for j, op in enumerate(self.e{n}))
---
{o} = sum(self.e{n}[j]({x}) if j == k else self.e{n}[j]({x}).detach() for j in range({c}))
---
{o} = {x} if k == 0 else self.e{n}[k]({x}) * self.a{n}.exp()[k] + 0.1 * k * {x}
---
{o} = {x}
for _ in range(k):
    {o} = self.e{n}[0]({o}) * self.a{n}[0]
---
{o} = dict(zip(self.names{n}, self.e{n}))[self.name{n}]({x}) * self.a{n}.sigmoid()[k]
---
self.seen{n}[k] += 1
{o} = self.e{n}[k]({x})
"""

_CANDIDATES = """
Zero()
nn.Identity()
nn.Tanh()
nn.AvgPool2d(3, 1, 1, count_include_pad=False)
pool()
conv(1)
conv(3, affine=True)
dilated(3)
nn.Conv2d(4, 4, 1)
nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True))
nn.Sequential(nn.Conv2d(4, 4, 1), nn.Dropout(0.25))
nn.Sequential(nn.BatchNorm2d(4, momentum=None), nn.Sigmoid())
self.shared
nn.Sequential(nn.AvgPool2d(3, 1, 1), self.shared)
Averaging(nn.Conv2d(4, 4, 1))
"""

_BETWEEN = """
{o} = {x} + {a}
---
{o} = {x}.relu()
---
{o} = self.norm({x})
---
{o} = F.dropout({x}, 0.2, self.training)
---
{o} = self.shared({x}) - {a}
"""

_OUTPUTS = """
self.head({x})
(self.head({x}), i{n})
(self.head({x}), w{n})
{{"logits": self.head({x}), "taken": int(i{n})}}
(self.head({x}), w{n}[i{n}].log_softmax(0), [{x}.mean()])
"""


def _parted(text: str) -> list[str]:
    return [textwrap.dedent(part).strip() for part in text.split("\n---\n")]


DRAWS, USES, BETWEEN = _parted(_DRAWS), _parted(_USES), _parted(_BETWEEN)
KEPT, KEPT_USES = _parted(_KEPT), _parted(_KEPT_USES)
CANDIDATES, OUTPUTS = _CANDIDATES.split("\n")[1:-1], _OUTPUTS.split("\n")[1:-1]
