# %%
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.distributions import Normal, kl_divergence

torch.manual_seed(3)
device = "cuda"
data = (torch.tensor(load_digits().data, dtype=torch.float32) / 16).to(device)
# %%
class VAE(nn.Module):
    def __init__(self, latent=4):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 48), nn.SiLU(), nn.Linear(48, 2 * latent))
        self.decoder = nn.Sequential(nn.Linear(latent, 48), nn.SiLU(), nn.Linear(48, 64))

    def forward(self, x):
        mean, log_scale = self.encoder(x).chunk(2, -1)
        posterior = Normal(mean, log_scale.exp())
        return self.decoder(posterior.rsample()), posterior


def elbo(x):
    logits, posterior = vae(x)
    likelihood = nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)
    prior = Normal(torch.zeros_like(posterior.loc), torch.ones_like(posterior.scale))
    return (likelihood + kl_divergence(posterior, prior).sum(-1)).mean(), posterior


vae = VAE().to(device)
optimizer = torch.optim.Adam(vae.parameters(), lr=3e-3, amsgrad=True)
history = []
# %%
for _ in range(15):
    loss, _posterior = elbo(data[torch.randint(0, len(data), (128,), device=device)])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    history.append(loss.item())
# %%
# a distribution kept in a variable holds tensors of the graph
loss, posterior = elbo(data[:64])
drawn = posterior.rsample((2,))
# %%
(loss + drawn.pow(2).mean()).backward()
optimizer.step()
# %%
for _ in range(15):
    optimizer.zero_grad()
    loss, _posterior = elbo(data[torch.randint(0, len(data), (128,), device=device)])
    loss.backward()
    optimizer.step()
    history.append(loss.item())
# %%
with torch.no_grad():
    codes = vae.encoder(data[:200])[:, :4]
    pictures = torch.sigmoid(vae.decoder(torch.randn(6, 4, device=device))).view(6, 8, 8)
    spread = torch.std(codes, dim=0)
spread
# %%
succeeded = history[-1] < history[0]
print(f"{history[0]:.4f} {history[-1]:.4f}")
