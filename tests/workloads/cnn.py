# %%
import torch
from sklearn.datasets import load_digits
from torch import nn

torch.manual_seed(0)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
print(torch.cuda.is_available(), torch.cuda.device_count())
# %%
digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32, device=device).unsqueeze(1) / 16
labels = torch.tensor(digits.target, device=device)
train, test = slice(0, 1200), slice(1200, None)
images.shape, labels.shape
# %%
net = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Dropout(0.1),
    nn.Flatten(), nn.Linear(32 * 16, 10),
).to(device)
optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
losses = []


def batches(size=200):
    order = torch.randperm(1200, device=device)
    return [order[i : i + size] for i in range(0, 1200, size)]
# %%
net.train()
for epoch in range(2):
    for batch in batches():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(images[train][batch]), labels[train][batch])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    scheduler.step()
# %%
# half a step: the forward pass in one cell ...
batch = batches()[0]
optimizer.zero_grad()
scores = net(images[train][batch])
loss = nn.functional.cross_entropy(scores, labels[train][batch])
loss
# %%
# ... and the backward pass in the next
loss.backward()
# %%
optimizer.step()
losses.append(loss.item())
# %%
net.eval()
with torch.no_grad():
    predicted = net(images[test]).argmax(1)
accuracy = (predicted == labels[test]).float().mean().item()
confusion = torch.zeros(10, 10, dtype=torch.long, device=device)
confusion.index_put_((labels[test], predicted), torch.ones_like(predicted), accumulate=True)
confusion
# %%
succeeded = losses[-1] < losses[0] and accuracy > 0.3
print(f"{accuracy:.4f}", torch.cuda.max_memory_allocated() > 0)
