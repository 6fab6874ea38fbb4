# %%
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

torch.manual_seed(6)
device = torch.device("cuda")
digits = load_digits()
x = torch.tensor(digits.data, dtype=torch.float32).div(16).to(device)
y = torch.tensor(digits.target).to(device)
# %%
backbone = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU()).to(device)
pretrained = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
head = nn.Linear(32, 10).to(device)
model = nn.Sequential(backbone, head)
for parameter in backbone.parameters():
    parameter.requires_grad_(False)
ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-2)
seen = {}
handle = backbone[2].register_forward_hook(lambda module, inputs, output: seen.update(features=output))
losses = []
# %%
def train(steps):
    for _ in range(steps):
        rows = torch.randperm(len(x), device=device)[:256]
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows], label_smoothing=0.05)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        ema.update_parameters(model)
        losses.append(loss.item())


train(15)
frozen_kept = all(torch.equal(t, pretrained[name]) for name, t in backbone.state_dict().items())
# %%
# unfreeze the last layer with a smaller learning rate
for parameter in backbone[2].parameters():
    parameter.requires_grad_(True)
optimizer.add_param_group({"params": list(backbone[2].parameters()), "lr": 1e-3})
train(5)
# %%
rows = torch.arange(256, device=device)
loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
# %%
optimizer.zero_grad()
loss.backward()
norm = nn.utils.clip_grad_norm_(model.parameters(), 0.5)
norm
# %%
optimizer.step()
checkpoint = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "ema": ema.state_dict()}
# %%
handle.remove()
train(5)
model.load_state_dict(checkpoint["model"])
# %%
with torch.no_grad():
    accuracy = (ema.module(x).argmax(1) == y).float().mean().item()
succeeded = losses[-1] < losses[0] and frozen_kept and accuracy > 0.3
print(f"{accuracy:.5f}")
