"""The paper's ablations in small, beside a ResNet baseline and controls: grids, runs, page."""
