# %%
import copy
from collections import deque

import torch
from torch import nn

torch.manual_seed(5)
device = "cuda"
# %%
class ReplayBuffer:
    def __init__(self, capacity=512):
        self.states = torch.zeros(capacity, 4, device=device)
        self.actions = torch.zeros(capacity, dtype=torch.long, device=device)
        self.rewards = torch.zeros(capacity, device=device)
        self.next_states = torch.zeros_like(self.states)
        self.place, self.full, self.capacity = 0, 0, capacity

    def push(self, *transition):
        for column, value in zip((self.states, self.actions, self.rewards, self.next_states), transition):
            column[self.place] = value
        self.place, self.full = (self.place + 1) % self.capacity, min(self.full + 1, self.capacity)

    def sample(self, size=64):
        rows = torch.randint(0, self.full, (size,), device=device)
        return self.states[rows], self.actions[rows], self.rewards[rows], self.next_states[rows]


def environment(state, action):
    push = torch.zeros(4, device=device)
    push[action] = 0.3
    after = (state * 0.95 + push - 0.1).clamp(-2, 2)
    return after, -after.abs().sum()
# %%
policy = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 4)).to(device)
target = copy.deepcopy(policy).requires_grad_(False)
optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
memory, recent, losses = ReplayBuffer(), deque(maxlen=20), []
state = torch.randn(4, device=device)
# %%
def play(steps, explore):
    global state
    for _ in range(steps):
        if torch.rand(()).item() < explore:
            action = torch.randint(0, 4, ()).item()
        else:
            with torch.no_grad():
                action = policy(state).argmax().item()
        after, reward = environment(state, action)
        memory.push(state, action, reward, after)
        recent.append(reward)
        state = after


play(80, 1.0)
# %%
def learn():
    states, actions, rewards, following = memory.sample()
    wanted = rewards + 0.9 * target(following).max(1).values
    got = policy(states).gather(1, actions.unsqueeze(1)).squeeze(1)
    return nn.functional.smooth_l1_loss(got, wanted)


for _ in range(25):
    loss = learn()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
# %%
target.load_state_dict(policy.state_dict())
play(40, 0.2)
loss = learn()
# %%
optimizer.zero_grad()
loss.backward()
# %%
optimizer.step()
for fresh, old in zip(policy.parameters(), target.parameters()):
    old.lerp_(fresh.detach(), 0.05)
play(20, 0.0)
# %%
succeeded = losses[-1] < losses[0] and memory.full == 140 and len(recent) == 20
print(f"{torch.stack(list(recent)).mean().item():.5f}")
