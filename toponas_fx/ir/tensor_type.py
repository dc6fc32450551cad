"""State the element type and shape of a tensor, as the graph text prints it: ``f32[2,4,8,8]``."""

from __future__ import annotations

from dataclasses import dataclass

import torch

_SHORT_NAMES = {
    torch.float64: "f64",
    torch.float32: "f32",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int16: "i16",
    torch.int8: "i8",
    torch.uint64: "u64",
    torch.uint32: "u32",
    torch.uint16: "u16",
    torch.uint8: "u8",
    torch.complex128: "c128",
    torch.complex64: "c64",
    torch.complex32: "c32",
}


@dataclass(frozen=True)
class TensorType:
    """The element type and shape of one tensor.

    A compiler pass finds it at ``node.meta["type"]`` where it is known. It prints as ``f32[2,4,8,8]``; a tensor of no
    dimensions prints as ``f32[]``. An element type without a short name of its own keeps torch's (``bool``,
    ``float8_e5m2``).
    """

    dtype: torch.dtype
    shape: tuple[int, ...]

    @classmethod
    def of(cls, tensor: torch.Tensor) -> TensorType:
        """Return the type of ``tensor``, whatever its shape, layout or device."""
        return cls(tensor.dtype, tuple(tensor.shape))

    def __str__(self) -> str:
        """Return the short form, such as ``f32[2,4,8,8]``."""
        name = _SHORT_NAMES.get(self.dtype, str(self.dtype).removeprefix("torch."))
        return f"{name}[{','.join(map(str, self.shape))}]"
