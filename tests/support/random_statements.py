"""What forward of a random module may consist of: statements as text, each from an image ``{x}`` to an image ``{o}``.

An image is f64[N,4,6,6], ``{a}`` another one; ``{n}`` is a number of the statement's own, ``{i}`` one of 0 to 3. What
comes before ``---`` goes to the constructor.
"""

from __future__ import annotations

_PLAIN = r"""
self.l{n} = nn.Conv2d(4, 4, 3, padding=1) --- {o} = self.l{n}({x})
self.l{n} = nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4, bias=False) --- {o} = self.l{n}({x})
self.l{n} = nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)) --- {o} = self.l{n}({x})
self.l{n} = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)) --- {o} = self.l{n}({x})
self.l{n} = nn.BatchNorm2d(4, affine=False, momentum=None) --- {o} = self.l{n}({x}) + {a}
self.l{n} = nn.GroupNorm(2, 4) --- {o} = torch.relu(self.l{n}({x}))
self.l{n} = nn.Conv2d(4, 4, 1) --- {o} = self.l{n}(self.l{n}({x})) + self.l{n}.forward({a})
self.l{n} = nn.ModuleList([nn.Conv2d(4, 4, 1), nn.Identity(), nn.Tanh()]) ---\
    {o} = {x}\nfor layer in self.l{n}[::-1]:\n    {o} = layer({o}) + {x}
self.l{n} = nn.ModuleDict({{"None": nn.Conv2d(4, 4, 1), "items_": nn.Tanh()}}) ---\
    {o} = sum(layer({x}) for layer in self.l{n}.values())
self.l{n} = None --- {o} = {x}.sin() if self.l{n} is None else self.l{n}({x})
self.register_module("l{n}", None) --- {o} = {x}.sin() if self.l{n} is None else self.l{n}({x})
self.l{n} = parametrizations.weight_norm(nn.Conv2d(4, 4, 1)) --- {o} = self.l{n}({x})
self.l{n} = parametrizations.orthogonal(nn.Linear(4, 4)) --- {o} = self.l{n}({x}.transpose(1, 3)).transpose(1, 3)
self.l{n} = nn.Conv2d(4, 4, 1); self.l{n}.register_forward_hook(lambda m, a, out: out * 2) --- {o} = self.l{n}({x})
self.l{n} = nn.Conv2d(4, 4, 1); self.l{n}.register_forward_pre_hook(lambda m, a: (a[0] + 1,)) --- {o} = self.l{n}({x})
self.l{n} = nn.Dropout(0.25) --- {o} = self.l{n}({x})
self.l{n} = nn.Dropout2d(0.25, inplace=True) --- {o} = self.l{n}({x}.clone())
self.l{n} = nn.Linear(6, 6); self.l{n}.weight.requires_grad_(False) --- {o} = self.l{n}({x})
self.l{n} = nn.Linear(4, 4) --- {o} = self.l{n}({x}.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, (6, 6))
self.l{n} = nn.LSTM(4, 4, batch_first=True) ---\
    {o} = self.l{n}({x}.flatten(2).transpose(1, 2))[0].transpose(1, 2).reshape({x}.shape)
self.l{n} = nn.GRUCell(4, 4) ---\
    h{n} = {x}.mean((2, 3))\nfor _ in range(2):\n    h{n} = self.l{n}(h{n})\n{o} = {x} * h{n}[..., None, None]
self.l{n} = nn.MultiheadAttention(4, 2, batch_first=True) ---\
    t{n} = {x}.flatten(2).mT\n{o} = self.l{n}(t{n}, t{n}, t{n})[0].mT.view_as({x})
self.l{n} = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True) ---\
    {o} = self.l{n}({x}.flatten(2).permute(0, 2, 1)).permute(0, 2, 1).reshape(-1, 4, 6, 6)
self.l{n} = nn.Embedding(5, 4) --- {o} = {x} + self.l{n}(torch.arange({x}.size(1)) % 5).sum(1)[None, :, None, None]
self.l{n} = nn.Embedding(7, 4) --- {o} = {x} + self.l{n}(({x}.detach().abs() * 3).long().clamp(max=6)).mean((1, 2, 3))\
    [:, :, None, None]
self.l{n} = nn.ConvTranspose2d(4, 4, 2, 2) --- {o} = F.avg_pool2d(self.l{n}({x}), 2)
self.l{n} = nn.AdaptiveAvgPool2d(1) --- {o} = {x} * torch.sigmoid(self.l{n}({x}))
self.l{n} = nn.MaxPool2d(3, 1, 1) --- {o} = self.l{n}({x}) - F.avg_pool2d({a}, 3, 1, 1, count_include_pad=False)
self.w{n} = nn.Parameter(torch.randn(4, 4, 1, 1)) --- {o} = F.conv2d({x}, self.w{n}.repeat(2, 1, 1, 1))[:, 2:6]
self.w{n} = nn.Parameter(torch.randn(4, 4, 1, 1)) --- {o} = F.conv2d({x}, self.w{n} / self.w{n}.norm(), padding=0)
self.w{n} = nn.Parameter(torch.rand(1) + 0.1) --- {o} = {x} * self.w{n} + self.w{n} * self.w{n}
self.w{n} = nn.Parameter(torch.randn(6)) --- {o} = {x} * self.w{n} * self.w{n}[:, None] - {a}
self.w{n} = nn.ParameterList([torch.randn(4, 1, 1) for _ in range(2)]) --- {o} = {x} * self.w{n}[0] + self.w{n}[-1]
self.w{n} = [torch.randn(4, 1, 1).double().requires_grad_()] --- {o} = {x} * self.w{n}[0]
self.w{n} = torch.randn(6).double() --- {o} = {x} + self.w{n}
self.register_buffer("w{n}", torch.randn(4, 1, 1)) --- {o} = {x} * self.w{n}
self.register_buffer("w{n}", torch.zeros(1)) --- self.w{n} += 1\n{o} = {x} + self.w{n}
self.register_buffer("w{n}", torch.zeros(4, 1, 1), persistent=False) ---\
    self.w{n}.mul_(0.9).add_({x}.detach().mean((0, 2, 3))[:, None, None], alpha=0.1)\n{o} = {x} - self.w{n}
self.register_buffer("w{n}", torch.tensor([3, 1, 0, 2])) --- {o} = {x}[:, self.w{n}]
{o} = {x}.clone()\n{o}[:, 1:3] = {a}[:, :2] * 2
{o} = {x} + 0\n{o}[{o} < 0] = 0.5
{o} = {x}.masked_fill({x} < {a}, 0.25)
{o} = torch.where({x} > 0, {x}, {a})
{o} = {x} * 1\n{o} += {a}\n{o} *= 0.5
{o} = {x}.exp().log1p_().neg()
v{n} = {x}.clone()\nv{n}.view(-1)[::5] = 0\n{o} = v{n}
v{n} = {x}.clone()\nv{n}[:, 0].add_(1)\nv{n}.select(1, 1).copy_({a}[:, 2])\n{o} = v{n}
{o} = F.relu({x} - 0.1, inplace=True)
{o} = torch.cat([c * i for i, c in enumerate({x}.chunk(4, 1))], dim=1)
{o} = torch.cat(({x}, {a}), 1)[:, ::2]
{o} = torch.stack([{x}, {a}, {x}]).sum(0)
{o} = torch.stack([{x}, {a}], 1).flatten(1, 2)[:, {i} : {i} + 4]
{o} = torch.einsum("nchw,ndhw->ncd", {x}, {a}).softmax(-1) @ {x}.flatten(2)\n{o} = {o}.unflatten(-1, (6, 6))
{o} = {x}.view({x}.size(0), 2, 2, 6, 6).transpose(1, 2).contiguous().view_as({a})
{o} = {x}.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
{o} = {x}.flip(2).roll({i}, 3)
{o} = F.pad({x}, (1, 1, 1, 1))[:, :, 2:, :-2]
{o} = F.interpolate({x}, scale_factor=2)[..., ::2, ::2]
{o} = F.interpolate({x}[:, :, :3], size={x}.shape[2:], mode="bilinear", align_corners=False)
{o} = {x}.reshape(-1, 36).reshape({x}.shape) / len({x})
{o} = {x}.mul(0.0) + {a}
{o} = {x} - {x}.mean(0, keepdim=True)
{o} = {x} / {x}.shape[0] + {x}.numel() / 100
{o} = {x} + torch.linspace(0, 1, {x}.shape[-1], dtype={x}.dtype)
{o} = {x} * torch.eye(6, dtype={x}.dtype).expand({x}.size(0), 4, 6, 6)
{o} = {x}.detach() + {a}
{o} = {x} * {a}.mean().item()
with torch.no_grad():\n    s{n} = {x}.abs().mean()\n{o} = {x} / (s{n} + 1)
{o} = {x} + torch.zeros_like({x}).normal_() * 0.1
{o} = {x} + torch.randn({x}.size(0), 1, 1, 1, dtype={x}.dtype)
{o} = {x} * torch.empty({x}.size(0), 4, 1, 1, dtype={x}.dtype).bernoulli_(0.5)
{o} = {x}[torch.randperm({x}.size(0))]
{o} = F.dropout({x}, 0.3, self.training)
{o} = {x} * F.gumbel_softmax({a}.mean((2, 3)), hard=True)[:, :, None, None]
{o} = {x}.to(torch.float32).tanh().to({x}.dtype)
{o} = {x}.type_as({a}).sigmoid()
{o} = torch.complex({x}, {a}).abs()
{o} = torch.fft.rfft2({x}).real.mean(-1, keepdim=True) * {a}
{o} = {x}.sort(dim=1, descending=True)[0]
{o} = {x}.topk(2, dim=1).values.repeat(1, 2, 1, 1)
{o} = {x}.max(dim=1, keepdim=True)[0] + {a}
{o} = {x}.gather(1, {a}.argmax(1, keepdim=True).expand(-1, 4, -1, -1))
{o} = {x}.cumsum(1).clamp(-1, 1)
{o} = functools.reduce(lambda p, q: p + q, [{x}, {a}, 1])
{o} = (lambda t, k={i}: t * k + {a})({x})
{o} = checkpoint(torch.sin, {x}, use_reentrant=False)
{o} = Doubled.apply({x}) + {a}
{o} = torch.utils._pytree.tree_map(torch.tanh, {{"p": [{x}, {a}]}})["p"][{i} % 2]
p{n}, q{n} = {x}.split([1, 3], 1)\n{o} = torch.cat([q{n}, p{n}], 1)
{o} = {x}.unbind(1)[0].unsqueeze(1) * {a}
*rest{n}, {o} = {a}, {x} * 2
{o} = SCALE * {x}
{o} = self.helper({x}, k={i})
{o} = {x} * getattr(self, "scale")
"""

_LOOKS = r"""
{o} = {x} * 2 if {x}.mean() > 0 else {x} - 1
{o} = {x}\nwhile {o}.abs().max() > 2:\n    {o} = {o} / 2
if bool(({x} > 1).any()):\n    {o} = {x}.tanh()\nelse:\n    {o} = {x} + {a}
{o} = {x} * (int({x}.sum().abs()) % 3 + 1)
{o} = {x} + [{x}, {a}, {x}][{x}.mean((2, 3)).argmax() % 3]
{o} = {x}[:, [int(i) for i in {x}.mean((0, 2, 3)).argsort()]]
m{n} = {x} > 0\n{o} = {x}.clone()\n{o}[m{n}] = {x}[m{n}] * 2
{o} = {x} * len({x}[{x} > 1]) / 50
{o} = {x} + torch.nonzero({x} > 0).double().mean()
{o} = {x} if self.training else {x} * 2
{o} = {x} * self.scale if self.flag else {a} + self.table["k"][1]
{o} = {x} * (2 if torch.is_grad_enabled() else 3)
{o} = {x} * {x}.shape[0] if {x}.size(0) > 2 else {x} - 1
for t{n} in {x}.mean((0, 2, 3)).tolist()[:2]:\n    {o} = {x} * t{n}
{o} = {x}\nfor k{n}, v{n} in self.table.items():\n    {o} = {o} * v{n}[0]
{o} = {x} * type(self).FACTOR
{o} = {x} * (3 if hasattr(self, "absent") else 2)
try:\n    {o} = {x}.view(7, 7)\nexcept RuntimeError:\n    {o} = {x} + 1
"""

_REFUSED = r"""
self.count{n} = 0 --- self.count{n} += 1\n{o} = {x} * self.count{n}
self.kept{n} = None --- self.kept{n} = {x}.detach()\n{o} = {x} + 1
self.log{n} = [] --- self.log{n}.append(float({x}.mean()))\n{o} = {x} * len(self.log{n})
{o} = {x} * random.random()
{o} = {x} * numpy.random.rand()
{o} = {x} + torch.from_numpy({x}.detach().numpy().mean(0))
{o} = {x}.clone()\n{o}.data.mul_(2)
{o} = {x}.clone()\n{o}.data = {o}.data * 3
self.w{n} = nn.Parameter(torch.ones(4, 1, 1)) --- self.w{n}.data.clamp_(0.5, 2)\n{o} = {x} * self.w{n}
self.w{n} = nn.Parameter(torch.ones(1)) --- {o} = {x} * self.w{n}.clone().requires_grad_()
{o} = {x} * 2\nif {o}.requires_grad:\n    {o}.register_hook(lambda grad: grad * 2)
{o} = {x} * CLOSED
self.l{n} = nn.Conv2d(4, 4, 1) ---\
    {o} = torch.func.functional_call(self.l{n}, {{k: v * 2 for k, v in self.l{n}.named_parameters()}}, ({x},))
self.l{n} = nn.Conv2d(4, 4, 1) --- {o} = nn.Sequential(self.l{n}, nn.ReLU())({x})
{o} = nn.AvgPool2d(3, 1, 1)({x})
torch.manual_seed({i})\n{o} = {x} + torch.rand(6, dtype={x}.dtype)
{o} = {x} + torch.rand(6, dtype={x}.dtype, generator=torch.Generator().manual_seed({i}))
with torch.enable_grad():\n    {o} = {x} * 2
{o} = torch.vmap(lambda t: t * 2)({x})
g{n} = torch.autograd.grad(({x}.detach().requires_grad_() ** 2).sum(), [], allow_unused=True) if False else 1\n\
{o} = {x} * g{n}
"""

_MIXTURES = r"""
row softmax 3 --- {o} = sum(w * op({x}) for w, op in zip(self.r{n}.softmax(-1), self.c{n}))
row softmax 3 --- {o} = sum(op({x}) * w for w, op in zip(F.softmax(self.r{n}, 0), self.c{n}))
row raw 4 --- {o} = self.r{n}[0] * self.c{n}[0]({x})\n\
for i in range(1, 4):\n    {o} = {o} + self.r{n}[i] * self.c{n}[i]({x})
row raw 3 --- {o} = 0\nfor i, op in enumerate(self.c{n}):\n    {o} += op({x}) * self.r{n}[i]
row raw 3 --- {o} = (torch.stack([op({x}) for op in self.c{n}]) * self.r{n}.view(-1, 1, 1, 1, 1)).sum(0)
row softmax 3 --- {o} = torch.einsum("k,knchw->nchw", self.r{n}.softmax(0), torch.stack([op({x}) for op in self.c{n}]))
row raw 2 --- {o} = self.r{n}[0] * self.c{n}[0]({x}) - self.r{n}[1] * self.c{n}[1]({x})
row raw 2 --- {o} = self.r{n}[0] * self.c{n}[0]({x}) + self.r{n}[0] * self.c{n}[1]({x}) + self.r{n}[1] * {a}
row raw 3 --- {o} = sum(w * op({x}) for w, op in zip(self.r{n}, self.c{n})) + self.r{n}[0] + self.r{n}[1]
row raw 3 --- {o} = self.r{n}[0] * {x}.mean((2, 3), keepdim=True) + \
self.r{n}[1] * self.c{n}[1]({x}) + self.r{n}[2] * {x}[:1]
row raw 2 --- {o} = sum(w * (w * self.c{n}[0]({x}) + (1 - w) * self.c{n}[1]({a})) for w in self.r{n})
row raw 2 --- {o} = self.r{n}[0] * (self.r{n}[1] * self.c{n}[1]({x}) + self.c{n}[0]({x})) + self.r{n}[1] * {a}
row softmax 2 --- w{n} = self.r{n}.softmax(0)\n{o} = torch.lerp(self.c{n}[0]({x}), self.c{n}[1]({x}), w{n}[1])
row softmax 3 --- {o} = sum(w * op({x}) for w, op in zip(self.r{n}.softmax(-1), self.c{n}) if w > 0.1)
row softmax 3 --- k{n} = int(self.r{n}.argmax())\n{o} = self.r{n}.softmax(0)[k{n}] * self.c{n}[k{n}]({x})
row raw 3 --- {o} = sum(w * op({x}) for w, op in zip(F.gumbel_softmax(self.r{n}, 1.0, hard=True), self.c{n}))
row raw 3 --- {o} = sum(w.detach() * op({x}) for w, op in zip(self.r{n}, self.c{n})) + {a}
row raw 2 --- g{n} = {x}.mean((1, 2, 3)).sigmoid().view(-1, 1, 1, 1)\n\
{o} = g{n} * self.r{n}[0] * self.c{n}[0]({x}) + (1 - g{n}) * self.r{n}[1] * self.c{n}[1]({x})
row raw 2 --- {o} = self.r{n}[0] * self.c{n}[0]({x}) * 3 + self.c{n}[1]({x}) / 2 * self.r{n}[1] - 0.5
row raw 2 --- {o} = (self.r{n}[0] * self.c{n}[0]({x})).add_(self.r{n}[1] * self.c{n}[1]({x}))
"""


def _statements(text: str) -> list[str]:
    lines = text.strip().replace("\\\n", "").split("\n")
    return [line.replace("\\n", "\n") for line in lines]


PLAIN, LOOKS, REFUSED, MIXTURES = map(_statements, (_PLAIN, _LOOKS, _REFUSED, _MIXTURES))
