"""What deconv can do with every ConvNet of torchvision and one of each timm family: `make coverage` measures it."""
