# %%
import torch
from torch import nn

torch.manual_seed(7)
device = "cuda"
x = torch.randn(512, 32, device=device)
y = (x[:, :1] * 2 - x[:, 1:2] + 0.1 * torch.randn(512, 1, device=device)).to(device)
# %%
model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.LayerNorm(64), nn.Linear(64, 1)).to(device)
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
scaler = torch.amp.GradScaler("cuda", init_scale=2.0**10, growth_interval=4)
losses, scales = [], []


def forward(rows):
    with torch.autocast("cuda", dtype=torch.float16):
        out = model(x[rows])
        return nn.functional.mse_loss(out.float(), y[rows])


def step():
    loss = forward(torch.randint(0, 512, (128,), device=device))
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), 5.0)
    scaler.step(optimizer)
    scaler.update()
    losses.append(loss.item())
    scales.append(scaler.get_scale())
# %%
for _ in range(10):
    step()
# %%
# between scaling and stepping, the scaler remembers tensors of its own
loss = forward(slice(0, 128))
optimizer.zero_grad()
scaler.scale(loss).backward()
# %%
scaler.unscale_(optimizer)
largest = max(p.grad.abs().max() for p in model.parameters())
# %%
scaler.step(optimizer)
scaler.update()
# %%
# an overflow is skipped, and the scale falls
before = scaler.get_scale()
optimizer.zero_grad()
loss = forward(slice(0, 64))
scaler.scale(loss * float("inf")).backward()
# %%
scaler.step(optimizer)
scaler.update()
fell = scaler.get_scale() < before
# %%
halved = model[0].weight.detach().to(torch.bfloat16)
eighth = torch.quantize_per_tensor(model[0].weight.detach().cpu(), 0.1, 0, torch.qint8)
with torch.autocast("cuda", dtype=torch.bfloat16), torch.no_grad():
    quick = model(x[:4])
quick
# %%
for _ in range(10):
    step()
succeeded = losses[-1] < losses[0] and fell and len(set(scales)) > 1
print([f"{s:g}" for s in scales[::4]])
