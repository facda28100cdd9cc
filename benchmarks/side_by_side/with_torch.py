"""PyTorch."""

import copy

import torch
from task import folder, seed, x, x_test, y, y_test
from torch import nn
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader, random_split


class Classifier(nn.Module):
    def __init__(self, inputs, hidden, classes):
        super().__init__()
        self.rnn = nn.GRU(inputs, hidden)
        self.out = nn.Linear(hidden, classes)

    def forward(self, sequences):
        _, h = self.rnn(pack_sequence(sequences, enforce_sorted=False))
        return self.out(h[-1])


def collate(batch):
    sequences, labels = zip(*batch, strict=True)
    return list(sequences), torch.tensor(labels)


torch.manual_seed(seed)
data = [(torch.from_numpy(one), int(label)) for one, label in zip(x, y, strict=True)]
train, validation = random_split(data, [0.8, 0.2])
batches = DataLoader(train, batch_size=32, shuffle=True, collate_fn=collate)
model = Classifier(12, 32, 9)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
criterion = nn.CrossEntropyLoss()
best, waited, epochs = float("inf"), 0, 0
while epochs < 100 and waited < 10:
    for sequences, labels in batches:
        optimizer.zero_grad()
        criterion(model(sequences), labels).backward()
        optimizer.step()
    epochs += 1
    with torch.no_grad():
        sequences, labels = collate(list(validation))
        loss = criterion(model(sequences), labels).item()
    if loss < best:
        best, waited, weights = loss, 0, copy.deepcopy(model.state_dict())
    else:
        waited += 1
torch.save(weights, folder / "model.pt")
model = Classifier(12, 32, 9)
model.load_state_dict(torch.load(folder / "model.pt"))
with torch.no_grad():
    logits = model([torch.from_numpy(one) for one in x_test])
accuracy = (logits.argmax(dim=1).numpy() == y_test).mean()
print(accuracy, epochs)
