# %%
import torch
from torch import nn

torch.manual_seed(2)
device = torch.device("cuda", 0)
text = "the quick brown fox jumps over the lazy dog " * 12
letters = sorted(set(text))
encoded = torch.tensor([letters.index(c) for c in text]).cuda()
# %%
class Speller(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.embed = nn.Embedding(len(letters), 16)
        self.cell = kind(16, 32, num_layers=2, batch_first=True)
        self.out = nn.Linear(32, len(letters))

    def forward(self, x, state=None):
        hidden, state = self.cell(self.embed(x), state)
        return self.out(hidden), state


models = {"lstm": Speller(nn.LSTM).cuda(), "gru": Speller(nn.GRU).cuda()}
optimizers = {name: torch.optim.RMSprop(m.parameters(), lr=5e-3) for name, m in models.items()}
states, losses = dict.fromkeys(models), {name: [] for name in models}


def detached(state):
    return tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()


def window(start, size=20):
    rows = torch.stack([encoded[start + i * 40 : start + i * 40 + size + 1] for i in range(8)])
    return rows[:, :-1], rows[:, 1:]
# %%
for start in range(0, 120, 20):
    for name, model in models.items():
        x, y = window(start)
        scores, state = model(x, states[name])
        loss = nn.functional.cross_entropy(scores.flatten(0, 1), y.flatten())
        optimizers[name].zero_grad()
        loss.backward()
        optimizers[name].step()
        states[name] = detached(state)
        losses[name].append(loss.item())
# %%
# truncated back-propagation left half-way: the state still carries its graph
x, y = window(7)
carried = {name: model(x, states[name]) for name, model in models.items()}
# %%
for name, (scores, state) in carried.items():
    optimizers[name].zero_grad()
    nn.functional.cross_entropy(scores.flatten(0, 1), y.flatten()).backward()
    optimizers[name].step()
    states[name] = detached(state)
del carried, scores, state
# %%
packed = nn.utils.rnn.pack_padded_sequence(torch.randn(3, 9, 16).cuda(), [9, 5, 2], batch_first=True)
both_ways = nn.GRU(16, 8, bidirectional=True, batch_first=True).cuda()
output, last = both_ways(packed)
output.data.sum().backward()
# %%
sample = encoded[:1].unsqueeze(0)
spelled, memory = [], None
for _ in range(12):
    scores, memory = models["gru"](sample, memory)
    sample = scores[:, -1:].argmax(-1)
    spelled.append(letters[sample.item()])
# %%
succeeded = all(series[-1] < series[0] for series in losses.values())
print("".join(spelled))
