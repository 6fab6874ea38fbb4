# %%
import torch
from torch import nn

torch.manual_seed(4)
torch.cuda.manual_seed(4)
device = torch.device("cuda:0")
# %%
def mlp(*widths):
    layers = []
    for a, b in zip(widths, widths[1:]):
        layers += [nn.Linear(a, b), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers[:-1])


generator = mlp(4, 32, 32, 2).to(device)
first = nn.utils.parametrizations.spectral_norm(nn.Linear(2, 32))
critic = nn.Sequential(first, nn.LeakyReLU(0.2), nn.Linear(32, 1)).to(device)
optimizers = [
    torch.optim.Adam(generator.parameters(), lr=2e-3, betas=(0.5, 0.9)),
    torch.optim.SGD(critic.parameters(), lr=5e-2, momentum=0.9, nesterov=True),
]
fixed_noise = torch.randn(16, 4, device=device)
curve = {"generator": [], "critic": []}


def real(count=64):
    angle = torch.rand(count, device=device) * 6.2831853
    return torch.stack([angle.cos(), angle.sin()], 1)


def critic_loss(points):
    fake = generator(torch.randn(64, 4, device=device))
    ones, zeros = torch.ones(64, 1, device=device), torch.zeros(64, 1, device=device)
    loss = nn.functional.binary_cross_entropy_with_logits
    return loss(critic(points), ones) + loss(critic(fake.detach()), zeros), fake
# %%
for _ in range(10):
    loss_c, fake = critic_loss(real())
    optimizers[1].zero_grad()
    loss_c.backward()
    optimizers[1].step()
    loss_g = -critic(fake).mean()
    optimizers[0].zero_grad()
    loss_g.backward()
    optimizers[0].step()
    curve["critic"].append(loss_c.item())
    curve["generator"].append(loss_g.item())
# %%
# the critic has stepped, the generator has not: `fake` carries its graph into the next cell
loss_c, fake = critic_loss(real())
optimizers[1].zero_grad()
loss_c.backward()
optimizers[1].step()
# %%
points = real().requires_grad_()
(gradient,) = torch.autograd.grad(critic(points).sum(), points, create_graph=True)
penalty = ((gradient.norm(2, dim=1) - 1) ** 2).mean()
# %%
optimizers[0].zero_grad()
(-critic(fake).mean() + 0.1 * penalty).backward()
optimizers[0].step()
# %%
snapshots = [generator(fixed_noise).detach().cpu()]
with torch.no_grad():
    shown = generator(fixed_noise)
shown[:3]
# %%
succeeded = curve["critic"][-1] < curve["critic"][0] and generator[0].weight.grad is not None
print([f"{x:.5f}" for x in curve["generator"][::3]])
