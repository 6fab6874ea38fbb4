"""The workload: a module with Adam in the middle of its training, and the ways in which people move it by hand."""

from __future__ import annotations

from pathlib import Path

import torch


class Training:
    """`layers` square Linear layers of `width`: with gradients and Adam's two moments four tensors a layer."""

    def __init__(self, device: torch.device, layers: int, width: int):
        self.device = device
        # Only between CPU and CUDA does `module.to()` keep the very parameters that the optimizer knows unless asked to
        torch.__future__.set_swap_module_params_on_conversion(device.type != "cuda")
        torch.manual_seed(1)
        self.module = torch.nn.Sequential(
            *(torch.nn.Linear(width, width, bias=False, device=device) for _ in range(layers))
        )
        self.optimizer = torch.optim.Adam(self.module.parameters())
        self.module(torch.randn(2, width, device=device)).square().mean().backward()
        self.optimizer.step()

    def tensors(self) -> list[torch.Tensor]:
        """Weights, gradients and moments."""
        found = []
        for parameter in self.module.parameters():
            state = self.optimizer.state[parameter]
            found += [parameter.data, parameter.grad, state["exp_avg"], state["exp_avg_sq"]]
        return found

    @property
    def nbytes(self) -> int:
        """The bytes of all of them."""
        return sum(tensor.nbytes for tensor in self.tensors())

    def to(self, device: torch.device | str) -> None:
        """By hand: `module.to()`, which takes the gradients along, and the optimizer's moments one by one."""
        self.module.to(device)
        for state in self.optimizer.state.values():
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = state[name].to(device)

    def save(self, path: Path) -> None:
        """By hand: everything into a file, and let go of it."""
        gradients = [parameter.grad for parameter in self.module.parameters()]
        states = {"module": self.module.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save({**states, "gradients": gradients}, path)
        del gradients, states
        self.module.to("meta")
        self.optimizer = None  # type: ignore[assignment]

    def load(self, path: Path) -> None:
        """By hand: everything from that file, back to the device."""
        saved = torch.load(path, map_location=self.device)
        self.module.load_state_dict(saved["module"], assign=True)
        self.optimizer = torch.optim.Adam(self.module.parameters())
        self.optimizer.load_state_dict(saved["optimizer"])
        for parameter, gradient in zip(self.module.parameters(), saved["gradients"], strict=True):
            parameter.grad = gradient
