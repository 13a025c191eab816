"""Parameters of every network, counted by other means: from the shapes in table 1 and section 4.2 of the paper."""

from __future__ import annotations

# 1000 classes, by depth: option A (or plain), B and C.
IMAGENET_PARAMETERS = {
    18: (11_515_688, 11_689_512, 12_043_816),
    34: (21_623_848, 21_797_672, 22_716_840),
    50: (22_780_456, 25_557_032, 40_128_552),
    101: (41_772_584, 44_549_160, 76_981_288),
    152: (57_416_232, 60_192_808, 107_335_720),
}
CIFAR_PARAMETERS = {20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018, 110: 1_727_962, 1202: 19_421_274}
