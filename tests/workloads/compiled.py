# %%
import torch
from torch import nn

torch.manual_seed(10)
device = "cuda"
x = torch.linspace(-3, 3, 200, device=device).unsqueeze(1)
y = torch.sin(x)
# %%
model = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1)).to(device)
compiled = torch.compile(model, backend="eager")
optimizer = torch.optim.Adam(compiled.parameters(), lr=1e-2)
losses = []
# %%
for _ in range(20):
    loss = nn.functional.mse_loss(compiled(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
# %%
loss = nn.functional.mse_loss(compiled(x), y)
# %%
optimizer.zero_grad()
loss.backward()
optimizer.step()
# %%
traced = torch.compile(lambda t: (t.sin() * t.cos()).sum(), backend="aot_eager")
probe = torch.randn(50, device=device, requires_grad=True)
value = traced(probe)
# %%
value.backward()
expected = torch.cos(2 * probe.detach())
close = torch.allclose(probe.grad, expected, atol=1e-5)
# %%
per_sample = torch.func.vmap(torch.func.grad(lambda w, t: (w * t).sin().sum()), in_dims=(None, 0))
slopes = per_sample(torch.ones(4, device=device), torch.randn(6, 4, device=device))
slopes.shape
# %%
for _ in range(10):
    loss = nn.functional.mse_loss(compiled(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
succeeded = losses[-1] < losses[0] and close
torch._dynamo.reset()
