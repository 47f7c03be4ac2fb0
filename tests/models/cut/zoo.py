"""Small single-frame networks of all sorts of construction, as users write them."""

from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.feature_extraction import create_feature_extractor

CLASSES = 5


def conv(channels_in, channels_out, stride=1):
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


class Levels(nn.Module):
    """Levels at strides 2, 4, 8, 16, 32, and the frame itself before them."""

    def __init__(self, widths=(8, 12, 16, 24, 32)):
        super().__init__()
        self.stages = nn.ModuleList(conv(a, b, stride=2) for a, b in zip((3, *widths), widths, strict=False))
        del self.stages[-1][-1]

    def forward(self, x):
        levels = [x]
        for stage in self.stages:
            levels.append(stage(levels[-1]))
        return levels


class UNet(nn.Module):
    """An encoder that returns levels; the decoder begins with an operation in place."""

    def __init__(self, classes=CLASSES):
        super().__init__()
        self.encoder = Levels()
        self.up = nn.ModuleList(conv(a, b) for a, b in ((32 + 24, 24), (24 + 16, 16), (16 + 12, 12)))
        self.head = nn.Conv2d(12, classes, 1)

    def forward(self, frame):
        *levels, x = self.encoder(frame)[2:]
        x = F.relu_(x.sub_(0.1))
        for up in self.up:
            skip = levels.pop()
            x = up(torch.cat([F.interpolate(x, skip.shape[-2:], mode="bilinear"), skip], dim=1))
        return F.interpolate(self.head(x), frame.shape[-2:], mode="bilinear", align_corners=False)


class SegNet(nn.Module):
    """The decoder puts values where the encoder's poolings found them: their indices are integers."""

    class Encoder(nn.Module):
        def __init__(self, widths=(8, 12, 16)):
            super().__init__()
            self.stages = nn.ModuleList(conv(a, b) for a, b in zip((3, *widths), widths, strict=False))

        def forward(self, x):
            indices = []
            for stage in self.stages:
                x, index = F.max_pool2d(stage(x), 2, return_indices=True)
                indices.append(index)
            return x, indices

    def __init__(self, classes=CLASSES):
        super().__init__()
        self.encoder = self.Encoder()
        self.up = nn.ModuleList([conv(16, 12), conv(12, 8), nn.Conv2d(8, classes, 3, padding=1)])

    def forward(self, frame):
        x, indices = self.encoder(frame)
        for up, index in zip(self.up, reversed(indices), strict=True):
            x = up(F.max_unpool2d(x, index, 2))
        return x


class OddStrides(nn.Module):
    """Levels at strides 3, 6 and 18."""

    def __init__(self, classes=CLASSES):
        super().__init__()
        self.first, self.second, self.third = conv(3, 8, stride=3), conv(8, 12, stride=2), conv(12, 16, stride=3)
        self.up, self.head = conv(28, 12), nn.Conv2d(20, classes, 1)

    def forward(self, frame):
        first = self.first(frame)
        second = self.second(first)
        x = self.up(torch.cat([F.interpolate(self.third(second), second.shape[-2:]), second], dim=1))
        return self.head(torch.cat([F.interpolate(x, first.shape[-2:]), first], dim=1))


class HandMadeUNet(nn.Module):
    """No encoder: the first half is written out, with a pooling that both halves share."""

    def __init__(self, classes=CLASSES):
        super().__init__()
        self.down1, self.down2, self.down3 = conv(3, 8), conv(8, 16), conv(16, 24)
        self.pool = nn.MaxPool2d(2)
        self.bottom = conv(24, 32)
        self.up3, self.up2, self.up1 = conv(32 + 24, 24), conv(24 + 16, 16), conv(16 + 8, 8)
        self.last = nn.Conv2d(8, classes, 1)

    def forward(self, x):
        one = F.relu(self.down1(x) - 0.1)  # something without a module of its own
        two = self.down2(self.pool(one))
        three = self.down3(self.pool(two))
        x = self.bottom(self.pool(three))
        for up, skip in ((self.up3, three), (self.up2, two), (self.up1, one)):
            x = up(torch.cat([F.interpolate(x, scale_factor=2), skip], dim=1))
        return self.last(x)


class Normalizing(nn.Module):
    """Normalizes by itself, returns a dictionary at a quarter of the size, and scales by a parameter of its own."""

    def __init__(self, classes=CLASSES):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1))
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.stem = conv(3, 8, stride=4)
        self.backbone = conv(8, 16, stride=2)
        self.classifier = nn.Conv2d(16, classes, 1)
        self.auxiliary = nn.Conv2d(8, classes, 1)

    def forward(self, x):
        stem = self.stem(x - self.mean)
        logits = self.classifier(self.backbone(stem)) * self.scale
        return OrderedDict(out=F.interpolate(logits, scale_factor=2), aux=self.auxiliary(stem))


class Detail(nn.Module):
    """The decoder sees the frame once more."""

    def __init__(self, classes=CLASSES):
        super().__init__()
        self.trunk = nn.Sequential(conv(3, 8, 4), conv(8, 16, 2))
        self.detail = conv(3, 4)
        self.head = nn.Conv2d(20, classes, 1)

    def forward(self, x):
        coarse = F.interpolate(self.trunk(x), x.shape[-2:], mode="bilinear")
        return (self.head(torch.cat([coarse, self.detail(x)], dim=1)),)


def sequence(classes=CLASSES):
    """One ``nn.Sequential``."""
    return nn.Sequential(
        conv(3, 8, 2), conv(8, 16, 4), conv(16, 16), nn.Conv2d(16, classes, 1), nn.Upsample(scale_factor=8)
    )


class Patches(nn.Module):
    """Patches of 14 pixels, tokens, and a map of them again."""

    def __init__(self, classes=CLASSES):
        super().__init__()
        self.embed = nn.Conv2d(3, 16, 14, stride=14)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.neck = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.head = nn.Conv2d(8, classes, 1)

    def forward(self, x):
        grid = self.embed(x)
        tokens = self.block(grid.flatten(2).transpose(1, 2))
        return self.head(self.neck(tokens.transpose(1, 2).reshape(grid.shape)))


class Auxiliary(nn.Module):
    """In training auxiliary logits stand before the logits, and the encoder returns some too."""

    class Encoder(nn.Module):
        def __init__(self, classes):
            super().__init__()
            self.body, self.head = conv(3, 8, 8), nn.Conv2d(8, classes, 1)

        def forward(self, x):
            x = self.body(x)
            return (x, self.head(x)) if self.training else x

    def __init__(self, classes=CLASSES):
        super().__init__()
        self.encoder = self.Encoder(classes)
        self.side, self.head = nn.Conv2d(8, classes, 1), nn.Sequential(conv(8, 8), nn.Conv2d(8, classes, 1))

    def forward(self, x):
        if self.training:
            x, others = self.encoder(x)
            return [others, self.side(x), self.head(x)]
        return self.head(self.encoder(x))


class OwnLoss(Detail):
    """In training it asks for labels, and returns its loss."""

    def forward(self, x, labels=None):
        (logits,) = super().forward(x)
        return F.cross_entropy(logits, labels) if self.training else logits


class Tokens(nn.Module):
    """Stages of tokens, with their height and width beside them, and the frame's size in a dictionary."""

    class Embed(nn.Module):
        def __init__(self, channels_in, channels_out, stride):
            super().__init__()
            self.proj, self.norm = nn.Conv2d(channels_in, channels_out, stride, stride), nn.LayerNorm(channels_out)

        def forward(self, x):
            x = self.proj(x)
            return self.norm(x.flatten(2).transpose(1, 2)), *x.shape[-2:]

    class Stage(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.linear = nn.Linear(channels, channels)

        def forward(self, tokens, size, whole):
            x = self.linear(tokens).transpose(1, 2).unflatten(2, size)
            return {"map": x, "size": whole, "tokens": x.shape[2] * x.shape[3]}

    def __init__(self, classes=CLASSES):
        super().__init__()
        self.embed1, self.embed2 = self.Embed(3, 8, 4), self.Embed(8, 16, 2)
        self.stage1, self.stage2 = self.Stage(8), self.Stage(16)
        self.head = nn.Conv2d(24, classes, 1)

    def forward(self, x):
        tokens, height, width = self.embed1(x)
        fine = self.stage1(tokens, (height, width), x.shape[-2:])["map"]
        tokens, *half = self.embed2(fine)
        found = self.stage2(tokens, half, x.shape[-2:])
        coarse = found["map"].reshape(len(x), -1, found["tokens"]).unflatten(2, half)
        x = torch.cat([fine, F.interpolate(coarse, (height, width))], dim=1)
        return F.interpolate(self.head(x), found["size"], mode="bilinear")


def extracted(classes=CLASSES):
    """An encoder that torchvision traced, once for training and once for evaluation, behind a norm in front."""
    body = create_feature_extractor(nn.Sequential(conv(3, 8, 4), nn.Dropout(0.5), conv(8, 16, 2)), {"2": "out"})
    return nn.Sequential(OrderedDict(norm=nn.BatchNorm2d(3), body=body, head=Named(nn.Conv2d(16, classes, 1))))


class Named(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, levels):
        return self.layer(levels["out"])


class OneSize(Patches):
    """Positions are embedded for frames of one size."""

    def __init__(self, classes=CLASSES, size=(56, 56)):
        super().__init__(classes)
        self.positions = nn.Parameter(torch.rand(1, size[0] * size[1] // 14**2, 16))

    def forward(self, x):
        grid = self.embed(x)
        tokens = self.block(grid.flatten(2).transpose(1, 2) + self.positions)
        return self.head(self.neck(tokens.transpose(1, 2).reshape(grid.shape)))
