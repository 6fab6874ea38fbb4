# %%
import torch

torch.manual_seed(11)
device = torch.device("cuda")
centres = torch.tensor([[0.0, 0.0], [5.0, 5.0], [0.0, 5.0]], device=device)
points = torch.cat([c + torch.randn(150, 2, device=device) for c in centres])
# %%
guess = points[torch.randperm(len(points), device=device)[:3]].clone()
path = [guess]
inertia = []
# %%
def iterate(times):
    global guess
    for _ in range(times):
        distance = torch.cdist(points, guess)
        nearest = distance.argmin(1)
        inertia.append(distance.min(1).values.pow(2).sum().item())
        guess = torch.stack([points[nearest == k].mean(0) if (nearest == k).any() else guess[k] for k in range(3)])
        path.append(guess)
    return nearest


nearest = iterate(2)
# %%
nearest = iterate(4)
counts = torch.bincount(nearest, minlength=3)
counts
# %%
centred = points - points.mean(0)
u, s, vh = torch.linalg.svd(centred, full_matrices=False)
covariance = centred.T @ centred / (len(points) - 1)
# %%
eigenvalues, eigenvectors = torch.linalg.eigh(covariance)
agree = torch.allclose(eigenvalues.flip(0), s**2 / (len(points) - 1), rtol=1e-3)
# %%
q, r = torch.linalg.qr(torch.randn(40, 12, device=device, dtype=torch.float64))
solution = torch.linalg.solve_triangular(r, q.T @ torch.ones(40, 1, device=device, dtype=torch.float64), upper=True)
factor = torch.linalg.cholesky(covariance + torch.eye(2, device=device))
# %%
spectrum = torch.fft.rfft(points[:, 0])
top = torch.topk(spectrum.abs(), 5)
histogram = torch.histc(points[:, 1].cpu(), bins=10)
window = points.as_strided((100, 4), (2, 1))
# %%
projected = centred @ vh.T[:, :1]
rebuilt = projected @ vh[:1]
error = (centred - rebuilt).norm().item()
spectrum[:3], window[:2]
# %%
orthogonal = torch.allclose(q.T @ q, torch.eye(12, device=device, dtype=torch.float64))
succeeded = inertia[-1] <= inertia[0] and agree and orthogonal
print([f"{i:.3f}" for i in inertia], f"{error:.4f}")
