# %%
import math

import torch
from torch import nn

torch.manual_seed(1)
torch.cuda.manual_seed_all(1)
device = "cuda"
vocabulary, length, width = 20, 12, 32
# %%
class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True, dropout=0.1)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width))
        self.register_buffer("mask", torch.triu(torch.full((length, length), -math.inf), 1))

    def forward(self, x):
        y = self.norm1(x)
        attended, self.weights = self.attention(y, y, y, attn_mask=self.mask, need_weights=True)
        x = x + attended
        return x + self.mlp(self.norm2(x))


class Copier(nn.Module):
    def __init__(self):
        super().__init__()
        self.token, self.place = nn.Embedding(vocabulary, width), nn.Parameter(torch.zeros(length, width))
        self.blocks = nn.ModuleList([Block(), Block()])
        self.out = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens):
        x = self.token(tokens) + self.place
        for block in self.blocks:
            x = block(x)
        return self.out(x)


model = Copier().to(device)
model.out.weight = model.token.weight
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
losses = []


def sample(size=32):
    half = torch.randint(0, vocabulary, (size, length // 2 + 1), device=device)
    return torch.cat([half, half], 1)[:, : length + 1]


def step():
    tokens = sample()
    loss = nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    losses.append(loss.item())
# %%
for _ in range(8):
    step()
# %%
tokens = sample()
logits = model(tokens[:, :-1])
# %%
loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
optimizer.zero_grad()
loss.backward(retain_graph=True)
first_gradient = model.place.grad.clone()
# %%
loss.backward()
doubled = torch.allclose(model.place.grad, 2 * first_gradient)
optimizer.step()
# %%
for _ in range(12):
    step()
# %%
model.eval()
with torch.inference_mode():
    prompt = sample(1)[:, : length]
    generated = model(prompt).argmax(-1)
    maps = [block.weights for block in model.blocks]
maps[0].shape
# %%
succeeded = losses[-1] < losses[0] and doubled and model.out.weight is model.token.weight
print([f"{x:.5f}" for x in losses[::5]], doubled)
