"""A task in the form of KernelBench's: the reference, and how it is made."""

import torch


class Model(torch.nn.Module):
    def __init__(self, features, outputs):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.rand(outputs, features))
        self.bias = torch.nn.Parameter(torch.rand(outputs))

    def forward(self, x):
        return x @ self.weight.T + self.bias


def get_init_inputs():
    return [3, 2]
