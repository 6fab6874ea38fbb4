# %%
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, Dataset, random_split

torch.manual_seed(9)
device = torch.device("cuda")
# %%
class Digits(Dataset):
    def __init__(self):
        digits = load_digits()
        self.images = torch.tensor(digits.data, dtype=torch.float32) / 16
        self.labels = torch.tensor(digits.target)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return self.images[i], self.labels[i]


training, validation = random_split(Digits(), [1500, 297], generator=torch.Generator().manual_seed(1))
loader = DataLoader(
    training, batch_size=150, shuffle=True, num_workers=2, persistent_workers=True, pin_memory=True,
    generator=torch.Generator().manual_seed(2),
)
# %%
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)).to(device)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
losses = []


def step(images, labels):
    images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
    loss = nn.functional.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
# %%
for images, labels in loader:
    step(images, labels)
# %%
# an epoch left half-way: the workers hold prefetched batches
batches = iter(loader)
for _ in range(3):
    step(*next(batches))
# %%
rest = 0
for images, labels in batches:
    step(images, labels)
    rest += 1
# %%
with torch.no_grad():
    right = sum(
        (model(images.to(device)).argmax(1) == labels.to(device)).sum().item()
        for images, labels in DataLoader(validation, batch_size=100, num_workers=1)
    )
# %%
del batches, loader
succeeded = losses[-1] < losses[0] and rest == 7 and right > 150
print(right)
